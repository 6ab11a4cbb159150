"""A published table under its protocol: planned, run experiment by experiment, and set beside the published numbers."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from abmll.config import RunConfig, parse_overrides
from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.core.passes import Passes
from abmll.core.toml_text import toml_value
from abmll.data.suite import load_suite, read_suite_spec, shipped_suites
from abmll.evaluation.metrics import cell_metrics
from abmll.evaluation.predictions import Cell, read_cells
from abmll.pipeline.build import load_tasks
from abmll.pipeline.compare import compare_run
from abmll.pipeline.cost_model import (
    ModelSize,
    assumed_cost,
    bytes_needed,
    count_passes,
    device_for,
    mean_tokens,
    model_size,
)
from abmll.pipeline.evaluate import PREDICTIONS
from abmll.pipeline.pool import Failure
from abmll.pipeline.protocol import Contender, Experiment, Protocol, Published, merged, read_protocol
from abmll.pipeline.settle import settled
from abmll.pipeline.timed import Timed, time_method
from abmll.training.progress import progress_bar

LARGEST_TIMED = 1e9
"""Parameters of the largest model of which a piece is timed on a processor."""
TABLE = "reproduction.json"


@dataclass(frozen=True)
class Planned:
    """One experiment of a protocol, ready to run. rows: by their names in the table."""

    experiment: Experiment
    rows: dict[str, Contender]
    config: RunConfig
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """What one experiment costs: counts, and hours and gigabytes. tasks: by side. timed: whether on this machine."""

    experiment: str
    tasks: tuple[int, int, int]
    rows: int
    seeds: int
    steps: int
    trained: float
    predicted: float
    hours: float
    gigabytes: float
    device: str
    timed: bool


@dataclass(frozen=True)
class Pieces:
    """What was timed of the methods, by name, with texts of `tokens` on average."""

    of: dict[str, Timed]
    tokens: float


@dataclass(frozen=True)
class Line:
    """One number of the table beside ours. ours, spread: mean over seeds, their standard deviation; None if absent."""

    experiment: str
    published: Published
    ours: float | None
    spread: float | None
    seeds: int

    @property
    def difference(self) -> float | None:
        """Ours less theirs."""
        theirs = self.published.value
        return None if self.ours is None or theirs is None else self.ours - theirs


def plan(
    protocol: Protocol,
    *,
    model: str | None = None,
    folder: Path | None = None,
    only: Sequence[str] = (),
    out: Path,
    overrides: Sequence[str] = (),
) -> list[Planned]:
    """The experiments of a protocol as runs. Raises AbmllError for an unknown experiment or setting, all at once.

    Args:
        model: in place of the paper's.
        folder: where the suites' data lie.
        only: these experiments.
        overrides: fields of the runs, such as training.num_steps=50.
    """
    known = {experiment.name: experiment for experiment in protocol.experiments}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise AbmllError(f"{protocol.name} has no experiment {unknown[0]!r}. Choose among: {', '.join(known)}.")
    name = model or protocol.model
    return [_planned(protocol, known[one], name, folder, out, overrides) for one in only or known]


def _planned(
    protocol: Protocol, experiment: Experiment, model: str, folder: Path | None, out: Path, overrides: Sequence[str]
) -> Planned:
    rows = protocol.rows_of(experiment)
    words = []
    fields = merged(protocol.run, experiment.run)
    fields = merged(fields, {"model": {"name": model}, "output": str(out / experiment.name)})
    if folder is not None:
        fields = merged(fields, {"data": {"folder": str(folder)}})
    options = merged({row.method: row.options for row in rows.values()}, fields.get("method", {}).get("options", {}))
    methods = list(dict.fromkeys(row.method for row in rows.values()))
    # Only the methods that run may have tables of options.
    fields["method"] = {"name": methods, "options": {name: options[name] for name in methods if options.get(name)}}
    fields = merged(fields, {"data": {"suite": _suite_of(experiment, out)}})
    config = parse_overrides(list(overrides), fields)
    if config.prompt.chat and not _has_chat(config.model.name, config.model.revision):
        words.append(f"{config.model.name} has no chat template: prompts are plain text, not chats as published")
        config = config.model_copy(update={"prompt": config.prompt.model_copy(update={"chat": False})})
    kept = {name: row for name, row in rows.items() if row.method in config.method.names}
    return Planned(experiment, kept, config, tuple(words))


def _suite_of(experiment: Experiment, out: Path) -> str:
    """The suite's name; or, if some of its test tasks are evaluated alone, the path of a suite TOML that says so."""
    if experiment.test is None:
        return experiment.suite
    path = out / experiment.name / "suite.toml"
    lines = [f"extends = {toml_value(experiment.suite)}", f"name = {toml_value(experiment.name)}"]
    write_whole(path, "\n".join([*lines, f"test = {toml_value(experiment.test)}"]) + "\n")
    return str(path)


@cache
def _has_chat(model: str, revision: str | None) -> bool:
    """Whether the model's tokenizer has a chat template; taken for granted where none is on this machine."""
    from transformers import AutoTokenizer

    from abmll import models
    from abmll.models.loading import EMBEDDED

    try:
        if model in EMBEDDED or models.find(model) is not None:
            tokenizer = models.load_tokenizer(model, revision=revision)
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                model, revision=revision, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, ImportError):
        return True
    return getattr(tokenizer, "chat_template", None) is not None


def reproduce_run(
    protocol: Protocol, planned: Sequence[Planned], out: Path, *, jobs: int = 1, progress: bool = True
) -> tuple[list[Line], list[Failure]]:
    """Runs what is missing of every experiment and sets it beside the published numbers.

    Nothing is computed twice: the same call goes on where an earlier one stopped. An experiment that cannot run (its
    data are absent, say) keeps no other from running; if none can, AbmllError says why for each.
    """
    failures: list[Failure] = []
    lines: list[Line] = []
    for number, one in enumerate(planned):
        with progress_bar(number, len(planned), visible=progress, title=f"{protocol.name}: {one.experiment.name}"):
            try:
                baseline = one.config.method.names[-1]
                made = compare_run(one.config, one.config.output, baseline=baseline, jobs=jobs, progress=progress)
                failures += made.failures
            except AbmllError as error:
                failures.append(Failure(one.experiment.name, str(error), ""))
                continue
        lines += beside_published(one, read_cells(one.config.output / PREDICTIONS), protocol)
    if not lines:
        told = "".join(f"\n  {failure.unit}: {failure.error}" for failure in failures)
        raise AbmllError(f"no experiment of {protocol.name} could be run:{told}")
    write_whole(out / TABLE, json.dumps([_written(line) for line in lines], indent=1) + "\n")
    return lines, failures


def beside_published(planned: Planned, cells: Sequence[Cell], protocol: Protocol) -> list[Line]:
    """Every number of an experiment, published or only ours, in the order of the table's rows and metrics."""
    lines = []
    for name, row in planned.rows.items():
        own = [cell for cell in cells if cell.method == row.method]
        for metric in protocol.metrics:
            theirs = [p for p in planned.experiment.published if (p.row, p.metric) == (name, metric)]
            published = theirs[0] if theirs else Published(row=name, metric=metric, status="missing")
            values = list(_by_seed(own, metric).values())
            mean = statistics.fmean(values) if values else None
            spread = statistics.stdev(values) if len(values) > 1 else None
            lines.append(Line(planned.experiment.name, published, mean, spread, len(values)))
    return lines


def _by_seed(cells: Sequence[Cell], metric: str) -> dict[int, float]:
    """A metric by seed, averaged over tasks with equal weight."""
    found: dict[int, list[float]] = {}
    for cell in cells:
        found.setdefault(cell.seed, []).append(_value(cell, metric))
    return {seed: statistics.fmean(values) for seed, values in found.items()}


def _value(cell: Cell, metric: str) -> float:
    if metric == "metaicl":  # rows of one set of choices are a classification task
        metric = "macro_f1" if "choices" in cell.extra else "accuracy"
    return cell_metrics(cell)[metric]


def _written(line: Line) -> dict[str, Any]:
    return {
        "experiment": line.experiment,
        **line.published.model_dump(exclude_none=True),
        "ours": line.ours,
        "spread_over_seeds": line.spread,
        "seeds": line.seeds,
        "difference": line.difference,
    }


def time_pieces(planned: Sequence[Planned]) -> Pieces | None:
    """Pieces of every method of some experiments, timed on this machine.

    Each is timed in the first experiment that has it and whose data are here.

    Returns:
        None where nothing can be timed: the model is not here, too large for this machine, or no data are.
    """
    size = model_size(planned[0].config)
    if size is None or (size.parameters > LARGEST_TIMED and not torch.cuda.is_available()):
        return None
    found: dict[str, Timed] = {}
    tokens = []
    for one in planned:
        try:
            suite = load_tasks(one.config)
            config = settled(one.config, suite, one.config.output)
            names = [name for name in config.method.names if name not in found]
            found |= {name: time_method(config, suite, name) for name in names}
        except AbmllError:
            continue  # what is wrong is told when it is run
        tokens += [mean_tokens([row for task in suite.test for row in task.examples[:20]])] * len(names)
    return Pieces(found, statistics.fmean(tokens)) if found else None


def estimate(protocol: Protocol, planned: Planned, pieces: Pieces | None = None) -> Estimate:
    """What an experiment costs. Data that are at hand are measured; of others the suite's lists tell the counts.

    Args:
        pieces: of its methods, where they were timed; by default seconds are assumed from the number of parameters.
    """
    config = planned.config
    tasks, examples, query = _counts(planned)
    tokens = mean_tokens(examples)
    size = model_size(config) or ModelSize.like_llama(protocol.parameters, config.adapter.r)
    device = device_for(size.parameters)
    seeds, names = len(config.evaluation.seeds), config.method.names
    counted = {name: count_passes(config, name, tasks[2], query).times(seeds) for name in names}
    passes = Passes(*map(sum, zip(*counted.values(), strict=True)))
    timed = pieces is not None and all(name in pieces.of for name in names)
    if pieces is not None and timed:
        scale = tokens / pieces.tokens
        seconds = seeds * sum(pieces.of[name].seconds(config, name, tasks[2], query, scale) for name in names)
    else:
        seconds = assumed_cost(size.parameters, tokens, device).seconds(passes)
    bytes_each = 4 if config.model.dtype == "float32" or device == "cpu" else 2
    return Estimate(
        planned.experiment.name,
        tasks,
        len(names),
        seeds,
        config.training.num_steps,
        passes.trained,
        passes.predicted,
        seconds / 3600,
        bytes_needed(size, bytes_each, tokens, batch=2) / 1e9,
        device,
        timed,
    )


def _counts(planned: Planned) -> tuple[tuple[int, int, int], list[Any], float]:
    """Tasks by side, some examples of the held-out ones, and how many are predicted a task."""
    config = planned.config
    wanted = config.evaluation.num_query
    try:
        suite = load_suite(config.data.suite, folder=config.data.folder)
    except AbmllError:
        path = Path(config.data.suite)
        listed = read_suite_spec(path if path.is_file() else shipped_suites()[config.data.suite]).listed()
        counts = (len(listed["train"]), len(listed["validation"]), len(listed["test"]))
        return counts, [], float(wanted or 1000)
    examples = [row for task in suite.test for row in task.examples[:20]]
    sizes = [min(wanted or len(task), len(task)) for task in suite.test]
    mean = statistics.fmean(sizes) if sizes else 0.0
    return (len(suite.train), len(suite.validation), len(suite.test)), examples, mean


__all__ = ["Estimate", "Line", "Pieces", "Planned", "estimate", "plan", "read_protocol", "reproduce_run", "time_pieces"]
