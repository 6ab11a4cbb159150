"""The blocks that a causal language model is a stack of: which an adapter touches, and how to leave some out."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from abmll.core.errors import AbmllError


class Blocks(NamedTuple):
    """The stack, lowest block first, and its path in the model ("model.layers")."""

    path: str
    modules: nn.ModuleList


def blocks_of(model: nn.Module) -> Blocks | None:
    """The one list of as many modules as the configuration has hidden layers; None if none or several are.

    Args:
        model: a plain causal LM, with or without adapter layers in it, but not PEFT's wrapper.
    """
    config: Any = getattr(model, "config", None)
    if config is None:
        return None
    count = getattr(config.get_text_config(), "num_hidden_layers", None)
    found = [
        Blocks(path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    return found[0] if len(found) == 1 else None


def below(model: nn.Module, upper_layers: int) -> str | None:
    """A regular expression for PEFT's `exclude_modules`: all that lies in the blocks below the last `upper_layers`.

    None if there is none below. An expression, because PEFT takes `layers_to_transform` only beside a list of names.

    Raises:
        AbmllError: If the model has not so many blocks, or no stack of blocks that could be told.
    """
    blocks = blocks_of(model)
    if blocks is None:
        raise AbmllError(
            f"upper_layers = {upper_layers}, but the blocks of this {type(model).__name__} could not be told: no list "
            "of modules, or more than one, is as long as its configuration has hidden layers. Leave upper_layers out, "
            "or name the layers to adapt in target_modules."
        )
    total = len(blocks.modules)
    if isinstance(upper_layers, bool) or not 1 <= upper_layers <= total:
        raise AbmllError(
            f"upper_layers = {upper_layers!r} must be a whole number of this {type(model).__name__}'s {total} blocks, "
            f"from 1 (the last one) to {total} (all, as without it)."
        )
    lower = range(total - upper_layers)
    return rf"{re.escape(blocks.path)}\.({'|'.join(map(str, lower))})\..*" if lower else None


def untouched(model: Any, blocks: Blocks) -> int:
    """How many blocks lie below everything that adapters change: 0 if one changes something before the blocks.

    Args:
        model: as for `blocks_of`. A change to the output embeddings comes after all blocks.
    """
    count, inside = len(blocks.modules), f"{blocks.path}."
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    above = {id(module) for module in head.modules()} if isinstance(head, nn.Module) else set()
    for path, module in model.named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and id(module) not in above:
            if not path.startswith(inside):
                return 0
            count = min(count, int(path.removeprefix(inside).partition(".")[0]))
    return count


def within_trunk(model: Any, config: PeftConfig, unlike: Sequence[str]) -> PeftConfig:
    """A copy of `config` that leaves out what no adapter is for, unless it names its targets itself.

    PEFT's "all-linear" leaves out the output embeddings alone. The heads of some models have a dense layer before them
    (ModernBERT's decoder, the RoBERTa family), which sees the scored tokens only and belongs to no block; and some of
    their linear layers answer with something else.

    Args:
        model: a plain causal LM.
        unlike: its `unlike_linear`.
    """
    found = copy.deepcopy(config)
    targets = getattr(found, "target_modules", None)
    if targets is not None and not (isinstance(targets, str) and targets.lower() == "all-linear"):
        return found
    if left_out := [*head_layers(model), *unlike]:
        changed: Any = found  # what is excluded is in no common base of the configurations
        excluded = changed.exclude_modules or set()
        if isinstance(excluded, str):
            changed.exclude_modules = "|".join([f"(?:{excluded})", *map(re.escape, left_out)])
        else:
            changed.exclude_modules = {*excluded, *left_out}
    return found


def head_layers(model: Any) -> list[str]:
    """The paths of linear layers behind the last block, but for the output embeddings.

    Args:
        model: a plain causal LM. Its head is what lies outside the model that transformers calls its base.
    """
    trunk = getattr(model, "base_model", model)
    if trunk is model:
        return []
    inside = {id(module) for module in trunk.modules()} | {id(model.get_output_embeddings())}
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) not in inside
    ]


def unlike_linear(model: nn.Module) -> list[str]:
    """The paths of layers that are an architecture's own kind of `nn.Linear` and do not answer like one: routers that
    return several things (Llama 4, Phi-MoE), layers in groups (DeepSeek V4). Found by asking them."""
    own = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and type(module).__module__.startswith("transformers.models.")
    ]
    return [path for path, module in own if not _answers_like_linear(module)]


@torch.no_grad()
def _answers_like_linear(layer: nn.Linear) -> bool:
    try:
        answer = layer(layer.weight.new_zeros(1, 1, layer.in_features))
    except Exception:  # whatever a foreign layer raises, it is no linear one
        return False
    return isinstance(answer, torch.Tensor) and answer.shape == (1, 1, layer.out_features)
