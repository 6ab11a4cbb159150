"""A server that forks processes with everything imported: a process starts in milliseconds, not in seconds."""

from __future__ import annotations

import multiprocessing
import os

import pytest


@pytest.fixture(scope="session")
def forkserver() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    # Installed modules only: before Python 3.13 the server does not know this process's sys.path.
    preload = ["abmll.training.loop", "abmll.methods", "torch._dynamo", "abmll.learner"]
    context.set_forkserver_preload([*preload, "transformers.models.llama.modeling_llama", "peft"])
