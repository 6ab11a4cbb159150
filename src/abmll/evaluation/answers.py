"""Answers to a file's rows as a table, and what they are worth."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from abmll.core.types import Example
from abmll.evaluation import calibration


def csv_table(answers: Sequence[Mapping[str, Any]], fields: Sequence[Mapping[str, Any]]) -> str:
    """A header and one line a row: the columns of the input, then those of the answer.

    A column of the answer that the input has too, is called "predicted NAME". Where all rows have the same choices,
    each probability has its column, "p(CHOICE)"; else they are one cell of JSON.

    Args:
        answers: As `Prediction.rows` gives them.
        fields: Of the rows in their file, in the same order.
    """
    inputs = list(dict.fromkeys(name for row in fields for name in row))
    classes = {tuple(answer["probabilities"]) for answer in answers}
    shared = classes.pop() if len(classes) == 1 else None
    table = []
    for answer, row in zip(answers, fields, strict=True):
        found = {key: value for key, value in answer.items() if key != "probabilities"}
        if str(row.get("id")) == answer["id"]:
            del found["id"]
        probabilities = answer["probabilities"]
        if shared is None:
            found["probabilities"] = json.dumps(probabilities, ensure_ascii=False)
        else:
            found |= {f"p({choice})": probabilities[choice] for choice in shared}
        table.append({**row, **{(f"predicted {key}" if key in inputs else key): value for key, value in found.items()}})
    columns = inputs + list(dict.fromkeys(key for row in table for key in row if key not in inputs))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in table)
    return file.getvalue()


def _cell(value: Any) -> Any:
    """Text and numbers as they are; true, lists and objects as JSON."""
    return value if isinstance(value, str) or value is None else json.dumps(value, ensure_ascii=False)


def worth(rows: Sequence[Example], log_probs: Tensor) -> str:
    """Accuracy and NLL of the rows that carry a label, beside chance and uniform; empty if none does.

    Args:
        rows: What was asked.
        log_probs: (samples, rows, choices) in nats.
    """
    known = {index: row.target for index, row in enumerate(rows) if row.target is not None}
    if not known:
        return ""
    chosen = log_probs[:, list(known)].double().log_softmax(-1)
    targets = torch.tensor(list(known.values()))
    accuracy = calibration.accuracy(calibration.mixture(chosen).exp(), targets)
    num_choices = torch.tensor([len(rows[index].choices) for index in known], dtype=torch.float64)
    return (
        f"Of {len(known)} labelled rows: accuracy {accuracy:.3f} (chance {(1 / num_choices).mean():.3f}), "
        f"NLL {calibration.nll(chosen, targets):.3f} (uniform {num_choices.log().mean():.3f})"
    )
