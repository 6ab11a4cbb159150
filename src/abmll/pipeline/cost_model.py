"""What a run will cost, before it is started: passes counted from its settings, seconds and bytes by a model of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from abmll.config import RunConfig
from abmll.core.passes import Passes
from abmll.core.types import Example
from abmll.methods import build_method
from abmll.methods.parts.no_model import needs_model
from abmll.methods.parts.passes import adaptation_passes, query_passes, training_passes
from abmll.methods.parts.zero_shot import zero_shot_of

CHARS_PER_TOKEN = 4.0
TOKENS = 150.0
"""Of a prompt of which nothing is known: the published 500 characters, the instruction and the chat format."""
FLOPS = {"cuda": 1.5e14, "mps": 4e12, "cpu": 1.5e10}
"""Operations a second that a pass gets out of a device, where none has been measured: a third of an H100's peak in
bfloat16, a notebook's GPU, one core with texts of a hundred tokens, one at a time."""


@dataclass(frozen=True)
class PassCost:
    """Seconds of one example: forward and backward, and forward alone."""

    trained: float
    predicted: float

    def seconds(self, passes: Passes) -> float:
        return passes.trained * self.trained + passes.predicted * self.predicted


def count_passes(config: RunConfig, name: str, num_tasks: int, num_query: float) -> Passes:
    """The passes of one method with one seed: its meta-training, and adaptation and prediction of every held-out task.

    Args:
        num_tasks: that are evaluated.
        num_query: examples that are predicted for each, on average.
    """
    method = build_method(name, **config.method.options_for(name))
    if not needs_model(method):
        return Passes(0, 0)
    evaluation, episodes = config.evaluation, config.episodes
    total = Passes()
    for size in evaluation.support_sizes:
        adaptation = method.adaptation if size else zero_shot_of(method.adaptation)
        adapted = adaptation_passes(adaptation, size) if size else Passes()
        asked = query_passes(adaptation, evaluation.num_samples).times(num_query)
        total = total.plus(adapted.plus(asked).times(num_tasks))
    if method.meta_learner is None:
        return total
    steps = training_passes(method.meta_learner, episodes.support_size, episodes.query_size, config.training.num_steps)
    return total.plus(steps.times(config.training.episodes_per_step))


def assumed_cost(parameters: float, tokens: float, device: str) -> PassCost:
    """The cost of a pass of which nothing was measured: 2 operations a parameter and token forward, 4 back."""
    forward = 2 * parameters * tokens / FLOPS.get(device.partition(":")[0], FLOPS["cpu"])
    return PassCost(3 * forward, forward)


@dataclass(frozen=True)
class ModelSize:
    """parameters: of the model. adapter: of a LoRA on the adapted layers. width: of the hidden states of all layers."""

    parameters: float
    adapter: float
    width: float

    @classmethod
    def like_llama(cls, parameters: float, r: int) -> ModelSize:
        """A model of which only the number of parameters is known, in the proportions of Llama-3-8B."""
        scale = (parameters / 8.03e9) ** (2 / 3)
        return cls(parameters, 19.7e6 * scale * r / 8, 32 * 4096 * scale)


def model_size(config: RunConfig) -> ModelSize | None:
    """The size of the run's model, from its configuration alone; None where that is not at hand."""
    from abmll import default, models

    name = config.model.name
    try:
        if name == "default":
            model: Any = default.model()[0]
        else:
            from transformers import AutoConfig, AutoModelForCausalLM

            found = models.find(name)
            source = str(models.get(name)) if found is not None else name
            with torch.device("meta"):
                made = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=True)
                model = AutoModelForCausalLM.from_config(made, trust_remote_code=False)
    except (OSError, ValueError, ImportError, RuntimeError):
        return None
    wanted = config.adapter.target_modules
    linear = [
        module
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and (isinstance(wanted, str) or path.rpartition(".")[2] in wanted)
    ]
    adapter = sum(config.adapter.r * (layer.in_features + layer.out_features) for layer in linear)
    width = model.config.hidden_size * model.config.num_hidden_layers
    return ModelSize(float(sum(p.numel() for p in model.parameters())), float(adapter), float(width))


def device_for(parameters: float) -> str:
    """What such a model would be trained on: a GPU if there is one here, or if the model is too large for else."""
    return "cuda" if torch.cuda.is_available() or parameters > 1e9 else "cpu"


def bytes_needed(size: ModelSize, bytes_each: int, tokens: float, *, batch: int) -> float:
    """Bytes that training ABMLL takes at least: weights, adapters with gradients and moments, activations of a batch.

    Args:
        bytes_each: of a weight and of an activation. Both roles have two factor pairs a layer, in float32, each with a
            gradient and AdamW's two moments.
    """
    adapters = 2 * 2 * size.adapter * 4 * (1 + 1 + 2)
    return size.parameters * bytes_each + adapters + 16.0 * batch * tokens * size.width * bytes_each


def mean_tokens(examples: Sequence[Example], overhead: float = 40.0) -> float:
    """Tokens of a prompt on average, by its characters. overhead: of the choices, the instruction and the format."""
    if not examples:
        return TOKENS
    some = examples[:200]
    chars = sum(len(row.prompt) + len(row.question) + sum(map(len, row.choices)) for row in some) / len(some)
    return chars / CHARS_PER_TOKEN + overhead
