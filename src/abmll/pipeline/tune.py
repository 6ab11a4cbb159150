"""Choosing options before the comparison: seeded random search, evaluated on validation tasks alone."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from abmll.config import RunConfig
from abmll.core.documents import parse_json
from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.core.folders import hold
from abmll.core.params import assign, clone
from abmll.core.toml_text import toml_value
from abmll.core.types import META
from abmll.data.split import hold_out
from abmll.data.suite import Suite
from abmll.data.task import Task
from abmll.evaluation.metrics import METRICS, cell_metrics
from abmll.language import PromptFormat
from abmll.learner import Learner
from abmll.methods.table.search import draw_options, space_of
from abmll.pipeline.build import build_learner, fetch_model, load_tasks
from abmll.pipeline.evaluate import training_key
from abmll.pipeline.pool import Failure, Unit, run_here, run_workers
from abmll.pipeline.preflight import Findings, places_of
from abmll.pipeline.run_record import RUN_FILE, require_same_run, write_run_record
from abmll.pipeline.settle import settled
from abmll.pipeline.train import meta_train
from abmll.training.progress import progress_bar

TRIALS, TUNED = "trials.jsonl", "tuned.toml"
KEPT = ("nll", "accuracy", "ece", "brier")
"""The metrics that a trial's record has."""


@dataclass(frozen=True)
class TuningTasks:
    """All that the search can see: there is no test task in it to look at."""

    train: tuple[Task, ...]
    validation: tuple[Task, ...]


def tuning_tasks(config: RunConfig) -> TuningTasks:
    """The run's tasks without those it is evaluated on.

    A suite without validation tasks, as one that is split by `data.held_out`, gives `tune.held_out` of its training
    tasks, in whole families; the trials are then not trained on them.

    Raises:
        AbmllError: If none can be had that way either.
    """
    suite = load_tasks(config)
    if suite.validation:
        return TuningTasks(suite.train, suite.validation)
    train, validation = hold_out(suite.require("train"), config.tune.held_out, config.tune.seed)
    return TuningTasks(tuple(train), tuple(validation))


def tune_run(config: RunConfig, out: Path, *, jobs: int = 1, progress: bool = True) -> tuple[Path, list[Failure]]:
    """Tries `tune.trials` settings of every method of the run and writes out/tuned.toml with the best of each.

    Every trial is a line of out/trials.jsonl as soon as it is done; none is ever done twice. Methods run side by side
    on `jobs` processes. Returns the file, and the methods that could not be tuned.

    Raises:
        AbmllError: For tasks that cannot be read or tuned on, and for an `out` with trials of other settings.
    """
    findings = Findings()
    suite = findings.of(lambda: load_tasks(config))
    findings.of_device(config.model)
    findings.of_folder(out)
    if suite is not None:
        # refuses, before anything is written, what every method would be refused for
        findings.of(lambda: tuning_tasks(config))
        prompt = PromptFormat(**config.prompt.model_dump())
        findings.of_rows(config.model, prompt, places_of([*suite.train, *suite.validation]))
    findings.raise_all()
    assert suite is not None
    with hold(out):
        return _tune(config, suite, out, jobs, progress)


def _tune(config: RunConfig, suite: Suite, out: Path, jobs: int, progress: bool) -> tuple[Path, list[Failure]]:
    fetch_model(config.model)
    config = settled(config, suite, out)
    require_same_run(out, config, free=("method.name", "output", "tune.trials"))
    write_run_record(out, config, [config.tune.seed])
    units = [Unit(name, {"work": "tune", "method": name}) for name in config.method.names]
    ended: list[Unit] = []
    with progress_bar(0, len(units), visible=progress, title="tuning methods") as show:

        def on_end(unit: Unit) -> None:
            ended.append(unit)
            show({"step": len(ended)})

        if jobs == 1:
            failures = run_here(units, lambda request: tune_method(config, request["method"], out), on_end)
        else:
            command = [sys.executable, "-m", "abmll.pipeline.worker", str(out / RUN_FILE), str(out)]
            failures = run_workers(units, command, min(jobs, len(units)), out / "workers", on_end)
    return write_whole(out / TUNED, tuned_toml(config, read_trials(out / TRIALS))), failures


def tune_method(config: RunConfig, name: str, out: Path) -> None:
    """The trials of one method that out/trials.jsonl does not hold yet.

    Trials that share their meta-training (options of the adaptation alone differ) share its result too.
    """
    path = out / TRIALS
    done = {record["trial"] for record in read_trials(path) if record["method"] == name}
    tasks = tuning_tasks(config)
    trained: dict[str, dict[str, Tensor]] = {}
    for trial in range(num_trials(config, name)):
        if trial not in done:
            options = draw_options(name, config.tune.seed, trial)
            _append(
                path,
                {"method": name, "trial": trial, "options": options, **_try(config, name, options, tasks, trained)},
            )


def num_trials(config: RunConfig, name: str) -> int:
    """`tune.trials`, or one for a method that has nothing to choose."""
    return config.tune.trials if space_of(name) else 1


def _try(
    config: RunConfig,
    name: str,
    options: Mapping[str, Any],
    tasks: TuningTasks,
    trained: dict[str, dict[str, Tensor]],
) -> dict[str, Any]:
    """The metrics of one setting; a setting that diverges has none, and says why."""
    begun = time.perf_counter()
    try:
        numbers: dict[str, Any] = _measure(with_options(config, name, options), name, tasks, trained)
    except AbmllError as error:
        numbers = {"failed": str(error)}
    return {**numbers, "seconds": round(time.perf_counter() - begun, 3)}


def _measure(
    config: RunConfig, name: str, tasks: TuningTasks, trained: dict[str, dict[str, Tensor]]
) -> dict[str, float]:
    tune, evaluation = config.tune, config.evaluation
    learner: Learner = build_learner(config, name, seed=tune.seed)
    if learner.method.meta_learner is not None:
        key = training_key(config, name)
        meta = learner.likelihood.parameters(META)
        if key in trained:
            assign(meta, trained[key])
        else:
            meta_train(learner, tasks.train, config, tune.seed, num_steps=tune.num_steps or config.training.num_steps)
            trained[key] = clone(meta)
    cells = learner.evaluate(
        tasks.validation,
        seed=tune.seed,
        support_sizes=evaluation.support_sizes,
        num_samples=evaluation.num_samples,
        num_query=evaluation.num_query,
    )
    metrics = [cell_metrics(cell) for cell in cells]
    return {name: fmean(numbers[name] for numbers in metrics) for name in KEPT}


def with_options(config: RunConfig, name: str, options: Mapping[str, Any]) -> RunConfig:
    """The run with these options of one method put into its own table."""
    tables = dict(config.method.options)
    tables[name] = {**tables.get(name, {}), **options}
    return config.model_copy(update={"method": config.method.model_copy(update={"options": tables})})


def best_trial(records: list[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """The record of the best value, the earliest of equals; None if no trial has one."""
    sign = -1 if METRICS[metric].better == "higher" else 1
    scored = [r for r in records if isinstance(r.get(metric), float) and math.isfinite(r[metric])]
    return min(scored, key=lambda record: (sign * record[metric], record["trial"]), default=None)


def tuned_toml(config: RunConfig, records: list[dict[str, Any]]) -> str:
    """The best options of every method as tables that a run file can hold."""
    metric = config.tune.metric
    lines = [f"# Chosen by `abmll tune`: the best {metric} on the validation tasks.", ""]
    for name in config.method.names:
        count = num_trials(config, name)
        found = [r for r in records if r["method"] == name and r["trial"] < count]
        best = best_trial(found, metric)
        if best is None:
            lines += [f"# {name}: no trial came to an end", ""]
            continue
        default = next((r.get(metric) for r in found if r["trial"] == 0), None)
        than = "" if default is None else f", with its defaults {default:.4f}"
        lines += [f"# {metric} {best[metric]:.4f} in trial {best['trial']} of {len(found)}{than}"]
        lines += [f"[method.options.{name}]"]
        lines += [f"{option} = {toml_value(value)}" for option, value in best["options"].items()] + [""]
    return "\n".join(lines)


def read_trials(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a trials file; one that was cut off is left out, and its trial is done again."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = parse_json(line, nan_is_null=True)
            record["method"], record["trial"], record["options"]
        except (ValueError, KeyError, TypeError):
            continue
        records.append(record)
    return records


def _append(path: Path, record: Mapping[str, Any]) -> None:
    # One write to a file opened for appending: lines of several processes do not mix. The leading line break ends a
    # line that a killed process left unfinished; readers skip empty lines.
    line = "\n" + json.dumps(record, ensure_ascii=False)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
