"""Inputs, and what is measured of a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters.adapter_models import VOCABULARY, base_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def logits(ids: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    @torch.no_grad()
    def compute(model: Any) -> torch.Tensor:
        return model(ids).logits

    return compute


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    """A saved base model, for what loads one by its path."""
    folder = tmp_path / "base"
    base_model().save_pretrained(folder)
    return folder
