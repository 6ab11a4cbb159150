"""From a run file to objects: the model, the tasks, the learner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from abmll import default, models
from abmll.card import read_card
from abmll.config import ModelConfig, RunConfig
from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.data.episodes import permutation
from abmll.data.suite import Suite
from abmll.data.task import Task
from abmll.language import PromptFormat
from abmll.learner import Learner
from abmll.learner.chosen import method_of_card
from abmll.training.distributed import Ranks, connect, local_rank, num_ranks
from abmll.training.settings import Training
from abmll.training.sharding import shard_base, sharing_ranks


def load_model(config: ModelConfig) -> tuple[Any, Any]:
    """The language model and its tokenizer, on the device and in the type that were asked for.

    A model that several ranks will hold between them stays in ordinary memory: a whole one may not fit the device.
    Weights come from safetensors only and no code that lies beside them is run.
    """
    place = device_of(config)
    model, tokenizer = models.load(
        config.name,
        dtype=config.dtype,
        device=place if config.shard == 1 else torch.device("cpu"),
        computes_on=place,
        revision=config.revision,
        attn_implementation=config.attn_implementation,
    )
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, tokenizer


def fetch_model(config: ModelConfig) -> None:
    """Fetches the model if it is known by name and not there yet, so that worker processes find it."""
    if models.find(config.name) is not None:
        models.get(config.name)


def device_of(config: ModelConfig) -> torch.device:
    """Where this process computes; each of several processes on a machine takes a GPU of its own.

    Raises:
        AbmllError: If there is no such GPU.
    """
    name = str(models.resolve_device("auto")) if config.device == "auto" else config.device
    if not name.startswith("cuda"):
        return torch.device(name)
    if not torch.cuda.is_available():
        raise AbmllError(f'[model] device is {name!r}, but torch finds no CUDA device. Use "cpu" or "auto".')
    if num_ranks() == 1:
        return torch.device(name)
    if name != "cuda":
        raise AbmllError(
            f'[model] device is {name!r}, but {num_ranks()} processes need a GPU each. Use "cuda": each takes its own.'
        )
    count = torch.cuda.device_count()
    if local_rank() >= count:
        raise AbmllError(
            f"process {local_rank() + 1} of this machine finds only {count} GPUs. Start one a GPU: "
            f"torchrun --nproc-per-node {count}."
        )
    return torch.device("cuda", local_rank())


def join_ranks(config: RunConfig) -> Ranks:
    """The ranks that `torchrun` started, or one alone.

    Raises:
        AbmllError: If they cannot be dealt out to whole copies of the model.
    """
    ranks = connect(device_of(config.model), Training.rank_timeout) if num_ranks() > 1 else Ranks()
    sharing_ranks(ranks, config.model.shard)
    return ranks


def load_tasks(config: RunConfig) -> Suite:
    """The suite of a run, each task cut to `max_rows` rows."""
    data = config.data
    suite = default.find_suite(data.suite, folder=data.folder, held_out=data.held_out, seed=data.split_seed)
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

    def build() -> Learner:
        model, tokenizer = load_model(config.model)
        return Learner(
            model,
            tokenizer,
            name,
            prompt=PromptFormat(**config.prompt.model_dump()),
            r=config.adapter.r,
            lora_alpha=config.adapter.lora_alpha,
            target_modules=config.adapter.target_modules,
            upper_layers=config.adapter.upper_layers,
            seed=seed,
            **config.method.options_for(name),
        )

    return _placed(config, build)


def load_learner(config: RunConfig, adapter: Path, method: str | None = None) -> Learner:
    """The learner that was saved in `adapter`, on the run's model.

    Args:
        method: as for `Learner.load`.
    """
    method_of_card(read_card(adapter), adapter, method)  # what it refuses is told before a model loads
    return _placed(config, lambda: Learner.load(adapter, *load_model(config.model), method=method))


def _placed(config: RunConfig, make: Callable[[], Learner]) -> Learner:
    """A new learner, its model laid over `model.shard` ranks."""
    shard = config.model.shard
    ranks = join_ranks(config)
    if shard == 1:
        return make()

    def make_and_shard() -> Learner:
        learner = make()
        shard_base(learner.model, mesh)
        return learner

    mesh = sharing_ranks(ranks, shard, device_of(config.model))
    # Each loads the whole model before it drops all but its part: one after the other, that is one in memory at once.
    return ranks.in_turns(make_and_shard)
