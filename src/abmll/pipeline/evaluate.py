"""The second stage: predictions of one or several methods on held-out tasks."""

from __future__ import annotations

from pathlib import Path

from abmll.config import RunConfig, load_config
from abmll.core.errors import AbmllError
from abmll.data.episodes import evaluation_episode
from abmll.data.suite import Suite
from abmll.evaluation.predictions import CellKey, append_cell, index
from abmll.learner import Learner
from abmll.methods import build_method
from abmll.pipeline.beside import RUN_FILE, require_same_run, write_beside
from abmll.pipeline.build import build_learner, load_model, load_tasks
from abmll.pipeline.judged import record_adapter, require_same_adapter
from abmll.pipeline.train import train_learner
from abmll.training.loop import CHECKPOINTS
from abmll.training.progress import progress_bar

PREDICTIONS = "predictions.jsonl"


def evaluate_run(config: RunConfig, adapter: Path | None, out: Path, *, progress: bool = True) -> Path:
    """Appends to `out`/predictions.jsonl every cell of the run that it does not hold yet, and returns the file.

    With an adapter, that one is adapted and judged with every seed. Without, each method is first meta-trained with
    each seed (under `out`/METHOD/seed-N, going on where an earlier call stopped), so that the seeds repeat the whole
    experiment.

    Raises: AbmllError, before anything is trained, for held-out tasks that cannot be judged, and for settings or an
    adapter that differ from those of the cells in `out`.
    """
    path = out / PREDICTIONS
    if path.is_file():
        require_same_evaluation(out, config)
    suite = load_tasks(config)
    require_judgeable(suite, config)
    done = index(path)
    for name in config.method.names:
        require_same_adapter(out, name, adapter, done)
    write_beside(out, config, config.evaluation.seeds)
    for name in config.method.names:
        record_adapter(out, name, adapter)
        for seed in config.evaluation.seeds:
            if adapter is None:
                evaluate_method(config, suite, name, seed, out, progress=progress)
            elif not is_complete(config, suite, name, seed, done := index(path)):
                learner = Learner.load(adapter, *load_model(config.model))
                _require_method(learner, name, adapter)
                append_predictions(learner, suite, config, name, seed, path, done, progress=progress)
    return path


def require_same_evaluation(out: Path, config: RunConfig) -> None:
    """Raises AbmllError if the cells in `out` were made with other settings than those of this run."""
    free = ["method.name", "evaluation.seeds", "output", "tune"]
    if (out / RUN_FILE).is_file():
        before = load_config(out / RUN_FILE).evaluation.support_sizes
        # Queries are the rows beyond the largest support set: with the same largest, they stay the same.
        if max(before) == max(config.evaluation.support_sizes):
            free.append("evaluation.support_sizes")
    require_same_run(out, config, free=free)


def require_judgeable(suite: Suite, config: RunConfig) -> None:
    """Raises AbmllError if the split to be judged on is empty, or a task of it too small for the support sizes."""
    evaluation = config.evaluation
    for task in suite.require(evaluation.split):
        evaluation_episode(task, 0, 0, evaluation.num_query, max_support=max(evaluation.support_sizes))


def evaluate_method(config: RunConfig, suite: Suite, name: str, seed: int, out: Path, *, progress: bool = True) -> None:
    """Meta-trains one method with one seed, if it learns across tasks, and appends the cells that are missing."""
    path = out / PREDICTIONS
    done = index(path)
    if is_complete(config, suite, name, seed, done):
        return
    learner = build_learner(config, name, seed=seed)
    if learner.method.meta_learner is not None:
        trainer = trainer_of(config, name, seed, out)
        folder = out / trainer / f"seed-{seed}"
        train_learner(learner, suite, config, folder, seed, resume=True, progress=progress, save=trainer == name)
    append_predictions(learner, suite, config, name, seed, path, done, progress=progress)


def trainer_of(config: RunConfig, name: str, seed: int, out: Path) -> str:
    """The method of the run under whose name this one's meta-training lies.

    Methods that differ in their adaptation alone (multi-task LoRA, and every posterior that starts from it) have the
    same meta-training, bit for bit: it is done once. Whoever has done it is taken, else the first that is named.
    """
    key = training_key(config, name)
    alike = [other for other in config.method.names if training_key(config, other) == key] or [name]
    trained = [other for other in alike if (out / other / f"seed-{seed}" / CHECKPOINTS).is_dir()]
    return (trained or alike)[0]


def training_key(config: RunConfig, name: str) -> str:
    """What a method's meta-training depends on besides the run: equal for methods that share it."""
    method = build_method(name, **config.method.options_for(name))
    if method.meta_learner is None:
        return f"{name} learns nothing across tasks"
    key = repr((method.adapter, method.meta_learner, method.outer))
    # A repr that shows an address tells nothing of what is inside: such a method shares with none.
    return f"{name}: {key}" if " at 0x" in key else key


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
        adaptation_seconds=evaluation.adaptation_seconds,
    )
    total = len(getattr(suite, evaluation.split)) * len(evaluation.support_sizes)
    title = f"evaluating {name}, seed {seed}"
    with progress_bar(0, total, visible=progress, title=title) as show:
        for number, cell in enumerate(cells, start=1):
            append_cell(path, cell)
            show({"step": number})


def is_complete(config: RunConfig, suite: Suite, name: str, seed: int, done: set[CellKey]) -> bool:
    """Whether every cell of a method and seed is done."""
    tasks = getattr(suite, config.evaluation.split)
    return bool(tasks) and all(
        CellKey(name, seed, task.name, size) in done for task in tasks for size in config.evaluation.support_sizes
    )
