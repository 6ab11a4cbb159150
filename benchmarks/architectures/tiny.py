"""Tiny, randomly initialised models of every architecture: a configuration's own defaults with its sizes cut down."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

VOCABULARY = 320
WINDOW, CONTEXT = 40, 256
"""Of every architecture that has one: shorter than some of the texts that are compared, longer than others."""

_TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_WIDTHS = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim", "block_dim"), 32),
    **dict.fromkeys(("attention_hidden_size", "lru_width", "mamba_d_ssm", "hidden_dim"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "d_ff", "dff", "ffn_dim", "ffn_hidden_size", "block_ff_dim"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "dim_ff", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "global_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "laurel_rank", "hidden_size_per_layer_input", "rotary_dim"), 8),
    **dict.fromkeys(
        ("state_size", "mamba_d_state", "linear_key_head_dim", "linear_value_head_dim", "index_head_dim"), 8
    ),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim", "moe_intermediate_size", "qk_head_dim"), 16),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank"), 4),
    **dict.fromkeys(("mamba_expand", "expansion_ratio", "altup_num_inputs"), 2),
}
_COUNTS = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads", "n_mamba_heads", "index_n_heads"), 2),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_num_value_heads", "num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_num_experts",), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "num_kv_shared_layers_"), 1),
    **dict.fromkeys(("num_kv_shared_layers",), 0),
    "conv_L_cache": 3,
    "block_multiple_of": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "index_topk": 512,
}
_LENGTHS = {
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), CONTEXT
    ),
    **dict.fromkeys(("original_max_position_embeddings",), CONTEXT),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size", "attention_chunk_size"), WINDOW),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size", "chunk_length"), 8),
}
_INIT = {"initializer_range": 0.1, "init_std": 0.1, "tie_word_embeddings": False, "is_decoder": True}
SIZES: dict[str, Any] = _TOKENS | _WIDTHS | _COUNTS | _LENGTHS | _INIT

OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "zaya": {"num_experts_per_tok": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"head_dim": 16, "num_heads": 4},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},  # it rounds its widths up to multiples of 64
    "recurrent_gemma": {"num_hidden_layers": 3, "block_types": ["recurrent", "recurrent", "attention"]},
}
"""Where the common sizes do not fit."""


HEAVY = {"dots3_note_text", "inkling2_text", "inkling_text", "kimi_linear"}
"""Seconds each even so small, for tables of a fixed size or layers that a processor runs one token after the other."""


def architectures() -> list[str]:
    """The model types that transformers loads as causal language models; not the heavy, nor those of several models."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    whole = (kind for kind in NAMES if not getattr(CONFIG_MAPPING[kind], "sub_configs", None))
    return sorted(kind for kind in whole if kind not in HEAVY)


def tiny_model(kind: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random model of a model type, in float32 and evaluation mode. changes: of its configuration.

    Raises: whatever transformers does where the sizes do not fit.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config_class = CONFIG_MAPPING[kind]
    own = OWN.get(kind, {})
    options = _fitting(config_class, config_class().to_dict()) | own | changes
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config_class(**options)).float().eval()


def _fitting(config_class: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that a configuration has under these names; of kinds of layers one each."""
    aliases = getattr(config_class, "attribute_map", {})
    options = {name: size for name, size in SIZES.items() if name in defaults and aliases.get(name, name) == name}
    if "kv_lora_rank" in options:  # latent attention expands its keys to all heads
        options["num_key_value_heads"] = options["num_attention_heads"]
    computed = any(isinstance(inspect.getattr_static(config_class, name, None), property) for name in _LAYERS)
    kinds = defaults.get("layer_types")
    if isinstance(kinds, list) and kinds and not computed:
        layers = list(dict.fromkeys(kinds))
        options["layer_types"] = layers if len(layers) > 1 else layers * 2
        options |= {name: len(options["layer_types"]) for name in _COUNTED if name in options}
    return options


_LAYERS = ("layer_types", "layers_block_type")
_COUNTED = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
