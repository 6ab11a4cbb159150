"""`abmll tasks import`: other people's files, what is guessed of them, and what is said about it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from abmll.cli import app
from abmll.core.errors import AbmllError
from abmll.data.folder import read_folder
from abmll.data.foreign import propose_all, recognise, spec_text
from abmll.data.formats import find_format, format_names
from abmll.data.guess import Given, guess_columns
from abmll.data.readers import read_task
from abmll.data.rows import Row
from abmll.data.suite import load_suite
from tests import format_files


def imported(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["tasks", "import", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["tasks", "import", *map(str, arguments)])
    assert result.exit_code in (1, 2), result.output
    return result.output


@pytest.mark.parametrize(
    "write", [*format_files.LABELS, *format_files.CHOICES], ids=lambda write: write.__name__.replace("_", "-")
)
def test_every_format_is_recognised_and_comes_out_the_same(write, tmp_path):
    pytest.importorskip({"parquet": "pyarrow", "datasets": "pyarrow", "excel": "openpyxl"}.get(write.__name__, "json"))
    source, out = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    rows = format_files.classification(60) if write in format_files.LABELS else format_files.multiple_choice(60)
    (source / "as_said.toml").write_text(write(source, rows))
    expected = read_task(source / "as_said.toml")
    (source / "as_said.toml").unlink()
    text = imported(source, "-o", out)
    assert text.count("prompt 3:") == 1
    (found,) = read_folder(out).tasks
    assert [row[:4] for row in found.examples] == [row[:4] for row in expected.examples]


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_the_real_tasks_give_the_same_examples_as_through_their_manifest(shared, tmp_path, every):
    source, folder = shared / "data" / "realtasks", tmp_path / "from"
    folder.mkdir()
    manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["tasks"]) == 45
    entries = manifest["tasks"][::every]
    (folder / "manifest.json").write_text(json.dumps({"tasks": entries}))
    for entry in entries:
        (folder / entry["file"]).symlink_to((source / entry["file"]).resolve())
    found, passed = propose_all(folder, Given())
    assert (len(found), passed) == (len(entries), [])
    tmp_path = tmp_path / "to"
    tmp_path.mkdir()
    for one in found:
        (tmp_path / f"{one.source.name}.toml").write_text(spec_text(one, tmp_path), encoding="utf-8")
    ours = {task.name: task for task in read_folder(tmp_path).tasks}
    theirs = {task.name: task for task in read_folder(folder).tasks}
    assert set(ours) == set(theirs)
    for name, task in theirs.items():
        assert ours[name].examples == task.examples
        assert (ours[name].question, ours[name].family) == (task.question, task.family)


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"premise": "a", "hypothesis": "b", "gold_label": "neutral"}, {"label": "gold_label"}),
        ({"goal": "g", "sol1": "a", "sol2": "b", "label": 1}, {"choices": ["{sol1}", "{sol2}"], "target": "label"}),
        (
            {"ctx": "c", "ending0": "a", "ending1": "b", "ending2": "c", "label": "2"},
            {"choices": ["{ending0}", "{ending1}", "{ending2}"], "target": "label", "input": "ctx"},
        ),
        (
            {"sentence": "s _", "option1": "a", "option2": "b", "answer": "2"},
            {"choices": ["{option1}", "{option2}"], "target": "answer", "first_index": 1, "input": "sentence"},
        ),
        ({"Review Text": "long and good", "n": 3, "Sentiment": "pos"}, {"input": "Review Text", "label": "Sentiment"}),
    ],
)
def test_columns_that_benchmarks_use(row, keys):
    other = dict(row)
    for name in ("gold_label", "Sentiment"):
        if name in other:
            other[name] = "other"
    if isinstance(other.get("label"), int):
        other["label"] = 0
    rows = [Row(number, other if number % 2 else row) for number in range(1, 9)]
    found = {guess.key: guess.value for guess in guess_columns(rows, table=False, given=Given())}
    assert {key: found[key] for key in keys} == keys
    if "premise" in row:
        assert found["input"] == "Premise: {premise}\nHypothesis: {hypothesis}"


def test_every_format_that_is_listed_is_one():
    assert "arrow" not in format_names()
    for name in format_names():
        assert find_format(name).says


def test_what_is_neither_a_file_nor_a_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    assert "is a named pipe" in refused(tmp_path / "pipe.csv", "-o", tmp_path / "to")
    (tmp_path / "r.csv").write_text("text,label\n" + "\n".join(f"t {n},{'ab'[n % 2]}" for n in range(8)))
    assert "cannot be written" in refused(tmp_path / "r.csv", "-o", tmp_path / "r.csv" / "to")


def test_numbers_as_labels_get_a_table_to_put_words_in(tmp_path):
    (tmp_path / "n.jsonl").write_text("\n".join(json.dumps({"text": f"t {n}", "label": n % 2}) for n in range(8)))
    text = imported(tmp_path / "n.jsonl", "-o", tmp_path / "to")
    assert "put words in their place" in text
    spec = (tmp_path / "to" / "n.toml").read_text()
    (tmp_path / "to" / "n.toml").write_text(spec.replace('0 = "0"', '0 = "no"').replace('1 = "1"', '1 = "yes"'))
    task = read_task(tmp_path / "to" / "n.toml")
    assert task.examples[1].choices == ("no", "yes")
    assert [row.target for row in task.examples] == [0, 1] * 4


def test_what_cannot_be_told_is_asked_for_and_then_taken(tmp_path):
    lines = ["a,b,note"] + [f"{'x' * (n % 2)}q,{'yz'[n % 2]},words of all kinds {n}" for n in range(12)]
    (tmp_path / "u.csv").write_text("\n".join(lines))
    text = refused(tmp_path / "u.csv", "-o", tmp_path / "to")
    assert "the answer could be 'a' (2 different values) or 'b' (2 different values)" in text
    assert not (tmp_path / "to").exists() or not list((tmp_path / "to").iterdir())
    text = imported(tmp_path / "u.csv", "-o", tmp_path / "to", "--label", "b", "--input", "{a}: {note}")
    assert "label = 'b'  (you said so)" in text
    assert read_task(tmp_path / "to" / "u.toml").examples[0].prompt == "q: words of all kinds 0"
    assert "there is no column 'zz'" in refused(
        tmp_path / "u.csv", "-o", tmp_path / "to", "--label", "zz", "--overwrite"
    )


def test_earlier_specs_are_kept_unless_told_otherwise(tmp_path):
    (tmp_path / "r.csv").write_text("text,label\n" + "\n".join(f"t {n},{'ab'[n % 2]}" for n in range(8)))
    imported(tmp_path / "r.csv", "--dry-run")
    assert not (tmp_path / "r.toml").exists()
    imported(tmp_path / "r.csv")
    assert 'file = "r.csv"' in (tmp_path / "r.toml").read_text()
    assert "add --overwrite" in refused(tmp_path / "r.csv")
    imported(tmp_path / "r.csv", "--overwrite")


def test_a_folder_at_once_with_training_and_test_files_and_others(tmp_path):
    folder = tmp_path / "from"
    folder.mkdir()
    for side, start in (("train", 0), ("test", 100)):
        lines = [f"t {n},{'ab'[n % 2]}" for n in range(start, start + 8)]
        (folder / f"mood_{side}.csv").write_text("\n".join(["text,label", *lines]))
    (folder / "essays.jsonl").write_text(
        "\n".join(json.dumps({"text": f"t {n}", "answer": f"a {n}"}) for n in range(60))
    )
    (folder / "README.md").write_text("#")
    (folder / "model.bin").write_bytes(b"\x00")
    text = refused(folder, "-o", tmp_path / "to")
    assert "60 different values in 60 rows: free text" in text
    assert "1 of 2 read" in text
    assert "passed over, of no known kind: model.bin" in text
    task = read_task(tmp_path / "to" / "mood.toml")
    assert (len(task), len(task.support_pool)) == (8, 8)
    assert task.support_pool[0].prompt == "t 0"


def test_folders_named_by_their_task_with_a_training_and_a_test_file_each(tmp_path):
    for task in ("hearsay", "cuad_anti-assignment", "maud_fls_(mae)_standard", "opp115_user_access,_edit_and_deletion"):
        folder = tmp_path / "from" / task
        folder.mkdir(parents=True)
        for side, count in (("train", 6), ("test", 40)):
            lines = "".join(f"{n}\t{('No', 'Yes')[n % 2]}\tclause {side} {n}\n" for n in range(count))
            (folder / f"{side}.tsv").write_text("index\tanswer\ttext\n" + lines)
    (tmp_path / "from" / "notes").mkdir()
    (tmp_path / "from" / "notes" / "about.md").write_text("LegalBench")
    imported(tmp_path / "from", "-o", tmp_path / "to")
    tasks = {found.name: found for found in read_folder(tmp_path / "to").tasks}
    assert sorted(tasks) == [
        *("cuad_anti-assignment", "hearsay", "maud_fls_(mae)_standard", "opp115_user_access,_edit_and_deletion")
    ]
    hearsay = tasks["hearsay"]
    assert (len(hearsay), len(hearsay.support_pool), hearsay.examples[1].choices) == (40, 6, ("No", "Yes"))
    assert (hearsay.examples[1].prompt, hearsay.examples[1].target) == ("clause test 1", 1)


def test_copies_stand_alone(tmp_path):
    folder = tmp_path / "from"
    folder.mkdir()
    format_files.letters(folder, format_files.multiple_choice(40))
    imported(folder, "-o", tmp_path / "first")
    imported(folder, "-o", tmp_path / "to", "--copy")
    before = read_task(tmp_path / "first" / "task.toml")
    (folder / "task.csv").unlink()
    (after,) = read_folder(tmp_path / "to").tasks
    assert [row[:3] for row in after.examples] == [row[:3] for row in before.examples]


def test_a_folder_of_natural_instructions_keeps_the_official_split(tmp_path):
    tasks = tmp_path / "natural" / "tasks"
    tasks.mkdir(parents=True)
    for number in (1, 2, 3):
        format_files.natural_instructions(tasks, format_files.classification(40, number))
        (tasks / "task1_ham_classification.json").rename(tasks / f"task{number}_x.json")
    (tmp_path / "natural" / "splits" / "default").mkdir(parents=True)
    for side, names in (("train", "task1_x\ntask9_absent\ntask3_x\n"), ("test", "task2_x\n")):
        (tmp_path / "natural" / "splits" / "default" / f"{side}_tasks.txt").write_text(names)
    imported(tasks, "-o", tmp_path / "to")
    suite = load_suite(tmp_path / "to")
    assert [[task.name for task in side] for side in (suite.train, suite.test)] == [["task1_x", "task3_x"], ["task2_x"]]
    assert suite.train[0].question == "Is the message wanted?"


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("mmlu.csv", "What is 1?,one,two,three,four,A\nWhat is 3?,one,two,three,four,C\n", "letters"),
        ("u.tsv", "who? \\n (A) x (B) y\tx\nwhat? \\n (A) x (B) y\ty\n", "unifiedqa"),
        ("p.yaml", "tests:\n- vars: {text: hi}\n  assert: [{type: equals, value: no}]\n", "promptfoo"),
        ("p.csv", "text,__expected\nhi,equals:yes\nho,no\n", "promptfoo"),
        (
            "s.jsonl",
            '{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}\n',
            "messages",
        ),
        ("l.jsonl", '{"text": "q", "choices": ["x", "y"], "answer": "B"}\n', "letters"),
        ("t.csv", "text,label\nx,y\n", "table"),
    ],
)
def test_which_format(tmp_path, name, content, form):
    (tmp_path / name).write_text(content)
    found, reading = recognise(tmp_path / name)
    assert found == form
    assert reading.rows


def test_labels_of_yaml_are_texts(tmp_path):
    tests = "".join(
        f"- vars: {{text: t {n}}}\n  assert: [{{type: equals, value: {'no' if n % 2 else 'yes'}}}]\n" for n in range(8)
    )
    (tmp_path / "p.yaml").write_text("tests:\n" + tests)
    imported(tmp_path / "p.yaml")
    assert read_task(tmp_path / "p.toml").examples[0].choices == ("no", "yes")


def test_nothing_there(tmp_path):
    with pytest.raises(AbmllError, match="there is no file or folder"):
        propose_all(tmp_path / "none", Given())
    assert "holds no file that can be read" in refused(tmp_path)
