"""Writers of every format that the package reads, for round trips: rows in, a file and its spec out."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CLASSES = ("ham", "spam", "unsure")
WORDS = ("naïve", "café", "北京", "«quoted»", "won't", "3.5%", "(see)", "A)", "co-op,", "so", "#", "{x}", "\\n", "end")


class Made(NamedTuple):
    """One row, and what must be read again. choices is None where the file cannot say them but by its labels."""

    text: str
    choices: tuple[str, ...]
    target: int


def classification(count: int, seed: int = 0) -> list[Made]:
    """Rows of one closed set of labels."""
    draw = random.Random(seed)
    rows = [Made(f"{_text(draw)} {number}", CLASSES, draw.randrange(3)) for number in range(count)]
    return [row._replace(target=number % 3) if number < 3 else row for number, row in enumerate(rows)]


def multiple_choice(count: int, seed: int = 0) -> list[Made]:
    """Rows with two to five choices of their own."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        choices = tuple(f"{_word(draw)} {number}-{place}" for place in range(draw.randint(2, 5)))
        made.append(Made(f"{_text(draw)} {number}?", choices, draw.randrange(len(choices))))
    return made


def _word(draw: random.Random) -> str:
    return draw.choice(["oxygen", "carbon dioxide", "北京", "café", "it's 3.5%", "a-b"])


def _text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(3, 12)))


def _lines(path: Path, rows: list) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def _letter(index: int) -> str:
    return "ABCDEFGH"[index]


def json_array(folder: Path, rows: list[Made]) -> str:
    content = [{"text": row.text, "label": row.choices[row.target]} for row in rows]
    (folder / "task.json").write_text(json.dumps({"version": "1", "data": content}), encoding="utf-8")
    return 'file = "task.json"\n'


def csv_table(folder: Path, rows: list[Made]) -> str:
    with (folder / "task.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *((row.text, row.choices[row.target]) for row in rows)])
    return 'file = "task.csv"\n'


def json_lines(folder: Path, rows: list[Made]) -> str:
    _lines(folder / "task.jsonl", [{"text": row.text, "label": row.choices[row.target]} for row in rows])
    return 'file = "task.jsonl"\n'


def crossfit(folder: Path, rows: list[Made]) -> str:
    lines = [f"{row.text}\t{row.choices[row.target]}" for row in rows]
    (folder / "ham_16_100_train.tsv").write_text("\n".join(lines), encoding="utf-8")
    return 'file = "ham_16_100_train.tsv"\nformat = "crossfit"\n'


def parquet(folder: Path, rows: list[Made]) -> str:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(_arrow(pyarrow, rows), folder / "task.parquet")
    return 'file = "task.parquet"\n'


def datasets(folder: Path, rows: list[Made]) -> str:
    import pyarrow

    target = folder / "saved" / "train"
    target.mkdir(parents=True)
    table = _arrow(pyarrow, rows)
    for number, part in enumerate((table.slice(0, 200), table.slice(200))):
        sink = pyarrow.OSFile(str(target / f"data-0000{number}.arrow"), "wb")
        with sink, pyarrow.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
    (folder / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    state = {"_data_files": [{"filename": f"data-0000{number}.arrow"} for number in range(2)]}
    (target / "state.json").write_text(json.dumps(state))
    (target / "dataset_info.json").write_text("{}")
    return 'file = "saved/train"\n'


def _arrow(pyarrow, rows: list[Made]):
    """Labels as `datasets` stores them: numbers in the column, names in the schema."""
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": list(CLASSES), "_type": "ClassLabel"},
    }
    table = pyarrow.table({"text": [row.text for row in rows], "label": [row.target for row in rows]})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def excel(folder: Path, rows: list[Made]) -> str:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["Text", "Label"])
    for row in rows:
        book.active.append([row.text, row.choices[row.target]])
    book.save(folder / "task.xlsx")
    return 'file = "task.xlsx"\ninput = "Text"\nlabel = "Label"\n'


def messages(folder: Path, rows: list[Made]) -> str:
    def turns(row: Made) -> list[dict]:
        listed = "\n".join(f"{_letter(place)}) {choice}" for place, choice in enumerate(row.choices))
        user = {"role": "user", "content": f"{row.text}\nOptions:\n{listed}\nAnswer:"}
        return [user, {"role": "assistant", "content": _letter(row.target)}]

    _lines(folder / "task.jsonl", [{"messages": turns(row)} for row in rows])
    return 'file = "task.jsonl"\nformat = "messages"\n'


def letters(folder: Path, rows: list[Made]) -> str:
    with (folder / "task.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", *"ABCDE", "answer"])
        for row in rows:
            writer.writerow([row.text, *row.choices, *[""] * (5 - len(row.choices)), _letter(row.target)])
    return 'file = "task.csv"\nformat = "letters"\n'


def arc(folder: Path, rows: list[Made]) -> str:
    def row_of(number: int, row: Made) -> dict:
        labels = [_letter(place) if number % 2 else str(place + 1) for place in range(len(row.choices))]
        choices = {"text": list(row.choices), "label": labels}
        return {"id": str(number), "question": row.text, "choices": choices, "answerKey": labels[row.target]}

    _lines(folder / "task.jsonl", [row_of(number, row) for number, row in enumerate(rows)])
    return 'file = "task.jsonl"\nformat = "arc"\n'


def natural_instructions(folder: Path, rows: list[Made]) -> str:
    instances = [
        {"id": f"i-{number}", "input": row.text, "output": [row.choices[row.target]]} for number, row in enumerate(rows)
    ]
    task = {"Definition": ["Is the message wanted?"], "Instances": instances, "Positive Examples": []}
    (folder / "task1_ham_classification.json").write_text(json.dumps(task), encoding="utf-8")
    return 'file = "task1_ham_classification.json"\nformat = "natural-instructions"\n'


def bigbench(folder: Path, rows: list[Made]) -> str:
    def scores(row: Made) -> dict:
        return {choice: float(place == row.target) for place, choice in enumerate(row.choices)}

    examples = [{"input": row.text, "target_scores": scores(row)} for row in rows]
    (folder / "task.json").write_text(json.dumps({"description": "d", "examples": examples}), encoding="utf-8")
    return 'file = "task.json"\nformat = "bigbench"\n'


def chembench(folder: Path, rows: list[Made]) -> str:
    def question(row: Made) -> dict:
        scores = {choice: float(place == row.target) for place, choice in enumerate(row.choices)}
        example = {"input": row.text, "target_scores": json.dumps(scores), "target": None}
        return {"examples": [example], "metrics": ["multiple_choice_grade"], "name": "n"}

    _lines(folder / "task.jsonl", [question(row) for row in rows])
    return 'file = "task.jsonl"\nformat = "chembench"\n'


def bbh(folder: Path, rows: list[Made]) -> str:
    def example(row: Made) -> dict:
        listed = "\n".join(f"({_letter(place)}) {choice}" for place, choice in enumerate(row.choices))
        return {"input": f"{row.text}\nOptions:\n{listed}", "target": f"({_letter(row.target)})"}

    (folder / "task.json").write_text(json.dumps({"canary": "c", "examples": list(map(example, rows))}))
    return 'file = "task.json"\nformat = "bbh"\n'


def unifiedqa(folder: Path, rows: list[Made]) -> str:
    def line(row: Made) -> str:
        listed = " ".join(f"({_letter(place).lower()}) {choice}" for place, choice in enumerate(row.choices))
        return f"{row.text} \\n {listed}\t{row.choices[row.target]}"

    plain = [row._replace(text=row.text.replace("\\n", "")) for row in rows]
    (folder / "task.tsv").write_text("\n".join(map(line, plain)), encoding="utf-8")
    return 'file = "task.tsv"\nformat = "unifiedqa"\n'


def metaicl(folder: Path, rows: list[Made]) -> str:
    made = [
        {"task": "t", "input": row.text, "output": row.choices[row.target], "options": list(row.choices)}
        for row in rows
    ]
    _lines(folder / "task.jsonl", made)
    return 'file = "task.jsonl"\nformat = "metaicl"\n'


def promptfoo(folder: Path, rows: list[Made]) -> str:
    def result(row: Made, provider: str) -> dict:
        case = {"vars": {"message": row.text}, "assert": [{"type": "equals", "value": row.choices[row.target]}]}
        return {"provider": {"id": provider}, "testCase": case, "vars": case["vars"], "success": True}

    results = [result(row, provider) for row in rows for provider in ("first", "second")]
    export = {"evalId": "e", "results": {"version": 3, "prompts": [{"raw": "p"}], "results": results}}
    (folder / "task.json").write_text(json.dumps(export), encoding="utf-8")
    return 'file = "task.json"\nformat = "promptfoo"\n'


def label_studio(folder: Path, rows: list[Made]) -> str:
    def region(choice: str) -> dict:
        return {"from_name": "kind", "to_name": "text", "type": "choices", "value": {"choices": [choice]}}

    def item(number: int, row: Made) -> dict:
        right, wrong = row.choices[row.target], row.choices[row.target - 1]
        said = [right, wrong, right] if number % 5 == 0 else [right]
        annotations = [{"id": place, "result": [region(choice)]} for place, choice in enumerate(said)]
        cancelled = {"id": 9, "was_cancelled": True, "result": [region(wrong)]}
        return {"id": number, "data": {"text": row.text}, "annotations": [*annotations, cancelled]}

    (folder / "task.json").write_text(json.dumps([item(number, row) for number, row in enumerate(rows)]))
    return 'file = "task.json"\nformat = "label-studio"\n'


def argilla(folder: Path, rows: list[Made]) -> str:
    def record(number: int, row: Made) -> dict:
        responses = {"kind": [{"value": row.choices[row.target], "user_id": "u"}]}
        return {"id": str(number), "fields": {"text": row.text}, "responses": responses, "suggestions": {}}

    (folder / "task.json").write_text(json.dumps([record(number, row) for number, row in enumerate(rows)]))
    return 'file = "task.json"\nformat = "argilla"\n'


LABELS: tuple[Callable[[Path, list[Made]], str], ...] = (
    csv_table, json_lines, json_array, parquet, datasets, excel, natural_instructions, promptfoo, label_studio, argilla,
)  # fmt: skip
"""Formats whose choices are the labels of all rows."""
WITHOUT_A_SIGN: tuple[Callable[[Path, list[Made]], str], ...] = (crossfit,)
"""The same, of files in which nothing says which format they are."""
CHOICES: tuple[Callable[[Path, list[Made]], str], ...] = (
    messages, letters, arc, bigbench, chembench, bbh, unifiedqa, metaicl,
)  # fmt: skip
"""Formats whose rows bring choices of their own."""
