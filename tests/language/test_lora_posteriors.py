"""The weight-space posteriors on a real (tiny) causal LM with a LoRA: what the toys cannot show."""

from __future__ import annotations

import pytest
import torch

from abmll.core.params import clone
from abmll.core.types import META, TASK, Example
from abmll.language import CausalLMLikelihood, PromptFormat
from abmll.methods import build_method
from abmll.methods.laplace import last_layer
from abmll.methods.parts.jacobian import choice_jacobians
from abmll.methods.tfb import balance
from tests.tiny import tiny_llama, tiny_tokenizer

SUPPORT = [
    Example("The film was good.", ("negative", "positive"), 1, "What is the sentiment?"),
    Example("It was bad, and the end was worse.", ("yes", "no", "it is not true"), 0, "Good?"),
    Example("the cat sat on the mat", ("negative", "positive"), 0),
]


@pytest.fixture
def likelihood():
    from peft import LoraConfig

    from abmll.adapters import attach_roles

    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.3, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    out = CausalLMLikelihood(attach_roles(tiny_llama(), config), tiny_tokenizer(), PromptFormat("letters"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for role in (META, TASK):
            for tensor in out.parameters(role).values():
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return out


def test_choice_graph_is_choice_log_probs_with_gradient(likelihood):
    expected = likelihood.choice_log_probs(SUPPORT)[0]
    with likelihood.choice_graph(SUPPORT) as log_probs:
        torch.testing.assert_close(log_probs.detach(), expected)
    params = likelihood.parameters(TASK)
    name = next(name for name in params if "v_proj.lora_B" in name)
    (_, (_, jacobian)) = list(choice_jacobians(likelihood, SUPPORT[:2], list(params)))
    assert jacobian[name].shape == (3, *params[name].shape)
    step, values = 1e-2, []
    for sign in (1, -1):
        with torch.no_grad():
            params[name][0, 0] += sign * step
            values.append(likelihood.choice_log_probs(SUPPORT[1:2])[0, 0])
            params[name][0, 0] -= sign * step
    torch.testing.assert_close(jacobian[name][:, 0, 0], (values[0] - values[1]) / (2 * step), rtol=1e-2, atol=1e-4)


def test_last_layer_and_pairs_are_found_in_peft_names(likelihood):
    params = clone(likelihood.parameters(TASK))
    chosen = last_layer(params)
    assert len(chosen) == 4
    assert all(".layers.1." in name for name in chosen)
    mean, unit = balance(params)
    assert set(unit) == {name for name in params if "lora_A" in name}
    before = likelihood.choice_log_probs(SUPPORT)
    with torch.no_grad():
        for name, tensor in likelihood.parameters(TASK).items():
            tensor.copy_(mean[name])
    torch.testing.assert_close(likelihood.choice_log_probs(SUPPORT), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("laplace", {"num_steps": 3}),
        ("laplace", {"num_steps": 3, "structure": "diagonal", "scope": "last_layer", "linearized": False}),
        ("swag", {"num_steps": 4, "first_step": 1}),
        ("tfb", {"num_steps": 3, "num_search_samples": 2}),
        ("blob", {"num_steps": 3}),
        ("bayesian-lora", {"num_steps": 3}),
    ],
)
def test_every_row_adapts_and_predicts_on_a_language_model(likelihood, name, options):
    theta = clone(likelihood.parameters(META))
    torch.manual_seed(0)
    posterior = build_method(name, **options).adaptation.adapt(likelihood, SUPPORT)
    predictions = []
    for _ in range(2):
        torch.manual_seed(1)
        predictions.append(posterior.predict(SUPPORT, 4))
    assert torch.equal(*predictions), "dropout or another generator is at work"
    assert predictions[0].shape == (4, 3, 3)
    assert (predictions[0][:, [0, 2], 2] == -torch.inf).all()
    torch.testing.assert_close(predictions[0].exp().sum(-1), torch.ones(4, 3))
    assert not torch.equal(predictions[0][0], predictions[0][1])
    assert all(torch.equal(tensor, theta[n]) for n, tensor in likelihood.parameters(META).items())
