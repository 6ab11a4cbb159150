"""The recipe, on a scale of seconds: repeatable, and it writes what the loader reads."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from abmll.default.pretrain import (
    Recipe,
    batches,
    build_model,
    by_length,
    learning_rate_factor,
    next_token_nll,
    pretrain,
    train_tokenizer,
)

TINY = Recipe(
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    intermediate_size=32,
    num_steps=12,
    batch_size=8,
    tokenizer_documents=500,
    heldout_documents=16,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return folder, pretrain(TINY, folder, log_every=6)


def test_one_seed_makes_one_model(made, tmp_path):
    folder, report = made
    again = pretrain(TINY, tmp_path, log_every=6)
    assert again["curve"] == report["curve"]
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_written_model_loads_as_any_hugging_face_model(made):
    folder, report = made
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float16
    assert model.num_parameters() == report["parameters"]
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert tokenizer.encode("a b")[0] == tokenizer.bos_token_id


def test_record_tells_loss_tokens_and_time(made):
    folder, report = made
    assert json.loads((folder / "training.json").read_text()) == json.loads(json.dumps(report))
    assert report["recipe"]["num_steps"] == report["curve"][-1]["step"] == 12
    assert report["curve"][-1]["loss"] < report["curve"][0]["loss"] < 1.2 * math.log(1280)
    assert 12 * 8 * 10 < report["tokens"] < 12 * 8 * 60


def test_answers_weigh_more_and_padding_nothing():
    tokenizer = train_tokenizer(TINY)
    texts = ["Is it big?\nA hat.\nAnswer: yes", "A very old story about a big hat and a cup."]
    ids, weights = next(batches(iter(texts), tokenizer, 2, answer_weight=7.0))
    assert tokenizer.decode(ids[weights == 7.0]) == " yes"
    assert torch.equal(weights == 0, ids == tokenizer.pad_token_id)
    assert weights[1].unique().tolist() in ([1.0], [0.0, 1.0])


def test_padding_on_the_right_needs_no_mask():
    tokenizer = train_tokenizer(TINY)
    model = build_model(TINY, tokenizer).double()
    texts = ["A hat is big.", "A very old story about a big hat and a cup."]
    ids, weights = next(batches(iter(texts), tokenizer, 2))
    length = int((weights[0] > 0).sum())
    alone = next_token_nll(model, ids[:1, :length])
    torch.testing.assert_close(next_token_nll(model, ids)[0, : length - 1], alone[0], rtol=1e-9, atol=1e-9)


def test_sorting_by_length_keeps_every_text():
    texts = ["ccc", "a", "bb", "dddd", "e"]
    assert list(by_length(iter(texts), size=2, pool=2)) == ["a", "bb", "ccc", "dddd", "e"]
    assert list(by_length(iter(texts), size=1, pool=2)) == ["a", "ccc", "bb", "dddd", "e"]


def test_learning_rate_rises_then_falls_to_zero():
    recipe = Recipe(num_steps=100, warmup=0.1)
    factors = [learning_rate_factor(step, recipe) for step in range(101)]
    assert factors[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert factors[10:] == sorted(factors[10:], reverse=True)
