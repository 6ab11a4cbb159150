"""A model as a function of some of its parameters, which may be differentiated twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from abmll.core.errors import AbmllError
from abmll.gaussian.layer_output import implementation

TWICE_DIFFERENTIABLE = ("eager", "sdpa")
"""Attention implementations that have a second derivative: sdpa by its plain kernel, the fused ones have none."""


@contextmanager
def called_at(model: Any, tensors: Mapping[str, Tensor]) -> Iterator[Callable[..., Any]]:
    """The model's forward pass with `tensors` in place of the parameters of these names.

    Inside the block attention takes the plain kernel of `scaled_dot_product_attention`, on every device, and
    Gaussian layers the naive implementation: the fused ones have no second derivative.

    Raises:
        AbmllError: Under gradient checkpointing, whose recomputation would silently see the model's own parameters
            again; and for an attention implementation that cannot be differentiated twice.
    """
    base = model.get_base_model()
    if any(getattr(module, "gradient_checkpointing", False) for module in base.modules()):
        raise AbmllError(
            "gradient checkpointing is on, and under it a gradient through the inner loop would be silently wrong. "
            "Call model.gradient_checkpointing_disable(), or use a first-order method (fomaml, reptile, abmll)."
        )
    attention = getattr(base.config, "_attn_implementation", "eager")
    if attention not in TWICE_DIFFERENTIABLE:
        raise AbmllError(
            f"attn_implementation={attention!r} cannot be differentiated twice. Load the model with "
            'attn_implementation="sdpa" or "eager", or use a first-order method (fomaml, reptile, abmll).'
        )
    with sdpa_kernel(SDPBackend.MATH), implementation("naive"):
        yield lambda **inputs: functional_call(model, dict(tensors), (), inputs)
