"""Nested state (dicts, lists, tensors, numbers) as bytes and back, exactly, without pickle.

The tensors are stored as safetensors; the nesting is JSON in the same file's header. So a checkpoint can be opened
by any safetensors reader, and opening a stranger's checkpoint runs no code.
"""

from __future__ import annotations

import json
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

_STRUCTURE = "structure"


def pack(state: Any) -> bytes:
    """Bytes of a safetensors file that holds `state`: dicts, lists, tuples, tensors, numbers, strings, None.

    Raises TypeError for any other type.
    """
    tensors: dict[str, Tensor] = {}
    structure = _encode(state, "", tensors)
    return safetensors.torch.save(tensors, metadata={_STRUCTURE: json.dumps(structure)})


def unpack(data: bytes, device: torch.device | str = "cpu") -> Any:
    """The state that `pack` was given. Tensors that lay on an accelerator go to `device`, others to the CPU."""
    header_size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_size])
    structure = json.loads(header["__metadata__"][_STRUCTURE])
    return _decode(structure, safetensors.torch.load(data), torch.device(device))


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path, "accelerator": value.device.type != "cpu"}
    if isinstance(value, dict):
        # Pairs, because JSON would turn the integer keys of an optimiser's state into strings.
        return {"dict": [[_key(key), _encode(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_encode(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"state at {path or '/'} is a {type(value).__name__}: only tensors and plain data are stored")


def _key(key: Any) -> Any:
    if isinstance(key, int | str):
        return key
    raise TypeError(f"state key {key!r} is a {type(key).__name__}: only int and str are stored")


def _decode(node: Any, tensors: dict[str, Tensor], device: torch.device) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        tensor = tensors[node["tensor"]]
        return tensor.to(device) if node["accelerator"] else tensor
    if "dict" in node:
        return {key: _decode(item, tensors, device) for key, item in node["dict"]}
    if "tuple" in node:
        return tuple(_decode(item, tensors, device) for item in node["tuple"])
    return [_decode(item, tensors, device) for item in node["list"]]
