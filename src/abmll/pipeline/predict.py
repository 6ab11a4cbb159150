"""A new task from the command line: adapt to its labelled rows, answer its unlabelled ones."""

from __future__ import annotations

import json
from pathlib import Path

from abmll.config import ModelConfig
from abmll.core.calibration import entropy, mixture
from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.core.seeds import derive_seed, seeded
from abmll.data.episodes import permutation
from abmll.data.readers import read_task
from abmll.learner import Learner, read_card
from abmll.pipeline.build import load_model


def load_learner(adapter: Path, base_model: str | None) -> Learner:
    """The learner in an adapter folder, on its own base model or on the one named instead."""
    name = base_model or read_card(adapter)["base_model"]
    if not name:
        raise AbmllError(f"{adapter} does not say which base model it belongs to. Name it with --base-model.")
    return Learner.load(adapter, *load_model(ModelConfig(name=name)))


def adapt_run(
    adapter: Path,
    task: Path,
    out: Path,
    *,
    support_size: int | None = None,
    seed: int = 0,
    base_model: str | None = None,
) -> Path:
    """Adapts to a task file's rows (or to `support_size` of them) and writes the task's own adapter folder."""
    read = read_task(task)
    support = read.support_pool or read.examples
    if support_size is not None and support_size < len(support):
        support = tuple(support[i] for i in permutation(len(support), "adapt", seed, read.name)[:support_size])
    learner = load_learner(adapter, base_model)
    return learner.save(out, posterior=learner.adapt(support, seed=seed), task=read)


def predict_run(
    adapter: Path, file: Path, out: Path, *, num_samples: int = 16, base_model: str | None = None, seed: int = 0
) -> Path:
    """Writes one JSON line for each row of `file`: id, prediction, its confidence, all probabilities, entropy in nats.

    Rows that carry a label also get "correct". A file that says neither its question nor its choices gets those of the
    task that was adapted to.
    """
    known = read_card(adapter)["task"]
    rows = read_task(file, labelled=False, known_choices=known["choices"]).examples
    rows = tuple(row if row.question else row._replace(question=known["question"]) for row in rows)
    learner = load_learner(adapter, base_model)
    with seeded(derive_seed("predict", seed)):
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
    write_whole(out, "".join(lines))
    return out
