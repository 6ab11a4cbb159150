"""Processes that start in milliseconds: forked from the one that runs the tests, which has imported everything.

Where there is a GPU, whose driver does not survive a fork, they are forked from a server that imports it all once more.
A test that uses them asks for the fixture `forkserver`.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.context import ForkContext, ForkProcess, ForkServerContext, ForkServerProcess
from typing import Any

import pytest
import torch

# Installed modules only: before Python 3.13 the server does not know this process's sys.path.
PRELOADED = ["abmll.pipeline", "abmll.training.loop", "torch._dynamo", "transformers.models.llama.modeling_llama"]
SECONDS = 240


def forking() -> ForkContext | ForkServerContext:
    """The context whose processes are forked, everything that they need imported."""
    if torch.cuda.is_available():
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        return context
    for name in PRELOADED:
        importlib.import_module(name)
    return multiprocessing.get_context("fork")


def start(target: Callable[..., object], *arguments: Any) -> ForkProcess | ForkServerProcess:
    """A process that calls `target`, a function of a module that can be imported."""
    process = forking().Process(target=_with_streams, args=(target, arguments))
    process.start()
    return process


def _with_streams(target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """What it prints goes to the process's own streams, where the test's may be pytest's."""
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    target(*arguments)


def run_ranks(size: int, target: Callable[..., object], *arguments: Any) -> list[int | None]:
    """Calls `target(rank, *arguments)` on `size` ranks of this machine, as torchrun would; returns their exit codes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = [start(_as_rank, rank, size, port, target, arguments) for rank in range(size)]
    for process in processes:
        process.join(SECONDS)
        if process.is_alive():
            for other in processes:
                other.kill()
            pytest.fail("a rank hangs")
    return [process.exitcode for process in processes]


def _as_rank(rank: int, size: int, port: int, target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    target(rank, *arguments)
