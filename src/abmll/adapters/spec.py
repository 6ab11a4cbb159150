"""From what a method asks for to PEFT's own configuration of it."""

from __future__ import annotations

from collections.abc import Sequence

from peft import LoraConfig, PeftConfig

from abmll.adapters.abmll import AbmllConfig
from abmll.core.types import AdapterSpec


def peft_config(
    spec: AdapterSpec,
    *,
    r: int = 8,
    lora_alpha: int = 16,
    target_modules: str | Sequence[str] = "all-linear",
    exclude_modules: str | None = None,
) -> PeftConfig:
    """The PEFT configuration of a method's adapter: `LoraConfig` for points, `AbmllConfig` for Gaussians.

    Args:
        r: of each LoRA, where the method has several side by side.
        lora_alpha: likewise.
        exclude_modules: a regular expression of what not to adapt (`adapters.blocks.below`).
    """
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    if spec.kind == "abmll":
        return AbmllConfig(
            r=r,
            lora_alpha=lora_alpha,
            target_modules=targets,
            exclude_modules=exclude_modules,
            log_var_offset=spec.log_var_offset,
            log_var_bound=spec.log_var_bound,
            space=spec.space,
            task_type="CAUSAL_LM",
        )
    return LoraConfig(
        r=spec.num_loras * r,
        lora_alpha=spec.num_loras * lora_alpha,
        target_modules=targets,
        exclude_modules=exclude_modules,
        lora_dropout=spec.dropout,
        task_type="CAUSAL_LM",
    )
