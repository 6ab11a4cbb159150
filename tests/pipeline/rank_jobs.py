"""Stages of the pipeline on several processes of this machine, as `torchrun` would start them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from pathlib import Path
from typing import Any

import torch

from abmll.config import load_config
from abmll.core.errors import AbmllError

SECONDS = 120


def job(size: int, stage: str, file: Path, out: Path, adapter: Path | None = None, **sabotage: Any) -> list[str]:
    """Runs a stage on `size` ranks; returns each one's end: "" or its message.

    stage: "train" or "evaluate" a run file; "adapt" to a task file or "predict" its rows, holding one model together.
    sabotage: `rank`, `cell` (counted from 0 on that rank) and `how` ("death" or "error"), for evaluate.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["abmll.pipeline", "abmll.methods", "torch._dynamo"])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    ends = [context.Pipe(duplex=False) for _ in range(size)]
    processes = []
    for rank, (_, end) in enumerate(ends):
        arguments = (rank, size, port, stage, file, out, adapter, sabotage, end)
        processes.append(context.Process(target=run_stage, args=arguments))
        processes[-1].start()
        end.close()
    told = []
    for process, (listening, _) in zip(processes, ends, strict=True):
        process.join(SECONDS)
        if process.is_alive():
            for other in processes:
                other.kill()
            raise AssertionError("a rank hangs")
        told.append("killed" if process.exitcode == -signal.SIGKILL else listening.recv())
    return told


def run_stage(rank, size, port, stage, file, out, adapter, sabotage, end):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    from abmll import pipeline

    if sabotage and sabotage["rank"] == rank:
        _spoil(sabotage["cell"], sabotage["how"])
    try:
        if stage == "train":
            pipeline.train_run(load_config(file), resume=True, progress=False)
        elif stage == "evaluate":
            pipeline.evaluate_run(load_config(file), adapter, out, progress=False)
        else:
            sharded = [f"model.shard={size}", "model.device=cpu"]
            {"adapt": pipeline.adapt_run, "predict": pipeline.predict_run}[stage](adapter, file, out, overrides=sharded)
        end.send("")
    except AbmllError as error:
        end.send(str(error))
    except BaseException as error:
        end.send(f"no message for people: {error!r}")
        raise


def _spoil(number, how):
    from abmll.methods.parts.gradient import GradientAdaptation

    adapt, calls = GradientAdaptation.adapt, []

    def spoiled(self, likelihood, support):
        calls.append(len(support))
        if len(calls) == number + 1:
            if how == "death":
                os.kill(os.getpid(), signal.SIGKILL)
            raise AbmllError("this cell went wrong")
        return adapt(self, likelihood, support)

    GradientAdaptation.adapt = spoiled
