"""The wide suite: large enough, with families that only one side holds and that pretraining never asked about."""

from __future__ import annotations

from itertools import islice

import pytest

from abmll.default.tasks import ceiling, ruled_tasks
from abmll.default.wide import WIDE_COUNTS, wide_tasks
from abmll.default.world import documents
from tests.default.test_world import digest, suite_lines

WIDE_HASH = "7214e64f8d212164"


@pytest.fixture(scope="module")
def tasks():
    return wide_tasks(seed=0, num_rows=300)


def families(tasks, split):
    return {task.family for task in tasks[split]}


def test_one_seed_gives_one_suite_on_every_machine(tasks):
    # A new hash here means that numbers reported on the wide suite are no longer comparable.
    assert digest(suite_lines(tasks)) == WIDE_HASH
    assert digest(suite_lines(wide_tasks(seed=1, num_rows=5))) != digest(suite_lines(wide_tasks(seed=0, num_rows=5)))


def test_it_is_large_enough_to_tell_methods_apart(tasks):
    assert {split: len(members) for split, members in tasks.items()} == {"train": 60, "validation": 12, "test": 48}
    unseen = [task for task in tasks["test"] if task.family not in families(tasks, "train")]
    assert len(unseen) == 24
    assert len({task.family for task in unseen}) == 4


def test_settings_are_chosen_on_families_that_are_neither_trained_on_nor_judged_by(tasks):
    own = families(tasks, "validation") - families(tasks, "train")
    assert own == {"quit", "meal"}
    assert not own & families(tasks, "test")
    assert sum(task.family in own for task in tasks["validation"]) == 6
    judged = families(tasks, "test") - families(tasks, "train")
    assert not judged & families(tasks, "validation")
    questions = {split: {task.question for task in members} for split, members in tasks.items()}
    assert len(questions["test"] - questions["train"] - questions["validation"]) == 4


def test_no_task_rule_or_row_is_found_twice_nor_in_the_small_suite(tasks):
    members = [task for split in tasks.values() for task in split]
    assert len({task.name for task in members}) == len(members)
    prompts = {row.prompt for task in members for row in task.rows}
    assert len(prompts) == 300 * len(members)
    small = [task for split in ruled_tasks(num_rows=2).values() for task in split]
    assert len({tuple(task.rule.values()) for task in [*members, *small]}) == len(members) + len(small)


def test_pretraining_asked_none_of_its_questions_and_gave_none_of_the_new_answers(tasks):
    questions = {task.question for split in tasks.values() for task in split}
    asked, answers = set(), set()
    for document in islice(documents(0), 10_000):
        if "\nAnswer:" in document:
            asked.add(document.split("\n")[0])
            answers.add(document.rpartition("\nAnswer: ")[2])
    assert not asked & questions
    new = {choice for task in tasks["test"] if task.family in {"home", "post"} for choice in task.choices}
    assert len(new) == 7
    assert not answers & new
    trained_on = {choice for task in tasks["train"] for choice in task.choices}
    assert not trained_on & new


def test_one_unseen_family_turns_yes_and_no_around(tasks):
    orders = {task.family: task.choices for split in tasks.values() for task in split}
    assert (orders["taste"], orders["sale"], orders["quit"]) == (("no", "yes"), ("yes", "no"), ("yes", "no"))


def test_what_is_unseen_on_the_test_side_is_no_easier_than_what_is_known(tasks):
    def regret(members):
        return sum(ceiling(task).accuracy - 1 / len(task.choices) for task in members) / len(members)

    known = [task for task in tasks["test"] if task.family in families(tasks, "train")]
    unseen = [task for task in tasks["test"] if task.family not in families(tasks, "train")]
    assert 0.3 < regret(unseen) < regret(known) + 0.1 < 0.6


def test_counts_name_every_family_once(tasks):
    for split, counts in WIDE_COUNTS.items():
        assert sum(counts.values()) == len(tasks[split])
