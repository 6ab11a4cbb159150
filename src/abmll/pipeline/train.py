"""The first stage: from tasks to an adapter folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from abmll.config import RunConfig
from abmll.core.errors import AbmllError
from abmll.data.episodes import EpisodeSampler
from abmll.data.suite import Suite
from abmll.data.task import Task
from abmll.learner import Learner
from abmll.pipeline.beside import write_beside
from abmll.pipeline.build import build_learner, load_tasks
from abmll.training.loop import train
from abmll.training.settings import Training

ADAPTER = "adapter"
"""Name of the adapter's folder inside a run's output."""


def train_run(config: RunConfig, *, resume: bool = False, progress: bool = True) -> Path:
    """Meta-trains the run's method and returns the adapter folder.

    The output folder gets adapter/, checkpoints/, training.jsonl, run.toml and provenance.json.
    """
    (name,) = config.method.names
    learner = build_learner(config, name, seed=config.seed)
    if learner.method.meta_learner is None:
        raise AbmllError(
            f"method {name!r} learns nothing across tasks, so there is nothing to train. Compare it with "
            "`abmll evaluate`, or choose another with method.name=…"
        )
    train_learner(learner, load_tasks(config), config, config.output, config.seed, resume=resume, progress=progress)
    return config.output / ADAPTER


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

    save: also write the adapter folder and what lies beside it.
    """
    meta_train(learner, suite.train, config, seed, directory=directory, resume=resume, progress=progress)
    if save and int(os.environ.get("RANK", "0")) == 0:
        write_beside(directory, config, [seed])
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

    num_steps: in place of the run's own.
    """
    episodes, training = config.episodes, config.training
    sampler = EpisodeSampler(
        tasks,
        seed,
        episodes.support_size,
        episodes.query_size,
        order=episodes.order,
        balanced=episodes.balanced,
    )
    train(
        learner.likelihood,
        learner.method,
        sampler,
        Training(
            num_steps=num_steps or training.num_steps,
            episodes_per_step=training.episodes_per_step,
            seed=seed,
            checkpoint_every=training.checkpoint_every,
            keep_checkpoints=training.keep_checkpoints,
            tensorboard=training.tensorboard and directory is not None,
        ),
        directory=directory,
        resume=resume,
        progress=progress,
        settings={"model": config.model.model_dump(mode="json"), "prompt": config.prompt.model_dump()},
    )
