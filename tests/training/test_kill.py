"""A run killed with `kill -9` at random moments ends in the same bits as one that was left alone."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.forked import start
from tests.training import training_runs
from tests.training.training_runs import assert_same_run, run

STEPS = 40


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    run(directory, STEPS)
    return directory


def kill_until_done(start: Callable[[], Any], kills: int, seconds: float, rng: random.Random) -> int:
    """Starts the job again and again, killing it at random moments; lets the last one finish. Returns the kills."""
    killed = 0
    while killed < kills:
        process = start()
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        if process.wait() == 0:
            return killed
        killed += 1
    assert start().wait() == 0
    return killed


class ForkedRun:
    """A real process with `Popen`'s two methods, forked, so that everything is imported."""

    def __init__(self, directory: Path) -> None:
        self.process = start(run, directory, STEPS)

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_run_is_bit_identical(kills: int, undisturbed: Path, tmp_path: Path, forkserver: None) -> None:
    ForkedRun(tmp_path / "warm-up").wait()
    rng = random.Random(5)
    killed = 0
    while killed < kills:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        killed += kill_until_done(lambda: ForkedRun(tmp_path / "run"), 8, 0.4, rng)
        assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_killed_interpreter_is_bit_identical(undisturbed: Path, tmp_path: Path) -> None:
    """The same with a whole interpreter each time, as a user's shell would start it."""

    def start_interpreter() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, training_runs.__file__, str(tmp_path / "run"), str(STEPS)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    killed = 0
    while killed < 20:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        killed += kill_until_done(start_interpreter, 20 - killed, 0.5, random.Random(killed))
        assert_same_run(tmp_path / "run", undisturbed)
