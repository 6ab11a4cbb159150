"""Suites: every way to split a folder, and that no row stands on two sides."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.data.overlap import input_key, shared_inputs
from abmll.data.split import groups, hold_out
from abmll.data.suite import Suite, load_suite, read_suite_spec, shipped_suites
from abmll.data.task import Task

FAMILIES = {"apple": "fruit", "banana": "fruit", "carrot": "root", "date": "fruit", "endive": "leaf", "fennel": ""}


def rows(name: str, count: int = 6, first: int = 0) -> str:
    return "".join(
        json.dumps({"text": f"{name} {n}", "options": ["no", "yes"], "target": n % 2}) + "\n"
        for n in range(first, first + count)
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six tasks in three families, described by a manifest."""
    for name in FAMILIES:
        (tmp_path / f"{name}.jsonl").write_text(rows(name))
    entries = [
        {"name": name, "file": f"{name}.jsonl", "family": family, "question": f"Is it {name}?"}
        for name, family in FAMILIES.items()
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"tasks": entries}))
    return tmp_path


def suite_toml(folder: Path, text: str) -> Path:
    path = folder / "my-suite.toml"
    path.write_text(text)
    return path


def names(suite: Suite) -> tuple[list[str], list[str], list[str]]:
    train, validation, test = ([task.name for task in side] for side in (suite.train, suite.validation, suite.test))
    return train, validation, test


def test_a_folder_without_a_split_is_all_training(folder):
    suite = load_suite(folder)
    assert suite.name == folder.name
    assert names(suite) == (list(FAMILIES), [], [])
    assert suite.task("carrot").question == "Is it carrot?"
    assert suite.task("carrot").family == "root"
    with pytest.raises(
        AbmllError,
        match=r"has no test tasks \(6 tasks in all\). Hold some out: give held_out = 0.3, or list test_families or",
    ):
        suite.require("test")
    with pytest.raises(AbmllError, match=r"has no validation tasks .* Hold some out: list validation_families or"):
        suite.require("validation")
    assert len(suite.require("train")) == 6
    with pytest.raises(AbmllError, match=r"suite 's' has no train tasks .* all are held out"):
        Suite("s", test=suite.train).require("train")


def test_a_file_that_the_manifest_does_not_list_is_a_task_too(folder):
    (folder / "grape.csv").write_text("text,label\na,no\nb,yes\n")
    assert load_suite(folder).task("grape").family == ""


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ('test_families = ["fruit"]', ("carrot endive fennel", "", "apple banana date")),
        ('test_tasks = ["fennel"]\nvalidation_families = ["leaf"]', ("apple banana carrot date", "endive", "fennel")),
        ('test_families = ["root"]\ntest_tasks = ["fennel"]', ("apple banana date endive", "", "carrot fennel")),
        ('train = ["date", "apple"]\ntest = ["fennel"]', ("date apple", "", "fennel")),
        ('test = ["fennel"]\nvalidation = ["endive"]', ("apple banana carrot date", "endive", "fennel")),
        ('exclude = ["apple", "date"]\ntest = ["fennel"]', ("banana carrot endive", "", "fennel")),
    ],
)
def test_splits_of_a_suite_toml(folder, toml, expected):
    suite = load_suite(suite_toml(folder, toml))
    assert suite.name == "my-suite"
    assert names(suite) == tuple(side.split() for side in expected)


def test_the_suite_toml_in_a_folder_is_obeyed(folder):
    (folder / "suite.toml").write_text('name = "kitchen"\ntest_families = ["fruit"]\n')
    suite = load_suite(folder)
    assert suite.name == "kitchen"
    assert len(suite.test) == 3


def test_folder_argument_takes_precedence(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = suite_toml(elsewhere, 'folder = "nowhere"\ntest_families = ["fruit"]\n')
    assert len(load_suite(path, folder=folder).test) == 3
    with pytest.raises(AbmllError, match=r"there is no folder .*nowhere"):
        load_suite(path)


def test_a_suite_may_not_reach_out_of_its_folder_by_a_relative_path(folder):
    (folder / "inner").mkdir()
    path = suite_toml(folder / "inner", 'folder = ".."\n')
    with pytest.raises(AbmllError, match=r"my-suite.toml \[folder\]: the path '..' leaves the folder"):
        load_suite(path)
    assert len(load_suite(suite_toml(folder / "inner", f'folder = "{folder}"\n')).train) == 6


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            'test_families = ["friut"]',
            "names family 'friut' (did you mean 'fruit'?), which its folder does not hold. It holds: fruit",
        ),
        ('test_tasks = ["aple", "zzz"]', "names task 'aple' (did you mean 'apple'?), 'zzz', which"),
        ('train = ["appel"]', "names task 'appel' (did you mean 'apple'?)"),
        ('shares_rows = [["apple", "pear"]]', "names task 'pear', which"),
        ('test_familes = ["fruit"]', "unknown key 'test_familes'. Did you mean 'test_families'?"),
        ('train = ["apple"]\ntest_families = ["root"]', "splits the tasks in more than one way"),
        ('held_out = 0.3\ntest_tasks = ["apple"]', "splits the tasks in more than one way"),
        ("held_out = 1.5", "held_out=1.5: give a fraction of the tasks between 0 and 1"),
        ('train = ["apple", "apple"]', "lists 'apple' twice under train: keep one"),
        ('train = ["apple", "date"]\ntest = ["date"]', "'date' (train) and 'date' (test) share 6 inputs"),
        ('overlap = "ignore"', "[overlap]: 'ignore': Input should be 'error', 'drop' or 'keep'"),
        (
            'test_tasks = ["apple"]\nshares_rows = [["apple", "date"]]',
            "declared to share rows stand on different sides: 'apple' and 'date'. Move them to one side, or exclude",
        ),
    ],
)
def test_suites_that_cannot_be(folder, toml, message):
    with pytest.raises(AbmllError) as raised:
        load_suite(suite_toml(folder, toml))
    assert message in str(raised.value)


def test_rows_on_two_sides_are_found_whatever_their_spelling(folder):
    (folder / "fennel.jsonl").write_text(rows("fennel") + rows("APPLE ", 2) + rows("apple", 1, first=2))
    path = suite_toml(folder, 'test_tasks = ["fennel"]\n')
    with pytest.raises(AbmllError) as raised:
        load_suite(path)
    assert str(raised.value) == (
        "suite 'my-suite' would train on rows that it tests on: 'apple' (train) and 'fennel' (test) share 3 "
        "inputs. Move such "
        'tasks to one side, exclude one of them, or set overlap = "drop" in the suite TOML to take the '
        "shared inputs out of "
        "training."
    )
    suite = load_suite(suite_toml(folder, 'test_tasks = ["fennel"]\noverlap = "drop"\n'))
    assert [row.prompt for row in suite.task("apple").examples] == ["apple 3", "apple 4", "apple 5"]
    assert len(suite.task("fennel")) == 9
    assert suite.notes == ("dropped from the first side named: 'apple' (train) and 'fennel' (test) share 3 inputs",)
    kept = load_suite(suite_toml(folder, 'test_tasks = ["fennel"]\noverlap = "keep"\n'))
    assert len(kept.task("apple")) == 6
    assert kept.notes == ("kept on two sides: 'apple' (train) and 'fennel' (test) share 3 inputs",)


def test_drop_takes_rows_from_training_then_from_validation(folder):
    (folder / "fennel.jsonl").write_text(rows("fennel") + rows("apple", 1) + rows("endive", 1))
    (folder / "endive.jsonl").write_text(rows("endive") + rows("apple", 1, first=1))
    toml = 'test_tasks = ["fennel"]\nvalidation_tasks = ["endive"]\noverlap = "drop"\n'
    suite = load_suite(suite_toml(folder, toml))
    assert [len(suite.task(name)) for name in ("apple", "endive", "fennel")] == [4, 6, 8]
    assert shared_inputs(suite.tasks) == {}


def test_drop_that_leaves_nothing_is_refused(folder):
    (folder / "fennel.jsonl").write_text(rows("apple", 8))
    with pytest.raises(
        AbmllError, match="no row of the train task 'apple' is left after overlap = \"drop\"; exclude it"
    ):
        load_suite(suite_toml(folder, 'test_tasks = ["fennel"]\noverlap = "drop"\n'))


def test_declared_sharing_comes_from_specs_and_manifest_too(folder):
    (folder / "grape.csv").write_text("text,label\na,no\nb,yes\n")
    (folder / "grape.toml").write_text('file = "grape.csv"\nshares_rows_with = ["apple"]\n')
    with pytest.raises(AbmllError, match="declared to share rows stand on different sides: 'grape' and 'apple'"):
        load_suite(suite_toml(folder, 'test_tasks = ["grape"]\n'))


def test_a_data_file_that_a_spec_names_is_one_task_not_two(folder):
    (folder / "grape.csv").write_text("text,label\na,no\nb,yes\n")
    (folder / "vine.toml").write_text('file = "grape.csv"\n')
    tasks = names(load_suite(folder))[0]
    assert "vine" in tasks
    assert "grape" not in tasks


def test_held_out_families_are_whole_and_seeded(folder):
    found = [load_suite(folder, held_out=0.5, seed=seed) for seed in range(8)]
    for suite in found:
        held = {task.name for task in suite.test}
        assert 1 <= len(held) <= 3
        assert held & {"apple", "banana", "date"} in (set(), {"apple", "banana", "date"})
    assert names(found[3]) == names(load_suite(folder, held_out=0.5, seed=3))
    assert len({tuple(names(suite)[2]) for suite in found}) > 1


def test_a_fraction_given_replaces_the_split_of_the_suite(folder):
    path = suite_toml(folder, 'test_families = ["fruit"]\nexclude = ["fennel"]\n')
    suite = load_suite(path, held_out=0.2)
    assert (len(suite.train), len(suite.test)) == (4, 1)
    assert {task.name for task in suite.test} < {"carrot", "endive"}
    with pytest.raises(AbmllError, match="its files are made for one side each"):
        load_suite("nli", folder=folder, held_out=0.2)


def tiny(name: str, family: str = "", *texts: str) -> Task:
    return Task(name, tuple(Example(text, ("a", "b"), 0) for text in texts or (name,)), family=family)


def test_groups_join_families_declarations_and_shared_rows():
    tasks = [
        tiny("a", "f"),
        tiny("b", "", "x", "y"),
        tiny("c", "f"),
        tiny("d", "", "Y "),
        tiny("e"),
        tiny("g", "", "z"),
    ]
    found = [[task.name for task in group] for group in groups(tasks, [["g", "a", "absent"]])]
    assert found == [["a", "c", "g"], ["b", "d"], ["e"]]


def test_hold_out_takes_the_smallest_group_if_none_fits_and_refuses_one_group():
    tasks = [tiny("a", "f"), tiny("b", "f"), tiny("c", "f"), tiny("d", "g"), tiny("e", "g")]
    for seed in range(5):
        assert [task.name for task in hold_out(tasks, 0.1, seed)[1]] == ["d", "e"]
    with pytest.raises(AbmllError, match="all 3 tasks form one group, by family or by shared rows"):
        hold_out(tasks[:3], 0.3, 0)


def test_input_keys_ignore_case_and_white_space_and_nothing_else():
    assert input_key("A  b\nC") == input_key(" a B c ")
    assert input_key("a b") != input_key("ab")
    assert input_key("a-b") != input_key("a b")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('{"tasks": [', "manifest.json:1: broken JSON: Expecting value. It ends too early"),
        ('{"tasks": [], "tasks": []}', "manifest.json [tasks]: the field 'tasks' stands twice. Keep one of them."),
        ("[" * 100_000, "manifest.json: nested more than 64 levels deep."),
        ('{"tasks": [{"file": "apple.jsonl", "name": "\\ud83d"}]}', "the text holds \\ud83d, half of a character"),
        ('{"task": []}', 'needs a list of objects under "tasks"'),
        ('{"tasks": [{"file": "absent.jsonl"}]}', "lists 'absent.jsonl', which is not in the folder. Restore it"),
        ('{"tasks": [{"file": "../x.jsonl"}]}', "task 0 names the file '../x.jsonl'. Name a file of this folder"),
        ('{"tasks": [{"file": "apple.jsonl", "family": 3}]}', "'family' of task 0 is 3. Write a text"),
        (
            '{"tasks": [{"file": "apple.jsonl", "sha256": "00"}]}',
            "is not the file that manifest.json was written for (SHA-256 differs)",
        ),
        ('{"tasks": [{"file": "apple.jsonl", "name": "banana"}]}', "two files make a task named 'banana'"),
    ],
)
def test_manifests_that_do_not_fit(folder, manifest, message):
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(AbmllError) as raised:
        load_suite(folder)
    assert message in str(raised.value)


def test_a_right_checksum_passes(folder):
    sha = hashlib.sha256((folder / "apple.jsonl").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"tasks": [{"file": "apple.jsonl", "sha256": sha}]}))
    assert len(load_suite(folder).train) == 6


def test_errors_of_all_files_are_told_at_once(folder):
    (folder / "apple.jsonl").write_text("{")
    (folder / "date.jsonl").write_text("")
    with pytest.raises(AbmllError) as raised:
        load_suite(folder)
    assert "has 2 problems:" in str(raised.value)
    assert "apple.jsonl:1: broken JSON" in str(raised.value)
    assert "date.jsonl: the file holds no rows" in str(raised.value)


def test_an_empty_folder_and_things_that_are_no_suite(tmp_path, folder):
    (tmp_path / "bare").mkdir()
    for suite, message in [
        (tmp_path / "bare", "bare holds no task: put .jsonl, .csv or .tsv files"),
        ("realtask", "unknown suite 'realtask'. Did you mean 'realtasks'? Choose one of: bayesian-lora,"),
        ("no/such/suite.toml", "there is no suite at no/such/suite.toml: give a folder"),
        (folder / "apple.jsonl", "apple.jsonl is one file, not a suite: give its folder, or a suite TOML"),
    ]:
        with pytest.raises(AbmllError) as raised:
            load_suite(suite)
        assert message in str(raised.value)


def test_an_unknown_task_names_the_nearest(folder):
    with pytest.raises(AbmllError, match=r"unknown task 'aple'. Did you mean 'apple'"):
        load_suite(folder).task("aple")


def test_a_shipped_suites_name_is_not_taken_for_a_folder_that_is_called_so(tmp_path, monkeypatch):
    """A run may write its output into a folder called like its suite, and reads the suite again later."""
    folder = tmp_path / "nli"
    folder.mkdir()
    (folder / "mine.csv").write_text("input,label\na,x\nb,y\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ABMLL_SHARED", raising=False)
    with pytest.raises(AbmllError, match="comes without its data"):
        load_suite("nli")
    assert [task.name for task in load_suite("./nli").train] == ["mine"]
    assert [task.name for task in load_suite(Path("nli")).train] == ["mine"]


def test_shipped_suites_without_their_data_say_what_to_do(monkeypatch):
    monkeypatch.delenv("ABMLL_SHARED", raising=False)
    assert {"realtasks", "cls-45", "cls-23", "nli", "para", "mcqa"} < set(shipped_suites())
    for name in shipped_suites():
        said = {
            "hub": r"is not on this machine: .* Fetch it once, with a network: abmll tasks fetch hub:",
            "crossfit": r"this machine lacks the files of \d+ tasks: .* abmll tasks fetch SUITE",
        }.get(
            read_suite_spec(shipped_suites()[name]).format,
            rf"the suite '{name}' comes without its data: give the folder .* ABMLL_SHARED",
        )
        with pytest.raises(AbmllError, match=said):
            load_suite(name)
