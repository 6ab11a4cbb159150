"""Shared fixtures: where optional real data and the optional real model lie."""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reports.undrawn import planned_only


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "dist", "no") != "no":  # the process that only hands out tests need not import torch
        return
    import torch

    from tests.shortcuts import Shortcuts

    # One thread a worker: several workers whose threads wait for each other take many times as long.
    torch.set_num_threads(1)
    if config.option.markexpr == "not slow":
        config.pluginmanager.register(Shortcuts(), "shortcuts")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, and torch finds none")


def pytest_collection_finish() -> None:
    """What the imports have made stays for ever: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def undrawn() -> Iterator[None]:
    """Reports without their drawings (`tests.reports.undrawn`)."""
    with planned_only():
        yield


@pytest.fixture(scope="session")
def one_layer() -> tuple[Any, Any]:
    """The embedded model with the first of its three layers alone, and its tokenizer."""
    from abmll import default

    model, tokenizer = default.model()
    del model.model.layers[1:]
    model.config.num_hidden_layers = 1
    return model, tokenizer


@pytest.fixture
def shallow(one_layer: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model is a shallow one, for tests that look at what runs and not at how good it is."""
    model, tokenizer = one_layer
    monkeypatch.setattr("abmll.default.model", lambda: (copy.deepcopy(model), tokenizer))


@pytest.fixture(scope="session")
def forkserver() -> None:
    """Asked for by tests that fork (`tests.forked`)."""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with `data/realtasks` and `models/stories260K`; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("ABMLL_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data" / "realtasks").is_dir():
        pytest.skip(f"no real tasks at {folder}: set ABMLL_SHARED to the folder that holds data/realtasks")
    return folder
