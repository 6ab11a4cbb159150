"""Tasks adapted side by side have the posteriors that they have one after the other."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import abmll
from abmll.core.errors import AbmllError
from abmll.core.types import META
from abmll.methods import build_method
from abmll.methods.parts.side_by_side import adapt_side_by_side
from tests.parameters import few_of
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task
from tests.toy import GaussianToy, make_examples


def learner_of(method: str, **options):
    learner = abmll.Learner(
        tiny_llama(), tiny_tokenizer(), method, r=2, lora_alpha=4, target_modules=["v_proj", "down_proj"], **options
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in learner.likelihood.parameters(META).values():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return learner


def supports(*sizes: int):
    return [tiny_task(f"task-{n}", 8).examples[n : n + size] for n, size in enumerate(sizes)]


def distance(one, other):
    return float(torch.cat([(tensor - other[name]).flatten() for name, tensor in one.items()]).norm())


@pytest.mark.parametrize(
    ("method", "optimizer", "steps", "sizes"),
    few_of(
        itertools.product(("lora", "abmll-output"), ("sgd", "adamw"), (2, 3), ((4, 5, 4), (4, 4, 5, 4))),
        [("lora", "adamw", 2, (4, 5, 4)), ("abmll-output", "sgd", 2, (4, 5, 4))],
    ),
)
def test_posteriors_and_predictions_are_those_of_one_task_after_the_other(method, optimizer, steps, sizes):
    rate = 0.1 if optimizer == "sgd" else 1e-3
    learner = learner_of(method, num_steps=steps, learning_rate=rate, optimizer=optimizer, batch_size=3)
    tasks = supports(*sizes)
    query = tiny_task("query", 6).examples
    before = {name: tensor.clone() for name, tensor in learner.likelihood.parameters(META).items()}
    together = learner.adapt_many(tasks, tasks_at_once=2)
    for name, tensor in learner.likelihood.parameters(META).items():
        assert torch.equal(tensor, before[name])
    for support, found in zip(tasks, together, strict=True):
        expected = learner.adapt(support)
        moved = distance(expected.state_dict(), before)
        assert moved > 1e-3
        # Of the way, all in all: AdamW makes a step of nearly full size of a gradient that is nothing but rounding.
        assert distance(found.state_dict(), expected.state_dict()) < 1e-3 * moved
        predicted = found.predict(query, 3).log_probs
        torch.testing.assert_close(predicted, expected.predict(query, 3).log_probs, rtol=0, atol=1e-4)


def test_each_task_is_adapted_to_its_own_examples():
    first, second = learner_of("lora", num_steps=1, learning_rate=0.1).adapt_many(supports(4, 4))
    assert any(not torch.equal(a, second.state_dict()[name]) for name, a in first.state_dict().items())


def test_afterwards_the_model_is_as_it_was():
    learner = learner_of("abmll-output")
    query = tiny_task("query", 4).examples
    expected = learner.adapt(supports(4)[0]).predict(query, 0).log_probs
    hooks = [len(module._forward_hooks) for module in learner.model.modules()]
    learner.adapt_many(supports(4, 4))
    assert [len(module._forward_hooks) for module in learner.model.modules()] == hooks
    torch.testing.assert_close(learner.adapt(supports(4)[0]).predict(query, 0).log_probs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["laplace", "blob", "abmll-paper"])
def test_other_adaptations_are_refused_with_what_to_do(method):
    toy = GaussianToy(gaussian=True)
    adaptation = build_method(method).adaptation
    with pytest.raises(AbmllError, match=r"one task after the other \(adapt\)"):
        adapt_side_by_side(adaptation, toy, [make_examples(torch.ones(3).double(), 4, seed=0)])


def test_dropout_sizes_that_differ_and_other_likelihoods_are_refused():
    learner = learner_of("lora")
    layer = next(module for module in learner.model.modules() if hasattr(module, "lora_dropout"))
    layer.lora_dropout["task"] = nn.Dropout(0.1)
    with pytest.raises(AbmllError, match="without dropout"):
        learner.adapt_many(supports(4, 4))
    adaptation = learner.method.adaptation
    with pytest.raises(AbmllError, match="equal size"):
        adapt_side_by_side(adaptation, learner.likelihood, supports(4, 5))
    with pytest.raises(AbmllError, match="no stacked parameters"):
        adapt_side_by_side(adaptation, GaussianToy(), [[]])
    with pytest.raises(AbmllError, match="tasks_at_once"):
        learner.adapt_many(supports(4), tasks_at_once=0)
    assert learner.adapt_many([]) == []
