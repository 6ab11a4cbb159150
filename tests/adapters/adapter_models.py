"""Tiny random models of several architectures, and what the tests do to their adapters."""

from __future__ import annotations

from typing import Any

import torch

from tests.copied import made_once

VOCABULARY = 40
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    # name: configuration class, its arguments, the layers to adapt
    "llama": ("LlamaConfig", {**SIZES, "num_key_value_heads": 1, "intermediate_size": 24}, ["q_proj", "down_proj"]),
    "qwen2": ("Qwen2Config", {**SIZES, "num_key_value_heads": 1, "intermediate_size": 24}, ["v_proj", "up_proj"]),
    "gpt_neox": ("GPTNeoXConfig", {**SIZES, "intermediate_size": 24}, ["query_key_value", "dense_4h_to_h"]),
    "opt": ("OPTConfig", {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16, "dropout": 0.0}, ["q_proj", "fc1"]),
    "gpt2": (  # its layers are transformers' Conv1D, with transposed weights
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2}
        | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        ["c_attn", "c_fc"],
    ),
}


@made_once
def base_model(architecture: str = "llama", dtype: torch.dtype = torch.float32, **arguments: Any) -> Any:
    """A random model, the same each time."""
    import transformers

    config_class, sizes, _ = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2, **arguments)
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()


def adapter_config(architecture: str = "llama", **arguments: Any) -> Any:
    from abmll.adapters import AbmllConfig

    defaults: dict[str, Any] = {
        "r": 3,
        "lora_alpha": 6,
        "task_type": "CAUSAL_LM",
        "target_modules": ARCHITECTURES[architecture][2],
    }
    return AbmllConfig(**(defaults | arguments))


def randomise(model: Any, seed: int = 1, std: float = 0.2) -> Any:
    """Moves every B away from zero, so that adapters do something and differ from each other."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "abmll_" in name or "lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * std
            parameter.data += noise.to(parameter)
    return model
