"""Where fetched models lie: one folder a model in the user's cache, there whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from abmll.models.registry import RegisteredModel

CARD = "abmll-model.json"
"""File in a model's folder: what it is, what it was made from, and the size of every other file."""


def cache_folder() -> Path:
    """$ABMLL_CACHE, else `abmll` in $XDG_CACHE_HOME, else in ~/.cache."""
    if own := os.environ.get("ABMLL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "abmll"


def model_folder(model: RegisteredModel) -> Path:
    """Where the model lies once it is fetched."""
    return cache_folder() / "models" / model.name


def is_cached(model: RegisteredModel) -> bool:
    """Whether the folder holds the model that the registry names, with every file at its full size."""
    folder = model_folder(model)
    card = _card(folder)
    if card is None or card.get("gguf_sha256") != model.gguf.sha256:
        return False
    files = card.get("files")
    return isinstance(files, dict) and bool(files) and all(_size(folder / name) == size for name, size in files.items())


def write_card(folder: Path, model: RegisteredModel, versions: dict[str, str]) -> None:
    """Writes the card of a model whose files are all in `folder`."""
    card = {
        "name": model.name,
        "title": model.title,
        "licence": model.licence,
        "source": model.source,
        "wheel": model.wheel.requirement,
        "wheel_sha256": model.wheel.sha256,
        "gguf_sha256": model.gguf.sha256,
        "converted_with": versions,
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _card(folder: Path) -> dict[str, Any] | None:
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
