"""The first stage: from tasks to an adapter folder."""

from __future__ import annotations

import os
from pathlib import Path

from abmll.config import RunConfig
from abmll.core.errors import AbmllError
from abmll.data.episodes import EpisodeSampler
from abmll.data.suite import Suite
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
) -> None:
    """Meta-trains a learner by the run's settings; everything goes into `directory`."""
    episodes, training = config.episodes, config.training
    sampler = EpisodeSampler(
        suite.train,
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
            num_steps=training.num_steps,
            episodes_per_step=training.episodes_per_step,
            seed=seed,
            checkpoint_every=training.checkpoint_every,
            keep_checkpoints=training.keep_checkpoints,
            tensorboard=training.tensorboard,
        ),
        directory=directory,
        resume=resume,
        progress=progress,
        settings={"model": config.model.model_dump(mode="json"), "prompt": config.prompt.model_dump()},
    )
    if int(os.environ.get("RANK", "0")) == 0:
        write_beside(directory, config, [seed])
        learner.save(directory / ADAPTER)
