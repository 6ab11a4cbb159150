"""A divergence that only its prior learns from, through the whole door to a language model."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from abmll.core.params import gradients_of, train_only
from abmll.core.types import META, TASK, AdapterSpec, Episode, Example
from abmll.gaussian.layer_output import implementation
from abmll.language import CausalLMLikelihood, PromptFormat
from abmll.methods.abmll_output import Abmll
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.objective import Objective
from tests.parameters import few_of
from tests.tiny import tiny_llama, tiny_tokenizer

ROWS = [
    Example("The film was good.", ("no", "yes"), 1),
    Example("the cat sat on the mat, and it was not bad at all", ("no", "yes"), 1),
]

WAYS = [
    *itertools.product(["output"], ["naive", "fused"], ["closed_form", "sample"]),
    ("weight", "auto", "closed_form"),
    *itertools.product(["factors"], ["auto"], ["closed_form", "sample"]),
]


def likelihood_in(space: Any) -> CausalLMLikelihood:
    from abmll.adapters import attach_roles
    from abmll.adapters.spec import peft_config

    torch.manual_seed(0)
    config = peft_config(AdapterSpec("abmll", -3.0, space=space), r=2, target_modules=["v_proj", "down_proj"])
    likelihood = CausalLMLikelihood(
        attach_roles(tiny_llama(dtype=torch.float64), config), tiny_tokenizer(), PromptFormat("letters")
    )
    with torch.no_grad():
        for role in (META, TASK):
            for tensor in likelihood.parameters(role).values():
                tensor.data = tensor.data.double()
                tensor.add_(0.05 * torch.randn_like(tensor))
    return likelihood


@pytest.mark.parametrize(
    ("space", "name", "estimator", "checkpointing"),
    few_of(
        [(*one, checkpointing) for one in WAYS for checkpointing in (False, True)],
        [
            ("output", "naive", "closed_form", True),
            ("output", "fused", "sample", False),
            ("output", "fused", "closed_form", True),
            ("weight", "auto", "closed_form", False),
            ("factors", "auto", "closed_form", False),
            ("factors", "auto", "sample", True),
        ],
    ),
)
def test_one_backward_pass_gives_the_gradients_of_two(space, name, estimator, checkpointing):
    """The likelihood's at φ and the regulariser's at θ: what an outer step of ABMLL adds up."""
    likelihood = likelihood_in(space)
    if checkpointing:
        likelihood.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    objective = Objective(0.3, 0.01, estimator=estimator, sample=True)
    phi, theta = likelihood.parameters(TASK), likelihood.parameters(META)
    expected = []
    train_only(likelihood, META, TASK)
    for part, group in ((objective.nll, phi), (objective.regulariser, theta)):
        torch.manual_seed(1)
        with (
            implementation(name),
            likelihood.terms(ROWS, sample=True, kl=estimator, hyper_prior=True) as terms,
        ):
            expected += gradients_of(part(terms), group)
    torch.manual_seed(1)
    with (
        implementation(name),
        likelihood.terms(ROWS, sample=True, kl=estimator, hyper_prior=True, prior_only=True) as terms,
    ):
        actual = gradients_of(objective(terms), phi, theta)
    for ours, theirs in zip(actual, expected, strict=True):
        assert max(float(tensor.abs().max()) for tensor in theirs.values()) > 1e-6
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=1e-8, atol=1e-8 * float(tensor.abs().max()), msg=key)


@pytest.mark.parametrize("query_gradient", [True, False])
def test_an_outer_step_goes_back_through_the_network_once_or_not_at_all(query_gradient, monkeypatch):
    likelihood = likelihood_in("output")
    walked = []
    for layer in likelihood.model.get_base_model().model.layers:
        layer.register_full_backward_hook(lambda *_: walked.append(1))
    method = Abmll(InnerLoop(1, 0.1), Objective(0.3, sample=True), query_gradient=query_gradient)
    for name in ("naive", "fused"):
        with implementation(name):
            walked.clear()
            method.inner.run(likelihood, ROWS[:1])
            inner = len(walked)
            walked.clear()
            method.meta_gradient(likelihood, Episode("task", ROWS[:1], ROWS[1:]))
            assert len(walked) - inner == (2 if query_gradient else 0), "two blocks"
