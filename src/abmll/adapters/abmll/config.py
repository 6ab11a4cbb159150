"""The configuration of the ABMLL tuner."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft.config import PeftConfig
from peft.utils import CONFIG_NAME, PeftType

from abmll.adapters.lora_copy import export_mean
from abmll.adapters.sorted_json import sorted_json
from abmll.core.errors import AbmllError, unknown_name

SPACES = ("output", "weight", "factors")


@dataclass
class AbmllConfig(PeftConfig):
    """Configuration of an [`AbmllModel`]: a low-rank Gaussian over the output of every adapted linear layer.

    With `space="weight"` it is a Gaussian over the layer's weights, of standard deviation s·B_σA_σ + c (B_σ and A_σ are
    the tensors called log_var, and c = exp(log_var_offset / 2)); with `space="factors"` one over each element of a
    LoRA's two factors (ABML).

    A folder saved with `model.save_pretrained(dir)` also holds `lora/`, the posterior mean as an ordinary LoRA.

    Raises:
        AbmllError: For a value out of range.
    """

    r: int = field(default=8, metadata={"help": "Rank of each of the two products (mean, log-variance)."})
    lora_alpha: float = field(default=16, metadata={"help": "Both products are scaled by lora_alpha / r."})
    log_var_offset: float = field(
        default=-20.0,
        metadata={"help": "Log-variance at initialisation (of every output unit, or of every element), in nats."},
    )
    log_var_bound: float | None = field(
        default=None,
        metadata={
            "help": "space='output' only: the log-variance stays within this many nats of log_var_offset (a smooth "
            "bound, which keeps training from overflowing); None, as published, sets no bound."
        },
    )
    space: str = field(
        default="output",
        metadata={
            "help": "What the Gaussian is over: 'output' (of each layer, per token and unit), 'weight' (each element "
            "of a layer's weight) or 'factors' (each element of a LoRA's A and B)."
        },
    )
    kl_rows: int | None = field(
        default=None,
        metadata={
            "help": "space='weight' only: estimate the KL divergence from this many random output units of each layer "
            "(unbiased, and cheaper); None takes all."
        },
    )
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names of the linear layers to adapt (suffixes), a regular expression, 'all-linear', or None "
            "for the architecture's LoRA default."
        },
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names of modules (or a regular expression) never to adapt."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the layers to adapt; None adapts all."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers, if it is not a usual one."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules that are trained and saved whole beside the adapter."}
    )
    bias: str = field(default="none", metadata={"help": "Only 'none': biases of the base model stay as they are."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["ABMLL"]
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]  # as PEFT's own configs do
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)  # type: ignore[assignment]
        self._check()

    def _check(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r <= 0:
            raise AbmllError(f"AbmllConfig.r must be a positive integer (the rank; 8 is usual), got {self.r!r}.")
        if not math.isfinite(self.lora_alpha) or self.lora_alpha <= 0:
            raise AbmllError(f"AbmllConfig.lora_alpha must be positive and finite, got {self.lora_alpha!r}.")
        if not math.isfinite(self.log_var_offset):
            raise AbmllError(f"AbmllConfig.log_var_offset must be finite (nats), got {self.log_var_offset!r}.")
        if self.space not in SPACES:
            raise unknown_name("AbmllConfig.space", str(self.space), SPACES)
        if self.log_var_bound is not None and (self.space != "output" or not 0 < self.log_var_bound < math.inf):
            raise AbmllError(
                "AbmllConfig.log_var_bound must be None or a positive, finite number of nats, and needs "
                f"space='output'; got {self.log_var_bound!r} with space={self.space!r}."
            )
        if self.kl_rows is not None and (
            self.space != "weight" or not isinstance(self.kl_rows, int) or self.kl_rows < 1
        ):
            raise AbmllError(
                f"AbmllConfig.kl_rows must be None or a positive number of output units, and needs space='weight'; got "
                f"{self.kl_rows!r} with space={self.space!r}."
            )
        if self.bias != "none":
            raise AbmllError(
                f"AbmllConfig.bias={self.bias!r} is not supported: biases have no Gaussian here. Use bias='none', "
                "or list a module in modules_to_save to train it whole."
            )
        if isinstance(self.target_modules, str) and self.target_modules != "all-linear":
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise AbmllError(
                        f"AbmllConfig.{name} cannot be combined with a regular expression in target_modules "
                        f"({self.target_modules!r}): put the layers into the expression, or list module names."
                    )

    @property
    def scaling(self) -> float:
        """s = lora_alpha / r."""
        return self.lora_alpha / self.r

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Writes the configuration, and `lora/` from the weights that PEFT has just written beside it."""
        auto_mapping = kwargs.get("auto_mapping_dict")
        super().save_pretrained(save_directory, **kwargs)
        path = Path(save_directory) / CONFIG_NAME
        path.write_text(sorted_json(json.loads(path.read_text())))
        export_mean(self, Path(save_directory), auto_mapping)
