"""Checks of the names a user gives: adapters, and the modules they adapt."""

from __future__ import annotations

import difflib
import re

from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, AuxiliaryTrainingWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from abmll.core.errors import AbmllError

LORA_FOLDER = "lora"
"""Inside an adapter's folder: the mean of a Gaussian adapter as an ordinary LoRA."""
LONGEST_PATTERN = 1000
"""Characters of the longest regular expression that is taken."""
MOST_REPETITIONS = 5, 10
"""How many parts of an expression may be repeated (`*`, `+`, `{}`), and how many left out (`?`): the ways that matching
tries grow exponentially with them."""
_REPEATED_GROUP, _REPEATED, _LEFT_OUT = re.compile(r"\)[*+{]"), re.compile(r"[*+{]"), re.compile(r"(?<![(*+?}])\?")
_RESERVED = ("base_model", "model", "base_layer", "modules_to_save", "original_module")


def check_adapter_name(model: nn.Module, name: str) -> None:
    """Refuses an adapter name that cannot be told from a module's name in a state dict.

    With an adapter named like a module (say "layers"), PEFT's filters write no tensors at all for the other
    adapters, without a word.

    Raises:
        AbmllError: For such a name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise AbmllError(f"the adapter name {name!r} must consist of letters, digits, '_' and '-' only.")
    if hasattr(nn.ParameterDict, name) or name in vars(nn.ParameterDict()):
        raise AbmllError(f"the adapter name {name!r} is taken by torch.nn.ParameterDict: choose another one.")
    taken = dict.fromkeys(_RESERVED, "PEFT's own wrapper")
    wrappers: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path.startswith(wrappers):  # inside an adapter layer, where adapters' names are modules' names
            continue
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            wrappers += (f"{path}.",)
        taken.setdefault(path.rpartition(".")[2], repr(path))
    if name in taken:
        raise AbmllError(
            f"the adapter name {name!r} is also the name of a module of this model ({taken[name]}), and PEFT would "
            "then save the other adapters empty: choose another name."
        )


def check_target_modules(model: nn.Module, config: PeftConfig) -> None:
    """Refuses a target that matches nothing, where PEFT goes on as long as one of several matches.

    Raises:
        AbmllError: If there are none; it names the nearest layers and lists all that can be adapted.
    """
    targets = getattr(config, "target_modules", None)
    if targets is None:
        architecture = getattr(getattr(model, "config", None), "model_type", None)
        if architecture not in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
            raise AbmllError(
                f"PEFT knows no default target_modules for the architecture {architecture!r}. "
                f"Set target_modules to 'all-linear' or to some of: {_listed(model)}."
            )
        return
    paths = [path for path, module in model.named_modules() if path]
    if isinstance(targets, str):
        _check_pattern(targets)
        if targets == "all-linear" or any(re.fullmatch(targets, path) for path in paths):
            return
        raise AbmllError(
            f"target_modules={targets!r} is a regular expression that matches no module of this "
            f"{type(model).__name__}. It must match the whole path, such as {paths[-1]!r}. "
            f"Layers that can be adapted: {_listed(model)}."
        )
    if not targets:
        raise AbmllError(f"target_modules is empty: set it to 'all-linear' or to some of: {_listed(model)}.")
    for target in sorted(targets):
        if not any(path == target or path.endswith(f".{target}") for path in paths):
            near = difflib.get_close_matches(target.rpartition(".")[2], adaptable_layers(model), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise AbmllError(
                f"target_modules names {target!r}, which no module of this {type(model).__name__} has.{hint} "
                f"Layers that can be adapted: {_listed(model)}."
            )


def _check_pattern(pattern: str) -> None:
    """Refuses what is no regular expression, and what may take for ever to match: a group that is repeated, whose parts
    may each match in several ways, and many repetitions one after the other."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        reason = str(error).partition("\n")[0] or "nested too deep"
        raise AbmllError(
            f"target_modules={pattern[:80]!r} is no regular expression: {reason}. Name layers in a list, such as "
            '["q_proj", "v_proj"], or write "all-linear".'
        ) from None
    repeated, left_out = (len(sign.findall(pattern)) for sign in (_REPEATED, _LEFT_OUT))
    many = repeated > MOST_REPETITIONS[0] or left_out > MOST_REPETITIONS[1]
    if len(pattern) > LONGEST_PATTERN or many or _REPEATED_GROUP.search(pattern):
        raise AbmllError(
            f"target_modules={pattern[:80]!r} is longer than {LONGEST_PATTERN} characters, repeats a group, such as "
            f"(a|b)+, or repeats more than {MOST_REPETITIONS[0]} parts, which may take for ever. Name layers in a "
            "list, or write a plainer one."
        )


def adaptable_layers(model: nn.Module) -> list[str]:
    """The last part of the names of the model's linear layers, once each, in alphabetical order."""
    names = set()
    for path, module in model.named_modules():
        layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if path and isinstance(layer, nn.Linear | Conv1D):
            names.add(path.removesuffix(".base_layer").rpartition(".")[2])
    return sorted(names)


def expert_weights(model: nn.Module) -> list[str]:
    """The names of weights of experts that are no linear layers, several experts' in one tensor."""
    linear = (nn.Linear, nn.Embedding, Conv1D, BaseTunerLayer)
    return [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if not isinstance(module, linear) and "expert" in f"{path}.{type(module).__name__}".lower()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    ]


def _listed(model: nn.Module) -> str:
    return ", ".join(adaptable_layers(model)) or "(none: this model has no linear layers)"
