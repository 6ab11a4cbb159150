"""The tuner: puts ABMLL layers into a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from abmll.adapters.names import check_adapter_name, check_target_modules
from abmll.core.errors import AbmllError

from .layer import AbmllLayer, Linear


class AbmllModel(BaseTuner):
    """A model whose chosen linear layers carry Gaussians over their outputs.

    Made by `peft.get_peft_model(model, AbmllConfig(...))`. It predicts at the mean; inside
    `abmll.gaussian.stochastic_pass.stochastic_pass` it samples and reports KL divergences.

    Source: arXiv 2508.14285.
    """

    prefix: str = "abmll_"
    tuner_layer_cls = AbmllLayer
    target_module_mapping: dict[str, Any] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As in PEFT, but refuses names that PEFT would save wrongly, and target modules that the model has not.

        Raises:
            AbmllError: For these.
        """
        check_adapter_name(model, adapter_name)
        check_target_modules(model, self.peft_config[adapter_name])
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _create_and_replace(
        self,
        peft_config: Any,  # an AbmllConfig
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, AbmllLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if type(target) is nn.modules.linear.NonDynamicallyQuantizableLinear:
            raise _unsupported(current_key, target, "its weight is used without calling it")
        if isinstance(target, BaseTunerLayer) or not isinstance(target, nn.Linear | Conv1D):
            raise _unsupported(current_key, target, "only torch.nn.Linear and transformers' Conv1D are")
        layer = Linear(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # an additional adapter is not trained until it is made active
        self._replace_module(parent, target_name, layer, target)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:  # PEFT would drop the argument and use the active adapter
            raise AbmllError(
                "adapter_names (another adapter for each row of a batch) is not supported by ABMLL adapters: "
                "call model.set_adapter(name) and run the rows of each adapter by themselves."
            )
        yield


def _unsupported(name: str, module: nn.Module, reason: str) -> AbmllError:
    return AbmllError(
        f"cannot adapt the module {name!r}, a {type(module).__module__}.{type(module).__name__}: {reason}. "
        "Leave it out of target_modules, or name it in exclude_modules."
    )
