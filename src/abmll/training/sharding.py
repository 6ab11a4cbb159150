"""A frozen language model that several ranks hold between them, when one cannot; the adapters stay whole on each.

Every large weight lies in equal parts on the ranks that share it. A pass gathers it just before its layer computes
with it, forward and again backward, and lets it go after (PyTorch's FSDP2). Nothing is ever reduced: the weights are
frozen, and the adapters' gradients travel as they do without sharding.

A gather waits for all sharing ranks, so they must make the same passes in the same order, whatever the length of each
one's own examples. Meta-learners promise that by `equal_passes`; `abmll evaluate` gives sharing ranks the same cells.
"""

from __future__ import annotations

import inspect
from collections import Counter
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from abmll.adapters import adapter_parameters
from abmll.core.errors import AbmllError
from abmll.core.types import META, TASK, Likelihood, MetaLearner
from abmll.training.distributed import Ranks

SMALL = 1 << 14
"""Modules whose largest weight has fewer numbers than this stay whole: norms would cost a gather and save nothing."""


def sharing_ranks(ranks: Ranks, shard: int, device: torch.device | None = None) -> DeviceMesh | None:
    """The ranks that share a copy of the model with this one: `shard` consecutive ones. All ranks must call it.

    Args:
        device: where they compute; without it, the number alone is checked and None returned.

    Raises:
        AbmllError: If the ranks do not divide into such groups.
    """
    if ranks.size % shard:
        raise AbmllError(
            f"model.shard is {shard}, the number of processes that hold one model between them, and this job has "
            f"{ranks.size}. Start a multiple of {shard} (torchrun --nproc-per-node {shard} -m abmll.cli …), or set "
            "model.shard=1."
        )
    return None if device is None or shard == 1 else _mesh(device.type, ranks.size // shard, shard)


@cache
def _mesh(device_type: str, copies: int, shard: int) -> DeviceMesh:
    return init_device_mesh(device_type, (copies, shard), mesh_dim_names=("copy", "shard"))["shard"]


def shard_base(model: Any, mesh: DeviceMesh | None) -> None:
    """Keeps this rank's part of every large weight of the base model, in place, on the mesh's device.

    Args:
        model: a PEFT model with the adapters META and TASK (`abmll.adapters.attach_roles`), the same on every rank.
        mesh: the sharing ranks; with None the model stays as it is.

    A unit is one module that owns weights, not a transformer block as is usual: a Gaussian layer's KL is a second
    output of its block, and its backward pass would begin inside the block, before FSDP has gathered the block's
    weights. Weights that several modules share (tied embeddings) belong to the whole model's unit.

    Raises:
        AbmllError: If this version of torch cannot leave the adapters whole.
    """
    if mesh is None:
        return
    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise AbmllError(f"model.shard needs torch 2.7 or newer, and this is {torch.__version__}.")
    base: nn.Module = model.get_base_model()
    whole = _adapters(model)
    uses = Counter(p for module in base.modules() for p in module.parameters(recurse=False))
    units = []
    for module in base.modules():
        own = [p for p in module.parameters(recurse=False) if p not in whole]
        if own and max(p.numel() for p in own) < SMALL:
            whole.update(own)
        elif own and all(uses[p] == 1 for p in own):
            units.append(module)
    device = torch.device("cuda", torch.cuda.current_device()) if mesh.device_type == "cuda" else torch.device("cpu")
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for module in (*units, base):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole)


def is_sharded(likelihood: Likelihood) -> bool:
    """Whether several ranks hold the likelihood's model between them."""
    model = getattr(likelihood, "model", None)
    return isinstance(model, nn.Module) and any(isinstance(module, FSDPModule) for module in model.modules())


def _adapters(model: Any) -> set[nn.Parameter]:
    return {p for role in (META, TASK) for p in adapter_parameters(model, role).values()}


def require_equal_passes(learner: MetaLearner) -> None:
    """Raises AbmllError for a meta-learner that ranks which share a model cannot run on episodes of their own."""
    if not getattr(learner, "equal_passes", False):
        raise AbmllError(
            f"{type(learner).__name__} does not promise to take the same passes through the model in every episode, "
            "each differentiated once (equal_passes), which ranks that hold one model between them need. Use a "
            "first-order method (abmll, reptile, fomaml, multitask), or set model.shard=1."
        )
