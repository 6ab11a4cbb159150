"""The rows of a file to label next, from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from abmll.card import read_card
from abmll.core.files import write_whole
from abmll.evaluation.acquisition import Score
from abmll.learner.folder import task_of
from abmll.learner.given import rows_to_predict
from abmll.pipeline.build import load_learner
from abmll.pipeline.predict import model_of
from abmll.pipeline.preflight import require_usable


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

    Args:
        by: as `Prediction.least_sure` has it.
        overrides: as for `predict_run`.

    Raises:
        AbmllError: For rows, a device or a folder that are of no use, before the model is loaded; and for mutual
            information where all samples agree.
    """
    config, card = model_of(adapter, overrides), read_card(adapter)
    rows = rows_to_predict(pool, task_of(card.task))
    require_usable(config, card.prompt_format, [(str(pool), rows)], out.parent, alone=False)
    prediction = load_learner(config, adapter).posterior().predict(rows, num_samples, seed=seed)
    scores = prediction.margin if by == "margin" else prediction.mutual_information
    lines = [
        {
            "rank": rank,
            "id": rows[index].id,
            "input": rows[index].prompt,
            "options": list(prediction.choices[index]),
            "prediction": prediction.labels[index],
            by.replace("-", "_"): round(float(scores[index]), 6),
        }
        for rank, index in enumerate(prediction.least_sure(count, by), start=1)
    ]
    write_whole(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return out
