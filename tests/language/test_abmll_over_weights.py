"""ABMLL with its Gaussian over weights, through the whole door to a language model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from abmll.core.params import clone, train_only
from abmll.core.types import META, TASK, AdapterSpec, Episode, Example, Role
from abmll.language import CausalLMLikelihood, PromptFormat
from abmll.methods import build_method
from tests.tiny import tiny_llama, tiny_tokenizer

ROWS = [
    Example("The film was good.", ("no", "yes"), 1),
    Example("The film was bad.", ("no", "yes"), 0),
    Example("the cat sat on the mat, and it was not bad at all", ("no", "yes"), 1),
]


@pytest.fixture
def likelihood():
    from abmll.adapters import attach_roles
    from abmll.adapters.spec import peft_config

    torch.manual_seed(0)
    config = peft_config(
        build_method("abmll-output", space="weight").adapter, r=2, target_modules=["q_proj", "down_proj"]
    )
    likelihood = CausalLMLikelihood(attach_roles(tiny_llama(), config), tiny_tokenizer(), PromptFormat("letters"))
    with torch.no_grad():
        stds: dict[Role, float] = {META: 0.02, TASK: 0.03}
        for role, std in stds.items():
            for tensor in likelihood.parameters(role).values():
                tensor.add_(std * torch.randn_like(tensor))
    return likelihood


def test_its_divergence_is_counted_once_an_example():
    method: Any = build_method("abmll-output", space="weight", kl_weight=0.5)
    assert method.adapter == AdapterSpec("abmll", -4.0, space="weight")
    assert method.meta_learner.outer.reduction == method.adaptation.inner.objective.reduction == "example"
    plain: Any = build_method("abmll-output").meta_learner
    assert plain.outer.reduction == "mean"


def test_the_bound_is_the_nll_plus_its_share_of_one_divergence(likelihood):
    learner: Any = build_method("abmll-output", space="weight", kl_weight=0.5).meta_learner
    objective = learner.outer
    divergences = []
    for rows in (ROWS, ROWS[:1]):
        with torch.no_grad(), likelihood.terms(rows, kl="closed_form") as terms:
            divergences.append(terms.kl.item())
            expected = terms.nll.mean() + 0.5 * terms.kl / len(rows)
            torch.testing.assert_close(objective(terms), expected)
    assert divergences[0] == divergences[1] > 0


def test_it_adapts_predicts_by_samples_and_moves_meta(likelihood):
    method = build_method("abmll-output", space="weight", num_steps=3, prior_weight=1e-3)
    before = clone(likelihood.parameters(META))
    metrics = method.meta_learner.meta_gradient(likelihood, Episode("t", ROWS[:2], ROWS[2:]))
    assert metrics["kl"] > 0
    theta = likelihood.parameters(META)
    assert all(torch.equal(before[name], tensor) for name, tensor in theta.items())
    assert all(tensor.grad.isfinite().all() and tensor.grad.any() for tensor in theta.values())
    train_only(likelihood, TASK)
    probabilities = method.adaptation.adapt(likelihood, ROWS).predict(ROWS, num_samples=4).exp()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(4, 3))
    assert not torch.allclose(probabilities[0], probabilities[1])
