"""Runs on the toy that other processes can start too (forked, by torchrun or bare), and their comparison.

    python training_runs.py DIRECTORY [num_steps]

trains in DIRECTORY, going on from its newest checkpoint. It prints "ready" when training is about to begin.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from abmll.core.errors import AbmllError
from abmll.core.types import META, AdapterSpec, Method, OuterOptimizer
from abmll.methods.abmll_output import Abmll
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.objective import Objective
from abmll.training.log import read_log
from abmll.training.loop import TrainingResult, train
from abmll.training.settings import Training

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the processes started by its path
from tests.toy import GaussianToy, ToyEpisodes

CLOCK = ("seconds", "tokens_per_second", "peak_memory_bytes")


def persistent_method(persistent: bool = True, **outer: Any) -> Method:
    """Everything that a resume could forget: sampled noise, two optimisers with moments, a schedule, clipping."""
    objective = Objective(0.1, 0.01, "sum", "sample", sample=True)
    inner = InnerLoop(3, 0.05, batch_size=2, objective=objective)
    options: dict[str, Any] = {"learning_rate": 0.03, "schedule": "cosine", "max_grad_norm": 1.0} | outer
    learner = Abmll(inner, objective, "query", query_gradient=True, persistent_optimizer=persistent)
    return Method(AdapterSpec("abmll"), GradientAdaptation(inner), learner, OuterOptimizer(**options))


def run(
    directory: Path | None,
    num_steps: int = 40,
    *,
    persistent: bool = True,
    outer: dict[str, Any] | None = None,
    resume: bool = True,
    **training: Any,
) -> tuple[dict[str, torch.Tensor], TrainingResult]:
    """Trains and returns META and the result."""
    likelihood = GaussianToy()
    settings = Training(num_steps, **{"episodes_per_step": 2, "checkpoint_every": 2} | training)
    resume = resume and directory is not None
    result = train(
        likelihood,
        persistent_method(persistent, **outer or {}),
        ToyEpisodes(),
        settings,
        directory=directory,
        resume=resume,
    )
    return {name: value.detach().clone() for name, value in likelihood.parameters(META).items()}, result


def run_as_rank(rank: int, directory: Path, out: Path, options: dict[str, Any], sabotage: dict[int, str]) -> None:
    """One rank of a job; writes META to `out/rank-N.pt`, or its error to `out/rank-N.txt`.

    sabotage: what goes wrong on which rank in its fifth episode, "death" or "nan".
    """
    if rank in sabotage:
        break_fifth_episode(sabotage[rank])
    out.mkdir(parents=True, exist_ok=True)
    try:
        meta, _ = run(directory, **options)
    except AbmllError as error:
        (out / f"rank-{rank}.txt").write_text(str(error))
        raise SystemExit(1) from None
    torch.save(meta, out / f"rank-{rank}.pt")


def break_fifth_episode(how: str) -> None:
    intact, calls = Abmll.meta_gradient, []

    def broken(self: Abmll, likelihood: Any, episode: Any) -> dict[str, float]:
        calls.append(episode.task)
        if len(calls) == 5 and how == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        metrics = intact(self, likelihood, episode)
        return metrics | {"nll": float("nan")} if len(calls) == 5 else metrics

    Abmll.meta_gradient = broken  # type: ignore[method-assign]


def final_state(directory: Path) -> dict[str, bytes]:
    """The bytes of the newest checkpoint's tensors: META, TASK and both optimisers."""
    newest = max((directory / "checkpoints").glob("step-*"))
    return {file.name: file.read_bytes() for file in newest.glob("*.safetensors")} | {"name": newest.name.encode()}


def log_without_clock(directory: Path) -> list[dict[str, Any]]:
    """The log, without the fields that measure this machine."""
    return [{k: v for k, v in record.items() if k not in CLOCK} for record in read_log(directory)]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit-identical weights, optimisers and log, each step once."""
    assert final_state(one) == final_state(other)
    assert log_without_clock(one) == log_without_clock(other)
    steps = [record["step"] for record in read_log(one)]
    assert steps == list(range(1, len(steps) + 1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("ready", flush=True)
    run(Path(sys.argv[1]), *(int(argument) for argument in sys.argv[2:]))
