"""From a run file to objects: the model, the tasks, the learner."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from abmll import default
from abmll.config import ModelConfig, RunConfig
from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.data.episodes import permutation
from abmll.data.suite import Suite, load_suite
from abmll.data.task import Task
from abmll.language import PromptFormat
from abmll.learner import Learner

DEFAULT_MODELS = {"default", default.NAME}


def load_model(config: ModelConfig) -> tuple[Any, Any]:
    """The language model and its tokenizer, on the device and in the type that were asked for.

    Weights come from safetensors only and no code that lies beside them is run.
    """
    _quiet()
    model: Any
    model, tokenizer = default.model() if config.name in DEFAULT_MODELS else _from_hugging_face(config)
    device = _device(config.device)
    model = model.to(device=device, dtype=getattr(torch, config.dtype))
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, tokenizer


def _quiet() -> None:
    """Keeps bars and notices of libraries out of a user's terminal: loading is fast, and nothing in them is theirs."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")


def _from_hugging_face(config: ModelConfig) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"revision": config.revision} if config.revision else {}
    attention = {"attn_implementation": config.attn_implementation} if config.attn_implementation else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            config.name,
            dtype=getattr(torch, config.dtype),
            trust_remote_code=False,
            use_safetensors=True,
            **options,
            **attention,
        )
        tokenizer = AutoTokenizer.from_pretrained(config.name, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AbmllError(
            f"cannot load model {config.name!r} ([model] name): {first} Give a Hugging Face name, the path of a folder "
            'with config.json, safetensors weights and a tokenizer, or "default" for the model in the package.'
        ) from error
    return model, tokenizer


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise AbmllError(f'[model] device is {name!r}, but torch finds no CUDA device. Use "cpu" or "auto".')
    return name


def load_tasks(config: RunConfig) -> Suite:
    """The suite of a run, each task cut to `max_rows` rows."""
    data = config.data
    if data.suite == "default":
        suite = default.suite()
        if data.held_out:
            raise AbmllError("[data] held_out: the default suite has its own split. Remove held_out.")
    else:
        suite = load_suite(data.suite, folder=data.folder, held_out=data.held_out, seed=data.split_seed)
    if data.max_rows is None:
        return suite
    return replace(
        suite,
        train=tuple(_some_rows(task, data.max_rows) for task in suite.train),
        validation=tuple(_some_rows(task, data.max_rows) for task in suite.validation),
        test=tuple(_some_rows(task, data.max_rows) for task in suite.test),
    )


def _some_rows(task: Task, count: int) -> Task:
    """At most `count` rows, drawn by the task's name: a file may be sorted by class."""

    def some(rows: tuple[Example, ...]) -> tuple[Example, ...]:
        return tuple(rows[position] for position in permutation(len(rows), "max_rows", task.name)[:count])

    return replace(task, examples=some(task.examples), support_pool=some(task.support_pool))


def build_learner(config: RunConfig, name: str, *, seed: int) -> Learner:
    """A fresh learner for one method of the run."""
    model, tokenizer = load_model(config.model)
    learner = Learner(
        model,
        tokenizer,
        name,
        prompt=PromptFormat(**config.prompt.model_dump()),
        r=config.adapter.r,
        lora_alpha=config.adapter.lora_alpha,
        target_modules=config.adapter.target_modules,
        seed=seed,
        **config.method.options_for(name),
    )
    chosen = {
        key: value
        for key in ("learning_rate", "schedule", "max_grad_norm")
        if (value := getattr(config.training, key)) is not None
    }
    learner.use_outer(replace(learner.method.outer, **chosen))
    return learner
