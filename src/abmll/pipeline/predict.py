"""A new task from the command line: adapt to its labelled rows, answer its unlabelled ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from abmll.card import read_card
from abmll.config import RunConfig, parse_overrides
from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.core.folders import hold, require_room
from abmll.core.types import TASK, Example
from abmll.data.source_fields import rows_fields
from abmll.evaluation.answers import csv_table, worth
from abmll.evaluation.cross_validation import FOLDS, Help
from abmll.learner import Learner
from abmll.learner.folder import task_of
from abmll.learner.given import labelled_rows, rows_to_predict
from abmll.pipeline.build import join_ranks, load_learner
from abmll.pipeline.preflight import require_usable
from abmll.training.distributed import num_ranks, together

Tell = Callable[[str, bool], None]
"""Takes a sentence for the user, and whether it is a warning."""
MOST_CLASSES = 10
"""Classes that are counted one by one."""


def no_word(sentence: str, warning: bool) -> None:
    """Says nothing."""


def model_of(adapter: Path, overrides: Sequence[str]) -> RunConfig:
    """The run that says how to load an adapter's base model: as its card says, but for overrides of [model].

    Raises:
        AbmllError: For a mistake in an override, one of another section, or an adapter that names no model.
    """
    card = read_card(adapter)
    known = {"dtype": card.asked_dtype} if card.asked_dtype else {}
    if card.base_model:
        known["name"] = card.base_model
    for override in overrides:
        if "=" in override and not override.startswith("model."):
            raise AbmllError(
                f"{override!r} is no field of [model], which is all that can be set here: the rest is the adapter's."
            )
    config = parse_overrides(overrides, {"model": known})
    if not card.base_model and "name" not in config.model.model_fields_set:
        raise AbmllError(f"{adapter} does not say which base model it belongs to. Name it: model.name=NAME.")
    if num_ranks() not in (1, config.model.shard):
        raise AbmllError(
            f"{num_ranks()} processes would each do all of this. Start it without torchrun, or let them hold one model "
            f"between them: model.shard={num_ranks()}."
        )
    return config


def adapt_run(
    adapter: Path,
    task: Path,
    out: Path,
    *,
    support_size: int | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    method: str | None = None,
    check: bool = False,
    tell: Tell = no_word,
) -> Path:
    """Adapts to a task file's rows (or to `support_size` of them) and writes the task's own adapter folder.

    Args:
        overrides: of [model], such as "model.device=cpu". Processes that hold one model between them (`model.shard`) do
            the same, and the first one writes.
        method: the adapter's method, if it is from outside the package: naming it allows its module to be imported.
        check: also cross-validate on the support set, which takes four times the adaptation, and warn if it does not
            help.
        tell: gets what is said of the adaptation, sentence by sentence; warnings with True beside them.
    """
    config = model_of(adapter, overrides)
    support = labelled_rows(task).drawn(support_size, seed)
    ranks = join_ranks(config)
    prompt, places = read_card(adapter).prompt_format, [(f"task {support.name!r} ({task})", support.rows)]
    ranks.first(lambda: require_usable(config, prompt, places, out))
    with ExitStack() as held:
        ranks.first(lambda: held.enter_context(hold(out)))
        learner = load_learner(config, adapter, method)
        ranks.first(lambda: require_room(out, 8 * _num_bytes(learner), "the adapter"))
        with together(config.model.shard > 1):
            posterior = learner.adapt(support, seed=seed)
            tell(f"Adapted to {_counted(support.rows)} in {posterior.seconds or 0.0:.1f} s", False)
            if check:
                _tell_help(posterior.cross_validate(seed=seed), tell)
        return posterior.save(out) if ranks.is_first else out


def _num_bytes(learner: Learner) -> int:
    parameters = learner.likelihood.parameters(TASK).values()
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _counted(rows: Sequence[Example]) -> str:
    """ "16 rows of 2 classes (no 7, yes 9)"; of rows with choices of their own, their number alone."""
    if len({frozenset(row.choices) for row in rows}) > 1:
        return f"{len(rows)} rows with choices of their own"
    counts = Counter(row.choices[row.target] for row in rows if row.target is not None)
    classes = ", ".join(f"{choice} {counts[choice]}" for choice in rows[0].choices[:MOST_CLASSES])
    more = ", …" if len(rows[0].choices) > MOST_CLASSES else ""
    return f"{len(rows)} rows of {len(rows[0].choices)} classes ({classes}{more})"


def _tell_help(found: Help | None, tell: Tell) -> None:
    """Says what adapting is worth, and warns where it is worth nothing."""
    if found is None:
        tell(f"Too few rows to say whether adapting helps ({2 * FOLDS} are needed).", False)
        return
    tell(f"Does it help? {str(found)[0].upper()}{str(found)[1:]}", False)
    if not found.helps:
        than = "the model without adaptation" if found.zero_shot <= found.uniform else "giving every choice alike"
        tell(
            f"Warning: adapting to these rows does not help: {than} does as well on rows not seen. Give more rows, "
            "check their labels, or tune the method (abmll tune).",
            True,
        )


def predict_run(
    adapter: Path,
    file: Path,
    out: Path,
    *,
    num_samples: int = 16,
    overrides: Sequence[str] = (),
    seed: int = 0,
    method: str | None = None,
    tell: Tell = no_word,
) -> Path:
    """Writes one JSON line for each row of `file`: id, prediction, its confidence, all probabilities; in nats, entropy
    and mutual information. If `out` ends in .csv, a table with the columns of the file and these beside them.

    Rows that carry a label also get "correct", and `tell` gets their accuracy, NLL and chance. A file that says neither
    its question nor its choices gets those of the task that was adapted to. overrides, method: as for `adapt_run`.
    """
    config = model_of(adapter, overrides)
    card = read_card(adapter)
    task = task_of(card.task)
    rows = rows_to_predict(file, task)
    ranks = join_ranks(config)
    ranks.first(lambda: require_usable(config, card.prompt_format, [(str(file), rows)], out.parent, alone=False))
    learner = load_learner(config, adapter, method)
    with together(config.model.shard > 1):
        prediction = learner.posterior().predict(rows, num_samples, seed=seed)
    if ranks.is_first:
        if out.suffix.lower() == ".csv":
            words = () if task is None or task.labels is None else task.labels.words
            write_whole(out, csv_table(prediction.rows(), rows_fields(file, len(rows), words)))
        else:
            write_whole(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in prediction.rows()))
        if said := worth(rows, prediction.log_probs):
            tell(said, False)
    return out
