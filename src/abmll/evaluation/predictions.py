"""The predictions file: everything that metrics and reports need, so that neither needs the model again.

One JSON object a line, one line a *cell*: all predictions of one (method, seed, task, support size). The
format:

    {"version": 1, "method": "abmll", "seed": 0, "task": "t", "support_size": 16, "family": "f", "seconds":
    1.5, "extra": {}, "ids": ["q1", ...], "targets": [0, ...], "log_probs": [[[-0.69314718, ...], ...], ...]}

`log_probs` is (samples, examples, choices) in nats. An absent choice is -inf in memory and null in the file.
Numbers are float32 written with 9 significant digits, which give back the same float32: a cell read equals
the cell written.

Lines are only ever appended, each whole or not at all, so that evaluations resume and several processes may
share one file. A line that was cut off (a killed process, a full disk) can only be the last, and is named and
dropped.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from abmll.core.documents import parse_json
from abmll.core.errors import AbmllError, Unreadable
from abmll.evaluation import calibration

try:
    import fcntl
except ImportError:  # Windows: appends are not locked there, use one file a process
    fcntl = None  # type: ignore[assignment]

VERSION = 1
T = TypeVar("T")


class NewerFormat(AbmllError):
    """A line that a newer version wrote: neither damaged nor cut off."""


class CellKey(NamedTuple):
    """What identifies a cell within a predictions file."""

    method: str
    seed: int
    task: str
    support_size: int


@dataclass(frozen=True, eq=False, repr=False)
class Cell:
    """All predictions of one method, trained and adapted with one seed, on one task from one support size.

    Attributes:
        ids: (examples,) the query examples, unique; cells are compared example by example only where ids are equal.
        targets: (examples,) int64, the right choice of each.
        log_probs: (samples, examples, choices) float32 in nats, normalised over choices; absent choices hold -inf.
        seconds: wall-clock time of adaptation.
        extra: anything else worth keeping, as JSON; `extra["held_out_family"] = True` marks tasks of an unseen family.

    Raises:
        AbmllError: If shapes disagree, ids repeat, a target is out of range, or log_probs are not normalised.
    """

    method: str
    seed: int
    task: str
    family: str
    support_size: int
    ids: Sequence[str]
    targets: Tensor
    log_probs: Tensor
    seconds: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        samples, rows, _ = self.log_probs.shape
        adapted = f"from {self.support_size} examples, seed {self.seed}"
        return f"Cell({self.method} on {self.task!r}, {adapted}: {rows} rows, {samples} samples)"

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "ids", tuple(str(i) for i in self.ids))
        set_(self, "targets", torch.as_tensor(self.targets).detach().to("cpu", torch.int64))
        set_(self, "log_probs", torch.as_tensor(self.log_probs).detach().to("cpu", torch.float32))
        if len(self.ids) != len(self.targets):
            raise AbmllError(f"{self}: {len(self.ids)} ids for {len(self.targets)} targets; give one id an example.")
        if self.log_probs.dim() != 3 or self.log_probs.shape[1] != len(self.targets):
            shape = tuple(self.log_probs.shape)
            raise AbmllError(
                f"{self}: log_probs have shape {shape} for {len(self.targets)} targets; "
                "give (samples, examples, choices)."
            )
        if len(set(self.ids)) != len(self.ids):
            twice = next(i for i in self.ids if self.ids.count(i) > 1)
            raise AbmllError(f"{self}: id {twice!r} occurs twice; give every query example its own id.")
        try:
            calibration.nll(self.log_probs, self.targets)
        except AbmllError as error:
            raise AbmllError(f"{self}: {error}") from error

    @property
    def key(self) -> CellKey:
        return CellKey(self.method, self.seed, self.task, self.support_size)

    def __str__(self) -> str:
        return f"cell {self.method}, seed {self.seed}, task {self.task!r}, support size {self.support_size}"

    def same_predictions(self, other: Cell) -> bool:
        """Whether ids, targets and log-probabilities are equal, bit for bit."""
        return (
            self.ids == other.ids
            and torch.equal(self.targets, other.targets)
            and torch.equal(self.log_probs, other.log_probs)
        )


def append_cell(path: Path | str, cell: Cell) -> None:
    """Adds one line to a predictions file, whole or not at all, and waits until it is on disk.

    The file (and its folder) is made if absent. It is locked while written, where the system can (not on
    Windows). A last line that an earlier process left unfinished is removed with a warning.

    Raises:
        AbmllError: If `extra` is not JSON.
    """
    path = Path(path)
    line = encode_cell(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path) as file:
        _mend_end(path, file)
        end = file.seek(0, os.SEEK_END)
        try:
            _write_all(file, line)
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)
            raise


def read_cells(path: Path | str) -> list[Cell]:
    """All cells of a predictions file in the order written. A cell that was written twice, identically,
    counts once.

    Raises:
        AbmllError: If there is no file or no cell, a line before the last is damaged, or two lines give different
            predictions for the same cell. A last line that was cut off is dropped with a warning.
    """
    path = Path(path)
    cells: dict[CellKey, Cell] = {}
    for number, cell in _numbered(path, decode_cell):
        known = cells.setdefault(cell.key, cell)
        if not known.same_predictions(cell):
            raise AbmllError(
                f"{path}, line {number}: a second {cell} with other predictions. Two runs with different settings "
                "share this file: give each its own file, or delete one of the two lines."
            )
    if not cells:
        raise AbmllError(f"{path} holds no predictions: run `abmll evaluate` first, or check the path.")
    return list(cells.values())


def index(path: Path | str) -> set[CellKey]:
    """Keys of all cells in a predictions file; empty if there is no file yet. For resuming an evaluation.

    Asked before every unit of a comparison, so it looks at no prediction: `read_cells` finds a damaged one. Raises:
    AbmllError for a line before the last that is no JSON, or names no cell.
    """
    path = Path(path)
    return {key for _, key in _numbered(path, decode_key)} if path.exists() else set()


def _numbered(path: Path, decode: Callable[[bytes], T]) -> Iterator[tuple[int, T]]:
    """What `decode` makes of every line, with its number."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise AbmllError(f"cannot read predictions from {path}: {error.strerror}.") from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                decoded = decode(line)
            except NewerFormat as error:
                raise AbmllError(f"{path}, line {number}: {error}") from None
            except AbmllError as error:
                if line.endswith(b"\n"):
                    raise AbmllError(f"{path}, line {number}: {error} Delete that line and evaluate again.") from error
                warnings.warn(f"{path}, line {number} (the last) was cut off and is left out.", stacklevel=3)
                continue
            yield number, decoded


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[FileIO]:
    with path.open("ab+", buffering=0) as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        yield file


def _write_all(file: FileIO, data: bytes) -> None:
    while data:  # an unbuffered write may take only a part
        data = data[file.write(data) :]


def _mend_end(path: Path, file: FileIO) -> None:
    """Makes the file end with a line break: completes a whole last line, removes a torn one. Needs the lock."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    last = file.read().rpartition(b"\n")[2]
    try:
        decode_cell(last)
    except NewerFormat as error:
        raise AbmllError(f"{path}: the last line was {error}") from None
    except AbmllError:
        warnings.warn(f"{path}: the last line was cut off; it is removed.", stacklevel=4)
        file.truncate(size - len(last))
    else:
        _write_all(file, b"\n")


def encode_cell(cell: Cell) -> bytes:
    """The cell as a line of a predictions file, line break included. Raises: AbmllError if `extra` is not JSON."""
    record = {
        "version": VERSION,
        **cell.key._asdict(),
        "family": cell.family,
        "seconds": cell.seconds,
        "extra": dict(cell.extra),
        "ids": cell.ids,
        "targets": cell.targets.tolist(),
        "log_probs": _nested(cell.log_probs),
    }
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise AbmllError(f"{cell}: not JSON ({error}); keep only finite numbers, strings, lists and dicts.") from error


def _nested(log_probs: Tensor) -> list[list[list[float | None]]]:
    return [
        [[float(f"{x:.9g}") if x > -math.inf else None for x in row] for row in sample] for sample in log_probs.tolist()
    ]


def decode_key(line: bytes) -> CellKey:
    """The key of the cell that a line holds. Raises: AbmllError for a line that is no JSON, or names no cell."""
    record = _record(line)
    try:
        return CellKey(str(record["method"]), int(record["seed"]), str(record["task"]), int(record["support_size"]))
    except (KeyError, TypeError, ValueError) as error:
        raise AbmllError(f"a field is missing or malformed ({error!r}).") from error


def _record(line: bytes) -> dict[str, Any]:
    try:
        record: dict[str, Any] = parse_json(line)
    except Unreadable as error:
        raise AbmllError(f"not valid JSON ({error.found}).") from error
    found = record.pop("version", None) if isinstance(record, dict) else None
    if isinstance(found, int) and found > VERSION:
        raise NewerFormat(
            f"written by a newer abmll (format version {found}, this one reads {VERSION}). Update abmll; nothing is "
            "damaged."
        )
    if found != VERSION or isinstance(found, bool):
        raise AbmllError(f'not a prediction of format version {VERSION} (no "version": {VERSION}).')
    return record


def decode_cell(line: bytes) -> Cell:
    """The cell that a line holds. Raises: AbmllError saying what is wrong with it."""
    record = _record(line)
    try:
        log_probs = record["log_probs"]
        if b"null" in line:
            log_probs = [[[-math.inf if x is None else x for x in row] for row in s] for s in log_probs]
        record["log_probs"] = torch.tensor(log_probs, dtype=torch.float32)
        return Cell(**record)
    except AbmllError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AbmllError(f"a field is missing, unknown or malformed ({error!r}).") from error
