"""Multiple choice answered by letter: one column a choice, A, B, C, D or option_a, …, or a list of choices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abmll.data.columns import CHOICES_NAMES
from abmll.data.formats.container import read_container
from abmll.data.formats.format import CHOICES, INPUT, LABEL, Format, Misshapen, Options, Reading, answered, reshape
from abmll.data.formats.listed import letter_index
from abmll.data.rows import data_suffix
from abmll.data.template import cell_text

_COLUMN = re.compile(r"(option|choice|answer|alternative|opt|op)?[ _-]?([a-h])", re.IGNORECASE)
ANSWER_NAMES = (
    "answer",
    "answerkey",
    "answer_key",
    "label",
    "correct",
    "correct_answer",
    "correct_option",
    "gold",
    "key",
    "target",
)
QUESTION_NAMES = ("question", "input", "prompt", "text", "query", "stem", "q")
CONTEXT_NAMES = ("context", "passage", "article", "paragraph")
MMLU_HEADER = ["question", "A", "B", "C", "D", "answer"]
"""The columns of MMLU's CSV files, which have no header line."""
CURE = 'Write the letter of the right choice; if the column counts, name it as target = "…" in a TOML spec'


def choice_columns(names: Sequence[str]) -> list[str]:
    """The columns of the choices in order, from A on without a gap; empty if there are not two."""
    groups: dict[str, dict[int, str]] = {}
    for name in names:
        found = _COLUMN.fullmatch(name.strip())
        if found:
            stem = name.strip()[: -len(found[2])].casefold()
            groups.setdefault(stem, {})[ord(found[2].upper()) - ord("A")] = name
    for group in groups.values():
        run = [group[index] for index in range(len(group)) if index in group]
        if len(run) >= 2 and len(run) == len(group):
            return run
    return []


def first_named(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The column that bears one of the usual names, in any case; the first in the order of these."""
    plain = {name.strip().casefold(): name for name in reversed(names)}
    return next((plain[name] for name in usual if name in plain), None)


def _fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    names = list(rows[0]) if rows else []
    answer = first_named(names, ANSWER_NAMES)
    listed = bool(rows) and any(all(_is_list(row.get(name)) for row in rows) for name in CHOICES_NAMES)
    if not (choice_columns(names) or listed) or answer is None:
        return False
    return all(letter_index(str(row.get(answer, "A"))) is not None for row in rows)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(item, str) for item in value)


def _read(path: Path, options: Options) -> Reading:
    reading = read_container(path, options)
    if data_suffix(path) in (".csv", ".tsv") and not (reading.rows and choice_columns(list(reading.rows[0].fields))):
        headless = read_container(path, options, header=MMLU_HEADER)
        answers = [str(row.fields["answer"]) for row in headless.rows]
        if answers and all(letter_index(answer) is not None for answer in answers):
            reading = headless
    return reshape(path, reading, lambda fields: _shape(fields, options))


def _shape(fields: Mapping[str, Any], options: Options) -> dict[str, Any]:
    names = list(fields)
    columns = choice_columns(names)
    listed_in = next((name for name in CHOICES_NAMES if _is_list(fields.get(name))), None)
    if columns:
        texts = ["" if fields[name] is None else cell_text(fields[name]).strip() for name in columns]
        while texts and not texts[-1]:
            texts.pop()
    elif listed_in is not None:
        texts = list(fields[listed_in])
    else:
        listed = ", ".join(map(repr, names[:12]))
        raise Misshapen("A", "the row has no columns of choices", f"Name them A, B, …; its columns are: {listed}")
    made: dict[str, Any] = {CHOICES: texts}
    question, context = first_named(names, QUESTION_NAMES), first_named(names, CONTEXT_NAMES)
    if question is not None:
        parts = [fields[name] for name in (context, question) if name is not None and fields[name] not in (None, "")]
        made[INPUT] = "\n".join(cell_text(part) for part in parts)
    answer = first_named(names, ANSWER_NAMES)
    raw = "" if answer is None or fields[answer] is None else cell_text(fields[answer]).strip()
    if not raw:
        return made | answered(None, options, answer or "answer", CURE)
    index = letter_index(raw)
    if index is not None and raw not in texts:
        if index >= len(texts):
            message = f"the answer is {raw!r}, but the choices end with {chr(ord('A') + len(texts) - 1)!r}"
            raise Misshapen(answer or "answer", message, "Correct it, or add the choice")
        return made | {LABEL: texts[index]}
    return made | {LABEL: raw}


FORMAT = Format(
    "one column a choice (A, B, … or option_a, …) and the right one's letter; MMLU's files too", _read, _fits
)
