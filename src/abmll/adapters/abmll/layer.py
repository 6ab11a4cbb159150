"""The adapted linear layer: base output plus a Gaussian whose moments are low-rank functions of the input."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from abmll.core.errors import AbmllError
from abmll.gaussian import moments
from abmll.gaussian.layer_output import gaussian_output
from abmll.gaussian.stochastic_pass import StochasticPass, UnfitLayer, current_pass

from .config import AbmllConfig
from .factors import factor_output
from .weight import weight_output

Function = TypeVar("Function", bound=Callable[..., Any])


def not_compiled(function: Function) -> Function:
    """torch.compile leaves it as it is."""
    kept: Function = torch.compiler.disable(function)
    return kept


class AbmllLayer(BaseTunerLayer):
    """Holds the four factors of each adapter, in flat dictionaries keyed by adapter.

    Flat, because PEFT removes an adapter's name only from the end of a parameter's name: a nested module would be
    saved under the first adapter's name and load silently wrong under another.
    """

    adapter_layer_names = ("abmll_mean_A", "abmll_mean_B", "abmll_log_var_A", "abmll_log_var_B")
    other_param_names = ("r", "scaling", "log_var_offset", "log_var_bound", "space", "kl_rows")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        self.base_layer = base_layer
        self.abmll_mean_A = nn.ParameterDict()
        self.abmll_mean_B = nn.ParameterDict()
        self.abmll_log_var_A = nn.ParameterDict()
        self.abmll_log_var_B = nn.ParameterDict()
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.log_var_offset: dict[str, float] = {}
        self.log_var_bound: dict[str, float | None] = {}
        self.space: dict[str, str] = {}
        self.kl_rows: dict[str, int | None] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.kwargs = kwargs

        layer = self.get_base_layer()
        if isinstance(layer, Conv1D):
            self.in_features, self.out_features = layer.nx, layer.nf
        else:
            self.in_features, self.out_features = layer.in_features, layer.out_features

    def update_layer(self, adapter_name: str, config: AbmllConfig) -> None:
        """Adds an adapter. Every A is Kaiming-uniform(a=√5), every B zero: mean 0 and log-variance c at first.

        In the space of the factors both log-variance tensors are zero, for they stand for themselves.
        """
        self.r[adapter_name] = config.r
        self.scaling[adapter_name] = config.scaling
        self.log_var_offset[adapter_name] = config.log_var_offset
        self.log_var_bound[adapter_name] = config.log_var_bound
        self.space[adapter_name] = config.space
        self.kl_rows[adapter_name] = config.kl_rows
        for A, B in ((self.abmll_mean_A, self.abmll_mean_B), (self.abmll_log_var_A, self.abmll_log_var_B)):
            A[adapter_name] = nn.Parameter(torch.empty(config.r, self.in_features))
            B[adapter_name] = nn.Parameter(torch.zeros(self.out_features, config.r))
            nn.init.kaiming_uniform_(A[adapter_name], a=math.sqrt(5))
        if config.space == "factors":
            nn.init.zeros_(self.abmll_log_var_A[adapter_name])
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def factors(self, adapter_name: str) -> moments.Factors:
        """The parameters of one adapter's conditional Gaussian."""
        return moments.Factors(
            self.abmll_mean_A[adapter_name],
            self.abmll_mean_B[adapter_name],
            self.abmll_log_var_A[adapter_name],
            self.abmll_log_var_B[adapter_name],
            self.scaling[adapter_name],
            self.log_var_offset[adapter_name],
            self.log_var_bound[adapter_name],
        )

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """The mean as a change of weight, (out_features, in_features), in float32 at least."""
        q = self.factors(adapter_name)
        dtype = moments.at_least_float32(q.mean_A)
        return q.scaling * (q.mean_B.to(dtype) @ q.mean_A.to(dtype))

    def add_adapter(
        self, base: Tensor, x: Tensor, adapter_name: str, record: StochasticPass | None, dtype: torch.dtype
    ) -> Tensor:
        """`base` plus one adapter's mean, or plus a sample if the pass asks for one, in `dtype`. Reports the KL."""
        q = self.factors(adapter_name)
        priors = [self.factors(name) for name in self.abmll_mean_A if record is not None and name == record.prior]
        if record is None or not (record.request.sample or priors):
            return moments.plus_low_rank(base, x, q.mean_A, q.mean_B, q.scaling).to(dtype)
        return self._add_gaussian(base, x, adapter_name, [q, *priors], record, dtype)

    @not_compiled
    def _add_gaussian(
        self,
        base: Tensor,
        x: Tensor,
        adapter_name: str,
        gaussians: list[moments.Factors],
        record: StochasticPass,
        dtype: torch.dtype,
    ) -> Tensor:
        """`add_adapter` in a pass that asks for a sample or a KL; gaussians: the posterior's factors, then the prior's.

        torch.compile leaves it as it is: noise that can be drawn again and a record outside the graph are not for it.
        """
        q, *priors = gaussians
        if self.space[adapter_name] == "factors":
            value = factor_output(self, x, gaussians, record)
            return (base.to(value.dtype) + value).to(dtype)
        if self.space[adapter_name] == "weight":
            return weight_output(self, base, x, gaussians, record, dtype, self.kl_rows[adapter_name])
        counted = record.counted(base.shape, base.device) if priors else None
        copies, places = record.copies_of_tokens(base.shape), record.places_of_tokens(base.shape)
        rows, base_rows = x, base
        if places is not None:  # nothing is drawn for padding, and nothing compared
            rows, base_rows = x.flatten(0, -2)[places], base.flatten(0, -2)[places]
            counted = None if counted is None else counted[places]
            copies = None if copies is None else copies._replace(token=copies.token[places])
        output = gaussian_output(
            rows, base_rows, q, *priors, request=record.request, counted=counted, copies=copies, dtype=dtype
        )
        if output.kl is not None:
            record.report_counted(self, output.kl, output.hyper)
        if places is None:
            return output.value
        return base.flatten(0, -2).to(output.value.dtype).index_copy(0, places, output.value).view(base.shape)


class Linear(nn.Module, AbmllLayer):
    """An `nn.Linear` (or transformers' `Conv1D`) with ABMLL adapters."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: AbmllConfig, **kwargs: Any) -> None:
        super().__init__()
        AbmllLayer.__init__(self, base_layer, **kwargs)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        output: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return output
        record = current_pass()
        if self.merged:
            if record is not None and (record.request.sample or record.prior):
                raise AbmllError(
                    "a sample or a KL divergence was asked for while the adapter is merged into the base weights, "
                    "where only its mean is left: call model.unmerge_adapter() first."
                )
            return output
        active = [name for name in self.active_adapters if name in self.abmll_mean_A]
        if not active:
            return output
        with _without_autocast(x):
            wide = moments.at_least_float32(output, self.abmll_mean_A[active[0]])
            total = output
            try:
                for name in active:  # rounded to the output's type once, by the last
                    total = self.add_adapter(total, x, name, record, output.dtype if name == active[-1] else wide)
            except UnfitLayer as error:
                error.layer = self
                raise
        return total

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Adds the mean of the adapters to the base weight (float32 sum, then the base's dtype).

        Raises:
            AbmllError: If the base weight is quantised; ValueError if `safe_merge` finds nan or infinity.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.abmll_mean_A:
                continue
            merged = self._shifted_weight(name, sign=1)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"NaNs or infinities in the merged weights. The adapter {name} seems to be broken.")
            self.get_base_layer().weight.data = merged
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Takes the mean of the merged adapters out of the base weight again (up to the base dtype's rounding)."""
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            if name in self.abmll_mean_A:
                self.get_base_layer().weight.data = self._shifted_weight(name, sign=-1)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def _shifted_weight(self, adapter_name: str, sign: int) -> Tensor:
        layer: Any = self.get_base_layer()
        weight: Tensor = layer.weight.data
        if not weight.is_floating_point() or hasattr(layer.weight, "quant_state"):
            raise AbmllError(
                f"cannot merge into a quantised weight ({type(layer).__name__}, {weight.dtype}): load the base "
                "model in full precision to merge, or serve the adapter unmerged."
            )
        delta = self.get_delta_weight(adapter_name).to(weight.device)
        if isinstance(layer, Conv1D):
            delta = delta.T
        return (weight.to(delta.dtype) + sign * delta).to(weight.dtype).contiguous()

    def __repr__(self) -> str:
        return "abmll." + super().__repr__()


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Keeps a surrounding torch.autocast from rounding the Gaussian to half precision."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
