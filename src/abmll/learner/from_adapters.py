"""θ from LoRAs that a user has trained already, one a task, instead of from tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import PurePath
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from abmll.adapters.lora_folders import LoraFolders, read_lora_folders
from abmll.adapters.roles import adapter_parameters
from abmll.core.errors import AbmllError
from abmll.core.library import lora_of
from abmll.core.notices import tell
from abmll.core.types import META
from abmll.gaussian.lora_prior import SMALLEST_VARIANCE, lora_prior

if TYPE_CHECKING:
    from abmll.learner.learner import Learner

_PARTS = {"mean": (".abmll_mean_A", ".abmll_mean_B"), "log_var": (".abmll_log_var_A", ".abmll_log_var_B")}
_LORA = (".lora_A.weight", ".lora_B.weight")


Given = LoraFolders | str | PathLike[str] | Iterable[str | PathLike[str]]
"""LoRAs that are read, their folders, or a folder that holds these."""


def learn_from_adapters(learner: Learner, given: Given) -> str:
    """Sets θ to the prior that several tasks' LoRAs are draws of; see `gaussian.lora_prior`.

    A method whose adapter is a LoRA gets the mean; one whose adapter is a Gaussian over factors the variances as well,
    relative to each other: their geometric mean is the method's own width at first. One that has a LoRA for each task
    gets those that are given.

    Args:
        learner: its adapter has the rank and the layers of the LoRAs.
        given: their folders, as `adapters.lora_folders.read_lora_folders` takes them, or what it has read.

    Returns:
        One line that says what was made of what.

    Raises:
        AbmllError: For folders that cannot be read, and where the LoRAs and the learner's adapter do not agree.
    """
    given = [given] if isinstance(given, (str, PathLike)) else given
    loras = given if isinstance(given, LoraFolders) else read_lora_folders(given)
    config = learner.model.peft_config[META]
    if learner.method.adapter.num_loras > 1 or hasattr(learner.method.meta_learner, "num_loras"):
        return _as_library(learner, loras)
    gaussian = getattr(config, "space", None)
    if gaussian not in (None, "factors"):
        raise AbmllError(
            f"{learner.name!r} has a Gaussian over {'outputs' if gaussian == 'output' else 'weights'}, of which LoRAs "
            "say nothing. Take a method with a prior over LoRA parameters (abmll), or with a LoRA (multitask, reptile)."
        )
    theta = adapter_parameters(learner.model, META)
    first, second = _PARTS["mean"] if gaussian else _LORA
    _check(learner, loras, theta, (first, second))
    scaling = config.lora_alpha / config.r
    kept = size = 0.0
    variances: dict[str, float] = {}
    with torch.no_grad():
        for layer, several in loras.layers.items():
            prior = lora_prior(several, scaling)
            theta[layer + first].copy_(prior.mean.A)
            theta[layer + second].copy_(prior.mean.B)
            for name, variance in zip(_PARTS["log_var"], (prior.variance_A, prior.variance_B), strict=True):
                variances[layer + name] = variance
            kept, size = kept + prior.size, size + prior.size / max(prior.kept, 1e-12)
        if gaussian:
            for name, width in _widths(variances).items():
                theta[name].fill_(width)
    return (
        f"θ from {len(loras.folders)} LoRAs on {len(loras.layers)} layers: rank {loras.rank} keeps "
        f"{kept / size if size else 1:.0%} of the mean of their changes."
    )


def _as_library(learner: Learner, loras: LoraFolders) -> str:
    """θ of a method that has a LoRA for each task: those that are given, side by side."""
    theta, config = adapter_parameters(learner.model, META), learner.model.peft_config[META]
    count, number = learner.method.adapter.num_loras, len(loras.folders)
    _check(learner, loras, theta, _LORA, count)
    if number > count:
        raise AbmllError(
            f"{number} LoRAs, and room for {count} in the library of {learner.name!r}: set num_loras={number}."
        )
    scaling = config.lora_alpha / config.r
    with torch.no_grad():
        for tensor in theta.values():
            tensor.zero_()
        for layer, several in loras.layers.items():
            for index, lora in enumerate(several):
                own = lora_of({name: theta[name] for name in (layer + part for part in _LORA)}, index, count)
                own[layer + _LORA[0]].copy_(lora.A)
                own[layer + _LORA[1]].copy_(lora.B * (lora.scaling / scaling))
    return f"A library of {number} LoRAs on {len(loras.layers)} layers, each as it is."


def _widths(variances: dict[str, float]) -> dict[str, float]:
    """log σ² of every tensor relative to their mean: what a method's `log_var_offset` comes on top of.

    LoRAs say how much wider one tensor's distribution is than another's, not how long steps should be: those of the
    width that is measured are too short (benchmarks/results/from_adapters.md). Tensors in which all LoRAs agree stay
    where they are, and have no part in the mean.
    """
    logs = {name: math.log(variance) for name, variance in variances.items()}
    differ = [log for name, log in logs.items() if variances[name] > SMALLEST_VARIANCE] or list(logs.values())
    mean = math.fsum(differ) / len(differ)
    return {name: log - mean for name, log in logs.items()}


def _check(
    learner: Learner, loras: LoraFolders, theta: Mapping[str, Tensor], mean: tuple[str, str], count: int = 1
) -> None:
    """mean: what the names of θ's A and B end with. count: how many LoRAs stand side by side in θ."""
    first, second = mean
    layers = {name.removesuffix(first) for name in theta if name.endswith(first)}
    config = learner.model.peft_config[META]
    wrong = []
    if len(loras.base_models) > 1:
        wrong.append(f"the LoRAs name different base models: {', '.join(loras.base_models)}")
    if config.r // count != loras.rank:
        wrong.append(f"the LoRAs have rank {loras.rank}, the learner's adapter {config.r // count}: set r={loras.rank}")
    if layers != loras.layers.keys():
        alone = sorted(layers ^ loras.layers.keys())
        who = "LoRAs" if alone[0] in loras.layers else "learner's adapter"
        wrong.append(
            f"the LoRAs and the learner's adapter are on different layers: {len(alone)} are in one alone, the first of "
            f"them {alone[0]!r} in the {who}. Set target_modules={loras.target_modules}"
        )
    if not wrong:
        for layer, (one, *_) in loras.layers.items():
            sizes = (one.A.shape[1], one.B.shape[0])
            ours = (theta[layer + first].shape[1], theta[layer + second].shape[0])
            if sizes != ours:
                wrong.append(
                    f"the LoRAs are of another base model: {layer!r} maps {sizes[0]} to {sizes[1]} numbers there, and "
                    f"{ours[0]} to {ours[1]} here"
                )
                break
    if wrong:
        raise AbmllError("; ".join(wrong) + ".")
    base = str(getattr(learner.model.get_base_model(), "name_or_path", "") or "")
    for theirs in loras.base_models:
        if base and PurePath(theirs).name != PurePath(base).name:
            tell(f"The LoRAs name {theirs!r} as their base model, this one is {base!r}: taken for the same weights.")
