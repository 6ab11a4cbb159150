"""A causal LM at other parameters than its own: exact first and second derivatives, and what would spoil them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.params import assign, clone, reset_task, train_only
from abmll.core.types import META, TASK, Episode, Example, FunctionalLikelihood
from abmll.language import CausalLMLikelihood, PromptFormat
from abmll.methods.abml import Abml
from abmll.methods.fomaml import Fomaml
from abmll.methods.maml import Maml
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.objective import Objective
from tests.parameters import few_of
from tests.tiny import tiny_llama, tiny_tokenizer

SUPPORT = [
    Example("The film was good.", ("negative", "positive"), 1, "Sentiment?"),
    Example("It was bad, and the end was worse.", ("yes", "no", "it is not true"), 0, "Good?"),
]
QUERY = [Example("the cat sat", ("A", "not a cat"), 1), Example("Premise: it is true.", ("yes", "no"), 0)]


def likelihood_of(*, dtype=torch.float64, attention="sdpa", kind="lora", space="output", dropout=0.0, answer="letters"):
    from peft import LoraConfig

    from abmll.adapters import AbmllConfig, attach_roles

    options: dict[str, Any] = {
        "r": 2,
        "lora_alpha": 4,
        "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj", "v_proj", "down_proj"],
    }
    gaussian: dict[str, Any] = {"log_var_offset": -4.0, "space": space}
    config = AbmllConfig(**gaussian, **options) if kind == "abmll" else LoraConfig(lora_dropout=dropout, **options)
    model = attach_roles(tiny_llama(dtype=dtype, attention=attention), config).to(dtype)
    likelihood = CausalLMLikelihood(model, tiny_tokenizer(), PromptFormat(answer=answer))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in likelihood.parameters(META).values():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    reset_task(likelihood)
    return likelihood


def shifted(likelihood, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (tensor + 0.2 * torch.randn(tensor.shape, generator=generator)).detach().requires_grad_()
        for name, tensor in likelihood.parameters(TASK).items()
    }


def nll_and_gradient(likelihood, params):
    with likelihood.terms(QUERY) as terms:
        nll = terms.nll.sum()
        return nll.detach(), torch.autograd.grad(nll, list(params.values()), materialize_grads=True)


@pytest.mark.parametrize(
    ("kind", "answer"),
    few_of(itertools.product(("lora", "abmll"), ("letters", "text")), [("lora", "letters"), ("abmll", "text")]),
)
def test_at_given_tensors_equals_copying_them_in(kind, answer):
    likelihood = likelihood_of(kind=kind, answer=answer)
    own, phi = clone(likelihood.parameters(TASK)), shifted(likelihood)
    with likelihood.at({TASK: phi}):
        nll, gradient = nll_and_gradient(likelihood, phi)
    assert all(torch.equal(own[name], tensor) for name, tensor in likelihood.parameters(TASK).items())

    assign(likelihood.parameters(TASK), phi)
    train_only(likelihood, TASK)
    expected, expected_gradient = nll_and_gradient(likelihood, likelihood.parameters(TASK))
    # transformers computes norms and rotary angles in float32 whatever the model's dtype
    torch.testing.assert_close(nll, expected, rtol=1e-6, atol=1e-7)
    for actual, wanted in zip(gradient, expected_gradient, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)


def test_the_prior_may_be_given_too():
    likelihood = likelihood_of(kind="abmll")
    theta, phi = shifted(likelihood, 3), shifted(likelihood, 4)
    with likelihood.at({META: theta, TASK: phi}), likelihood.terms(QUERY, kl="closed_form") as terms:
        kl = terms.kl
        slopes = torch.autograd.grad(kl, list(theta.values()))
    assign(likelihood.parameters(META), theta)
    assign(likelihood.parameters(TASK), phi)
    with likelihood.terms(QUERY, kl="closed_form") as terms:
        torch.testing.assert_close(kl, terms.kl, rtol=1e-5, atol=0)
    assert all(slope.abs().sum() > 0 for slope in slopes)


def numeric_slope(likelihood, direction, after_adapting):
    """Central difference of `after_adapting()` along a unit direction in θ.

    The step is wide because transformers computes norms, rotary angles and softmax in float32 even in a float64 model.
    """
    start, values = clone(likelihood.parameters(META)), []
    parts = direction.split([tensor.numel() for tensor in start.values()])
    for step in (2e-3, -2e-3):
        moved = {n: t + step * d.view_as(t) for (n, t), d in zip(start.items(), parts, strict=True)}
        assign(likelihood.parameters(META), moved)
        values.append(after_adapting())
    assign(likelihood.parameters(META), start)
    return (values[0] - values[1]) / 4e-3


def meta_gradient(learner, likelihood, episode):
    learner.meta_gradient(likelihood, episode)
    theta = likelihood.parameters(META).values()
    gradient = torch.cat([tensor.grad.flatten() for tensor in theta])
    for tensor in theta:
        tensor.grad = None
    return gradient


@pytest.mark.parametrize(("attention", "answer"), [("sdpa", "letters"), ("eager", "text")])
def test_mamls_gradient_is_that_of_the_whole_inner_loop(attention, answer):
    likelihood = likelihood_of(attention=attention, answer=answer)
    inner = InnerLoop(2, 0.5, "sgd")
    # transformers' eager softmax is float32, where the float64 mask of a padded row is -inf throughout: no padding
    rows = 1 if attention == "eager" else 2
    episode = Episode("tiny", SUPPORT[:rows], QUERY[:rows])
    exact = meta_gradient(Maml(inner), likelihood, episode)
    first_order = meta_gradient(Fomaml(inner), likelihood, episode)

    def query_loss():
        inner.run(likelihood, episode.support)
        with torch.no_grad(), likelihood.terms(episode.query) as terms:
            return terms.nll.mean().item()

    # along the exact gradient, along what first order misses of it, and anywhere
    anywhere = torch.randn(exact.shape, generator=torch.Generator().manual_seed(7), dtype=exact.dtype)
    for direction in (exact, exact - first_order, anywhere):
        unit = direction / direction.norm()
        numeric = numeric_slope(likelihood, unit, query_loss)
        assert (exact @ unit).item() == pytest.approx(numeric, rel=2e-2, abs=2e-4)
    assert (exact - first_order).norm() > 0.1 * exact.norm(), "first order would pass this test too"


def test_abmls_gradient_is_that_of_the_whole_variational_inner_loop():
    """With the same noise, which the global generator repeats: φ, θ as the prior, and the KL all move with θ."""
    likelihood = likelihood_of(kind="abmll", space="factors")
    inner = InnerLoop(2, 0.1, "sgd", objective=Objective(0.01, 0.0, "example", sample=True))
    outer = Objective(0.01, 1e-4, "example", sample=True)
    episode = Episode("tiny", SUPPORT, QUERY)
    torch.manual_seed(5)
    exact = meta_gradient(Abml(inner, outer), likelihood, episode)

    def bound():
        torch.manual_seed(5)
        inner.run(likelihood, SUPPORT)
        union = [*SUPPORT, *QUERY]
        with torch.no_grad(), likelihood.terms(union, sample=True, kl="closed_form", hyper_prior=True) as terms:
            return outer(terms).item()

    anywhere = torch.randn(exact.shape, generator=torch.Generator().manual_seed(7), dtype=exact.dtype)
    for direction in (exact, anywhere):
        unit = direction / direction.norm()
        numeric = numeric_slope(likelihood, unit, bound)
        assert (exact @ unit).item() == pytest.approx(numeric, rel=2e-2, abs=2e-4)


def test_gradient_checkpointing_is_refused_with_the_cure():
    likelihood = likelihood_of()
    likelihood.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with pytest.raises(AbmllError, match=r"silently wrong.*gradient_checkpointing_disable\(\)"), likelihood.at({}):
        pass
    likelihood.model.gradient_checkpointing_disable()
    with likelihood.at({TASK: shifted(likelihood)}):
        pass


def test_attention_without_a_second_derivative_is_refused_with_the_cure():
    likelihood = likelihood_of()
    likelihood.model.get_base_model().config._attn_implementation = "flash_attention_2"
    with (
        pytest.raises(AbmllError, match=r"'flash_attention_2' cannot be differentiated twice.*\"eager\""),
        likelihood.at({}),
    ):
        pass


def test_an_error_inside_leaves_the_likelihood_at_its_own_tensors():
    likelihood = likelihood_of()
    assert isinstance(likelihood, FunctionalLikelihood)
    before = likelihood.choice_log_probs(QUERY)
    with pytest.raises(KeyError), likelihood.at({TASK: shifted(likelihood)}):
        raise KeyError
    assert torch.equal(before, likelihood.choice_log_probs(QUERY))


def test_dropout_follows_the_switch_and_never_the_mode():
    likelihood = likelihood_of(dropout=0.5, dtype=torch.float32)
    plain = likelihood_of(dropout=0.0, dtype=torch.float32)
    mean = likelihood.choice_log_probs(QUERY)
    assert torch.equal(mean, plain.choice_log_probs(QUERY))
    with plain.terms(QUERY) as terms:
        expected = terms.nll
    likelihood.model.train()
    with likelihood.terms(QUERY) as terms:
        assert torch.equal(terms.nll, expected)
    torch.manual_seed(0)
    samples = likelihood.choice_log_probs(QUERY, num_samples=4)
    assert len({tuple(sample.flatten().tolist()) for sample in samples}) == 4
    with likelihood.terms(QUERY, sample=True) as terms:
        assert not torch.equal(terms.nll, expected)
    assert torch.equal(mean, likelihood.choice_log_probs(QUERY))
    torch.manual_seed(0)
    assert torch.equal(samples, likelihood.choice_log_probs(QUERY, num_samples=4))
