"""Which unlabelled rows to label next: those that the adapted model is least sure of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from abmll.card import read_card
from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.evaluation.calibration import mixture, mutual_information
from abmll.learner.folder import task_of
from abmll.learner.given import rows_to_predict
from abmll.pipeline.build import load_learner
from abmll.pipeline.predict import model_of
from abmll.pipeline.preflight import require_usable

Score = Literal["margin", "mutual-information"]


def acquire_run(
    adapter: Path,
    pool: Path,
    out: Path,
    *,
    count: int = 8,
    by: Score = "margin",
    num_samples: int = 16,
    overrides: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """Writes the `count` rows of `pool` that the adapted model is least sure of, first, one JSON line each.

    by: "margin", the two most probable answers closest to each other; or "mutual-information", the posterior samples
        most at odds, which needs a method whose samples differ.
    overrides: as for `predict_run`.

    Raises: AbmllError for rows, a device or a folder that are of no use, before the model is loaded; and for mutual
    information where all samples agree: such a posterior cannot rank anything by it.
    """
    config, card = model_of(adapter, overrides), read_card(adapter)
    rows = rows_to_predict(pool, task_of(card.task))
    require_usable(config, card.prompt_format, [(str(pool), rows)], out.parent, alone=False)
    learner = load_learner(config, adapter)
    log_probs = learner.posterior().predict(rows, num_samples, seed=seed).log_probs.double().log_softmax(-1)
    scores = worth(log_probs, by)
    if by == "mutual-information" and not float(scores.max()) > 0:
        raise AbmllError(
            f"the posterior in {adapter} gives one prediction, not several that differ: mutual information is 0 for "
            "every row. Use --by margin."
        )
    order = sorted(range(len(rows)), key=lambda index: (-float(scores[index]), index))[:count]
    best = mixture(log_probs).exp()
    lines = [
        {
            "rank": rank,
            "id": rows[index].id,
            "input": rows[index].prompt,
            "options": list(rows[index].choices),
            "prediction": rows[index].choices[int(best[index][: len(rows[index].choices)].argmax())],
            by.replace("-", "_"): round(float(scores[index]) if by != "margin" else -float(scores[index]), 6),
        }
        for rank, index in enumerate(order, start=1)
    ]
    write_whole(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return out


def worth(log_probs: Tensor, by: Score) -> Tensor:
    """What a label of each row is worth, in no unit: higher is more. log_probs: (samples, examples, choices)."""
    if by == "mutual-information":
        return mutual_information(log_probs)
    first, second = torch.topk(mixture(log_probs).exp(), 2, dim=-1).values.unbind(-1)
    return second - first
