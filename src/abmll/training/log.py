"""The training log: `training.jsonl`, one JSON line an outer step, and its optional mirror in TensorBoard.

Fields of a line: `step` (from 1), `seconds`, `tasks`, `learning_rate`, `grad_norm` (of the mean gradient, before
clipping), `peak_memory_bytes`, `tokens_per_second` where the method counts tokens, and the mean over the step's
episodes of every metric of the meta-learner. A number that is not finite is written as null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from abmll.core.documents import parse_json
from abmll.core.errors import AbmllError

FILE_NAME = "training.jsonl"

Record = dict[str, Any]


class TrainingLog:
    """Appends records to `directory/training.jsonl`, from `step` on: later lines of an interrupted run are dropped.

    Raises AbmllError if the file cannot be written, or if TensorBoard is asked for and not installed.
    """

    def __init__(self, directory: Path, step: int = 0, *, tensorboard: bool = False) -> None:
        self.path = directory / FILE_NAME
        self._board = _summary_writer(directory / "tensorboard", step) if tensorboard else None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.path.open("ab")
            self._file.truncate(_size_up_to(self.path, step))
        except OSError as error:
            raise self._cannot_write(error) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line."""
        finite = {key: None if _is_bad(value) else value for key, value in record.items()}
        try:
            self._file.write(json.dumps(finite, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from error
        if self._board is not None:
            for key, value in record.items():
                if key != "step" and isinstance(value, int | float):
                    self._board.add_scalar(f"train/{key}", value, record["step"])

    def sync(self) -> None:
        """Forces the lines so far to disk; called before a checkpoint, which must never be ahead of its log."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Closes the file and the mirror."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _cannot_write(self, error: OSError) -> AbmllError:
        return AbmllError(
            f"cannot write the training log {self.path}: {error.strerror or error}. "
            "Free some space, or choose a directory that can be written, then resume."
        )


def read_log(path: Path) -> list[Record]:
    """The records of a `training.jsonl`, or of the one in a run's directory; a torn last line is left out.

    Raises AbmllError if the file is missing or a line before the last is not JSON.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise AbmllError(f"cannot read the training log {path}: {error.strerror or error}.") from error
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(parse_json(line, nan_is_null=True))
        except ValueError as error:
            raise AbmllError(
                f"{path}, line {number}: not JSON ({error}). Restore the file or remove the line."
            ) from error
    return records


def _size_up_to(path: Path, step: int) -> int:
    """Bytes of the leading whole lines whose step is at most `step`."""
    size = 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if not line.endswith(b"\n") or parse_json(line, nan_is_null=True)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        size += len(line)
    return size


def _is_bad(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _summary_writer(directory: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise AbmllError(
            "the TensorBoard mirror needs the package tensorboard: pip install 'abmll[tensorboard]', "
            "or set tensorboard = false."
        ) from error
    return SummaryWriter(str(directory), purge_step=step + 1)
