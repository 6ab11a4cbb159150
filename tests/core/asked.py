"""What can be asked of a Gaussian layer: every implementation is tested with each."""

from __future__ import annotations

from typing import Any

ASKED: list[dict[str, Any]] = [
    {"sample": True},
    {"sample": False},
    {"sample": True, "estimator": "sample"},
    {"sample": True, "hyper_prior": True},
    {"sample": False, "hyper_prior": True},
    {"sample": True, "estimator": "sample", "hyper_prior": True},
    {"sample": True, "hyper_prior": True, "prior_only": True},
    {"sample": True, "estimator": "sample", "prior_only": True},
    {"sample": False, "prior_only": True},
]
