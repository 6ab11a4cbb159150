"""One forward pass through the adapters of several tasks: each block of rows has its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from abmll.adapters.abmll.layer import AbmllLayer
from abmll.adapters.roles import adapter_parameters
from abmll.core.errors import AbmllError
from abmll.core.types import TASK
from abmll.gaussian.stochastic_pass import current_pass


class Product(NamedTuple):
    """The linear map s·B A of a layer's task adapter."""

    A: Tensor
    B: Tensor
    scaling: float


@contextmanager
def stacked(model: PeftModel, params: Mapping[str, Tensor]) -> Iterator[None]:
    """Until the block ends, the model adds params[name][t], at its mean, to the t-th of T equal blocks of rows.

    Args:
        params: for every parameter of TASK its values for the T tasks, (T, *shape); a batch has T·n questions, whose
            rows the open stochastic pass tells apart where they are more. Outside of such a pass the model is the base
            model.

    Raises:
        AbmllError: For an adapter that adds more than a product of two matrices (dropout, DoRA, biases).
    """
    names = {id(parameter): name for name, parameter in adapter_parameters(model, TASK).items()}
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                product = _product(module)
                A, B = (params[names[id(tensor)]] for tensor in (product.A, product.B))
                hook = _adds(A, B, product.scaling)
                stack.enter_context(_removed(module.register_forward_hook(hook)))
        stack.enter_context(model.disable_adapter())
        yield


def _product(layer: Any) -> Product:
    if isinstance(layer, AbmllLayer):
        q = layer.factors(TASK)
        return Product(q.mean_A, q.mean_B, q.scaling)
    plain = type(layer) is LoraLinear and not layer.lora_bias.get(TASK) and not layer.use_dora.get(TASK)
    if not plain or not isinstance(layer.lora_dropout[TASK], nn.Identity):
        raise AbmllError(
            f"tasks side by side need plain LoRA or ABMLL adapters on linear layers, without dropout, DoRA or biases; "
            f"found {type(layer).__module__}.{type(layer).__name__}. Adapt to one task after the other (adapt)."
        )
    return Product(layer.lora_A[TASK].weight, layer.lora_B[TASK].weight, layer.scaling[TASK])


def _adds(A: Tensor, B: Tensor, scaling: float) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor]:
    """A forward hook. A: (tasks, r, in_features), B: (tasks, out_features, r)."""

    def hook(module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        record = current_pass()
        if record is None:
            return output
        own_A, own_B, blocks = A, B, len(A)
        if record.copies is not None:
            of_row = record.copies.row * len(A) // record.copies.num_rows
            own_A, own_B, blocks = A[of_row], B[of_row], len(of_row)
        x = inputs[0].to(A.dtype).reshape(blocks, -1, inputs[0].shape[-1])
        mean = (scaling * (x @ own_A.mT)) @ own_B.mT
        total: Tensor = output.to(A.dtype) + mean.view(output.shape)
        return total.to(output.dtype)

    return hook


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
