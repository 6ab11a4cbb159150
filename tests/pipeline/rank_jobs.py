"""Stages of the pipeline on several processes of this machine, as `torchrun` would start them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from abmll.config import load_config
from abmll.core.errors import AbmllError
from tests.forked import run_ranks


def job(size: int, stage: str, file: Path, out: Path, adapter: Path | None = None, **sabotage: Any) -> list[str]:
    """Runs a stage on `size` ranks; returns each one's end: "" or its message.

    stage: "train" or "evaluate" a run file; "adapt" to a task file or "predict" its rows, holding one model together.
    sabotage: `rank`, `cell` (counted from 0 on that rank) and `how` ("death" or "error"), for evaluate.
    """
    with TemporaryDirectory() as told:
        codes = run_ranks(size, run_stage, size, stage, file, out, adapter, sabotage, Path(told))
        return [
            "killed" if code == -signal.SIGKILL else (Path(told) / str(rank)).read_text(encoding="utf-8")
            for rank, code in enumerate(codes)
        ]


def run_stage(
    rank: int,
    size: int,
    stage: str,
    file: Path,
    out: Path,
    adapter: Path | None,
    sabotage: Mapping[str, Any],
    told: Path,
) -> None:
    from abmll import pipeline

    if sabotage and sabotage["rank"] == rank:
        _spoil(sabotage["cell"], sabotage["how"])
    sharded = [f"model.shard={size}", "model.device=cpu"]
    do: Callable[[], object] = {
        "train": lambda: pipeline.train_run(load_config(file), resume=True, progress=False),
        "evaluate": lambda: pipeline.evaluate_run(load_config(file), adapter, out, progress=False),
        "adapt": lambda: pipeline.adapt_run(adapter, file, out, overrides=sharded),
        "predict": lambda: pipeline.predict_run(adapter, file, out, overrides=sharded),
    }[stage]
    message = ""
    try:
        do()
    except AbmllError as error:
        message = str(error)
    except BaseException as error:
        message = f"no message for people: {error!r}"
        raise
    finally:
        (told / str(rank)).write_text(message, encoding="utf-8")


def _spoil(number: int, how: str) -> None:
    from abmll.methods.parts.head_posterior import BayesianHead

    adapt, calls = BayesianHead.adapt, list[int]()

    def spoiled(self: BayesianHead, likelihood: Any, support: Any) -> Any:
        calls.append(len(support))
        if len(calls) == number + 1:
            if how == "death":
                os.kill(os.getpid(), signal.SIGKILL)
            raise AbmllError("this cell went wrong")
        return adapt(self, likelihood, support)

    BayesianHead.adapt = spoiled  # type: ignore[method-assign]
