"""Which adapter the predictions of a folder were made with, so that those of another are never taken for its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

from abmll.card import CARD
from abmll.core.documents import read_json
from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.evaluation.predictions import CellKey

ADAPTERS = "adapters.json"
"""File beside the predictions: method -> the folder of the adapter that was evaluated, and its digest."""


def adapter_digest(folder: Path) -> str:
    """SHA-256 of an adapter's weights, configuration and card: the same wherever the folder lies.

    Raises:
        AbmllError: If one of the files cannot be read.
    """
    digest = hashlib.sha256()
    for name in (SAFETENSORS_WEIGHTS_NAME, CONFIG_NAME, CARD):
        path = folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise AbmllError(
                f"cannot read {path}: {error.strerror}. Give the adapter folder that `abmll train` wrote."
            ) from error
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def require_same_adapter(out: Path, name: str, adapter: Path | None, done: set[CellKey]) -> None:
    """Raises AbmllError if `out` holds cells of this method that were not made with this adapter.

    Args:
        adapter: None for methods that are trained within the evaluation.
        done: the cells in `out`; without one of this method there is nothing to be mixed with.
    """
    if not any(key.method == name for key in done):
        return
    before = _read(out).get(name)
    digest = None if adapter is None else adapter_digest(adapter)
    if digest == (before and before["sha256"]):
        return
    raise AbmllError(
        f"{out} holds predictions of {name!r} by {_told(before)}, and now they would be by "
        f"{_told(adapter and {'folder': str(adapter), 'sha256': digest})}. Give another folder with -o, or take the "
        "same adapter."
    )


def record_adapter(out: Path, name: str, adapter: Path | None) -> None:
    """Notes which adapter the cells of this method are made with; to be called before the first of them."""
    known = _read(out)
    evaluated = {key: value for key, value in known.items() if key != name}
    if adapter is not None:
        evaluated[name] = {"folder": str(adapter), "sha256": adapter_digest(adapter)}
    if evaluated != known:
        write_whole(out / ADAPTERS, json.dumps(evaluated, indent=2, sort_keys=True) + "\n")


def _told(evaluated: Any) -> str:
    if not evaluated:
        return "an adapter that the evaluation trained itself (no --adapter)"
    return f"the adapter {evaluated['folder']} (sha256 {evaluated['sha256'][:12]})"


def _read(out: Path) -> dict[str, dict[str, str]]:
    path = out / ADAPTERS
    if not path.is_file():
        return {}
    try:
        evaluated = read_json(path)
        return {name: {"folder": one["folder"], "sha256": one["sha256"]} for name, one in evaluated.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AbmllError(f"{path} is damaged ({error!r}). Evaluate into another folder with -o.") from error
