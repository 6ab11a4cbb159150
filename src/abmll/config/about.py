"""What a reader of results must know of the run that made them, in words and numbers."""

from __future__ import annotations

from typing import Any

from abmll.config.methods import default_options
from abmll.config.schema import RunConfig


def about_run(config: RunConfig) -> dict[str, Any]:
    """Facts of a run for its report.

    Returns:
        "setting": label to value, of the model, the tasks, the prompts and the training. "options": method to its
        options, every default resolved.
    """
    model, data, prompt, adapter = config.model, config.data, config.prompt, config.adapter
    training, episodes, evaluation = config.training, config.episodes, config.evaluation
    how = {"letters": "the answer's letter", "text": "the answer's text"}.get(prompt.answer, prompt.answer)
    blocks = "" if adapter.upper_layers is None else f", the last {adapter.upper_layers} blocks"
    held_out = f", {data.held_out:.0%} of the tasks held out" if data.held_out else ""
    most = f", at most {data.max_rows} rows a task" if data.max_rows else ""
    targets = adapter.target_modules if isinstance(adapter.target_modules, str) else ", ".join(adapter.target_modules)
    return {
        "setting": {
            "Model": f"{model.name}, {model.dtype}",
            "Suite": f"{data.suite}{held_out}{most}",
            "Prompt": f"{how}{', in the chat template' if prompt.chat else ''}, score by {prompt.score}",
            "LoRA": f"rank {adapter.r}, alpha {adapter.lora_alpha}, {targets}{blocks}",
            "Outer steps": training.num_steps,
            "Episodes in training": f"{training.episodes_per_step} a step, {episodes.support_size} + "
            f"{episodes.query_size} examples each",
            "Judged on": f"{evaluation.split} tasks",
        },
        "options": {name: _options(config, name) for name in config.method.names},
    }


def _options(config: RunConfig, name: str) -> dict[str, Any]:
    found = default_options(name) | config.method.options_for(name)
    if config.training.learning_rate is not None and "outer_learning_rate" in found:
        found["outer_learning_rate"] = config.training.learning_rate
    return found
