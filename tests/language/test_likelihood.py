"""The language-model door against a naive computation: one choice at a time, no padding, no packing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.params import reset_task, train_only
from abmll.core.types import META, TASK, Example
from abmll.language import CausalLMLikelihood, PromptFormat
from abmll.language.prompt import encode
from tests.parameters import few_of
from tests.tiny import tiny_llama, tiny_tokenizer

EXAMPLES = [
    Example("The film was good.", ("negative", "positive"), 1, "What is the sentiment?"),
    Example("It was bad, and the end was worse than I feared.", ("yes", "no", "it is not true"), 0, "Good?"),
    Example("the cat sat", ("A", "not a cat at all", "B", "maybe the mat"), 2),
]


def likelihood_of(kind="abmll", *, prompt=None, spread=0.3, base=None, **options):
    from peft import LoraConfig

    from abmll.adapters import AbmllConfig, attach_roles

    base = base or tiny_llama()
    common: dict[str, Any] = {
        "r": 2,
        "lora_alpha": 4,
        "task_type": "CAUSAL_LM",
        "target_modules": ["v_proj", "down_proj"],
    }
    config = AbmllConfig(log_var_offset=-4.0, **common) if kind == "abmll" else LoraConfig(**common)
    likelihood = CausalLMLikelihood(attach_roles(base, config), tiny_tokenizer(), prompt, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for role in (META, TASK):
            for tensor in likelihood.parameters(role).values():
                tensor.copy_(spread * torch.randn(tensor.shape, generator=generator))
    return likelihood


def naive_token_log_probs(model, prefix, answer):
    """log p of each answer token, by one plain forward pass of one sequence."""
    ids = torch.tensor([[*prefix, *answer]])
    logits = model(input_ids=ids).logits[0].log_softmax(-1)
    return torch.stack([logits[len(prefix) - 1 + i, token] for i, token in enumerate(answer)])


def naive_choice_log_probs(likelihood, example):
    encoded = encode(example, likelihood.tokenizer, likelihood.prompt)
    likelihood.model.eval()
    scores = []
    for choice in encoded.choices:
        tokens = naive_token_log_probs(likelihood.model, encoded.prefix, choice)
        scores.append(tokens.mean() if likelihood.prompt.score == "mean" else tokens.sum())
    return torch.stack(scores).log_softmax(0)


@pytest.mark.parametrize(  # each two of them in all ways
    ("kind", "answer", "score", "attention"),
    few_of(
        itertools.product(("abmll", "lora"), ("letters", "text"), ("mean", "sum"), ("sdpa", "eager")),
        [
            ("abmll", "letters", "mean", "sdpa"),
            ("abmll", "text", "sum", "sdpa"),
            ("abmll", "text", "mean", "eager"),
            ("lora", "letters", "sum", "eager"),
            ("lora", "text", "mean", "sdpa"),
        ],
    ),
)
def test_packed_choices_equal_one_sequence_at_a_time(kind, answer, score, attention):
    likelihood = likelihood_of(
        kind, prompt=PromptFormat(answer=answer, score=score), base=tiny_llama(attention=attention), batch_size=2
    )
    predicted = likelihood.choice_log_probs(EXAMPLES)[0]
    for row, example in zip(predicted, EXAMPLES, strict=True):
        count = len(example.choices)
        torch.testing.assert_close(row[:count], naive_choice_log_probs(likelihood, example).detach(), rtol=0, atol=2e-5)
        assert (row[count:] == -torch.inf).all()


@pytest.mark.parametrize("answer", ["letters", "text"])
def test_gradients_equal_those_of_one_sequence_at_a_time(answer):
    likelihood = likelihood_of(prompt=PromptFormat(answer=answer))
    train_only(likelihood, TASK)
    phi = likelihood.parameters(TASK)
    with likelihood.terms(EXAMPLES) as terms:
        packed = torch.autograd.grad(terms.nll.sum(), list(phi.values()), allow_unused=True)
    naive = sum(-naive_choice_log_probs(likelihood, example)[example.target] for example in EXAMPLES)
    expected = torch.autograd.grad(naive, list(phi.values()), allow_unused=True)
    for left, right, name in zip(packed, expected, phi, strict=True):
        if "log_var" not in name:
            assert (left - right).norm() <= 1e-4 * right.norm() > 0, name


def test_token_loss_is_the_targets_language_model_loss():
    likelihood = likelihood_of(prompt=PromptFormat(answer="text", loss="tokens"))
    with likelihood.terms(EXAMPLES) as terms:
        nll = terms.nll.detach()
    for value, example in zip(nll, EXAMPLES, strict=True):
        encoded = likelihood.encode(example)
        expected = -naive_token_log_probs(likelihood.model, encoded.prefix, encoded.choices[encoded.target]).sum()
        torch.testing.assert_close(value, expected.detach(), rtol=0, atol=2e-5)


def test_published_loss_also_supervises_header_and_ending(monkeypatch):
    likelihood = likelihood_of(prompt=PromptFormat("letters", loss="tokens", chat=True))
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    monkeypatch.setattr(likelihood.tokenizer, "chat_template", template)
    with likelihood.terms(EXAMPLES) as terms:
        nll = terms.nll.detach()
    for value, example in zip(nll, EXAMPLES, strict=True):
        encoded = likelihood.encode(example)
        start = len(encoded.prefix) - encoded.supervised
        answer = [*encoded.prefix[start:], *encoded.choices[encoded.target], *encoded.ending]
        expected = -naive_token_log_probs(likelihood.model, encoded.prefix[:start], answer).sum()
        torch.testing.assert_close(value, expected.detach(), rtol=0, atol=5e-5)


def test_kl_and_prior_ignore_padding_and_count_real_tokens():
    likelihood = likelihood_of()
    alone = []
    for example in EXAMPLES:
        with likelihood.terms([example], kl="closed_form", hyper_prior=True) as terms:
            alone.append((terms.kl.item(), terms.hyper.item(), terms.num_tokens))
    with likelihood.terms(EXAMPLES, kl="closed_form", hyper_prior=True) as terms:
        together = (terms.kl.item(), terms.hyper.item(), terms.num_tokens)
    assert together == pytest.approx([sum(values) for values in zip(*alone, strict=True)], rel=1e-4)


def test_untrained_adapter_predicts_as_the_base_model():
    likelihood = likelihood_of(spread=0.0)
    reset_task(likelihood)
    predicted = likelihood.choice_log_probs(EXAMPLES[:1])[0, 0]
    with likelihood.model.disable_adapter():
        expected = naive_choice_log_probs(likelihood, EXAMPLES[0]).detach()
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-5)


def test_samples_differ_and_average_to_the_right_spread():
    likelihood = likelihood_of()
    torch.manual_seed(0)
    draws = likelihood.choice_log_probs(EXAMPLES, num_samples=6)
    assert draws.shape == (6, 3, 4)
    assert len({tuple(draw[0, :2].tolist()) for draw in draws}) == 6
    torch.manual_seed(0)
    assert torch.equal(draws, likelihood.choice_log_probs(EXAMPLES, num_samples=6))


@pytest.mark.parametrize("answer", ["letters", "text"])
def test_batches_of_like_length_give_each_question_what_it_gets_alone(answer):
    """And in the order of the questions, though the batches take them by length."""
    likelihood = likelihood_of(prompt=PromptFormat(answer=answer), batch_size=3)
    words = [5, 1, 22, 2, 9, 16, 1, 3]
    examples = [Example("the film was good and " * n, ("yes", "it is not true"), 0) for n in words]
    together = likelihood.choice_log_probs(examples)[0]
    alone = torch.cat([likelihood.choice_log_probs([example])[0] for example in examples])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert len({tuple(row.tolist()) for row in alone.round(decimals=4)}) == len(set(words))


def test_prediction_keeps_no_gradient_and_restores_nothing_it_did_not_change():
    likelihood = likelihood_of()
    assert not likelihood.choice_log_probs(EXAMPLES).requires_grad
    with pytest.raises(AbmllError, match="list of examples is empty"):
        likelihood.choice_log_probs([])
