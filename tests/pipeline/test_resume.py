"""A training run that is killed or terminated, and resumed, ends in the same bytes as one that was left alone."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from stages import read_lines, run_config

from abmll.cli import app
from abmll.config import dump_toml, load_config
from abmll.core.folders import LOCK
from abmll.pipeline import train_run

STEPS = 12
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
def test_a_killed_command_resumes_to_the_same_adapter(end, base, suite, undisturbed, tmp_path):
    """A real process, as a shell starts it, ended after its third step; resumed here."""
    config = config_for("abmll", base, suite, tmp_path / "run")
    (tmp_path / "run.toml").write_text(dump_toml(config))
    command = [sys.executable, "-m", "abmll.cli", "train", str(tmp_path / "run.toml"), "-q"]
    # sums over another number of threads round otherwise: bits are compared between equal ones
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env) as process:
        while steps_of(config.output) < 3 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(end)
        _, complaint = process.communicate()
    if end == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL, complaint
    else:
        assert process.returncode == 143, complaint
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
    end, count, method, base, suite, undisturbed, tmp_path
):
    """Each in a process of its own that has everything imported, so that they fall into the work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["abmll.pipeline", "torch._dynamo"])
    whole = result_of(undisturbed(method))
    rng, killed, finished = random.Random(3), 0, 0
    folder = tmp_path / "run-0"
    while killed < count or not finished:
        config = config_for(method, base, suite, folder)
        process = context.Process(target=resume, args=(dump_toml(config), tmp_path / f"{killed}-{finished}.toml"))
        process.start()
        process.join(rng.uniform(0.1, 4.0) if killed < count else None)
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


def resume(text: str, path: Path) -> None:
    torch.set_num_threads(1)  # as in this process: see above
    path.write_text(text)
    app(["train", str(path), "--resume", "-q"])
