"""The 45 real tasks, as they lie on disk. Skipped where they are absent."""

from __future__ import annotations

import json

import pytest

from abmll.data.overlap import shared_inputs
from abmll.data.suite import Suite, load_suite
from abmll.data.validate import check_task


@pytest.fixture(scope="module")
def suite(shared) -> Suite:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABMLL_SHARED", str(shared))
        return load_suite("realtasks")


def test_thirty_to_train_on_and_fifteen_held_out(suite):
    assert (len(suite.train), len(suite.validation), len(suite.test)) == (26, 4, 15)
    assert suite.notes == ()
    seen = {task.family for task in (*suite.train, *suite.validation)}
    assert {task.family for task in suite.test} - seen == {"nli", "chemistry"}


def test_questions_families_and_rows_are_those_of_the_manifest(suite, shared):
    manifest = json.loads((shared / "data" / "realtasks" / "manifest.json").read_text())
    assert {task.name for task in suite.tasks} == {entry["name"] for entry in manifest["tasks"]}
    for entry in manifest["tasks"]:
        task = suite.task(entry["name"])
        assert (task.question, task.family, len(task)) == (entry["question"], entry["family"], entry["n_rows"])
        assert {str(target): count for target, count in task.target_counts.items()} == entry["target_counts"]
        assert task.num_choices == max(map(int, entry["option_counts"]))


def test_which_tasks_share_inputs(suite):
    side = {task.name: name for name in ("train", "validation", "test") for task in getattr(suite, name)}
    shared_rows = {frozenset(pair): count for pair, count in shared_inputs(suite.tasks).items()}
    assert shared_rows == {
        frozenset(pair.split()): count
        for pair, count in [
            ("chem_tox21_nr_ahr chem_tox21_sr_mmp", 59),
            ("goemotions_ekman goemotions_polarity", 38),
            ("rotten_tomatoes subjectivity", 16),
            ("rotten_tomatoes sst2", 11),
            ("sst2 subjectivity", 9),
            ("chem_bbbp chem_tox21_nr_ahr", 2),
            ("chem_bbbp chem_tox21_sr_mmp", 1),
            ("chem_clintox chem_tox21_sr_mmp", 1),
            ("arc_easy mmlu_elementary_mathematics", 1),
        ]
    }
    assert all(len({side[name] for name in pair}) == 1 for pair in shared_rows)


def test_the_real_files_are_in_order(shared):
    folder = shared / "data" / "realtasks"
    for name in ("snli", "copa", "bbh_disambiguation_qa", "chem_hiv"):
        assert [str(problem) for problem in check_task(folder / f"{name}.jsonl.gz").problems] == []
