"""The first stage: from tasks to an adapter folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from abmll.adapters.lora_folders import read_lora_folders
from abmll.card import read_card
from abmll.config import RunConfig
from abmll.core.errors import AbmllError
from abmll.core.folders import hold
from abmll.data.episodes import EpisodeSampler
from abmll.data.suite import Suite
from abmll.data.task import Task
from abmll.language import PromptFormat
from abmll.learner import Learner
from abmll.learner.from_adapters import learn_from_adapters
from abmll.methods import build_method
from abmll.pipeline.build import build_learner, join_ranks, load_tasks
from abmll.pipeline.preflight import Findings, places_of
from abmll.pipeline.run_record import write_run_record
from abmll.pipeline.settle import settled, with_room
from abmll.training.distributed import num_ranks
from abmll.training.loop import CHECKPOINTS, require_unused
from abmll.training.settings import Training

ADAPTER = "adapter"
"""Name of the adapter's folder inside a run's output."""


def train_run(config: RunConfig, *, resume: bool = False, progress: bool = True) -> Path:
    """Meta-trains the run's method and returns the adapter folder.

    The output folder gets adapter/, checkpoints/, training.jsonl, run.toml and provenance.json. A method that learns
    nothing across tasks gets the fresh adapter that it adapts from, and no checkpoints and no log.

    Raises:
        AbmllError: Before the model is loaded, for all that is wrong with tasks, rows, device and output folder.
    """
    (name,) = config.method.names
    learns = build_method(name, **config.method.options_for(name)).meta_learner is not None
    ranks = join_ranks(config)
    findings = Findings()
    suite = findings.of(lambda: load_tasks(config))
    ranks.first(lambda: _check(config, suite if learns else None, findings, resume))
    assert suite is not None
    with ExitStack() as held:
        ranks.first(lambda: held.enter_context(hold(config.output)))
        config = settled(config, suite, config.output)
        learner = build_learner(config, name, seed=config.seed)
        if not learns:
            return _fresh(learner, config, resume)
        train_learner(learner, suite, config, config.output, config.seed, resume=resume, progress=progress)
    return config.output / ADAPTER


def learn_from_loras(config: RunConfig, folders: Sequence[Path]) -> tuple[Path, str]:
    """θ from LoRAs that were trained with PEFT, one a task, instead of from tasks; no tasks are read.

    Rank and layers that the run file does not give are those of the LoRAs.

    Returns:
        The adapter folder, and one line that says what was made of what.

    Raises:
        AbmllError: Before the model is loaded, for folders that cannot be used together and for the output folder.
    """
    (name,) = config.method.names
    if num_ranks() > 1:
        raise AbmllError("a prior from LoRAs takes no passes of the model: start one process, not several.")
    folder = config.output / ADAPTER
    findings = Findings()
    findings.of_device(config.model)
    findings.of_folder(config.output)
    findings.of(lambda: require_unused(config.output))
    if folder.exists():
        findings.mistakes.append(f"{folder} is there already. Choose another folder with output=…")
    loras = findings.of(lambda: read_lora_folders(folders))
    findings.raise_all()
    assert loras is not None
    given = config.adapter.model_fields_set
    own: dict[str, Any] = {"target_modules": tuple(loras.target_modules), "r": loras.rank}
    if "r" not in given:
        own["lora_alpha"] = config.adapter.lora_alpha * loras.rank // config.adapter.r
    adapter = config.adapter.model_copy(update={key: value for key, value in own.items() if key not in given})
    config = with_room(config.model_copy(update={"adapter": adapter}), len(loras.folders))
    with hold(config.output):
        learner = build_learner(config, name, seed=config.seed)
        said = learn_from_adapters(learner, loras)
        write_run_record(config.output, config, [config.seed])
        learner.save(folder)
    return folder, said


def _check(config: RunConfig, suite: Suite | None, findings: Findings, resume: bool) -> None:
    findings.of_device(config.model)
    findings.of_folder(config.output)
    if suite is not None:
        if not resume:
            findings.of(lambda: require_unused(config.output))
        findings.of(lambda: episodes_of(suite.train, config, config.seed))
        findings.of_rows(config.model, PromptFormat(**config.prompt.model_dump()), places_of(suite.train))
    findings.raise_all()


def episodes_of(tasks: Sequence[Task], config: RunConfig, seed: int) -> EpisodeSampler:
    """The training episodes of a run. Raises AbmllError for tasks that are too small for them."""
    episodes = config.episodes
    return EpisodeSampler(
        tasks,
        seed,
        episodes.support_size,
        episodes.query_size,
        order=episodes.order,
        balanced=episodes.balanced,
    )


def _fresh(learner: Learner, config: RunConfig, resume: bool) -> Path:
    folder = config.output / ADAPTER
    if (config.output / CHECKPOINTS).exists() or (folder.exists() and not resume):
        raise AbmllError(
            f"{config.output} already holds a run, and {learner.name!r} learns nothing across tasks that could be "
            "added to it. Choose another folder with output=…"
        )
    if not folder.exists():
        write_run_record(config.output, config, [config.seed])
        learner.save(folder)
    elif (found := read_card(folder).method) != learner.name:
        raise AbmllError(f"{folder} holds an adapter of {found!r}, not of {learner.name!r}. Choose another output=…")
    return folder


def train_learner(
    learner: Learner,
    suite: Suite,
    config: RunConfig,
    directory: Path,
    seed: int,
    *,
    resume: bool,
    progress: bool,
    save: bool = True,
) -> None:
    """Meta-trains a learner by the run's settings; everything goes into `directory`.

    Args:
        save: also write the adapter folder and what lies beside it.
    """
    meta_train(learner, suite.train, config, seed, directory=directory, resume=resume, progress=progress)
    if save and int(os.environ.get("RANK", "0")) == 0:
        write_run_record(directory, config, [seed])
        learner.save(directory / ADAPTER)


def meta_train(
    learner: Learner,
    tasks: Sequence[Task],
    config: RunConfig,
    seed: int,
    *,
    num_steps: int | None = None,
    directory: Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> None:
    """The outer loop on `tasks` by the run's settings; without a directory nothing is written.

    Args:
        num_steps: in place of the run's own.
    """
    episodes, training = config.episodes, config.training
    own = str(learner.model.get_base_model().dtype).removeprefix("torch.")
    learner.meta_train(
        tasks,
        training=Training(
            num_steps=num_steps or training.num_steps,
            episodes_per_step=training.episodes_per_step,
            seed=seed,
            checkpoint_every=training.checkpoint_every,
            keep_checkpoints=training.keep_checkpoints,
            tensorboard=training.tensorboard and directory is not None,
        ),
        support_size=episodes.support_size,
        query_size=episodes.query_size,
        order=episodes.order,
        balanced=episodes.balanced,
        learning_rate=training.learning_rate,
        schedule=training.schedule,
        max_grad_norm=training.max_grad_norm,
        directory=directory,
        resume=resume,
        progress=progress,
        settings={
            # "auto" may come to another type on another machine, and then the run would not be the same
            "model": config.model.model_dump(mode="json", exclude={"shard"}) | {"dtype": own},
            "prompt": config.prompt.model_dump(),
        },
    )
