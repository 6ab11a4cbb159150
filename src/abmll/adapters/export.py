"""A sample of a Gaussian over weights as an ordinary LoRA."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from abmll.adapters.abmll.config import AbmllConfig
from abmll.adapters.lora_copy import at_most_float32, write_lora
from abmll.adapters.names import LORA_FOLDER
from abmll.adapters.roles import adapter_parameters
from abmll.core.errors import AbmllError
from abmll.core.seeds import derive_seed, seeded
from abmll.core.types import Role
from abmll.gaussian import moments, weight_space


def export_sample(model: PeftModel, role: Role, directory: str | Path, *, seed: int) -> Path:
    """Writes one sample of a posterior over weights (`space="weight"`) as a LoRA of rank 2r + 1; returns the folder.

    It changes every layer's weight by M + σ∘uvᵀ, with random signs u and v that depend on `seed` and on the layer's
    name alone: equal seeds are equal samples, and the samples of several seeds are an ensemble that any LoRA server
    can run.

    Raises:
        AbmllError: For an adapter whose Gaussian is not over weights.
    """
    tensors = {name: tensor.detach() for name, tensor in adapter_parameters(model, role).items()}
    config = model.peft_config[role]
    if not isinstance(config, AbmllConfig) or config.space != "weight":
        found = f"space={config.space!r}" if isinstance(config, AbmllConfig) else f"a {type(config).__name__}"
        raise AbmllError(
            f"a sample is an ordinary LoRA only if the Gaussian is over weights (space='weight'); the adapter {role!r} "
            f"has {found}. Its mean is exported by save_adapter(), in the folder {LORA_FOLDER!r}."
        )
    return write_lora(config, sample_as_lora(tensors, config, seed), 2 * config.r + 1, Path(directory), None)


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
        lora[f"{module}.lora_A.weight"] = at_most_float32(A.to(mean_A.dtype).contiguous())
        lora[f"{module}.lora_B.weight"] = at_most_float32(B.to(mean_A.dtype).contiguous())
    return lora
