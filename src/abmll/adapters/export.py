"""The posterior mean, or a sample, as an ordinary LoRA, which plain PEFT and LoRA servers load without this package."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor

from abmll.adapters.abmll.config import AbmllConfig, sorted_json
from abmll.adapters.names import LORA_FOLDER
from abmll.adapters.roles import adapter_parameters
from abmll.core.errors import AbmllError
from abmll.core.seeds import derive_seed, seeded
from abmll.core.types import Role
from abmll.gaussian import moments, weight_space


def export_mean(config: AbmllConfig, directory: Path, auto_mapping: dict[str, str] | None = None) -> Path | None:
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
    return _write(config, tensors, config.r, directory / LORA_FOLDER, auto_mapping)


def export_sample(model: PeftModel, role: Role, directory: str | Path, *, seed: int) -> Path:
    """Writes one sample of a posterior over weights (`space="weight"`) as a LoRA of rank 2r + 1; returns the folder.

    It changes every layer's weight by M + σ∘uvᵀ, with random signs u and v that depend on `seed` and on the layer's
    name alone: equal seeds are equal samples, and the samples of several seeds are an ensemble that any LoRA server
    can run.

    Raises: AbmllError for an adapter whose Gaussian is not over weights.
    """
    tensors = {name: tensor.detach() for name, tensor in adapter_parameters(model, role).items()}
    config = model.peft_config[role]
    if not isinstance(config, AbmllConfig) or config.space != "weight":
        found = f"space={config.space!r}" if isinstance(config, AbmllConfig) else f"a {type(config).__name__}"
        raise AbmllError(
            f"a sample is an ordinary LoRA only if the Gaussian is over weights (space='weight'); the adapter {role!r} "
            f"has {found}. Its mean is exported by save_adapter(), in the folder {LORA_FOLDER!r}."
        )
    return _write(config, sample_as_lora(tensors, config, seed), 2 * config.r + 1, Path(directory), None)


def sample_as_lora(tensors: dict[str, Tensor], config: AbmllConfig, seed: int) -> dict[str, Tensor]:
    """The tensors of that LoRA, from those of the adapter by name. Other tensors (modules_to_save) are kept."""
    lora = {name: tensor for name, tensor in tensors.items() if not name.rpartition(".")[2].startswith("abmll_")}
    for name in tensors:
        module, _, kind = name.rpartition(".")
        if kind != "abmll_mean_A":
            continue
        mean_A, mean_B, std_A, std_B = (
            tensors[f"{module}.abmll_{part}"] for part in ("mean_A", "mean_B", "log_var_A", "log_var_B")
        )
        g = moments.Factors(mean_A, mean_B, std_A, std_B, config.scaling, config.log_var_offset)
        with seeded(derive_seed("sample", seed, module)):
            signs = (
                weight_space.draw_signs(size, device=torch.device("cpu")) for size in (mean_A.shape[1], len(mean_B))
            )
            A, B = weight_space.as_lora(g, *(s.to(mean_A.device) for s in signs))
        lora[f"{module}.lora_A.weight"] = _at_most_float32(A.to(mean_A.dtype).contiguous())
        lora[f"{module}.lora_B.weight"] = _at_most_float32(B.to(mean_A.dtype).contiguous())
    return lora


def _write(
    config: AbmllConfig, tensors: dict[str, Tensor], r: int, folder: Path, auto_mapping: dict[str, str] | None
) -> Path:
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
            lora[f"{module}.lora_A.weight"] = _at_most_float32(tensor)
        elif kind == "abmll_mean_B":
            wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            lora[f"{module}.lora_B.weight"] = _at_most_float32((wide * scaling).to(tensor.dtype))
        elif not kind.startswith("abmll_"):
            lora[name] = tensor
    return lora


def _at_most_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _leaf_names(tensors: dict[str, Tensor]) -> set[str]:
    suffix = ".lora_A.weight"
    return {name.removesuffix(suffix).rpartition(".")[2] for name in tensors if name.endswith(suffix)}
