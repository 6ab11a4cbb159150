"""Whether a learner's adapters are still what its model computes with, and one piece of work at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from abmll.core.errors import AbmllError
from abmll.core.types import TASK

if TYPE_CHECKING:
    from abmll.learner.adapted_model import AdaptedModel

_LOCK = threading.RLock()
"""One for all learners: the task adapter is one place, and the random generators are the process's."""


@contextmanager
def working(learner: AdaptedModel) -> Iterator[None]:
    """A block that computes with the learner's adapters; other threads wait, and gradients are on in it.

    Raises:
        AbmllError: If the adapters are no longer in the model, or not switched on.
    """
    with _LOCK, torch.inference_mode(False), torch.enable_grad():
        require_attached(learner.model, learner.likelihood.parameters(TASK).values())
        yield


def require_attached(model: Any, parameters: Any) -> None:
    """Raises AbmllError if `parameters` are not all in the base model's layers, which alone compute.

    `model.unload()`, `merge_and_unload()` and a second learner on one model take them out; the PEFT model then goes on
    computing, without them.
    """
    there = {id(parameter) for parameter in model.get_base_model().parameters()}
    if any(id(parameter) not in there for parameter in parameters):
        raise AbmllError(
            "the adapters of this learner are no longer in its model: it was unloaded, merged or given to another one. "
            "Make a learner on a model of its own, or load what was saved with abmll.load()."
        )
    if list(model.active_adapters) != [TASK]:
        raise AbmllError(
            f"the model computes with the adapters {list(model.active_adapters)}, not with {TASK!r}. Set it back: "
            f"learner.model.set_adapter({TASK!r})."
        )
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if any(layer.disable_adapters or layer.merged for layer in layers):
        raise AbmllError(
            "the adapters are switched off or merged into the model's weights. Leave disable_adapter(), call "
            "enable_adapter_layers() or unmerge_adapter()."
        )
