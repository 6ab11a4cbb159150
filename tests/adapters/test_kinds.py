"""Kinds of model: which are refused, and what the others' layers mean for an adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import abmll
from abmll.adapters import attach_roles
from abmll.core.errors import AbmllError
from abmll.core.types import META, TASK, Example
from abmll.language.context import context_of
from abmll.models.loading import load
from tests.tiny import tiny_tokenizer

SIZE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
BART = {
    **{"vocab_size": 320, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
}
T5 = {"vocab_size": 320, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
GEMMA = SIZE | {"num_key_value_heads": 1, "head_dim": 8}
ROWS = [Example("The film was good.", ("negative", "positive"), 1), Example("Bad.", ("negative", "positive"), 0)]


def model_of(config_class, model_class, **sizes):
    import transformers

    torch.manual_seed(0)
    return getattr(transformers, model_class)(getattr(transformers, config_class)(**sizes)).eval()


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "BartForConditionalGeneration": ("BartConfig", BART, r"\(bart\) is an encoder-decoder model"),
    "T5ForConditionalGeneration": ("T5Config", T5, r"\(t5\) is an encoder-decoder model"),
    "BertLMHeadModel": ("BertConfig", SIZE, r"\(bert\) is an encoder, .* with is_decoder=True"),
    "BertForMaskedLM": ("BertConfig", SIZE, r"\(bert\) is an encoder"),
    "BertModel": ("BertConfig", SIZE, r"\(bert\) is an encoder"),
    "GPT2Model": (
        "GPT2Config",
        {"vocab_size": 320, "n_embd": 16, "n_layer": 1, "n_head": 2},
        r"\(gpt2\) has no language model's head",
    ),
    "MusicgenForCausalLM": (
        "MusicgenDecoderConfig",
        {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 24},
        r"\(musicgen_decoder\) has no one table of embeddings",
    ),
    "OpenAIGPTDoubleHeadsModel": (
        "OpenAIGPTConfig",
        {"vocab_size": 320, "n_embd": 16, "n_layer": 1, "n_head": 2, "num_labels": 1},
        r"\(openai-gpt\) cannot continue a text",
    ),
    "T5GemmaForConditionalGeneration": (
        "T5GemmaConfig",
        {"encoder": GEMMA, "decoder": GEMMA, "vocab_size": 320},
        r"\(t5gemma\) is an encoder-decoder model",
    ),
}
OBJECTS = {"GPT2Model", "MusicgenForCausalLM", "OpenAIGPTDoubleHeadsModel"}
"""Of whose files transformers makes a language model, or nothing at all."""


@pytest.mark.parametrize("name", REFUSED)
def test_other_kinds_are_refused_alike_as_an_object_and_from_a_folder(name, tmp_path):
    config_class, sizes, match = REFUSED[name]
    model = model_of(config_class, name, **sizes)
    with pytest.raises(AbmllError, match=f"^{name} {match}"):
        abmll.Learner(model, tiny_tokenizer())
    assert not hasattr(model, "peft_config"), "and is left as it was"
    if name not in OBJECTS:
        model.save_pretrained(tmp_path)
        with pytest.raises(AbmllError, match=f"^{name} {match}.*A causal language model is needed|{match}"):
            load(str(tmp_path))


def test_a_decoder_by_itself_is_taken():
    decoder = model_of("BertConfig", "BertLMHeadModel", **SIZE, is_decoder=True)
    learner = abmll.Learner(decoder, tiny_tokenizer(), "lora", prompt=abmll.PromptFormat("text"), num_steps=1)
    assert learner.likelihood.choice_log_probs(ROWS).isfinite().all()


def test_a_model_that_sees_images_too_reads_texts_of_the_length_of_its_language_model():
    """What its eye has positions for is no bound of them."""
    eye = SIZE | {"image_size": 28, "patch_size": 14}
    sizes = {name: size for name, size in SIZE.items() if name != "vocab_size"} | {"vocab_size": 320}
    seeing = model_of("GitConfig", "GitForCausalLM", **sizes, max_position_embeddings=200, vision_config=eye)
    assert context_of(seeing) == 200
    learner = abmll.Learner(seeing, tiny_tokenizer(), "lora", prompt=abmll.PromptFormat("text"), num_steps=1)
    assert learner.likelihood.choice_log_probs(ROWS).isfinite().all()


@pytest.mark.parametrize("method", ["lora", "abmll-adam"])
def test_an_adapter_of_gpt2_loads_again(method, tmp_path):
    """Its layers hold their weights transposed, which PEFT notes in the first adapter's configuration alone."""
    sizes = {"vocab_size": 320, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 256}

    def learner_of(**options):
        base = model_of("GPT2Config", "GPT2LMHeadModel", **sizes)
        return abmll.Learner(base, tiny_tokenizer(), method, prompt=abmll.PromptFormat("text"), r=2, **options)

    learner = learner_of()
    with torch.no_grad():
        for role in (META, TASK):
            for tensor in learner.likelihood.parameters(role).values():
                tensor.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    expected = learner.likelihood.choice_log_probs(ROWS)
    for role in (META, TASK):
        learner.save(tmp_path / role, role=role)
        base = model_of("GPT2Config", "GPT2LMHeadModel", **sizes)
        loaded = abmll.Learner.load(tmp_path / role, base, tiny_tokenizer())
        torch.testing.assert_close(loaded.likelihood.choice_log_probs(ROWS), expected, rtol=0, atol=1e-6)
    # and a folder of the version that did not know
    card = tmp_path / TASK / "adapter_config.json"
    text = card.read_text()
    card.write_text(text.replace('"fan_in_fan_out": true', '"fan_in_fan_out": false'))
    abmll.Learner.load(tmp_path / TASK, model_of("GPT2Config", "GPT2LMHeadModel", **sizes), tiny_tokenizer())


def test_experts_that_all_linear_leaves_out_are_told(monkeypatch):
    from peft import LoraConfig

    told: list[str] = []
    monkeypatch.setattr("abmll.adapters.roles.tell", told.append)
    sizes = {**SIZE, "num_key_value_heads": 1, "num_local_experts": 4, "head_dim": 8}
    attach_roles(model_of("MixtralConfig", "MixtralForCausalLM", **sizes), LoraConfig(r=2, target_modules="all-linear"))
    (line,) = told
    assert "leaves out the experts of this MixtralForCausalLM ('model.layers.0." in line
    dense = {**SIZE, "num_key_value_heads": 1}
    attach_roles(model_of("LlamaConfig", "LlamaForCausalLM", **dense), LoraConfig(r=2, target_modules="all-linear"))
    assert len(told) == 1
