"""Every causal architecture gives what each choice alone and unpadded gives, whatever packing it bears."""

from __future__ import annotations

import pytest
import torch

import abmll
from abmll.core.errors import AbmllError
from abmll.core.params import train_only
from abmll.core.types import META, TASK, Example
from abmll.language import CausalLMLikelihood, PromptFormat
from abmll.language.packing.evidence import Bearing
from benchmarks.architectures.table import PAGE, bearings, listed, row_of
from benchmarks.architectures.tiny import WINDOW, tiny_model
from tests.language.test_likelihood import naive_choice_log_probs
from tests.tiny import tiny_tokenizer

TABLE = listed(PAGE.read_text(encoding="utf-8"))
COMMON = ["llama", "gemma2", "gpt_neo", "bloom", "mamba2", "jamba"]
"""Full attention, windows, local attention, ALiBi, recurrent, hybrid: for the default tests."""
ALONE = Bearing(False, "alone", False)
ROWS = [
    Example("The film was good.", ("it is not true", "positive", "yes"), 1),
    Example("It was bad, and the end was worse than I feared.", ("yes", "no, it is not true"), 0, "Good?"),
    Example("the film was good and the film was bad " * 2, ("maybe the mat", "the cat sat on the mat"), 1, "Good?"),
]


def test_the_page_lists_enough_of_them():
    assert len(TABLE) >= 40
    assert TABLE.keys() >= set(COMMON)


LEFT_OUT = {
    **{"big_bird": r".*pooler", "zaya": r".*v_proj_delayed"},  # do not see every token once: no mask fits
    **dict.fromkeys(("axk2", "deepseek_v32", "glm_moe_dsa", "hy_v4"), r".*\.indexer\..*"),  # are run without gradient
}
"""Layers that a divergence over outputs is refused for, left out as the message says. Methods without one take them."""
UNFIT = {
    "big_bird": r"^'bert.pooler' of this BigBirdForCausalLM: a layer's output has shape",
    "glm_moe_dsa": r"^'model.layers.\d+.self_attn.indexer.* of this GlmMoeDsaForCausalLM: the KL divergence was asked",
    "hrm_text": r"^'model.* of this HrmText.*: the KL divergence was asked for",
}
"""What is said where they are not left out: which layer it is."""
WITHOUT_GRADIENT = {"hrm_text"}
"""Runs its blocks several times, of which only the last has gradients: a divergence is refused."""


def likelihood_of(kind, model, answer):
    from abmll.adapters import AbmllConfig, attach_roles

    config = AbmllConfig(
        r=2,
        lora_alpha=2,
        log_var_offset=-6.0,
        task_type="CAUSAL_LM",
        target_modules="all-linear",
        exclude_modules=LEFT_OUT.get(kind),
    )
    adapted = attach_roles(model, config)
    likelihood = CausalLMLikelihood(adapted, tiny_tokenizer(), PromptFormat(answer=answer, score="sum"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for role in (META, TASK):
            for tensor in likelihood.parameters(role).values():
                tensor.copy_(0.05 * torch.randn(tensor.shape, generator=generator))
    return likelihood


def sampled_and_trained(likelihood, kl):
    torch.manual_seed(3)
    draws = likelihood.choice_log_probs(ROWS, num_samples=2)
    train_only(likelihood, TASK)
    torch.manual_seed(4)
    with likelihood.terms(ROWS, sample=True, kl=kl) as terms:
        loss = terms.nll.sum() + 1e-3 * terms.kl
        gradients = torch.autograd.grad(loss, list(likelihood.parameters(TASK).values()), materialize_grads=True)
    largest = max(gradient.abs().max() for gradient in gradients)
    return draws, terms.nll.detach(), terms.kl.detach(), terms.num_tokens, [g / largest for g in gradients]


@pytest.mark.parametrize(
    "kind", [kind if kind in COMMON else pytest.param(kind, marks=pytest.mark.slow) for kind in sorted(TABLE)]
)
def test_every_architecture_gives_what_each_choice_alone_gives(kind):
    model = tiny_model(kind)
    assert row_of(kind, bearings(model)) == TABLE[kind], "docs/models.md: run python -m benchmarks.architectures"
    likelihood = likelihood_of(kind, model, "text")
    lengths = [len(likelihood.encode(row).prefix) for row in ROWS]
    assert min(lengths) < 32 < WINDOW < max(lengths)
    for answer in ("text", "letters"):
        likelihood.prompt = PromptFormat(answer=answer, score="sum")
        likelihood._encoded.clear()
        predicted = likelihood.choice_log_probs(ROWS)[0]
        with likelihood.terms(ROWS) as terms, torch.no_grad():
            for row, found, nll in zip(ROWS, predicted, terms.nll, strict=True):
                expected = naive_choice_log_probs(likelihood, row)
                torch.testing.assert_close(found[: len(row.choices)], expected, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(nll.detach(), -expected[row.target], rtol=1e-5, atol=1e-5)
    likelihood.prompt = PromptFormat(answer="text", score="sum")
    likelihood._encoded.clear()
    kl = None if kind in WITHOUT_GRADIENT else "closed_form"
    packed = sampled_and_trained(likelihood, kl)
    likelihood._packed.forced = ALONE
    alone = sampled_and_trained(likelihood, kl)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNFIT)
def test_a_layer_that_a_divergence_is_refused_for_is_named(kind, monkeypatch):
    monkeypatch.delitem(LEFT_OUT, kind, raising=False)
    likelihood = likelihood_of(kind, tiny_model(kind), "text")
    train_only(likelihood, TASK)
    ask = likelihood.terms(ROWS, sample=True, kl="closed_form")
    with pytest.raises(AbmllError, match=f"{UNFIT[kind]}(?s:.*)target_modules"), ask:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNFIT)
def test_methods_without_a_divergence_take_it(kind):
    for method in ("abmll", "abmll-adam", "lora"):
        learner = abmll.Learner(tiny_model(kind), tiny_tokenizer(), method, r=2, prompt=PromptFormat(answer="text"))
        posterior = learner.adapt(ROWS[:2])
        assert torch.as_tensor(posterior.predict(ROWS).samples).isfinite().any()
