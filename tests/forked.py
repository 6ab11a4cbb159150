"""Processes that start in milliseconds: forked from a server that has imported everything once.

A test that uses them asks for the fixture `forkserver`. Each worker of xdist has a server of its own, if it needs one.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

import pytest
import torch

# Installed modules only: before Python 3.13 the server does not know this process's sys.path.
PRELOADED = ["abmll.pipeline", "abmll.training.loop", "torch._dynamo", "transformers.models.llama.modeling_llama"]
SECONDS = 240


def server() -> ForkServerContext:
    """The context whose processes are forked; its first process starts the server."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def start(target: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """A process that calls `target`, a function of a module that can be imported."""
    process = server().Process(target=target, args=arguments)
    process.start()
    return process


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
