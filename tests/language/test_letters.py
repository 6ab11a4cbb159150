"""answer = "auto": letters for models that answer by them, found without labels, once, and kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from abmll import Learner, PromptFormat
from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.language import likelihood as module
from abmll.language.letters import NEEDED, ROWS, letter_agreement, letters_fit, some_of_each
from abmll.language.prompt import render
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task, tiny_tasks

WORDS = ("red", "green", "blue", "grey")


def rows_of(*counts):
    return [Example(f"row {n}", WORDS[:count], n % count) for n, count in enumerate(counts)]


def answering(probability):
    """A model whose probability of the choice listed at `place` with these words is proportional to a number."""

    def log_probs(rows):
        width = max(len(row.choices) for row in rows)
        out = torch.zeros(len(rows), width)
        for index, row in enumerate(rows):
            for place, word in enumerate(row.choices):
                out[index, place] = probability(row, place, word)
        return (out / out.sum(1, keepdim=True)).log()

    return log_probs


@pytest.mark.parametrize(
    ("model", "counts", "expected"),
    [
        (lambda row, place, word: word == "green", (2, 3, 4), 1.0),  # knows what it means
        (lambda row, place, word: place == 0, (2,), -1.0),  # always says A
        (lambda row, place, word: place == 0, (4, 4), -1 / 3),
        (lambda row, place, word: 1.0, (2, 3, 4), 0.0),  # says nothing
        (lambda row, place, word: 9.0 if word == "red" else 1.0, (2,), 2 * (0.9**2 + 0.1**2) - 1),  # not quite sure
    ],
)
def test_agreement_is_what_follows_the_meaning_and_not_the_place(model, counts, expected):
    assert letter_agreement(answering(model), rows_of(*counts)) == pytest.approx(expected, abs=1e-6)


def test_agreement_is_the_sum_over_choices_of_both_probabilities_beyond_chance():
    """Against the definition written out, with probabilities of no pattern."""
    torch.manual_seed(0)
    table = torch.rand(2, 3, dtype=torch.float64)
    calls = iter(table)

    def log_probs(rows):
        return (one := next(calls))[None].log() - one.sum().log()

    first, second = (one / one.sum() for one in table)
    # in the second order choice 1 is A, choice 2 is B, choice 0 is C
    same = first[0] * second[2] + first[1] * second[0] + first[2] * second[1]
    expected = float((same - 1 / 3) / (1 - 1 / 3))
    assert letter_agreement(log_probs, rows_of(3)) == pytest.approx(expected)


def test_neither_labels_nor_demonstrations_are_looked_at():
    seen = []

    def log_probs(rows):
        seen.extend(rows)
        return torch.zeros(len(rows), 2).log_softmax(-1)

    solved = Example("solved", WORDS[:2], 1)
    letter_agreement(log_probs, [Example("row", WORDS[:2], None, demonstrations=(solved,))])
    assert [row.choices for row in seen] == [("red", "green"), ("green", "red")]
    assert all(row.demonstrations == () and row.target is None for row in seen)


def test_rows_are_taken_from_tasks_in_turn():
    assert some_of_each([[1, 2, 3], [4], []]) == [1, 4, 2, 3]
    assert some_of_each([range(100), range(100, 200)], 4) == [0, 100, 1, 101]
    assert letters_fit(rows_of(2, 4))
    assert not letters_fit([Example("many", tuple(map(str, range(27))), 0)])


def learner_of(prompt=None, **options):
    return Learner(tiny_llama(layers=1), tiny_tokenizer(), "lora", r=2, prompt=prompt, **options)


@pytest.fixture
def asked(monkeypatch):
    """What the agreement was asked with, and the one that is found."""
    record: dict[str, Any] = {"rows": [], "agreement": 1.0}

    def agreement(log_probs, rows):
        record["rows"].append(list(rows))
        return record["agreement"]

    monkeypatch.setattr(module, "letter_agreement", agreement)
    return record


@pytest.mark.parametrize(("agreement", "expected"), [(NEEDED, "letters"), (NEEDED - 0.01, "text")])
def test_the_first_call_settles_and_later_ones_keep_it(agreement, expected, asked, capsys):
    asked["agreement"] = agreement
    learner = learner_of()
    assert learner.likelihood.prompt.answer == "auto"
    task = tiny_task("new", 24)
    learner.adapt(task.examples[:4]).predict(task.examples[4:6], 0)
    list(learner.evaluate([task], num_query=2, support_sizes=(4,), num_samples=0))
    assert learner.likelihood.prompt == PromptFormat(expected)
    assert asked["rows"] == [list(task.examples[:4])]
    assert f'answer = "{expected}" (agreement' in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["letters", "text"])
def test_an_answer_that_is_named_is_not_settled(answer, asked):
    learner = learner_of(PromptFormat(answer))
    learner.adapt(tiny_task("new", 4).examples)
    assert learner.likelihood.prompt.answer == answer
    assert asked["rows"] == []


def test_a_task_with_more_choices_than_letters_settles_it_for_all(asked):
    many = tiny_task("many", 60, choices=tuple(map(str, range(30))))
    learner = learner_of()
    assert learner.settle([*tiny_tasks(20), many]).answer == "text"
    assert asked["rows"] == []


def test_rows_that_are_too_long_with_their_choices_listed_are_answered_by_text():
    long = tiny_task("long", 8, choices=tuple(f"the film was good and true {n}" for n in range(20)))
    learner = learner_of(PromptFormat(max_tokens=100))
    assert learner.settle([long]).answer == "text"
    learner.likelihood.choice_log_probs(long.examples[:2])


def test_a_model_that_knows_nothing_answers_by_text_and_so_does_its_saved_adapter(tmp_path):
    learner = learner_of()
    learner.meta_train = None  # lora learns nothing across tasks: adaptation settles
    task = tiny_task("new", 8)
    posterior = learner.adapt(task.examples)
    assert learner.likelihood.prompt.answer == "text"
    learner.save(tmp_path, posterior=posterior)
    assert json.loads((tmp_path / "abmll.json").read_text())["prompt"]["answer"] == "text"
    again = Learner.load(tmp_path, tiny_llama(layers=1), tiny_tokenizer())
    assert again.likelihood.prompt.answer == "text"


def test_settling_changes_no_prediction():
    """What is predicted after it is what a learner predicts that was told the answer."""
    rows = tiny_task("new", 8).examples
    auto, told = learner_of(), learner_of(PromptFormat("text"))
    predictions = [learner.likelihood.choice_log_probs(rows) for learner in (auto, told, auto)]
    assert torch.equal(predictions[0], predictions[1])
    assert torch.equal(predictions[0], predictions[2])


def test_an_unsettled_format_renders_nothing():
    with pytest.raises(AbmllError, match=r'has not been settled.* Name "letters" or "text"'):
        render(rows_of(2)[0], PromptFormat())


def test_at_most_a_few_rows_are_asked(asked):
    learner_of().settle([tiny_task("big", 100)])
    assert len(asked["rows"][0]) == ROWS
