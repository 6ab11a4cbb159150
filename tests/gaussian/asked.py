"""What can be asked of a Gaussian layer: every implementation is tested with each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from torch import Tensor

from abmll.core.types import PassRequest
from abmll.gaussian.moments import Factors

ASKED: list[dict[str, Any]] = [
    {"sample": True},
    {"sample": False},
    {"sample": True, "kl": "sample"},
    {"sample": True, "hyper_prior": True},
    {"sample": False, "hyper_prior": True},
    {"sample": True, "kl": "sample", "hyper_prior": True},
    {"sample": True, "hyper_prior": True, "prior_only": True},
    {"sample": True, "kl": "sample", "prior_only": True},
    {"sample": False, "prior_only": True},
]


def requested(asked: dict[str, Any]) -> dict[str, Any]:
    """These arguments of `gaussian_output` with what is asked in one request."""
    names = {field.name for field in fields(PassRequest)}
    request = PassRequest(**{name: value for name, value in asked.items() if name in names})
    return {"request": request, **{name: value for name, value in asked.items() if name not in names}}


def with_tensors(gaussian: Factors, tensors: Iterable[Tensor]) -> Factors:
    """The Gaussian with other factors, and with its own scaling, offset and bound."""
    factors: dict[str, Any] = dict(zip(gaussian._fields, tensors, strict=False))
    return gaussian._replace(**factors)
