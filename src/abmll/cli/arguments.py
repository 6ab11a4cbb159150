"""Arguments and options that several commands share, and what is checked of paths before anything heavy loads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from abmll.core.errors import AbmllError

RunFile = Annotated[Path, typer.Argument(metavar="RUN.toml", help="Run file; `abmll config` prints one to start from.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key=value",
        help="Fields that replace those of the file, such as training.num_steps=50. No value unsets a field.",
        autocompletion=lambda incomplete: _matching_fields(incomplete),
    ),
]
Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="Adapter folder, as `train` or `adapt` wrote it.")]
ModelFields = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="model.key=value",
        help="Fields of [model], such as model.name=NAME if it is not where the adapter says, or model.device=cpu.",
        autocompletion=lambda incomplete: _matching_fields(incomplete, "model."),
    ),
]
OutsideMethod = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="The adapter's method, package.module:factory, if it is from outside abmll: naming it runs its code.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")]


def _matching_fields(incomplete: str, section: str = "") -> list[tuple[str, str]]:
    from abmll.config import field_entries

    rows = [row for row in field_entries() if row.path.startswith(section)]
    return [(f"{row.path}=", row.description) for row in rows if row.path.startswith(incomplete)]


def adapter_folder(path: Path) -> Path:
    """The folder that holds an adapter: `path` itself, or its subfolder `adapter` as in a run's output."""
    for folder in (path, path / "adapter"):
        if (folder / "adapter_config.json").is_file():
            return folder
    found = "is no adapter folder: it holds no adapter_config.json" if path.exists() else "does not exist"
    raise AbmllError(f"{path} {found}. Give the folder that `abmll train` or `abmll adapt` wrote.")


def existing_file(path: Path, what: str) -> Path:
    """`path` if it is a file. `what` is for the message, such as "task file"."""
    if os.path.isdir(path):
        raise AbmllError(f"{path} is a folder; give one {what}.")
    if not os.path.isfile(path):
        raise AbmllError(f"no {what} at {path}. Paths are relative to the folder that you are in.")
    return path


def free_path(path: Path, overwrite: bool, *, marker: str | None = None, source: Path | None = None) -> Path:
    """`path` if a result may be written there.

    An existing file, or a folder that is not empty, is refused unless `overwrite`; and a folder is replaced only if
    it holds `marker`, so that a mistyped path never costs the user other files. Nor is `source`, what is read, ever
    written over.
    """
    if source is not None and os.path.realpath(path) == os.path.realpath(source):
        raise AbmllError(f"{path} is the file that is read, which would be lost. Give another path with -o.")
    if path.is_dir() and any(path.iterdir()):
        if marker is None or not (path / marker).is_file():
            raise AbmllError(f"{path} is a folder with other things in it. Give a new path with -o.")
        if not overwrite:
            raise AbmllError(f"{path} already holds a result. Give another path with -o, or add --overwrite.")
    elif path.is_file():
        if marker is not None:
            raise AbmllError(f"{path} is a file; a folder is to be written there. Give another path with -o.")
        if not overwrite:
            raise AbmllError(f"{path} exists. Give another path with -o, or add --overwrite.")
    return path


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows of a table as lines of columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def is_first_process() -> bool:
    """Whether this process is the one of a `torchrun` job that speaks; a process alone is."""
    return os.environ.get("RANK", "0") == "0"


def require_one_process(command: str) -> None:
    """Raises AbmllError under `torchrun` for a command whose processes would all do the same."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise AbmllError(
            f"{command} does not share its work over the {count} processes of torchrun: each would do all of it. Start "
            "it without torchrun (tune and compare have --jobs); train and evaluate share."
        )
