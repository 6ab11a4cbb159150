"""Every defect of a file is named with its file, line, field and cure; the messages are what is tested."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from abmll.core.errors import AbmllError
from abmll.data.readers import read_task
from abmll.data.validate import check_task

GOOD = [{"id": f"r{n}", "input": f"text {n}", "options": ["no", "yes"], "target": n % 2} for n in range(40)]


def problems_of(tmp_path: Path, content: str | bytes, name: str = "t.jsonl") -> list[str]:
    """The problems as text; reading must raise them if one is an error, and pass otherwise."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = check_task(path).problems
    if any(problem.severity == "error" for problem in found):
        with pytest.raises(AbmllError) as raised:
            read_task(path)
        assert str(next(problem for problem in found if problem.severity == "error")) in str(raised.value)
    else:
        read_task(path)
    return [str(problem) for problem in found]


def changed(**fields: object) -> str:
    """A file in order but for row 3 (line 3), whose fields are replaced; None removes one."""
    rows = [dict(row) for row in GOOD]
    rows[2] = {key: value for key, value in (rows[2] | fields).items() if value is not None}
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_file_in_order_has_no_problem(tmp_path):
    assert problems_of(tmp_path, changed()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": " \n"}, "t.jsonl:3 [input]: the input is empty. Fill it, or remove the row."),
        (
            {"input": ["a"]},
            "t.jsonl:3 [input]: the input is not text: 'input' is a list. Write it as text.",
        ),
        (
            {"input": None, "imput": "a"},
            "t.jsonl:3 [input]: the row has no field 'input'. Did you mean 'imput' to be it? Rename it, or name "
            "it in a "
            "TOML spec. The fields found are: 'id', 'options', 'target', 'imput'.",
        ),
        (
            {"target": 2},
            "t.jsonl:3 [target]: the target 2 is out of range: 2 choices are counted 0 … 1. Correct it; if "
            "targets count "
            "from 1, set first_index = 1 in a TOML spec.",
        ),
        ({"target": -1}, "t.jsonl:3 [target]: the target -1 is out of range: 2 choices are counted 0 … 1."),
        ({"target": True}, "t.jsonl:3 [target]: the target is true or false ('true'), not a whole number."),
        ({"target": "1"}, "t.jsonl:3 [target]: the target is text ('1'), not a whole number. Write the right choice's"),
        ({"target": 1.0}, "t.jsonl:3 [target]: the target is a number ('1.0'), not a whole number."),
        ({"target": [1]}, "t.jsonl:3 [target]: the target is a list, not a whole number."),
        (
            {"options": ["no", "no"]},
            "t.jsonl:3 [options]: the choice 'no' stands there twice. Make the choices differ.",
        ),
        ({"options": ["no"]}, "t.jsonl:3 [options]: the row has 1 choice, at least 2 are needed."),
        ({"options": ["no", " "]}, "t.jsonl:3 [options]: choice 1 (counted from 0) is empty."),
        ({"options": ["no", 1]}, "t.jsonl:3 [options]: choice 1 (counted from 0) is a number, not text."),
        ({"options": [False, "yes"]}, "t.jsonl:3 [options]: choice 0 (counted from 0) is true or false, not text."),
        ({"options": "no|yes"}, 't.jsonl:3 [options]: the choices are text, not a list. Write ["a", "b", …].'),
        ({"options": None}, "t.jsonl:3 [options]: the row has no field 'options'."),
        ({"target": None}, "t.jsonl:3 [target]: the row has no field 'target'."),
        ({"id": "r0"}, "t.jsonl:3 [id]: the id 'r0' stands on line 1 too. Give every row its own id, or none at all."),
        ({"id": [3]}, "t.jsonl:3 [id]: the id is not text: 'id' is a list."),
        (
            {"label": "no", "target": 1},
            "t.jsonl:3 [label]: the label says 'no', but the target is 'yes'. Correct one, or remove it.",
        ),
    ],
)
def test_a_bad_row(tmp_path, fields, message):
    (problem,) = problems_of(tmp_path, changed(**fields))
    assert problem.startswith(message)


def test_a_label_that_is_no_choice_names_the_nearest(tmp_path):
    rows: list[dict[str, Any]] = [
        {"input": f"t{n}", "options": ["negative", "positive"], "label": "positive"} for n in range(40)
    ]
    rows[0]["label"] = "negative"
    rows[4]["label"] = "Positive"
    rows[5]["label"] = 1
    found = problems_of(tmp_path, "\n".join(map(json.dumps, rows)))
    assert found == [
        "t.jsonl:5 [label]: the label 'Positive' is not among the choices. Did you mean 'positive'? The choices are: "
        "'negative', 'positive'.",
        "t.jsonl:6 [label]: the label '1' is not among the choices. A label is a choice's text; if the "
        "number is its index, "
        "name the field 'target'. The choices are: 'negative', 'positive'.",
    ]


def test_every_bad_row_is_named_and_the_error_lists_ten(tmp_path):
    rows = [row | {"target": 9} if n < 25 else row for n, row in enumerate(GOOD)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [problem.line for problem in check_task(path).problems] == list(range(1, 26))
    with pytest.raises(AbmllError) as raised:
        read_task(path)
    text = str(raised.value)
    assert f"{path} has 25 problems:" in text
    assert "t.jsonl:10 [target]" in text
    assert "t.jsonl:11" not in text
    assert text.endswith("… and 15 more")


def test_two_defects_of_one_row_are_both_named(tmp_path):
    found = problems_of(tmp_path, changed(input="", target=5))
    assert [problem.partition(":")[2][:9] for problem in found] == ["3 [input]", "3 [target"]


def test_duplicate_rows_and_contradictions_are_warnings(tmp_path):
    again = json.dumps(GOOD[0] | {"id": "a", "input": "TEXT   0 "})
    otherwise = json.dumps(GOOD[1] | {"id": "b", "target": 0})
    found = problems_of(tmp_path, changed() + again + "\n" + otherwise + "\n")
    assert found == [
        "t.jsonl:41 [input]: the row repeats line 1. Remove one of them.",
        "t.jsonl:42 [target]: the answer is 'no' here and 'yes' on line 2, for the same input. Keep the right one.",
    ]


def test_one_class_only(tmp_path):
    rows = [row | {"target": 1} for row in GOOD]
    assert problems_of(tmp_path, "\n".join(map(json.dumps, rows))) == [
        "t.jsonl [target]: all 40 rows have one class only, 'yes'. Add rows of the other classes."
    ]


def test_one_label_only(tmp_path):
    assert problems_of(tmp_path, "text,label\na,spam\nb,spam\n", "t.csv") == [
        "t.csv [label]: all 2 rows have one class only, 'spam'. Add rows of the other classes, or list all choices."
    ]


def test_the_right_choice_always_in_one_place_is_a_warning(tmp_path):
    rows = [row | {"options": [f"a{n}", f"b{n}"], "target": 1} for n, row in enumerate(GOOD)]
    assert problems_of(tmp_path, "\n".join(map(json.dumps, rows))) == [
        "t.jsonl [target]: in all 40 rows the right choice is number 1 (counted from 0). Shuffle the choices "
        "of each row."
    ]


def test_few_rows_are_a_warning(tmp_path):
    (problem,) = problems_of(tmp_path, "\n".join(map(json.dumps, GOOD[:31])))
    assert problem.startswith("t.jsonl: the task has only 31 rows. Add rows: at least 32")
    assert problems_of(tmp_path, "\n".join(map(json.dumps, GOOD[:32]))) == []


def test_broken_json_names_line_and_column(tmp_path):
    lines = changed().splitlines()
    lines[6] = '{"input": "a", "options": ["no", "yes"] "target": 1}'
    (problem,) = problems_of(tmp_path, "\n".join(lines))
    assert problem == (
        "t.jsonl:7: broken JSON at line 7, column 41: Expecting ',' delimiter. Write one whole JSON object "
        "on this line."
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3", "t.jsonl:41: the row is a number, not an object."),
        ('["a", 1]', "t.jsonl:41: the row is a list, not an object."),
        ("null", "t.jsonl:41: the row is null, not an object."),
        ("[" * 100_000, "t.jsonl:41: nested more than 64 levels deep. Write it flatter"),
        (
            '{"input": "a", "options": ["no", "yes"], "target": 1, "target": 0}',
            "t.jsonl:41 [target]: the field 'target' stands twice in the row. Keep one of them.",
        ),
    ],
)
def test_rows_that_are_no_objects(tmp_path, line, message):
    (problem,) = problems_of(tmp_path, changed() + line)
    assert problem.startswith(message)


def test_a_json_array_is_read_as_the_rows_that_it_holds(tmp_path):
    assert problems_of(tmp_path, json.dumps(GOOD, indent=1)) == []
    assert [row.id for row in read_task(tmp_path / "t.jsonl").examples] == [row["id"] for row in GOOD]


def test_an_encoding_other_than_utf8_names_line_and_byte(tmp_path):
    content = changed().encode().replace(b"text 4", "café".encode("latin1"))
    offset = content.index(b"\xe9")
    (problem,) = problems_of(tmp_path, content)
    assert problem == (
        f"t.jsonl:5: byte 0xe9 at byte offset {offset} is not UTF-8; it looks like cp1252, in which the line reads "
        '\'{"id": "r4", "input": "café", "options": ["no", "yes"], "tar\'… (68 characters). '
        "Save it as UTF-8 (in Excel: 'CSV UTF-8'), e.g. iconv -f cp1252 -t utf-8 t.jsonl > new; "
        'or write encoding = "cp1252" in a TOML spec.'
    )
    marked = b"\xef\xbb\xbf" + content
    assert f"byte offset {offset + 3} is" in problems_of(tmp_path, marked)[0]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_read_with_or_without_its_mark(tmp_path, encoding):
    (problem,) = problems_of(tmp_path, changed().encode(encoding))
    assert (
        problem
        == f"t.jsonl: the file is {encoding[:6].upper()}, not UTF-8; it was read as that. Nothing needs to be done."
    )


def test_a_byte_order_mark_is_skipped_with_a_note(tmp_path):
    found = problems_of(tmp_path, b"\xef\xbb\xbf" + changed().encode())
    assert found == [
        "t.jsonl:1: the file starts with a byte-order mark (BOM); it was skipped. Nothing needs to be done."
    ]
    assert [problem.severity for problem in check_task(tmp_path / "t.jsonl").problems] == ["note"]


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.tsv"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file(tmp_path, name, content):
    assert problems_of(tmp_path, content, name) == [f"{name}: the file holds no rows. Add rows, or leave the file out."]


def test_a_byte_order_mark_and_nothing_else_is_empty(tmp_path):
    assert "t.jsonl: the file holds no rows. Add rows, or leave the file out." in problems_of(tmp_path, b"\xef\xbb\xbf")


def test_a_csv_with_a_header_only_is_empty(tmp_path):
    assert problems_of(tmp_path, "text,label\n", "t.csv") == [
        "t.csv: the file holds no rows. Add rows, or leave the file out."
    ]


@pytest.mark.parametrize("damage", ["not gzip", "cut short", "one byte changed"])
def test_a_damaged_gz(tmp_path, damage):
    whole = gzip.compress(changed().encode())
    middle = len(whole) // 2
    content = {
        "not gzip": changed().encode(),
        "cut short": whole[:middle],
        "one byte changed": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
    }[damage]
    (problem,) = problems_of(tmp_path, content, "t.jsonl.gz")
    assert problem.startswith("t.jsonl.gz: the gzip data is damaged (")
    assert problem.endswith("Compress it again (gzip FILE), or remove .gz from its name if it is not compressed.")


def test_no_such_file(tmp_path):
    with pytest.raises(AbmllError, match=r"there is no file .*absent\.jsonl\. Check the path"):
        read_task(tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"text": "a"}', "; by its content it may be .jsonl. Name it .jsonl."),
        ('[{"text": "a"}]', "; by its content it may be .json. Name it .json."),
        ("text\tlabel", "; by its content it may be .tsv. Name it .tsv."),
        ("text;label", "; by its content it may be .csv. Name it .csv."),
        ("Dear Sir", ". Name it .jsonl, .csv, .tsv, "),
    ],
)
def test_an_unknown_format(tmp_path, content, told):
    (problem,) = problems_of(tmp_path, content, "t.txt")
    assert problem.startswith(f"t.txt: the file's format is not known from its name 't.txt'{told}")


def test_ragged_csv_rows(tmp_path):
    rows = "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(40))
    found = problems_of(tmp_path, "text,label\n" + rows + "one, two,a\nalone\n", "t.csv")
    assert found == [
        "t.csv:42: the row has 3 cells, the header has 2. Give it 2 cells; put double quotes around a cell "
        "that contains ','.",
        "t.csv:43: the row has 1 cells, the header has 2. Give it 2 cells; put double quotes around a cell "
        "that contains ','.",
    ]


def test_an_unclosed_quote_is_not_swallowed(tmp_path):
    found = problems_of(tmp_path, 'text,label\nfine,a\n"open,b\nlast,a\n', "t.csv")
    assert found == [
        "t.csv:3: broken quoting in the row that starts here (unexpected end of data); it goes on over 1 more "
        "line. Double each quote "
        "inside a quoted "
        "cell, or set quoting = false in a TOML spec if quotes mean nothing."
    ]


def test_a_csv_header_with_a_column_twice(tmp_path):
    assert problems_of(tmp_path, "text,label,text\na,b,c\n", "t.csv") == [
        "t.csv:1 [text]: the header names the column 'text' twice. Give every column its own name."
    ]


def test_a_field_that_no_row_has_is_named_once(tmp_path):
    assert problems_of(tmp_path, "sentenc,lable\na,x\nb,y\n", "t.csv") == [
        "t.csv:2 [input]: no row has a field 'input' or 'prompt' or 'text'. The fields found are: 'sentenc', 'lable'. "
        "`abmll tasks import` finds the columns and writes a spec."
    ]
    assert problems_of(tmp_path, "text,lable\na,x\nb,y\n", "t.csv") == [
        "t.csv:2 [target]: no row has a field 'target' or 'label' or 'answer' or 'output'. Did you mean "
        "'lable' to be it? "
        "Rename it, or name it in a TOML spec. The fields found are: 'text', 'lable'. "
        "`abmll tasks import` finds the columns and writes a spec."
    ]


def test_two_fields_for_one_role(tmp_path):
    (problem,) = problems_of(tmp_path, changed(text="a"))
    assert problem == (
        "t.jsonl:1 [input]: both 'input' and 'text' could be the input. Rename one, or set input in a TOML spec."
    )


def test_csv_targets_that_are_no_numbers(tmp_path):
    (problem,) = problems_of(tmp_path, "text,options,target\na,x|y,y\n", "t.csv")
    assert problem.startswith("t.csv:2 [target]: the target is text ('y'), not a whole number.")


@pytest.mark.parametrize("numbers", [(0, 1), (1, 2), (-1, 1), (0.0, 1.0), (1.5, 2.5)])
def test_bare_numbers_as_labels_are_the_same_in_csv_and_json(tmp_path, numbers):
    rows = [{"text": f"t{n}", "label": numbers[n % 2]} for n in range(40)]
    (problem,) = problems_of(tmp_path, "\n".join(map(json.dumps, rows)))
    csv = "text,label\n" + "".join(f"t{n},{numbers[n % 2]}\n" for n in range(40))
    (in_csv,) = problems_of(tmp_path, csv, "t.csv")
    assert problem.partition(": ")[2] == in_csv.partition(": ")[2]
    assert problem.startswith(
        f"t.jsonl:1 [label]: the choices, taken from the labels, are bare numbers ({numbers[0]}, {numbers[1]}). "
        "Map them to words under labels in a TOML spec: the model reads the words; labels = {"
    )
    tasks = [read_task(tmp_path / name) for name in ("t.jsonl", "t.csv")]
    assert [row[1:3] for row in tasks[0].examples] == [row[1:3] for row in tasks[1].examples]


def test_labels_that_nearly_all_differ_are_no_classes(tmp_path):
    csv = "text,label\n" + "".join(f"t{n},answer {n}\n" for n in range(20))
    (problem,) = problems_of(tmp_path, csv, "t.csv")
    assert problem.startswith("t.csv:2 [label]: 20 rows have 20 different labels, and no field 'options'.")


def test_choices_that_begin_with_the_same_token(tmp_path):
    rows = [{"text": f"t{n}", "options": ["not sure", "yes", "not at all"], "target": n % 3} for n in range(40)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    words = ["not", "yes"]
    (problem,) = check_task(path, first_token=lambda text: words.index(text.split()[0])).problems
    assert problem.severity == "warning"
    assert str(problem).startswith(
        "t.jsonl:1 [options]: the choices 'not sure' and 'not at all' begin with the same token (0). Score "
        "whole answers"
    )
    assert check_task(path, first_token=lambda text: hash(text)).problems == ()
