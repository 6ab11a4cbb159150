"""Choosing what to label next."""

from __future__ import annotations

import math

import pytest
import torch
from typer.testing import CliRunner

from abmll.cli import app
from abmll.core.errors import AbmllError
from abmll.data.task import Task
from abmll.evaluation.acquisition import doubt
from abmll.learner import Prediction
from abmll.pipeline import adapt_run, train_run
from tests.pipeline.stages import read_lines, run_config, write_csv
from tests.tiny_tasks import tiny_task


def test_scores_against_their_definitions():
    probs = torch.tensor([[[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]], [[0.1, 0.9, 0.0], [0.5, 0.5, 0.0]]], dtype=torch.float64)
    margin = doubt(probs.log(), "margin").tolist()
    assert margin == pytest.approx([0.0, 0.0])  # averaged, both rows are undecided
    disagreement = doubt(probs.log(), "mutual-information").tolist()
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert disagreement == pytest.approx([math.log(2) - entropy, 0.0])
    surer = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]], dtype=torch.float64).log()
    assert doubt(surer, "margin").argsort(descending=True).tolist() == [1, 2, 0]
    prediction = Prediction(surer, [("no", "yes")] * 3)
    assert prediction.margin.tolist() == pytest.approx([0.8, 0.2, 0.6], abs=1e-6)
    assert prediction.least_sure(2) == [1, 2]
    with pytest.raises(AbmllError, match="the posterior gives one prediction, not several that differ"):
        prediction.least_sure(2, "mutual-information")
    with pytest.raises(AbmllError, match='by = "entropy": must be one of: margin, mutual-information'):
        prediction.least_sure(2, "entropy")  # type: ignore[arg-type]


def test_the_rows_to_label_next(base, suite, tmp_path):
    adapter = train_run(run_config(base, suite, tmp_path / "run"), progress=False)
    task = tiny_task("new", 20)
    adapted = adapt_run(adapter, write_csv(tmp_path / "new.csv", Task("new", task.examples[:8])), tmp_path / "adapted")
    pool = write_csv(tmp_path / "pool.csv", Task("pool", task.examples[8:]), labelled=False)
    for score, field in (("margin", "margin"), ("mutual-information", "mutual_information")):
        out = tmp_path / f"{score}.jsonl"
        result = CliRunner().invoke(app, ["acquire", str(adapted), str(pool), "-n", "5", "--by", score, "-o", str(out)])
        assert result.exit_code == 0, result.output
        lines = read_lines(out)
        assert [line["rank"] for line in lines] == [1, 2, 3, 4, 5]
        assert {line["id"] for line in lines} <= {row.id for row in task.examples[8:]}
        values = [line[field] for line in lines]
        assert values == sorted(values, reverse=score != "margin")
    result = CliRunner().invoke(app, ["acquire", str(adapted), str(pool), "--by", "entropy", "-o", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "--by 'entropy': give margin or mutual-information" in result.output
