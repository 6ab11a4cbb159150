"""The second stage: predictions of one or several methods on held-out tasks."""

from __future__ import annotations

from pathlib import Path

from abmll.config import RunConfig
from abmll.core.errors import AbmllError
from abmll.data.suite import Suite
from abmll.evaluation.predictions import CellKey, append_cell, index
from abmll.learner import Learner
from abmll.pipeline.beside import write_beside
from abmll.pipeline.build import build_learner, load_model, load_tasks
from abmll.pipeline.train import train_learner
from abmll.training.progress import progress_bar

PREDICTIONS = "predictions.jsonl"


def evaluate_run(config: RunConfig, adapter: Path | None, out: Path, *, progress: bool = True) -> Path:
    """Appends to `out`/predictions.jsonl every cell of the run that it does not hold yet, and returns the file.

    With an adapter, that one is adapted and judged with every seed. Without, each method is first meta-trained with
    each seed (under `out`/METHOD/seed-N, going on where an earlier call stopped), so that the seeds repeat the whole
    experiment.
    """
    suite = load_tasks(config)
    write_beside(out, config, config.evaluation.seeds)
    path = out / PREDICTIONS
    for name in config.method.names:
        for seed in config.evaluation.seeds:
            done = index(path)
            if _complete(config, suite, name, seed, done):
                continue
            if adapter is not None:
                learner = Learner.load(adapter, *load_model(config.model))
                _require_method(learner, name, adapter)
            else:
                learner = build_learner(config, name, seed=seed)
                if learner.method.meta_learner is not None:
                    folder = out / name / f"seed-{seed}"
                    train_learner(learner, suite, config, folder, seed, resume=True, progress=progress)
            append_predictions(learner, suite, config, name, seed, path, done, progress=progress)
    return path


def _require_method(learner: Learner, name: str, adapter: Path) -> None:
    if learner.name != name:
        raise AbmllError(
            f"the adapter in {adapter} was trained by {learner.name!r}, but the run names method {name!r}. "
            f"Add method.name={learner.name}, or give another adapter."
        )


def append_predictions(
    learner: Learner,
    suite: Suite,
    config: RunConfig,
    name: str,
    seed: int,
    path: Path,
    done: set[CellKey],
    *,
    progress: bool = True,
) -> None:
    """Evaluates a learner on the run's split and appends its cells, each as soon as it is there."""
    evaluation = config.evaluation
    cells = learner.evaluate(
        getattr(suite, evaluation.split),
        name=name,
        seed=seed,
        support_sizes=evaluation.support_sizes,
        num_samples=evaluation.num_samples,
        num_query=evaluation.num_query,
        known_families={task.family for task in suite.train},
        done=done,
    )
    total = len(getattr(suite, evaluation.split)) * len(evaluation.support_sizes)
    title = f"evaluating {name}, seed {seed}"
    with progress_bar(0, total, visible=progress, title=title) as show:
        for number, cell in enumerate(cells, start=1):
            append_cell(path, cell)
            show({"step": number})


def _complete(config: RunConfig, suite: Suite, name: str, seed: int, done: set[CellKey]) -> bool:
    tasks = getattr(suite, config.evaluation.split)
    return bool(tasks) and all(
        CellKey(name, seed, task.name, size) in done for task in tasks for size in config.evaluation.support_sizes
    )
