"""A training run that is killed or terminated, and resumed, ends in the same bytes as one that was left alone."""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from abmll.cli import app, group
from abmll.config import dump_toml, load_config
from abmll.core.folders import LOCK
from abmll.pipeline import train_run
from tests.forked import start
from tests.pipeline.stages import read_lines, run_config

STEPS = 12
LISTENING = ".listening"
"""A file beside the run file, made as soon as the command would hear a signal."""
# The persistent inner optimiser and the sampled noise are what a resume could forget.
METHODS = {
    "abmll": {"name": "abmll-output", "options": {"num_steps": 2, "persistent_optimizer": True}},
    "reptile": {"name": "reptile", "options": {"num_steps": 2}},
}


def config_for(method, base, suite, output):
    training = {"num_steps": STEPS, "checkpoint_every": 1, "keep_checkpoints": 2}
    return run_config(base, suite, output, method=METHODS[method], training=training)


def result_of(folder):
    """The bytes of the adapter and of the last checkpoint's tensors."""
    last = max((folder / "checkpoints").glob("step-*"))
    assert last.name.endswith(f"{STEPS}")
    files = [*(folder / "adapter").rglob("*.*"), *last.glob("*.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def steps_of(folder):
    path = folder / "training.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


@pytest.fixture(scope="module")
def undisturbed(base, suite, tmp_path_factory):
    @functools.cache
    def train(method):
        config = config_for(method, base, suite, tmp_path_factory.mktemp("undisturbed") / "run")
        train_run(config, progress=False)
        return config.output

    return train


@pytest.mark.parametrize("end", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_killed_command_resumes_to_the_same_adapter(end, base, suite, undisturbed, tmp_path, forkserver):
    """A process that runs the command, ended after its third step; resumed here."""
    config = config_for("abmll", base, suite, tmp_path / "run")
    (tmp_path / "run.toml").write_text(dump_toml(config))
    process = start(command, ["train", str(tmp_path / "run.toml"), "-q"], tmp_path / "complaint")
    while steps_of(config.output) < 3 and process.is_alive():
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, end)
    process.join()
    complaint = (tmp_path / "complaint").read_text()
    if end == signal.SIGKILL:
        assert process.exitcode == -signal.SIGKILL, complaint
    else:
        assert process.exitcode == 143, complaint
        assert "Ended by SIGTERM. The last checkpoint is safe. Resume with --resume:" in complaint
        assert f"abmll train {tmp_path / 'run.toml'} -q --resume" in complaint
        assert not (config.output / LOCK).exists()
    assert not (config.output / "adapter").exists()
    train_run(load_config(tmp_path / "run.toml"), resume=True, progress=False)
    whole = undisturbed("abmll")
    assert result_of(config.output) == result_of(whole)
    assert [line["step"] for line in read_lines(config.output / "training.jsonl")] == list(range(1, STEPS + 1))
    train_run(config, resume=True, progress=False)
    assert result_of(config.output) == result_of(whole), "a finished run is only saved again"


@pytest.mark.slow
@pytest.mark.parametrize(("end", "count"), [(signal.SIGKILL, 50), (signal.SIGTERM, 10)])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_hundred_kills_and_twenty_terminations_at_random_moments(
    end, count, method, base, suite, undisturbed, tmp_path, forkserver
):
    """Each in a process of its own that has everything imported, so that they fall into the work."""
    whole = result_of(undisturbed(method))
    rng, killed, finished = random.Random(3), 0, 0
    folder = tmp_path / "run-0"
    while killed < count or not finished:
        config = config_for(method, base, suite, folder)
        path = tmp_path / f"{killed}-{finished}.toml"
        path.write_text(dump_toml(config))
        process = start(command, ["train", str(path), "--resume", "-q"], tmp_path / "complaint")
        while end == signal.SIGTERM and process.is_alive() and not path.with_suffix(LISTENING).exists():
            time.sleep(0.005)  # before the command listens, nothing has begun, and the process just dies
        process.join(rng.uniform(0.0, 4.0) if killed < count else None)
        if process.is_alive():
            os.kill(process.pid, end)
        process.join()
        if process.exitcode == 0:
            assert result_of(folder) == whole
            finished += 1
            folder = tmp_path / f"run-{finished}"
        else:
            assert process.exitcode == (-signal.SIGKILL if end == signal.SIGKILL else 143)
            killed += 1


def command(words: list[str], complaint: Path) -> None:
    """The command line in this process, what it writes to its standard error in a file."""
    torch.set_num_threads(1)  # as in the test's process: sums over another number of threads round otherwise
    with complaint.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.argv = ["abmll", *words]
    listen = group._end_by_signals

    def listening() -> dict[int, Any]:
        before = listen()
        Path(words[1]).with_suffix(LISTENING).touch()
        return before

    group._end_by_signals = listening
    app(words)
