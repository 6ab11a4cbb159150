"""Checkpoints are whole or absent; a damaged one is named and skipped; the newest N stay."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from abmll.core.errors import AbmllError
from abmll.training import checkpoint
from abmll.training.checkpoint import DamagedCheckpoint, latest, read, save, steps

SETTINGS = {"training.seed": 0, "outer.learning_rate": 0.1}


def write(folder: Path, *at: int, keep: int = 9) -> None:
    for step in at:
        save(folder, step, SETTINGS, b"shared %d" % step, [b"rank zero", b"rank one"], keep)


def test_round_trip(tmp_path: Path) -> None:
    write(tmp_path, 3)
    found = latest(tmp_path)
    assert found is not None
    assert (found.step, found.world_size, found.settings) == (3, 2, SETTINGS)
    assert (found.shared, found.ranks) == (b"shared 3", (b"rank zero", b"rank one"))
    assert found.path == tmp_path / "step-00000003"


def test_more_than_ten_ranks_keep_their_order(tmp_path: Path) -> None:
    payloads = [b"%d" % rank for rank in range(12)]
    assert read(save(tmp_path, 1, {}, b"", payloads, 1)).ranks == tuple(payloads)


def test_nothing_there(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent") is None
    assert latest(tmp_path) is None


def test_keeps_the_newest(tmp_path: Path) -> None:
    write(tmp_path, 9, 10, 99_999_999, 100_000_000, keep=2)
    assert steps(tmp_path) == [99_999_999, 100_000_000]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-100000000", "step-99999999"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("shared.safetensors", cut, "shared.safetensors has 7 bytes, 8 were written"),
        ("rank-1.safetensors", flip, "rank-1.safetensors does not match its checksum"),
        ("rank-0.safetensors", Path.unlink, "rank-0.safetensors: No such file"),
        ("checkpoint.json", Path.unlink, "checkpoint.json is unreadable"),
        ("checkpoint.json", cut, "checkpoint.json is unreadable"),
        ("checkpoint.json", lambda path: path.write_text("[]"), "checkpoint.json is unreadable"),
        (
            "checkpoint.json",
            lambda path: path.write_text(path.read_text().replace('"step": 2', '"step": 3')),
            "checkpoint.json does not match its checksum",
        ),
    ],
)
def test_damaged_is_named_and_skipped(tmp_path: Path, name: str, damage: Callable[[Path], object], reason: str) -> None:
    write(tmp_path, 1, 2)
    damage(tmp_path / "step-00000002" / name)
    with pytest.warns(UserWarning, match=f"step-00000002 is damaged: {reason}.*skipping it"):
        found = latest(tmp_path)
    assert found is not None
    assert found.step == 1


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, 1)
    for file in (tmp_path / "step-00000001").iterdir():
        intact = file.read_bytes()
        for position in range(0, len(intact), 5):
            file.write_bytes(intact[:position] + bytes([intact[position] ^ 4]) + intact[position + 1 :])
            with pytest.raises(DamagedCheckpoint):
                read(tmp_path / "step-00000001")
        file.write_bytes(intact)
    assert read(tmp_path / "step-00000001").step == 1


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    for step in (1, 2):
        flip(tmp_path / f"step-0000000{step}" / "shared.safetensors")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(AbmllError, match=r"all 2 checkpoints .* Train into another directory"),
    ):
        latest(tmp_path)


def test_damaged_ones_are_set_aside_not_counted(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    (tmp_path / ".incomplete-step-00000003-7").mkdir()
    checkpoint.clear_after(tmp_path, 1)
    write(tmp_path, 2, keep=2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["damaged-00000002", "step-00000001", "step-00000002"]


def test_format_of_a_newer_version_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_FORMAT", 2)
    write(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(AbmllError, match=r"format 2, written by abmll .* reads formats up to 1. Upgrade abmll"):
        latest(tmp_path)


class Died(BaseException):
    """Stands for the end of the process: no handler runs."""


def test_death_before_any_system_call_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """The process dies before its n-th write, sync or rename, for every n: the newest whole checkpoint is 2 or 3."""
    seen = []
    for n in range(100):
        folder = tmp_path / str(n)
        write(folder, 1, 2, keep=2)
        with dying_before_call(n) as calls, suppress(Died):
            write(folder, 3, keep=2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = latest(folder)
        assert found is not None
        assert found.shared == b"shared %d" % found.step
        seen.append(found.step)
        checkpoint.clear_after(folder, found.step)
        assert not list(folder.glob(".incomplete-*"))
        assert len(steps(folder)) >= 2
        if len(calls) <= n:
            break
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (2, 3)
    assert len(seen) > 12


@contextmanager
def dying_before_call(n: int) -> Iterator[list[str]]:
    calls: list[str] = []

    def deadly(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            calls.append(name)
            if len(calls) > n:
                raise Died
            return call(*args, **kwargs)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in [
            (os, "fsync"),
            (os, "mkdir"),
            (os, "rename"),
            (os, "unlink"),
            (os, "rmdir"),
            (Path, "open"),
        ]:
            patch.setattr(owner, name, deadly(name, getattr(owner, name)))
        yield calls


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX file-size limit")
def test_full_disk_says_so_and_keeps_the_earlier(tmp_path: Path) -> None:
    import resource

    write(tmp_path, 1, 2, keep=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(AbmllError, match=r"cannot write checkpoint .*step-00000003: File too large. Earlier"):
            save(tmp_path, 3, SETTINGS, bytes(5000), [b""], 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_manifest_is_readable_json(tmp_path: Path) -> None:
    write(tmp_path, 1)
    manifest = json.loads((tmp_path / "step-00000001" / "checkpoint.json").read_text())
    assert manifest["settings"] == SETTINGS
    assert set(manifest["versions"]) == {"abmll", "torch", "safetensors"}
