"""The same training step by PEFT's LoRA, by the published formulation, and by this library's layers.

The step is that of an inner loop: forward pass, loss and β·KL(task ‖ meta) with a sampled output, backward pass to the
task's parameters (and, in a single layer, to its input, as inside a network).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from abmll.core.types import META, TASK
from abmll.gaussian.layer_output import implementation
from abmll.gaussian.stochastic_pass import stochastic_pass
from benchmarks.speed import published
from benchmarks.speed.measure import Case

RANK, ALPHA, OFFSET, BOUND, KL_WEIGHT = 8, 16, -20.0, 4.0, 1e-6
BASELINE = "PEFT's LoRA"
BOUNDED = "fused, bounded"
IMPLEMENTED = {"naive": "naive", "fused": "fused", BOUNDED: "fused"}
VARIANTS = (BASELINE, "published", *IMPLEMENTED, "weight")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class OneLayer(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def layer_case(variant: str, size: int, batch: int, tokens: int) -> Case:
    """One square layer; the loss is a random linear function of its output.

    Its input counts as kept: a frozen layer without an adapter would not keep it.
    """
    torch.manual_seed(0)
    model = OneLayer(size)
    x = torch.randn(batch, tokens, size, requires_grad=True)
    weights = torch.randn(batch, tokens, size)
    return _case(model, variant, ("proj",), lambda adapted: (adapted(x) * weights).sum(), (weights,))


def model_case(variant: str, config: Any, batch: int, tokens: int) -> Case:
    """A Llama-shaped causal language model with random weights and all linear layers adapted."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    ids = torch.randint(config.vocab_size, (batch, tokens))
    return _case(model, variant, PROJECTIONS, lambda adapted: adapted(input_ids=ids, labels=ids).loss, (ids,))


def llama_config(hidden: int, layers: int, vocabulary: int = 2048, **arguments: Any) -> Any:
    """Llama 3's proportions at another size."""
    from transformers import LlamaConfig

    heads = max(2, hidden // 64)
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 7 // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        **arguments,
    )


def smollm2_config(**arguments: Any) -> Any:
    """SmolLM2-135M's exact shape."""
    from transformers import LlamaConfig

    shape: dict[str, Any] = {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
        "tie_word_embeddings": True,
    }
    return LlamaConfig(**(shape | arguments))


def _case(
    model: nn.Module,
    variant: str,
    names: tuple[str, ...],
    loss_of: Callable[[Any], Tensor],
    inputs: tuple[Tensor, ...],
) -> Case:
    if variant == "published":
        layers = published.adapt(model, names, RANK, ALPHA / RANK, OFFSET)

        def published_step() -> None:
            loss = loss_of(model)
            for layer in layers:
                loss = loss + KL_WEIGHT * layer.terms.pop().sum()
            loss.backward()

        return Case(published_step, (*inputs, *model.parameters()))
    adapted = attach(model, variant, names)

    def step() -> None:
        with implementation(IMPLEMENTED[variant]) if variant in IMPLEMENTED else nullcontext():
            if variant == BASELINE:
                loss_of(adapted).backward()
                return
            with stochastic_pass(sample=True, prior=META) as record:
                (loss_of(adapted) + KL_WEIGHT * record.kl()).backward()

    return Case(step, (*inputs, *adapted.parameters()))


def attach(model: Any, variant: str, names: tuple[str, ...]) -> Any:
    """The model with adapters meta and task of the variant, in which the task's are trained."""
    from peft import LoraConfig

    from abmll.adapters import AbmllConfig, adapter_parameters, attach_roles

    options: dict[str, Any] = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(names)}
    config: LoraConfig | AbmllConfig
    if variant == BASELINE:
        config = LoraConfig(**options)
    else:
        space = "weight" if variant == "weight" else "output"
        bound = BOUND if variant == BOUNDED else None
        config = AbmllConfig(log_var_offset=OFFSET, log_var_bound=bound, space=space, **options)
    adapted = attach_roles(model, copy.deepcopy(config)).train()
    for role in (META, TASK):
        for parameter in adapter_parameters(adapted, role).values():
            parameter.requires_grad_(role == TASK)
    return adapted
