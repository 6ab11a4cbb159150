"""Every packing gives the same numbers: predictions, samples, losses, divergences and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.params import train_only
from abmll.core.types import META, TASK, Example
from abmll.gaussian.layer_output import gaussian_output, implementation
from abmll.language import CausalLMLikelihood, PromptFormat
from abmll.language.packing.batch import Batch
from abmll.language.packing.evidence import Bearing, smallest_window
from tests.language.test_likelihood import EXAMPLES, naive_choice_log_probs
from tests.parameters import few_of
from tests.tiny import tiny_llama, tiny_tokenizer

PACKINGS = {
    "tree": Bearing(True, "left", True),
    "left": Bearing(False, "left", True),
    "right": Bearing(False, "right", False),
    "alone": Bearing(False, "alone", False),
}


def likelihood_of(space=None, packing="tree", *, base=None, prompt=None, dropout=0.3):
    """With a LoRA with dropout, or a Gaussian over `space`; without a base, on two layers of each block."""
    from peft import LoraConfig

    from abmll.adapters import AbmllConfig, attach_roles

    targets = ["v_proj", "down_proj"] if base is None else "all-linear"
    common: dict[str, Any] = {"r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM", "target_modules": targets}
    config: LoraConfig | AbmllConfig
    if space is None:
        config = LoraConfig(lora_dropout=dropout, **common)
    else:
        config = AbmllConfig(space=space, log_var_offset=-3.0, **common)
    model = attach_roles(base or tiny_llama(), config)
    likelihood = CausalLMLikelihood(model, tiny_tokenizer(), prompt or PromptFormat(answer="text"))
    likelihood._packed.forced = PACKINGS[packing] if packing else None
    generator = torch.Generator().manual_seed(1)
    spread = 0.1 if space == "weight" else 0.3  # over weights, more moves standard deviations past 0
    with torch.no_grad():
        for role in (META, TASK):
            for tensor in likelihood.parameters(role).values():
                tensor.copy_(spread * torch.randn(tensor.shape, generator=generator))
    return likelihood


def all_of_it(likelihood, *, sample, estimator="closed_form"):
    """Log-probabilities, and NLL, KL and gradients (each in units of its largest), from one state of the generator."""
    torch.manual_seed(3)
    log_probs = likelihood.choice_log_probs(EXAMPLES, num_samples=2 if sample else 0)
    train_only(likelihood, TASK)
    phi = list(likelihood.parameters(TASK).values())
    torch.manual_seed(4)
    with likelihood.terms(EXAMPLES, sample=sample, kl=estimator) as terms:
        loss = terms.nll.sum() + 0.01 * terms.kl
        found = torch.autograd.grad(loss, phi, materialize_grads=True)
    gradients = [gradient / gradient.abs().max().clamp(min=1e-6) for gradient in found]
    return {"log_probs": log_probs, "nll": terms.nll, "kl": terms.kl, "tokens": terms.num_tokens, "grad": gradients}


@pytest.mark.parametrize(
    ("space", "sample"),
    few_of(
        itertools.product((None, "output", "weight", "factors"), (False, True)),
        [(None, True), ("output", True), ("weight", True), ("factors", True)],  # at the mean: test_likelihood.py
    ),
)
def test_every_packing_gives_the_same(space, sample):
    found = {name: all_of_it(likelihood_of(space, name), sample=sample) for name in PACKINGS}
    for name in ("left", "right", "alone"):
        torch.testing.assert_close(found[name], found["tree"], rtol=1e-4, atol=3e-5, msg=(name + ": {}").format)


def test_the_fused_layer_draws_the_noise_of_copies_too():
    with implementation("fused"):
        tree, left, alone = (
            all_of_it(likelihood_of("output", name), sample=True, estimator="sample")
            for name in ("tree", "left", "alone")
        )
    torch.testing.assert_close(left, tree, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alone, tree, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "which"),
    few_of(
        itertools.product(("tree", "left", "right"), ("naive", "fused")),
        [("tree", "naive"), ("left", "fused"), ("right", "naive"), ("tree", "fused")],
    ),
)
def test_nothing_is_computed_for_padding(name, which, monkeypatch):
    """And what is left out changes nothing: without it a layer computes the Gaussian of every place."""
    from abmll.adapters.abmll import layer

    tolerance = {"naive": 1e-5, "fused": 1e-3}[which]  # of the fused one as it is compared above
    rows, places, inner = [], [], gaussian_output
    monkeypatch.setattr(
        layer, "gaussian_output", lambda x, *_, **__: rows.append(x.shape[:-1].numel()) or inner(x, *_, **__)
    )
    with implementation(which):
        found = all_of_it(likelihood_of("output", name), sample=False)
        computed = set(rows)
        rows.clear()
        monkeypatch.setattr(Batch, "places", property(lambda batch: places.append(batch.real) and None))
        expected = all_of_it(likelihood_of("output", name), sample=False)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    real = places[-1]
    assert computed == {int(real.sum())}
    assert set(rows) == {real.numel()} != computed


@pytest.mark.parametrize("prompt", [PromptFormat(), PromptFormat(answer="text", loss="tokens")])
def test_letters_and_the_token_loss_too(prompt):
    found = {name: all_of_it(likelihood_of("output", name, prompt=prompt), sample=True) for name in PACKINGS}
    for name in ("left", "right", "alone"):
        torch.testing.assert_close(found[name], found["tree"], rtol=1e-4, atol=3e-5, msg=(name + ": {}").format)


@pytest.mark.parametrize("name", list(PACKINGS))
def test_tasks_side_by_side_have_rows_of_their_own(name):
    """Two tasks with other parameters each, in one pass, of questions with unequal numbers of choices."""
    likelihood = likelihood_of("output", name)
    phi = {key: tensor.detach() for key, tensor in likelihood.parameters(TASK).items()}
    both = {key: torch.stack([tensor, -0.5 * tensor]) for key, tensor in phi.items()}
    rows = [*EXAMPLES[:2], *EXAMPLES[1:]]
    with likelihood.stacked(both), likelihood.terms(rows) as terms:
        together = terms.nll.detach()
    for task, chosen in enumerate((rows[:2], rows[2:])):
        with torch.no_grad():
            for key, tensor in likelihood.parameters(TASK).items():
                tensor.copy_(both[key][task])
        with likelihood.terms(chosen) as terms:
            torch.testing.assert_close(together[2 * task : 2 * task + 2], terms.nll.detach(), rtol=0, atol=1e-5)


def test_a_window_that_is_shorter_than_the_text_is_found(monkeypatch):
    """Packed as trees up to its length and no further, in half precision too, where its effect passes for rounding."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = MistralConfig(vocab_size=320, num_key_value_heads=2, sliding_window=48, pad_token_id=0, **sizes)
    likelihood = likelihood_of(packing=None, base=MistralForCausalLM(config).eval())
    packed = likelihood._packed
    assert packed.bearing(20) == packed.bearing(32) == PACKINGS["tree"]
    assert packed.bearing(33) == PACKINGS["right"], "the comparison is made at 64 tokens"
    packed._evidence.window, packed._evidence._found = None, {}
    assert packed.bearing(64) == PACKINGS["right"], "and it alone would find the window"
    rows = [EXAMPLES[0], Example("the film was good and " * 12, ("yes", "it is not true", "it was bad"), 1)]
    told: list[str] = []
    monkeypatch.setattr("abmll.language.packing.packed.tell", told.append)
    predicted = [likelihood.choice_log_probs(rows)[0] for _ in range(2)][1]
    assert len(told) == 1
    assert "MistralForCausalLM does not bear several choices behind one prompt" in told[0]
    for row, example in zip(predicted, rows, strict=True):
        expected = naive_choice_log_probs(likelihood, example).detach()
        torch.testing.assert_close(row[: len(example.choices)], expected, rtol=0, atol=1e-5)


def test_names_that_count_layers_are_no_windows():
    from transformers import LlamaConfig, MistralConfig, Qwen2Config

    assert smallest_window(Qwen2Config()) is None
    assert smallest_window(LlamaConfig()) is None
    assert smallest_window(MistralConfig(sliding_window=4096)) == 4096


def test_a_model_that_looks_ahead_is_refused(monkeypatch):
    """Also one that its configuration does not give away."""
    monkeypatch.setattr("abmll.adapters.roles.check_kind", lambda *_: None)
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    base = BertLMHeadModel(BertConfig(vocab_size=320, initializer_range=0.1, **sizes)).eval()
    likelihood = likelihood_of(packing=None, base=base)
    with pytest.raises(AbmllError, match=r"BertLMHeadModel is not causal: .* is_decoder=True"):
        likelihood.choice_log_probs(EXAMPLES)


def test_several_passes_under_checkpointing_are_refused():
    likelihood = likelihood_of(packing="alone")
    likelihood.model.gradient_checkpointing_enable()
    with (
        pytest.raises(AbmllError, match=r"bears no padding.*gradient_checkpointing_disable"),
        likelihood.terms(EXAMPLES),
    ):
        pass
    likelihood.choice_log_probs(EXAMPLES)


@pytest.mark.parametrize("name", ["tree", "right"])
def test_checkpointing_runs_layers_again_without_their_own_dropout(name):
    """The layers' dropout is off at first and again, and they do run again."""
    found = []
    for checkpointing in (False, True):
        base = tiny_llama()
        for module in base.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.5
        likelihood = likelihood_of("output", name, base=base)
        runs = []
        likelihood.model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))  # noqa: B023
        if checkpointing:
            likelihood.model.gradient_checkpointing_enable()
        found.append(all_of_it(likelihood, sample=True))
        assert len(runs) == (3 if checkpointing else 2), "a prediction, a loss, and the loss again"
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_tasks_side_by_side_adapt_as_alone_whatever_dropout_the_base_model_has():
    from transformers import GPT2Config, GPT2LMHeadModel

    import abmll

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 320, "n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 128}
    base = GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5))
    options: dict[str, Any] = {"prompt": PromptFormat(answer="text"), "num_steps": 2, "learning_rate": 0.01}
    learner = abmll.Learner(base, tiny_tokenizer(), "lora", **options)
    supports = [EXAMPLES[:2], EXAMPLES[1:]]
    together = [posterior.mean() for posterior in learner.adapt_many(supports)]
    alone = [learner.adapt(support).mean() for support in supports]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
