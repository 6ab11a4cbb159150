"""The same small task, written in every way that the library reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.data.readers import read_task
from abmll.data.task import Task

ROWS = [
    ("It works.", ("bad", "good"), 1),
    ("It broke, at once.", ("bad", "good"), 0),
    ('They say "fine".\nI agree.', ("bad", "good"), 1),
]


def write(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def contents(task: Task) -> list[tuple[str, tuple[str, ...], int]]:
    return [(row.prompt, row.choices, row.target) for row in task.examples]


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("text", ["input", "prompt", "text"])
@pytest.mark.parametrize("options", ["options", "choices"])
@pytest.mark.parametrize("answer", ["target", "label", "answer"])
def test_jsonl_under_every_usual_name(tmp_path, gz, text, options, answer):
    rows = [
        {text: prompt, options: list(choices), answer: target if answer == "target" else choices[target]}
        for prompt, choices, target in ROWS
    ]
    assert contents(read_task(write(tmp_path / f"reviews.jsonl{gz}", jsonl(rows)))) == ROWS


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".tsv", "\t")])
@pytest.mark.parametrize(
    ("header", "cells"),
    [
        (["text", "options", "target"], lambda choices, target: ["|".join(choices), str(target)]),
        (["text", "choices", "label"], lambda choices, target: [" | ".join(choices), choices[target]]),
        (["text", "choice_0", "choice_1", "target"], lambda choices, target: [*choices, str(target)]),
        (["text", "label"], lambda choices, target: [choices[target]]),
    ],
)
def test_csv_and_tsv_in_every_layout(tmp_path, gz, suffix, mark, header, cells):
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    lines = [header] + [[prompt, *cells(choices, target)] for prompt, choices, target in ROWS]
    text = "".join(mark.join(map(quoted, line)) + "\r\n" for line in lines)
    assert contents(read_task(write(tmp_path / f"reviews{suffix}{gz}", text))) == ROWS


def test_name_ids_and_question_come_from_file_row_and_argument(tmp_path):
    path = write(
        tmp_path / "my.reviews.jsonl.gz",
        jsonl(
            [
                {"id": 7, "text": "a", "label": "x"},
                {"text": "b", "label": "y"},
                {"text": "c", "label": "y"},
            ]
        ),
    )
    task = read_task(path, question="Which?", family="letters")
    assert (task.name, task.family, task.source) == ("my.reviews", "letters", str(path))
    assert [row.id for row in task.examples] == ["7", "my.reviews:2", "my.reviews:3"]
    assert {row.question for row in task.examples} == {"Which?"}
    assert task.is_classification
    assert task.target_counts == {0: 1, 1: 2}


def test_csv_line_numbers_count_lines_within_cells(tmp_path):
    path = write(tmp_path / "t.csv", 'text,label\n"one\ntwo",x\nthree,y\n')
    assert [row.id for row in read_task(path).examples] == ["t:2", "t:4"]


def test_numbered_choice_columns_are_ordered_by_number_and_may_end_early(tmp_path):
    header = "text,choice_10,choice_2,choice_1,target\n"
    path = write(tmp_path / "t.csv", header + "p,c,b,a,2\nq,,b,a,1\n")
    assert contents(read_task(path)) == [("p", ("a", "b", "c"), 2), ("q", ("a", "b"), 1)]


def test_numbered_choices_in_json_lines_may_be_numbers_or_absent(tmp_path):
    rows = [
        {"text": "a", "choice_0": 0, "choice_1": False, "target": 1},
        {"text": "b", "choice_0": "x", "choice_1": "y", "choice_2": None, "target": 0},
    ]
    assert contents(read_task(write(tmp_path / "t.jsonl", jsonl(rows)))) == [
        ("a", ("0", "false"), 1),
        ("b", ("x", "y"), 0),
    ]
    rows[1]["choice_1"] = ["y"]
    with pytest.raises(AbmllError, match=r"t.jsonl:2 \[choice_1\]: the choice is not text: 'choice_1' is a list"):
        read_task(write(tmp_path / "t.jsonl", jsonl(rows)))


def test_line_separators_of_unicode_do_not_split_a_jsonl_row(tmp_path):
    row = '{"text": "a\u2028b", "options": ["x", "y"], "target": 0}\n'
    task = read_task(write(tmp_path / "t.jsonl", row))
    assert task.examples[0].prompt == "a\u2028b"


def test_rows_without_a_label_are_read_only_on_request(tmp_path):
    path = write(
        tmp_path / "t.jsonl", jsonl([{"text": "a", "options": ["x", "y"]}, {"text": "b", "options": ["x", "y"]}])
    )
    assert [row.target for row in read_task(path, labelled=False).examples] == [None, None]
    with pytest.raises(AbmllError, match="no row has a field 'target' or 'label'"):
        read_task(path)


def test_a_label_may_lack_in_some_rows_only_on_request(tmp_path):
    path = write(tmp_path / "t.csv", "text,options,label\na,x|y,x\nb,x|y,\n")
    assert [row.target for row in read_task(path, labelled=False).examples] == [0, None]
    with pytest.raises(AbmllError, match=r"t.csv:3 \[label\]: the label is empty"):
        read_task(path)


def test_rows_that_are_only_predicted_may_be_of_one_class(tmp_path):
    path = write(tmp_path / "t.jsonl", jsonl([{"text": text, "options": ["x", "y"], "target": 1} for text in "ab"]))
    assert len(read_task(path, labelled=False)) == 2
    with pytest.raises(AbmllError, match="all 2 rows have one class only, 'y'"):
        read_task(path)


def test_extra_fields_are_ignored(tmp_path):
    rows = [{"text": "a", "label": label, "note": {"deep": [1]}, "score": 0.5} for label in "xy"]
    assert len(read_task(write(tmp_path / "t.jsonl", jsonl(rows)))) == 2


def test_a_task_needs_a_name_and_rows():
    with pytest.raises(AbmllError, match="task 'empty' has no rows"):
        Task("empty", ())
    with pytest.raises(AbmllError, match="has no name"):
        Task(" ", (Example("a", ("x", "y"), 0),))


def test_a_rows_own_question_is_kept():
    rows = (Example("a", ("x", "y"), 0), Example("b", ("x", "y"), 1, question="Really?"))
    assert [row.question for row in Task("t", rows, question="Which?").examples] == ["Which?", "Really?"]
