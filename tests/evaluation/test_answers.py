"""What `predict` writes and says, from log-probabilities alone."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
import torch

from abmll.core.types import Example
from abmll.evaluation.answers import csv_table, worth
from abmll.learner.prediction import Prediction

CLASSES = ("no", "yes")
ROWS = [Example("a", CLASSES, 1, id="r1"), Example("b", CLASSES, 0, id="r2"), Example("c", CLASSES, None)]
SAMPLES = torch.tensor([[[0.1, 0.9], [0.4, 0.6], [0.5, 0.5]], [[0.3, 0.7], [0.2, 0.8], [0.5, 0.5]]]).log()
FIELDS = [{"id": "r1", "text": "a, b", "label": "yes"}, {"id": "r2", "text": "b", "label": "no"}, {"text": "c"}]


def table(rows, fields):
    prediction = Prediction(SAMPLES, [row.choices for row in rows], ids=[row.id for row in rows],
                            targets=[row.target for row in rows])  # fmt: skip
    return list(csv.DictReader(io.StringIO(csv_table(prediction.rows(), fields))))


def test_a_csv_keeps_the_columns_of_the_input_and_adds_those_of_the_answer():
    found = table(ROWS, FIELDS)
    assert list(found[0])[:3] == ["id", "text", "label"]
    assert [row["text"] for row in found] == ["a, b", "b", "c"]
    assert [row["prediction"] for row in found] == ["yes", "yes", "no"]
    assert [row["p(yes)"] for row in found] == ["0.8", "0.7", "0.5"]
    assert found[2]["label"] == found[2]["correct"] == ""


def test_a_column_that_both_have_is_kept_twice():
    fields = [{"text": "x", "prediction": "mine"}] * 3
    row = table(ROWS, fields)[0]
    assert (row["prediction"], row["predicted prediction"]) == ("mine", "yes")


def test_choices_of_each_row_are_one_cell():
    rows = [Example("a", ("x", "y"), 0), Example("b", ("z", "w"), 0), Example("c", ("u", "v"), 1)]
    assert json.loads(table(rows, [{}] * 3)[1]["probabilities"]) == pytest.approx({"z": 0.3, "w": 0.7})


def test_labels_give_accuracy_nll_and_chance():
    said = worth(ROWS, SAMPLES)
    nll = -(math.log(0.8) + math.log(0.3)) / 2
    assert said == f"Of 2 labelled rows: accuracy 0.500 (chance 0.500), NLL {nll:.3f} (uniform {math.log(2):.3f})"
    assert worth([row._replace(target=None) for row in ROWS], SAMPLES) == ""
