"""Checkpoints: folders that are whole or absent, checked when read.

    checkpoints/step-00000100/
        checkpoint.json       step, world size, settings, and each file's size and SHA-256
        shared.safetensors    what all ranks have in common: META, the outer optimiser
        rank-0.safetensors    what belongs to one rank: TASK, the meta-learner's state
        ...

A checkpoint is written to a temporary folder beside its place, synced to disk, and renamed. So the process may die
at any moment: a folder with the right name is complete, and if a disk or a person damaged it later, the checksums
tell and the one before is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from abmll.core.documents import read_json
from abmll.core.errors import AbmllError
from abmll.core.files import sync_folder

_FORMAT = 1
_MANIFEST = "checkpoint.json"
_SHARED = "shared.safetensors"
_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY = ".incomplete-"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read whole and verified. `shared` and `ranks` are packed state (see `state.unpack`)."""

    path: Path
    step: int
    settings: dict[str, Any]
    shared: bytes
    ranks: tuple[bytes, ...]

    @property
    def world_size(self) -> int:
        """How many ranks the run had that wrote it."""
        return len(self.ranks)


class DamagedCheckpoint(AbmllError):
    """A checkpoint whose files are missing, cut or changed."""


def save(
    folder: Path, step: int, settings: Mapping[str, Any], shared: bytes, ranks: Sequence[bytes], keep: int
) -> Path:
    """Writes the checkpoint of `step` into `folder`, whole or not at all, then removes all but the newest `keep`.

    Raises AbmllError if the disk is full or the folder cannot be written; earlier checkpoints stay as they are.
    """
    place = folder / f"step-{step:08d}"
    temporary = folder / f"{_TEMPORARY}{place.name}-{os.getpid()}"
    contents = {_SHARED: shared} | {_rank_file(rank): data for rank, data in enumerate(ranks)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, data in contents.items():
            _write(temporary / name, data)
        _write(temporary / _MANIFEST, _manifest(step, settings, contents))
        sync_folder(temporary)
        temporary.rename(place)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise AbmllError(
            f"cannot write checkpoint {place}: {error.strerror or error}. Earlier checkpoints are untouched. "
            "Free some space or make the folder writable, then resume."
        ) from error
    for old in steps(folder)[:-keep]:
        _remove(folder / f"step-{old:08d}")
    return place


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, ascending, damaged ones included."""
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def latest(folder: Path) -> Checkpoint | None:
    """The newest undamaged checkpoint in `folder`, or None if there is no checkpoint at all.

    A damaged one is named in a warning, with the reason, and skipped for the one before.
    Raises AbmllError if there are checkpoints and all of them are damaged.
    """
    found = steps(folder)
    for step in reversed(found):
        try:
            return read(folder / f"step-{step:08d}")
        except DamagedCheckpoint as damage:
            warnings.warn(f"{damage}; skipping it for the one before", stacklevel=2)
    if found:
        raise AbmllError(
            f"all {len(found)} checkpoints in {folder} are damaged (see the warnings). "
            "Train into another directory, or delete this one to begin again."
        )
    return None


def read(path: Path) -> Checkpoint:
    """Reads one checkpoint and verifies every byte. Raises DamagedCheckpoint if it is not what was written."""
    try:
        manifest = read_json(path / _MANIFEST, limit=2**30)
        checksum = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedCheckpoint(f"checkpoint {path} is damaged: {_MANIFEST} is unreadable ({error})") from error
    if checksum != _sha256(_canonical(manifest)):
        raise DamagedCheckpoint(f"checkpoint {path} is damaged: {_MANIFEST} does not match its checksum")
    if manifest["format"] > _FORMAT:
        raise AbmllError(
            f"checkpoint {path} has format {manifest['format']}, written by abmll {manifest['versions']['abmll']}; "
            f"this version reads formats up to {_FORMAT}. Upgrade abmll."
        )
    contents = {name: _read_verified(path / name, expected) for name, expected in manifest["files"].items()}
    shared = contents.pop(_SHARED)
    ranks = tuple(contents[_rank_file(rank)] for rank in range(len(contents)))
    return Checkpoint(path, manifest["step"], manifest["settings"], shared, ranks)


def clear_after(folder: Path, step: int) -> None:
    """Sets aside checkpoints newer than `step` (the damaged ones) and removes leftovers of interrupted writes.

    The damaged ones are renamed to `damaged-…`: kept for inspection, but never again counted among those to keep.
    """
    if not folder.is_dir():
        return
    for entry in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(entry, ignore_errors=True)
    for newer in (found for found in steps(folder) if found > step):
        aside = folder / f"damaged-{newer:08d}"
        shutil.rmtree(aside, ignore_errors=True)
        (folder / f"step-{newer:08d}").rename(aside)


def _rank_file(rank: int) -> str:
    return f"rank-{rank}.safetensors"


def _manifest(step: int, settings: Mapping[str, Any], contents: Mapping[str, bytes]) -> bytes:
    manifest = {
        "format": _FORMAT,
        "step": step,
        "settings": dict(settings),
        "versions": _versions(),
        "files": {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in contents.items()},
    }
    return json.dumps(manifest | {"sha256": _sha256(_canonical(manifest))}, indent=1).encode()


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("abmll", "torch", "safetensors")}


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_verified(path: Path, expected: Mapping[str, Any]) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = f"{path.name}: {error.strerror}"
        raise DamagedCheckpoint(f"checkpoint {path.parent} is damaged: {reason}") from error
    if len(data) != expected["bytes"]:
        reason = f"{path.name} has {len(data)} bytes, {expected['bytes']} were written"
    elif _sha256(data) != expected["sha256"]:
        reason = f"{path.name} does not match its checksum"
    else:
        return data
    raise DamagedCheckpoint(f"checkpoint {path.parent} is damaged: {reason}")


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    # Renamed first, so that a half-removed checkpoint never looks like a damaged one.
    doomed = path.with_name(f"{_TEMPORARY}{path.name}-removed")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
