"""What lies beside every result: the resolved run file, and what it was made with."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from abmll.config import RunConfig, dump_toml, provenance
from abmll.core.errors import AbmllError

RUN_FILE = "run.toml"
PROVENANCE = "provenance.json"


def write_beside(directory: Path, config: RunConfig, seeds: Sequence[int]) -> None:
    """Writes run.toml and provenance.json into `directory`, making it. Each appears whole or not at all."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory / RUN_FILE, dump_toml(config))
        _write(directory / PROVENANCE, json.dumps(provenance(seeds), indent=2) + "\n")
    except OSError as error:
        raise AbmllError(f"cannot write to {directory}: {error.strerror}. Choose another output folder.") from error


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
