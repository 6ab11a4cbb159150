"""The comparison: every method, seed, task and support size once, then one table of everything."""

from __future__ import annotations

import inspect
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from abmll.config import RunConfig, about_run, provenance
from abmll.config.methods import known_options
from abmll.core.errors import AbmllError
from abmll.core.folders import hold
from abmll.data.suite import Suite
from abmll.evaluation.predictions import index, read_cells
from abmll.evaluation.references import baseline_of
from abmll.methods import is_method, method_factory
from abmll.pipeline.build import fetch_model, load_tasks
from abmll.pipeline.evaluate import (
    PREDICTIONS,
    is_complete,
    prepare_folder,
    require_ready,
    require_same_evaluation,
    trainer_of,
    write_texts,
)
from abmll.pipeline.pool import Failure, Unit, run_here, run_workers
from abmll.pipeline.preflight import Findings
from abmll.pipeline.references import with_references
from abmll.pipeline.run_record import RUN_FILE
from abmll.pipeline.settle import settled
from abmll.pipeline.worker import Bench
from abmll.reports.comparison import write_comparison
from abmll.training.progress import progress_bar


@dataclass(frozen=True)
class Budget:
    """What adaptation may cost, for all methods alike.

    Attributes:
        kind: "steps" of the inner loop, in meta-training and in adaptation; or "seconds" of adaptation.
        amount: how many; None takes the baseline's own steps, or the seconds that it needs.
    """

    kind: Literal["steps", "seconds"]
    amount: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From "steps", "steps=20", "seconds" or "seconds=1.5". Raises AbmllError for anything else."""
        kind, equals, amount = text.partition("=")
        try:
            value = float(amount) if equals else None
        except ValueError:
            value = -1.0
        whole = kind != "steps" or value is None or value == int(value)
        if kind not in ("steps", "seconds") or (value is not None and value <= 0) or not whole:
            raise AbmllError(f"budget {text!r}: give steps, steps=20, seconds or seconds=1.5.")
        return cls(kind, value)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Comparison:
    """What a comparison left: its table for a terminal and as a Markdown file, its report, and what failed.

    Attributes:
        num_units: how many pairs of a method and a seed the comparison has.
    """

    text: str
    table: Path
    report: Path
    failures: list[Failure]
    num_units: int


def compare_run(
    config: RunConfig,
    out: Path,
    *,
    baseline: str | None = None,
    budget: Budget | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> Comparison:
    """Adds every cell of the run that `out`/predictions.jsonl lacks, `jobs` units at once, and writes the table.

    A unit is one method with one seed: its meta-training, then all tasks and support sizes. A unit that fails leaves
    the others alone; what it finished is kept, and the next call goes on from there.

    Args:
        baseline: what the paired tests are against, and whose a budget without a number is; None: `baseline_of` the
            methods.

    Raises:
        AbmllError: For settings that differ from those of the cells in `out`, and if not one cell was made.
    """
    config = with_references(config)
    baseline = baseline or baseline_of(config.method.names)
    if budget is not None:
        config = _with_budget(config, budget, baseline)
    findings = Findings()
    suite = findings.of(lambda: load_tasks(config))
    require_ready(findings, config, suite, out)
    assert suite is not None
    with hold(out):
        return _compare(config, suite, out, baseline, jobs, progress)


def _compare(config: RunConfig, suite: Suite, out: Path, baseline: str, jobs: int, progress: bool) -> Comparison:
    fetch_model(config.model)
    config = settled(config, suite, out)
    require_same_evaluation(out, config)
    prepare_folder(config, dict.fromkeys(config.method.names), out)
    names, reference = list(config.method.names), config.evaluation.same_seconds_as
    seconds: list[float] | None = None
    failures: list[Failure] = []
    if reference is not None:
        failures += _perform(config, suite, [reference], None, out, jobs, progress)
        seconds = _seconds_of(out, reference, config.evaluation.support_sizes)
        names.remove(reference)
    failures += _perform(config, suite, names, seconds, out, jobs, progress)
    write_texts(config, suite, out)
    return _write(config, out, baseline, seconds, failures)


def _with_budget(config: RunConfig, budget: Budget, baseline: str) -> RunConfig:
    if budget.kind == "steps":
        return _with_steps(config, baseline, budget.amount)
    if budget.amount is not None:
        limit: dict[str, Any] = {"adaptation_seconds": (budget.amount,), "same_seconds_as": None}
    elif baseline in config.method.names:
        limit = {"adaptation_seconds": None, "same_seconds_as": baseline}
    else:
        raise AbmllError(
            f"--budget seconds takes the seconds of {baseline}, which is not among the methods. Add it, or give "
            "--budget seconds=1.5."
        )
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=limit)})


def _with_steps(config: RunConfig, baseline: str, amount: float | None) -> RunConfig:
    """The run with one number of inner steps for every method that has such an option."""
    if amount is None:
        if not is_method(baseline) or "num_steps" not in known_options(baseline):
            raise AbmllError(f"--budget steps takes the steps of {baseline}, which has none. Give --budget steps=20.")
        own = inspect.signature(method_factory(baseline)).parameters["num_steps"].default
        amount = config.method.options_for(baseline).get("num_steps", own)
    tables = {
        name: {**config.method.options.get(name, {}), "num_steps": int(amount)}
        for name in config.method.names
        if "num_steps" in known_options(name)
    }
    method = config.method.model_copy(update={"options": {**config.method.options, **tables}})
    for name in config.method.names:
        method_factory(name)(**method.options_for(name))  # refuses, before anything runs, what a method cannot do with
    return config.model_copy(update={"method": method})


def _perform(
    config: RunConfig,
    suite: Suite,
    names: Sequence[str],
    seconds: Sequence[float] | None,
    out: Path,
    jobs: int,
    progress: bool,
) -> list[Failure]:
    done = index(out / PREDICTIONS)
    pairs = [(name, seed) for seed in config.evaluation.seeds for name in names]
    units = [
        _unit(config, name, seed, seconds, out)
        for name, seed in pairs
        if not is_complete(config, suite, name, seed, done)
    ]
    ended: list[Unit] = []
    with progress_bar(len(pairs) - len(units), len(pairs), visible=progress, title="comparing") as show:

        def on_end(unit: Unit) -> None:
            ended.append(unit)
            show({"step": len(pairs) - len(units) + len(ended)})

        if jobs == 1:
            return run_here(units, Bench(config, out).perform, on_end)
        command = [sys.executable, "-m", "abmll.pipeline.worker", str(out / RUN_FILE), str(out)]
        return run_workers(units, command, max(1, min(jobs, len(units))), out / "workers", on_end)


def _unit(config: RunConfig, name: str, seed: int, seconds: Sequence[float] | None, out: Path) -> Unit:
    trainer = trainer_of(config, name, seed, out)
    request = {"work": "evaluate", "method": name, "seed": seed, "seconds": list(seconds) if seconds else None}
    return Unit(_label(name, seed), request, after=None if trainer == name else _label(trainer, seed))


def _label(name: str, seed: int) -> str:
    return f"{name}, seed {seed}"


def _seconds_of(out: Path, method: str, support_sizes: Sequence[int]) -> list[float]:
    """Median seconds of adaptation of a method at each support size."""
    cells = [cell for cell in read_cells(out / PREDICTIONS) if cell.method == method]
    found = [[cell.seconds for cell in cells if cell.support_size == size] for size in support_sizes]
    if not all(found):
        raise AbmllError(f"{method} has no cell to take the seconds from: see what it failed at in {out}, and go on.")
    return [statistics.median(values) for values in found]


def _write(
    config: RunConfig,
    out: Path,
    baseline: str,
    seconds: Sequence[float] | None,
    failures: list[Failure],
) -> Comparison:
    if failures:
        text = "".join(f"{one.unit}: {one.error}\n{one.traceback}\n" for one in failures)
        (out / "errors.log").write_text(text, encoding="utf-8")
    if not (out / PREDICTIONS).is_file():
        told = "".join(f"\n  {one.unit}: {one.error}" for one in failures)
        raise AbmllError(f"nothing could be compared:{told}\nMore is in {out / 'errors.log'}.")
    logs = {f"{log.parent.parent.name}/{log.parent.name}": log for log in sorted(out.glob("*/*/training.jsonl"))}
    info = {**provenance(config.evaluation.seeds), "budget": _told(config, seconds), **about_run(config)}
    text, table, report = write_comparison(out / PREDICTIONS, out, baseline, logs, info)
    num_units = len(config.method.names) * len(config.evaluation.seeds)
    return Comparison(text, table, report, failures, num_units)


def _told(config: RunConfig, seconds: Sequence[float] | None) -> str:
    """The budget in words."""
    evaluation = config.evaluation
    seconds = seconds or evaluation.adaptation_seconds
    if seconds:
        sizes = list(evaluation.support_sizes) if len(seconds) > 1 else ["any number of"]
        each = ", ".join(f"{value:.3g} with {size} examples" for size, value in zip(sizes, seconds, strict=True))
        whose = f", those of {evaluation.same_seconds_as}" if evaluation.same_seconds_as else ""
        return f"equal seconds of adaptation ({each}{whose})"
    steps = {o["num_steps"] for n in config.method.names if "num_steps" in (o := config.method.options_for(n))}
    able = [n for n in config.method.names if "num_steps" in known_options(n)]
    if len(steps) == 1 and all("num_steps" in config.method.options_for(n) for n in able):
        return f"equal gradient steps ({steps.pop()} in every inner loop)"
    return "each method's own number of gradient steps"
