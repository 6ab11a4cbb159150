"""A step's texts in several passes of like length come to the same as in one, with less padding."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import abmll
from abmll.core.params import train_only
from abmll.core.types import META, TASK, Example
from abmll.language import PromptFormat
from abmll.language.packing import packed
from abmll.language.packing.evidence import Bearing
from abmll.language.packing.lengths import shares
from tests.tiny import tiny_llama, tiny_tokenizer

EXAMPLES = [
    Example("good " * count, ("yes", "it is not true", "no no"), count % 3) for count in (1, 20, 3, 2, 22, 1, 9)
]


def learner_of(*, answer="text", loss="choices", **options):
    prompt = PromptFormat(answer=answer, loss=loss)
    own: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": ["v_proj", "down_proj"]} | options
    learner = abmll.Learner(tiny_llama(), tiny_tokenizer(), "abmll-output", prompt=prompt, **own)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for role in (META, TASK):
            for name, tensor in learner.likelihood.parameters(role).items():
                if "mean" in name:  # over weights, a random log-variance is a negative standard deviation
                    tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    train_only(learner.likelihood, TASK)
    return learner


def terms_and_gradient(likelihood, monkeypatch, cost, **asked):
    """And how many places the passes had."""
    monkeypatch.setattr(packed, "PASS_ON_CPU", cost)
    with likelihood.terms(EXAMPLES):  # what the model bears is found out in passes of its own
        pass
    places = []
    block = likelihood.model.get_base_model().model.layers[-1]
    handle = block.register_forward_hook(lambda _, inputs, __: places.append(inputs[0].shape[0] * inputs[0].shape[1]))
    with likelihood.terms(EXAMPLES, **asked) as terms:
        (terms.nll.sum() + 1e-3 * terms.kl).backward()
    handle.remove()
    phi = likelihood.parameters(TASK)
    gradient = {name: tensor.grad for name, tensor in phi.items() if tensor.grad is not None}
    for tensor in phi.values():
        tensor.grad = None
    return terms, gradient, places


def assert_same(found, expected):
    torch.testing.assert_close(found[0].nll, expected[0].nll, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[0].kl, expected[0].kl, rtol=1e-4, atol=0)
    assert found[0].num_tokens == expected[0].num_tokens
    assert found[1].keys() == expected[1].keys() != set()
    for name, gradient in found[1].items():
        assert (gradient - expected[1][name]).norm() <= 1e-3 * expected[1][name].norm(), name


@pytest.mark.parametrize(
    ("space", "answer", "loss", "upper"),
    [
        ("output", "text", "choices", None),
        ("weight", "text", "choices", 1),
        ("output", "text", "tokens", None),
    ],
)
def test_several_passes_come_to_the_same_as_one(monkeypatch, space, answer, loss, upper):
    likelihood = learner_of(space=space, answer=answer, loss=loss, upper_layers=upper).likelihood
    one = terms_and_gradient(likelihood, monkeypatch, 10**9, kl="closed_form")
    several = terms_and_gradient(likelihood, monkeypatch, 10, kl="closed_form")
    assert len(one[2]) == 1 < len(several[2])
    assert sum(several[2]) < 0.7 * one[2][0]
    assert_same(several, one)


@pytest.mark.parametrize("tree", [True, False])
def test_both_packings_of_several_choices(monkeypatch, tree):
    likelihood = learner_of().likelihood
    likelihood._packed.forced = Bearing(tree, "left", True)
    one, several = (terms_and_gradient(likelihood, monkeypatch, cost) for cost in (10**9, 10))
    assert len(several[2]) > 1
    assert_same(several, one)


def test_a_sampled_pass_a_checkpointed_one_and_tasks_side_by_side_stay_one(monkeypatch):
    learner = learner_of(num_steps=1)
    assert len(terms_and_gradient(learner.likelihood, monkeypatch, 0, sample=True)[2]) == 1
    found = learner.adapt_many([EXAMPLES, EXAMPLES[::-1]])
    expected = [learner.adapt(EXAMPLES), learner.adapt(EXAMPLES[::-1])]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one.predict(EXAMPLES, 0).log_probs, other.predict(EXAMPLES, 0).log_probs, rtol=0, atol=1e-4
        )
    learner.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert len(terms_and_gradient(learner.likelihood, monkeypatch, 0)[2]) <= 2  # the second one in the backward pass


def test_the_shares_are_the_cheapest():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        lengths = torch.randint(1, 60, (6,), generator=generator).tolist()
        cost = int(torch.randint(0, 40, (), generator=generator))
        found = shares(lengths, cost)
        assert sorted(itertools.chain(*found)) == list(range(6))

        def price(groups, lengths=lengths, cost=cost):
            return sum(len(group) * max(lengths[i] for i in group) + cost for group in groups)

        def partitions(items):
            if not items:
                yield []
                return
            for size in range(len(items)):
                for rest in itertools.combinations(items[1:], size):
                    left = [item for item in items[1:] if item not in rest]
                    for others in partitions(left):
                        yield [[items[0], *rest], *others]

        assert price(found) == min(map(price, partitions(list(range(6)))))
    assert shares([5, 5, 5], 1) == [[0, 1, 2]]
    assert shares([5, 90, 5, 80], 20) == [[0, 2], [1, 3]]
