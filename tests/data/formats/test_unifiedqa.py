"""UnifiedQA's one-line format."""

from __future__ import annotations

import json

import pytest

from abmll.core.errors import AbmllError
from abmll.data.formats.unifiedqa import UnifiedQA, lettered_choices, parse_unifiedqa
from abmll.data.readers import read_task


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("who? \\n (A) you (B) me", UnifiedQA("who?", ("you", "me"), "")),
        ("who? \\n (A) you (B) me \\n some context", UnifiedQA("who?", ("you", "me"), "some context")),
        ("who?\\n(a) you (b) me\\nc", UnifiedQA("who?", ("you", "me"), "c")),
        ("is it? \\n a passage (A) of text", UnifiedQA("is it?", (), "a passage (A) of text")),
        ("is it?", UnifiedQA("is it?", (), "")),
        ("q \\n (A) f(B) = 2 (B) see (C) above (C) x", UnifiedQA("q", ("f(B) = 2", "see", "above (C) x"), "")),
        ("q \\n (A) only one", UnifiedQA("q", (), "(A) only one")),
        ("q \\n (A) x (B) y \\n p1 \\n p2", UnifiedQA("q", ("x", "y"), "p1\np2")),
        ("q \\n (A)  (B) y", UnifiedQA("q", ("", "y"), "")),
    ],
)
def test_parts(text, parts):
    assert parse_unifiedqa(text) == parts


def test_lettered_choices_within_a_text():
    assert lettered_choices("which? (A) x (B) y (C) z") == ("which?", ("x", "y", "z"))
    assert lettered_choices("no choices (B) here") == ("no choices (B) here", ())


SPEC = 'file = "qa.tsv"\nformat = "unifiedqa"\n'


def test_the_tab_separated_file(tmp_path):
    (tmp_path / "qa.tsv").write_text(
        'which "gas? \\n (A) oxygen (B) carbon  dioxide \\n plants\tCarbon dioxide\nwhat? \\n (A) a (B) b (C) c\ta\n'
    )
    (tmp_path / "qa.toml").write_text(SPEC)
    task = read_task(tmp_path / "qa.toml")
    assert [(row.prompt, row.choices, row.target) for row in task.examples] == [
        ('plants\nwhich "gas?', ("oxygen", "carbon  dioxide"), 1),
        ("what?", ("a", "b", "c"), 0),
    ]


def test_questions_without_listed_choices_take_them_from_the_spec_or_the_answers(tmp_path):
    (tmp_path / "qa.tsv").write_text("is it? \\n context one\tyes\nwas it? \\n context two\tno\n")
    (tmp_path / "qa.toml").write_text(SPEC + 'choices = ["yes", "no"]\n')
    assert read_task(tmp_path / "qa.toml").examples[0].choices == ("yes", "no")
    (tmp_path / "qa.toml").write_text(SPEC)
    assert read_task(tmp_path / "qa.toml").examples[0].choices == ("no", "yes")


def test_json_lines(tmp_path):
    rows = [{"id": "7", "input": "q \\n (A) x (B) y", "output": "y"}, {"input": "r \\n (A) x (B) y", "output": "x"}]
    (tmp_path / "qa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "qa.toml").write_text(SPEC.replace("tsv", "jsonl"))
    assert [(row.id, row.target) for row in read_task(tmp_path / "qa.toml").examples] == [("7", 1), ("qa:2", 0)]


def test_an_answer_that_is_no_choice_and_a_row_without_answer(tmp_path):
    (tmp_path / "qa.toml").write_text(SPEC)
    (tmp_path / "qa.tsv").write_text("q \\n (A) x (B) y\tz\n")
    with pytest.raises(AbmllError, match=r"qa.tsv:1 \[\(label\)\]: the label 'z' is not among the choices"):
        read_task(tmp_path / "qa.toml")
    (tmp_path / "qa.tsv").write_text("q \\n (A) x (B) y\n")
    with pytest.raises(AbmllError, match=r"qa.tsv:1: the row has 1 cells, the header has 2"):
        read_task(tmp_path / "qa.toml")
    (tmp_path / "qa.jsonl").write_text('{"question": "q"}\n')
    (tmp_path / "qa.toml").write_text(SPEC.replace("tsv", "jsonl"))
    with pytest.raises(AbmllError, match=r"qa.jsonl:1 \[input\]: the row has no text under 'input' and 'answer'"):
        read_task(tmp_path / "qa.toml")
