"""Several processes: the same θ on every rank, the same run as one process, one error for all, resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forked import SECONDS, run_ranks
from tests.training import training_runs
from tests.training.training_runs import assert_same_run, final_state, log_without_clock, run, run_as_rank

STEPS = 6


def job(
    size: int, directory: Path, out: Path, sabotage: dict[int, str] | None = None, **options: Any
) -> list[int | None]:
    """Runs `size` ranks and returns their exit codes; see `run_as_rank`."""
    options = {"num_steps": STEPS, "episodes_per_step": 4, "rank_timeout": 60.0} | options
    return run_ranks(size, run_as_rank, directory, out, options, sabotage or {})


def meta_of(out: Path, size: int) -> dict[str, torch.Tensor]:
    """META, after making sure that it is the same, bit for bit, on every rank."""
    metas = [torch.load(out / f"rank-{rank}.pt") for rank in range(size)]
    for meta in metas[1:]:
        assert all(torch.equal(meta[name], metas[0][name]) for name in metas[0])
    return metas[0]


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=0, atol=1e-6)


def assert_one_process_equals(size: int, directory: Path, out: Path, alone: Path) -> None:
    expected, _ = run(alone, STEPS, persistent=False, episodes_per_step=4)
    assert_close(meta_of(out, size), expected)
    for one, other in zip(log_without_clock(directory), log_without_clock(alone), strict=True):
        assert one["tasks"] == other["tasks"]
        assert {k: v for k, v in one.items() if k != "tasks"} == pytest.approx(
            {k: v for k, v in other.items() if k != "tasks"}, abs=1e-6
        )


def test_two_ranks_equal_one_process(tmp_path: Path, forkserver: None) -> None:
    assert job(2, tmp_path / "run", tmp_path / "out", persistent=False) == [0, 0]
    assert_one_process_equals(2, tmp_path / "run", tmp_path / "out", tmp_path / "alone")


def test_failure_of_one_rank_is_told_by_all(tmp_path: Path, forkserver: None) -> None:
    assert job(2, tmp_path / "run", tmp_path / "out", {1: "nan"}, checkpoint_every=1) == [1, 1]
    own = (tmp_path / "out" / "rank-1.txt").read_text()
    assert own.startswith("outer step 3, task 'toy-4': nll is nan. Lower the learning rate")
    assert (tmp_path / "out" / "rank-0.txt").read_text() == f"rank 1 stopped: {own}"
    assert final_state(tmp_path / "run")["name"] == b"step-00000002"
    assert [record["step"] for record in log_without_clock(tmp_path / "run")] == [1, 2]


@pytest.mark.slow
def test_four_ranks_equal_one_process(tmp_path: Path, forkserver: None) -> None:
    assert job(4, tmp_path / "run", tmp_path / "out", persistent=False) == [0] * 4
    assert_one_process_equals(4, tmp_path / "run", tmp_path / "out", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "victim"), [(2, 1), (2, 0), (4, 2)])
def test_killed_rank_ends_the_job_with_a_message_and_the_job_resumes(
    size: int, victim: int, tmp_path: Path, forkserver: None
) -> None:
    """Persistent inner optimisers, one on each rank, come back too: bit-identical to the undisturbed job."""
    assert job(size, tmp_path / "whole", tmp_path / "whole-out") == [0] * size
    codes = job(size, tmp_path / "parts", tmp_path / "killed-out", {victim: "death"}, checkpoint_every=1)
    assert codes[victim] == -signal.SIGKILL
    survivors = [rank for rank in range(size) if rank != victim]
    assert [codes[rank] for rank in survivors] == [1] * (size - 1)
    for rank in survivors:
        message = (tmp_path / "killed-out" / f"rank-{rank}.txt").read_text()
        assert message.startswith("lost contact with another rank: it was killed")
        assert "start the job again (train with --resume)" in message
    assert job(size, tmp_path / "parts", tmp_path / "parts-out") == [0] * size
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    whole, parts = (meta_of(tmp_path / name, size) for name in ("whole-out", "parts-out"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.slow
def test_number_of_ranks_may_change_only_without_state_of_their_own(tmp_path: Path, forkserver: None) -> None:
    options: dict[str, Any] = {"outer": {"schedule": "constant"}, "persistent": False}
    assert job(2, tmp_path / "free", tmp_path / "out", num_steps=3, **options) == [0, 0]
    assert job(1, tmp_path / "free", tmp_path / "free-out", **options) == [0]
    assert job(2, tmp_path / "whole", tmp_path / "whole-out", **options) == [0, 0]
    assert_close(meta_of(tmp_path / "free-out", 1), meta_of(tmp_path / "whole-out", 2))

    options["persistent"] = True
    assert job(2, tmp_path / "bound", tmp_path / "out", num_steps=3, **options) == [0, 0]
    assert job(1, tmp_path / "bound", tmp_path / "bound-out", **options) == [1]
    message = (tmp_path / "bound-out" / "rank-0.txt").read_text()
    assert "step-00000003 on 1 ranks: it was written by 2" in message
    assert message.endswith("Start 2 processes.")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 2)])
def test_a_run_resumes_on_more_ranks_and_on_fewer(before: int, after: int, tmp_path: Path, forkserver: None) -> None:
    options: dict[str, Any] = {"outer": {"schedule": "constant"}, "persistent": False}
    assert job(before, tmp_path / "run", tmp_path / "out", num_steps=3, **options) == [0] * before
    assert job(after, tmp_path / "run", tmp_path / "resumed-out", **options) == [0] * after
    assert job(1, tmp_path / "whole", tmp_path / "whole-out", **options) == [0]
    assert_close(meta_of(tmp_path / "resumed-out", after), meta_of(tmp_path / "whole-out", 1))


@pytest.mark.slow
def test_episodes_must_divide_by_the_ranks(tmp_path: Path, forkserver: None) -> None:
    assert job(2, tmp_path / "run", tmp_path / "out", episodes_per_step=3) == [1, 1]
    message = (tmp_path / "out" / "rank-1.txt").read_text()
    assert message.startswith(
        "training.episodes_per_step is 3, the number over all ranks, and does not divide by the 2"
    )


@pytest.mark.slow
def test_under_torchrun(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [training_runs.__file__, str(tmp_path / "ranks"), str(STEPS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as launcher:
        try:
            _, told = launcher.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # not killed, so that it ends its ranks
            raise
    assert launcher.returncode == 0, told
    run(tmp_path / "alone", STEPS)
    # Two ranks keep two inner optimisers, so the numbers differ from one process; the episodes do not.
    tasks = [[record["tasks"] for record in log_without_clock(tmp_path / name)] for name in ("ranks", "alone")]
    assert tasks[0] == tasks[1]
    assert set(final_state(tmp_path / "ranks")) == {
        "name",
        "shared.safetensors",
        "rank-0.safetensors",
        "rank-1.safetensors",
    }
