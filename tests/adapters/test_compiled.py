"""torch.compile around a model with ABMLL layers: the same loss, divergence and gradients as without it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from abmll.adapters import adapter_parameters, attach_roles
from abmll.gaussian.stochastic_pass import stochastic_pass
from tests.adapters.adapter_models import adapter_config, base_model, randomise

MODES: dict[str, dict[str, Any]] = {
    "mean": {},
    "divergence": {"prior": "meta"},
    "all": {"sample": True, "prior": "meta", "hyper_prior": True},
}


def step(call, model, ids, asked):
    """Loss, KL, hyper-prior and gradients of one training step."""
    parameters = adapter_parameters(model, "task")
    for parameter in parameters.values():
        parameter.grad = None
    torch.manual_seed(5)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :3] = False
    with stochastic_pass(mask=mask, **asked) as record:
        loss = call(input_ids=ids, labels=ids).loss
        (loss + 1e-3 * record.kl() + 1e-3 * record.hyper()).backward()
        results = [loss.detach(), record.kl().detach(), record.hyper().detach()]
    return results, {name: p.grad for name, p in parameters.items() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("space", ["output", "weight", "factors"])
def test_a_compiled_step_is_the_step(space, ids):
    """One model through every kind of pass and back, so that what was compiled for one is not taken for another."""
    config = adapter_config(space=space, log_var_offset=-2.0)
    model = randomise(attach_roles(base_model(), config)).double()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    for name in ("mean", "divergence", "all", "mean"):
        expected, expected_gradients = step(model, model, ids, MODES[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, gradients = step(compiled, model, ids, MODES[name])
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert (expected[1] > 0) == ("prior" in MODES[name])
        assert gradients.keys() == expected_gradients.keys()
        for key, gradient in expected_gradients.items():
            torch.testing.assert_close(
                gradients[key], gradient, rtol=1e-8, atol=1e-9 * float(gradient.abs().max()), msg=f"{name}: {key}"
            )
