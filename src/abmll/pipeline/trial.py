"""One labelled file, tried: adapt to a part of it, judge on the rest, beside what needs no adapting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

from abmll.card import read_card
from abmll.config import RunConfig
from abmll.core.errors import AbmllError
from abmll.data.readers import read_task
from abmll.data.task import Task
from abmll.evaluation.calibration import mixture
from abmll.evaluation.evaluate import evaluate
from abmll.evaluation.predictions import Cell
from abmll.evaluation.queries import Queries, queries_of
from abmll.evaluation.references import REFERENCES
from abmll.evaluation.summary import Summary, summarise
from abmll.language import PromptFormat
from abmll.learner import Learner
from abmll.methods import build_method
from abmll.methods.parts.no_model import NoModel, needs_model
from abmll.pipeline.build import build_learner, load_learner
from abmll.pipeline.predict import model_of
from abmll.pipeline.preflight import places_of, require_usable
from abmll.reports.mistakes import confident_mistakes
from abmll.reports.notation import number
from abmll.reports.tables import text_table

LEAST_QUERY = 8
"""Rows that must be left to judge on."""


@dataclass(frozen=True)
class Trial:
    """What a trial found: the cells, and their table and a verdict for a terminal."""

    cells: tuple[Cell, ...]
    text: str


def try_run(
    file: Path,
    config: RunConfig | None,
    adapter: Path | None,
    *,
    support_size: int = 16,
    seeds: int = 3,
    num_query: int = 200,
    num_samples: int = 16,
    overrides: Sequence[str] = (),
) -> Trial:
    """Adapts to `support_size` rows of a task file and predicts others, with every seed other ones.

    Args:
        file: A labelled task.
        config: Which model and method, if there is no adapter.
        adapter: What to adapt from; the method is its own.
        support_size: Labelled rows to adapt to.
        seeds: Draws of these rows.
        num_query: The most rows to judge on.
        num_samples: Of the posterior.
        overrides: Of [model], with an adapter.

    Raises:
        AbmllError: For a file that cannot be read, or with too few rows to hold some back; for rows that cannot be put
            to the model and a device that is not there, before the model is loaded.
    """
    task = read_task(file)
    _require_enough(task, support_size)
    if adapter is not None:
        config = model_of(adapter, overrides)
        require_usable(config, read_card(adapter).prompt_format, places_of([task]))
        learner = load_learner(config, adapter)
        name = learner.name
    else:
        assert config is not None
        (name,) = config.method.names
        build_method(name, **config.method.options_for(name))  # whose mistakes need no model either
        require_usable(config, PromptFormat(**config.prompt.model_dump()), places_of([task]))
        learner = build_learner(config, name, seed=config.seed)
    # The zero-shot row is asked in the same way: "auto" is settled once.
    learner.likelihood.settle(task.support_pool or task.examples[:support_size])
    prompt = type(config.prompt).model_validate(vars(learner.prompt))
    config = config.model_copy(update={"prompt": prompt})
    options = {"support_sizes": (support_size,), "num_samples": num_samples, "num_query": num_query}
    cells = [
        cell
        for method, judge in _judges(name, learner, config)
        for seed in range(seeds)
        for cell in judge(tasks=[task], name=method, seed=seed, **options)
    ]
    summary = summarise(cells, name)
    queries = queries_of([task], range(seeds), num_query, support_size)
    return Trial(tuple(cells), "\n\n".join([text_table(summary).rstrip(), *_words(summary, cells, queries)]))


def _judges(name: str, learner: Learner, config: RunConfig) -> Iterator[tuple[str, Callable[..., Iterable[Cell]]]]:
    """The method itself, then the references."""
    yield name, learner.evaluate
    for reference in REFERENCES:
        if reference != name:
            method = build_method(reference)
            if needs_model(method):
                yield reference, build_learner(config, reference, seed=0).evaluate
            else:
                yield reference, partial(evaluate, NoModel(), method)


def _require_enough(task: Task, support_size: int) -> None:
    found = len(task.examples) - (0 if task.support_pool else support_size)
    pool = len(task.support_pool) or len(task.examples)
    if found < LEAST_QUERY or pool < support_size:
        raise AbmllError(
            f"{task.source}: {len(task.examples)} labelled rows are too few to adapt to {support_size} and judge on at "
            f"least {LEAST_QUERY}. Give more rows, or adapt to fewer: --support N."
        )


def paired_gain(cells: Sequence[Cell], name: str, other: str) -> tuple[float, float, int]:
    """By how much `name` has a lower NLL than `other` on the same rows.

    Returns:
        The mean over rows in nats, its standard error, and how many rows there are. A row that several seeds ask counts
        once, by its mean: it is the same row.
    """
    gains: dict[str, list[float]] = {}
    theirs = {(cell.task, cell.seed): cell for cell in cells if cell.method == other}
    for cell in cells:
        if cell.method == name:
            both = zip(cell.ids, row_nll(theirs[cell.task, cell.seed]), row_nll(cell), strict=True)
            for row, before, after in both:
                gains.setdefault(row, []).append(before - after)
    means = [fmean(values) for values in gains.values()]
    error = stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.inf
    return fmean(means), error, len(means)


def row_nll(cell: Cell) -> list[float]:
    """The NLL of each row of a cell in nats."""
    chosen = mixture(cell.log_probs.double().log_softmax(-1)).gather(1, cell.targets[:, None])
    return [-value for value in chosen.squeeze(1).tolist()]


def _words(summary: Summary, cells: Sequence[Cell], queries: Queries) -> list[str]:
    """The verdict in a sentence or two, and the surest mistakes."""
    (size,), name = summary.support_sizes, summary.baseline
    standing, zero_shot = summary.standing(name, size), summary.standing("pretrained", size)
    assert standing is not None
    assert zero_shot is not None
    nll, before = standing.estimates["nll"].mean, zero_shot.estimates["nll"].mean
    uniform = summary.mean_levels(size).uniform_nll
    gain, error, num_rows = paired_gain(cells, name, "pretrained")
    if nll < min(before, uniform):
        verdict = f"Adapting to {size} of your rows helps: NLL {number(nll)}, zero-shot {number(before)}."
        if gain < 2 * error:
            verdict = (
                f"Adapting to {size} of your rows may help: NLL {number(nll)}, zero-shot {number(before)}; on "
                f"{num_rows} rows that is within the noise. Give more rows, or draw more often (--seeds)."
            )
    else:
        better = "the model as it is" if before <= uniform else "giving every choice alike"
        verdict = (
            f"Adapting to {size} of your rows does not help: {better} has an NLL of {number(min(before, uniform))}, "
            f"after adapting it is {number(nll)}. Try more rows (--support), another model, or a meta-trained adapter."
        )
    own = [cell for cell in cells if cell.method == name]
    mistakes = [
        f"  {one.text}\n    answered {one.predicted} ({one.confidence:.0%}), right is {one.right}"
        for one in confident_mistakes(own, queries, count=3)
    ]
    return [verdict, *(["Its surest mistakes:\n" + "\n".join(mistakes)] if mistakes else [])]
