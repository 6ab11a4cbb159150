"""One set of rules: the same mistake gives the same message from Python and from a run file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import abmll
from abmll.config import field_entries, parse_config
from abmll.core.errors import AbmllError
from abmll.language.prompt import PromptFormat
from abmll.methods import build_method
from abmll.rules import describe, rules_of
from abmll.training.settings import Training


def learner(**given):
    """A learner that is refused before its model is looked at."""
    return abmll.Learner(None, None, "lora", **given)


def trained(**given):
    return abmll.Learner.meta_train(None, [], **given)


def evaluated(**given):
    return abmll.Learner.evaluate(None, [], **given)


def lora(**options):
    return build_method("lora", **options)


MISTAKES = [
    # section, field, value, and the same in Python
    ("method.options", "optimizer", "SGD", lora),
    ("method.options", "optimizer", 3, lora),
    ("method.options", "learning_rate", "0.1", lora),
    ("method.options", "num_steps", 2.5, lora),
    ("method.options", "num_steps", -1, lora),
    ("method.options", "learning_rat", 1.0, lora),
    ("method.options", "optimizer", "SGD", learner),
    ("method.options", "num_stepz", 3, learner),
    ("method", "name", "reptil", lambda name: build_method(name)),
    ("method", "name", "no_such_module:factory", lambda name: build_method(name)),
    ("method", "name", "json:no_such_function", lambda name: build_method(name)),
    ("method", "name", "os:system", lambda name: build_method(name)),
    ("adapter", "r", 0, learner),
    ("adapter", "r", "8", learner),
    ("adapter", "lora_alpha", 1.5, learner),
    ("adapter", "target_modules", 3, learner),
    ("adapter", "target_modules", [], learner),
    ("training", "num_steps", 0, Training),
    ("training", "num_steps", "ten", trained),
    ("training", "checkpoint_every", 1.5, Training),
    ("training", "tensorboard", 1, Training),
    ("training", "learning_rate", 0, trained),
    ("training", "schedule", "Linear", trained),
    ("training", "max_grad_norm", "1", trained),
    ("episodes", "order", "randm", trained),
    ("episodes", "balanced", "yes", trained),
    ("episodes", "support_size", 0, trained),
    ("episodes", "query_size", -1, trained),
    ("evaluation", "support_sizes", [4, -1], evaluated),
    ("evaluation", "num_samples", -1, evaluated),
    ("evaluation", "num_query", 0, evaluated),
    ("prompt", "answer", "Letters", PromptFormat),
    ("prompt", "score", "average", PromptFormat),
    ("prompt", "max_tokens", 3, PromptFormat),
    ("prompt", "chat", "no", PromptFormat),
]


@pytest.mark.parametrize(
    ("section", "field", "value", "python"), MISTAKES, ids=lambda part: getattr(part, "__name__", str(part)[:24])
)
def test_the_same_mistake_gives_the_same_message(section, field, value, python):
    data: dict = {"method": {"name": "lora"}}
    table = data
    for part in section.split("."):
        table = table.setdefault(part, {})
    table[field] = value
    with pytest.raises(AbmllError) as from_file:
        parse_config(data, "run.toml")
    with pytest.raises(AbmllError) as from_python:
        python(**{field: value})
    heading, told, hint = str(from_file.value).splitlines()
    assert heading == "run.toml holds a mistake:"
    assert hint == "`abmll config` lists every field."
    said = str(from_python.value).removeprefix(f"{field} = ").removeprefix("method = ").rstrip(".")
    assert len(said) > 20
    assert told.endswith(said), "word for word, but for where it stands"


def test_all_mistakes_are_told_at_once():
    with pytest.raises(AbmllError) as error:
        build_method("lora", optimizer="SGD", num_steps="five", learning_rat=0.1)
    assert str(error.value).splitlines() == [
        "3 mistakes:",
        "  learning_rat: lora has no such option. Did you mean 'learning_rate'? "
        "Options: batch_size, learning_rate, num_steps, optimizer.",
        "  optimizer = \"SGD\": must be one of: adamw, sgd. Did you mean 'sgd'?",
        '  num_steps = "five": must be a whole number.',
    ]


@pytest.mark.parametrize(("section", "dataclass"), [("training", Training), ("prompt", PromptFormat)])
def test_a_field_of_both_has_one_rule_and_one_default(section, dataclass):
    of_files = {row.path.partition(".")[2]: row for row in field_entries() if row.path.startswith(f"{section}.")}
    shared = of_files.keys() & rules_of(dataclass).keys()
    assert len(shared) >= 5
    for name in shared:
        assert of_files[name].rule == describe(rules_of(dataclass)[name]), name
        assert of_files[name].default == getattr(dataclass(), name), name


@pytest.mark.parametrize("value", [np.int64(7), np.float32(7.0), torch.tensor(7)], ids=["int64", "float32", "tensor"])
def test_numbers_of_numpy_and_torch_are_numbers(value):
    option = "learning_rate" if isinstance(value, np.floating) else "num_steps"
    adaptation: Any = build_method("lora", **{option: value}).adaptation
    if option == "learning_rate":
        assert adaptation.inner.learning_rate == 7.0
        return
    assert type(adaptation.inner.num_steps) is int
    assert type(Training(num_steps=value).num_steps) is int


def test_a_text_is_never_a_number_and_true_is_not_1():
    values: list[Any] = ["7", True, np.bool_(True), 7.5, float("nan"), None, [7]]
    for value in values:
        with pytest.raises(AbmllError, match=r"num_steps = .*: must be a whole number"):
            Training(num_steps=value)
