"""A new task from the command line: adapt to its labelled rows, answer its unlabelled ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from abmll.card import read_card
from abmll.config import ModelConfig, RunConfig, parse_overrides
from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.learner.folder import task_of
from abmll.learner.given import labelled_rows, rows_to_predict
from abmll.pipeline.build import join_ranks, load_learner
from abmll.training.distributed import num_ranks, together

ADAPTED_TYPES = get_args(ModelConfig.model_fields["dtype"].annotation)


def model_of(adapter: Path, overrides: Sequence[str]) -> RunConfig:
    """The run that says how to load an adapter's base model: as its card says, but for overrides of [model].

    Raises: AbmllError for a mistake in an override, one of another section, or an adapter that names no model.
    """
    card = read_card(adapter)
    known = {"dtype": card.dtype} if card.dtype in ADAPTED_TYPES else {}
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
) -> Path:
    """Adapts to a task file's rows (or to `support_size` of them) and writes the task's own adapter folder.

    overrides: of [model], such as "model.device=cpu". Processes that hold one model between them (`model.shard`) do
    the same, and the first one writes.
    method: the adapter's method, if it is from outside the package: naming it allows its module to be imported.
    """
    config = model_of(adapter, overrides)
    support = labelled_rows(task).drawn(support_size, seed)  # what is wrong with the file is told before anything loads
    learner = load_learner(config, adapter, method)
    with together(config.model.shard > 1):
        posterior = learner.adapt(support, seed=seed)
    return posterior.save(out) if join_ranks(config).is_first else out


def predict_run(
    adapter: Path,
    file: Path,
    out: Path,
    *,
    num_samples: int = 16,
    overrides: Sequence[str] = (),
    seed: int = 0,
    method: str | None = None,
) -> Path:
    """Writes one JSON line for each row of `file`: id, prediction, its confidence, all probabilities; in nats, entropy
    and mutual information.

    Rows that carry a label also get "correct". A file that says neither its question nor its choices gets those of the
    task that was adapted to. overrides, method: as for `adapt_run`.
    """
    config = model_of(adapter, overrides)
    rows = rows_to_predict(file, task_of(read_card(adapter).task))
    learner = load_learner(config, adapter, method)
    with together(config.model.shard > 1):
        prediction = learner.posterior().predict(rows, num_samples, seed=seed)
    if join_ranks(config).is_first:
        write_whole(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in prediction.rows()))
    return out
