"""A Gaussian adapter's mean as an ordinary LoRA, which plain PEFT and LoRA servers load without this package."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor

from abmll.adapters.names import LORA_FOLDER
from abmll.adapters.sorted_json import sorted_json


class Shape(Protocol):
    """What a LoRA takes over from the configuration of the adapter that it is a copy of."""

    r: int
    exclude_modules: Any
    layers_to_transform: Any
    layers_pattern: Any
    modules_to_save: Any
    task_type: Any
    base_model_name_or_path: Any
    revision: Any

    @property
    def scaling(self) -> float: ...


def export_mean(config: Shape, directory: Path, auto_mapping: dict[str, str] | None = None) -> Path | None:
    """Writes `directory/lora` from the ABMLL weights in `directory`; returns it, or None if there are no weights.

    The common denominator of what servers read: the scaling is folded into lora_B (so lora_alpha = r),
    target_modules is a list of leaf names, nothing but lora_A and lora_B (and modules_to_save, if there are any).
    A regular expression in target_modules may have chosen fewer modules than the leaf names do: PEFT then fills the
    rest with LoRAs of no effect, and says that their keys are missing.
    """
    weights = directory / SAFETENSORS_WEIGHTS_NAME
    if not weights.is_file():
        if any(directory.glob("adapter_model.*")):
            warnings.warn(
                f"{directory}/{LORA_FOLDER} (the posterior mean as an ordinary LoRA) is written only beside "
                f"{SAFETENSORS_WEIGHTS_NAME}: save with safe_serialization=True to get it.",
                stacklevel=2,
            )
        return None
    tensors = mean_as_lora(load_file(weights), config.scaling)
    return write_lora(config, tensors, config.r, directory / LORA_FOLDER, auto_mapping)


def write_lora(
    config: Shape, tensors: dict[str, Tensor], r: int, folder: Path, auto_mapping: dict[str, str] | None
) -> Path:
    """Writes these LoRA tensors of rank r as a PEFT folder, with the scaling folded in; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lora_config = LoraConfig(
        r=r,
        lora_alpha=r,
        target_modules=sorted(_leaf_names(tensors)),
        exclude_modules=config.exclude_modules,
        # a list, because older PEFTs take the single layer 0 for "not given"
        layers_to_transform=[layers] if isinstance(layers := config.layers_to_transform, int) else layers,
        layers_pattern=config.layers_pattern,
        modules_to_save=config.modules_to_save,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        inference_mode=True,
    )
    save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    arguments: dict[str, Any] = {} if auto_mapping is None else {"auto_mapping_dict": auto_mapping}
    lora_config.save_pretrained(str(folder), **arguments)
    path = folder / CONFIG_NAME
    path.write_text(sorted_json(json.loads(path.read_text())))
    return folder


def mean_as_lora(tensors: dict[str, Tensor], scaling: float) -> dict[str, Tensor]:
    """Renames mean_A, mean_B to lora_A, lora_B with the scaling folded into lora_B; drops the log-variances.

    Computed in float32 at least and stored in float32 at most, which is what servers read. Other tensors
    (modules_to_save) are kept as they are.
    """
    lora = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if kind == "abmll_mean_A":
            lora[f"{module}.lora_A.weight"] = at_most_float32(tensor)
        elif kind == "abmll_mean_B":
            wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            lora[f"{module}.lora_B.weight"] = at_most_float32((wide * scaling).to(tensor.dtype))
        elif not kind.startswith("abmll_"):
            lora[name] = tensor
    return lora


def at_most_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _leaf_names(tensors: dict[str, Tensor]) -> set[str]:
    suffix = ".lora_A.weight"
    return {name.removesuffix(suffix).rpartition(".")[2] for name in tensors if name.endswith(suffix)}
