"""posterior.safetensors: what a posterior is besides its mean, in the folder of the adapter that is the mean."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.files import read_bytes

POSTERIOR = "posterior.safetensors"
LARGEST = 2**40
"""Bytes: whatever a model needs; what is asked is that it is an ordinary file."""
_REMEDY = "Adapt to the task again."


def packed_posterior(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, str]:
    """The file of a posterior's tensors, and its SHA-256 for `load_posterior`.

    Args:
        metadata: strings for whoever opens the file without its folder.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = save(tensors, metadata=dict(metadata))
    return content, hashlib.sha256(content).hexdigest()


def load_posterior(directory: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of such a file in `directory`.

    Args:
        digest: what `packed_posterior` returned with it. Without it, another task's file of the same method would
            answer without a sign.

    Raises:
        AbmllError: If the file is missing, damaged or another one.
    """
    path = directory / POSTERIOR
    if not path.exists():
        raise AbmllError(f"{path} is missing: the adapter beside it is only the posterior's mean. {_REMEDY}")
    content = read_bytes(path, LARGEST)
    if hashlib.sha256(content).hexdigest() != digest:
        raise AbmllError(f"{path} is damaged, or belongs to another adapter: it is not the file saved here. {_REMEDY}")
    try:
        state = load(content)
    except SafetensorError as error:
        raise AbmllError(f"{path} is damaged ({error}). {_REMEDY}") from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.isnan().any():
            raise AbmllError(f"{path} is damaged ({name!r} holds NaN). {_REMEDY}")
    return state
