"""The comparison reads and summarises once: its report is the one that is made from the predictions file alone."""

from __future__ import annotations

import json

import numpy as np

from abmll.evaluation.domains import SCORES, ood_interval
from abmll.evaluation.predictions import read_cells
from abmll.evaluation.statistics import bootstrap_interval
from abmll.reports import comparison
from abmll.reports.report import render_report
from tests.reports.reports_fake import TASKS, fake_cells, write_cells, write_training_log

FEW = tuple(TASKS)[:8]
"""Of three families, one of them held out; as many as some difference needs to be clear."""


def test_every_number_is_that_of_the_parts_done_alone(tmp_path, monkeypatch, undrawn):
    cells = fake_cells(methods=("abmll", "lora", "reptile"), tasks=FEW, seeds=(0, 1), support_sizes=(4, 16))
    cells = [c for c in cells if (c.method, c.seed, c.task) != ("lora", 1, "entailment")]
    predictions = write_cells(tmp_path / "predictions.jsonl", cells)
    log = {"abmll/0": write_training_log(tmp_path / "training.jsonl", 0, 0.9)}
    info = {"title": "A comparison", "budget": "equal steps", "held_out_families": ["topic"]}
    reads = []
    read = read_cells
    monkeypatch.setattr(comparison, "read_cells", lambda path: reads.append(path) or read(path))

    text, table, report = comparison.write_comparison(predictions, tmp_path, "abmll", log, info)

    assert reads == [predictions]
    assert report.read_bytes() == render_report(predictions, tmp_path / "alone.html", log, info).read_bytes()
    assert text.startswith("4 support examples, unequal sets of tasks and seeds")
    assert table.read_text().startswith("Budget: equal steps.\n\n### 4 support examples")
    record = json.loads((tmp_path / "comparison.json").read_text())
    assert len(record["rows"]) == 6
    for row in record["rows"]:
        own = [c for c in cells if (c.method, c.support_size) == (row["method"], row["support_size"])]
        accuracy = np.full((len(FEW), 2), np.nan)
        tasks = list(dict.fromkeys(c.task for c in cells))
        for c in own:
            accuracy[tasks.index(c.task), c.seed] = (c.log_probs.exp().mean(0).argmax(-1) == c.targets).double().mean()
        np.testing.assert_allclose(list(row["accuracy"].values()), bootstrap_interval(accuracy), rtol=1e-12)
        for name, (_, score) in SCORES.items():
            np.testing.assert_array_equal(list(row[name].values()), ood_interval(own, score))
