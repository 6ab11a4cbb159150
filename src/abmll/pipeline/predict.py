"""A new task from the command line: adapt to its labelled rows, answer its unlabelled ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from abmll.card import read_card
from abmll.config import ModelConfig, RunConfig, parse_overrides
from abmll.core.calibration import entropy, mixture
from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.core.seeds import derive_seed, seeded
from abmll.data.episodes import permutation
from abmll.data.readers import read_task
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
) -> Path:
    """Adapts to a task file's rows (or to `support_size` of them) and writes the task's own adapter folder.

    overrides: of [model], such as "model.device=cpu". Processes that hold one model between them (`model.shard`) do
    the same, and the first one writes.
    """
    read = read_task(task)
    support = read.support_pool or read.examples
    if support_size is not None and support_size < len(support):
        support = tuple(support[i] for i in permutation(len(support), "adapt", seed, read.name)[:support_size])
    config = model_of(adapter, overrides)
    learner = load_learner(config, adapter)
    with together(config.model.shard > 1):
        posterior = learner.adapt(support, seed=seed)
    return learner.save(out, posterior=posterior, task=read) if join_ranks(config).is_first else out


def predict_run(
    adapter: Path, file: Path, out: Path, *, num_samples: int = 16, overrides: Sequence[str] = (), seed: int = 0
) -> Path:
    """Writes one JSON line for each row of `file`: id, prediction, its confidence, all probabilities, entropy in nats.

    Rows that carry a label also get "correct". A file that says neither its question nor its choices gets those of the
    task that was adapted to. overrides: as for `adapt_run`.
    """
    known = read_card(adapter).task
    rows = read_task(file, labelled=False, known_choices=known.choices).examples
    rows = tuple(row if row.question else row._replace(question=known.question) for row in rows)
    config = model_of(adapter, overrides)
    learner = load_learner(config, adapter)
    with seeded(derive_seed("predict", seed)), together(config.model.shard > 1):
        # An unlabelled row has target -1; the likelihood scores choices and never asks which one is right.
        log_probs = mixture(learner.posterior().predict(rows, num_samples).double())
    probs = log_probs.exp()
    lines = []
    for index, (row, p, h) in enumerate(zip(rows, probs.tolist(), entropy(probs).tolist(), strict=True)):
        p = p[: len(row.choices)]
        best = max(range(len(p)), key=p.__getitem__)
        answer = {
            "id": row.id or str(index),
            "prediction": row.choices[best],
            "confidence": round(p[best], 6),
            "probabilities": {choice: round(value, 6) for choice, value in zip(row.choices, p, strict=True)},
            "entropy": round(h, 6),
        }
        if row.target >= 0:
            answer["correct"] = best == row.target
        lines.append(json.dumps(answer, ensure_ascii=False) + "\n")
    if join_ranks(config).is_first:
        write_whole(out, "".join(lines))
    return out
