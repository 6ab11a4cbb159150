"""The same stages on what is part of the package: the embedded model, its generated tasks, the demonstration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import abmll.pipeline.demo
from abmll import default
from abmll.card import read_card
from abmll.cli import app
from abmll.config import parse_config
from abmll.data.task import Task
from abmll.pipeline import demo_run
from tests.pipeline.stages import cells_of, read_lines, write_csv

RUN = """
[prompt]
answer = "text"
[data]
max_rows = 24
[adapter]
target_modules = ["q_proj", "down_proj"]
[episodes]
support_size = 4
query_size = 4
[training]
num_steps = 2
[evaluation]
support_sizes = [4]
seeds = [0]
num_query = 2
num_samples = 2
"""


@pytest.fixture(scope="module")
def few_rows():
    """The generated suite with the 24 rows a task that are taken anyway, made once."""
    return default.suite(num_rows=24)


@pytest.fixture(autouse=True)
def _made_once(few_rows, monkeypatch, request):
    if "slow" not in request.keywords:
        monkeypatch.setitem(default.SUITES, "default", lambda seed=0, num_rows=300: few_rows)


def abmll_command(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_command_from_a_run_file_to_a_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(RUN)
    held_out = default.suite(num_rows=12).test[0]
    write_csv(Path("new.csv"), Task("new", held_out.examples[:8]))
    write_csv(Path("rows.csv"), Task("rows", held_out.examples[8:]), labelled=False)

    assert "runs/run/adapter" in abmll_command("train", "run.toml", "-q")
    assert "adapters/new" in abmll_command("adapt", "runs/run", "new.csv", "-o", "adapters/new")
    assert "rows.predictions.jsonl" in abmll_command("predict", "adapters/new", "rows.csv")
    table = abmll_command("evaluate", "run.toml", "--adapter", "runs/run", "-o", "evaluation", "-q")
    assert "accuracy" in table.lower()
    assert "report.html" in abmll_command("report", "evaluation/predictions.jsonl", "-o", "report.html")

    assert read_card(Path("adapters/new")).base_model == default.NAME, "a name, not the path of an installation"
    answers = read_lines(Path("rows.predictions.jsonl"))
    assert [set(answer["probabilities"]) for answer in answers] == [set(row.choices) for row in held_out.examples[8:]]
    cells = cells_of(Path("evaluation/predictions.jsonl"))
    assert {key.task for key in cells} == {task.name for task in default.suite(num_rows=12).test}
    assert {key.method for key in cells} == {"abmll", "uniform", "label-frequency", "pretrained"}
    assert sum(cell.extra["held_out_family"] for key, cell in cells.items() if key.method == "abmll") == 5
    assert "<html" in Path("report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_demonstration_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """With fewer steps, rows and methods than the real one; what it does with them is the same.

    On all its tasks; test_demo.py does this by default, on a user's.
    """
    whole = abmll.pipeline.demo.demo_config(tmp_path / "demo", seeds=1, quick=True)
    assert set(whole.method.names) == {"abmll", "pretrained", "lora", "multitask", "reptile"}
    small = whole.model_dump(mode="json", exclude_none=True)
    small["method"] = {"name": ["abmll", "pretrained"]}
    small["data"]["max_rows"] = 24
    small["training"]["num_steps"] = 1
    small["episodes"] |= {"support_size": 4, "query_size": 4}
    small["evaluation"] |= {"support_sizes": [4], "num_query": 4, "num_samples": 2}
    monkeypatch.setattr(abmll.pipeline.demo, "demo_config", lambda *_, **__: parse_config(small))

    monkeypatch.setattr("os.cpu_count", lambda: 1)  # here, not in worker processes
    comparison = demo_run(tmp_path / "demo", seeds=1, progress=False)
    report = comparison.report
    assert not comparison.failures
    text = report.read_text(encoding="utf-8")
    assert all(task.name in text for task in default.suite(num_rows=12).test)
    predictions = (tmp_path / "demo" / "predictions.jsonl").read_bytes()
    assert len(cells_of(tmp_path / "demo" / "predictions.jsonl")) == 4 * 10
    report.unlink()
    monkeypatch.setattr("abmll.pipeline.build.load_model", lambda *_: pytest.fail("a finished demo loads nothing"))
    demo_run(tmp_path / "demo", seeds=1, progress=False)
    assert report.is_file()
    assert (tmp_path / "demo" / "predictions.jsonl").read_bytes() == predictions


@pytest.mark.slow
def test_the_quick_demonstration_as_a_command(tmp_path):
    command = [sys.executable, "-m", "abmll.cli", "demo", "--quick", "--seeds", "1", "-q", "-o", "demo"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "demo/report.html" in done.stdout
    cells = cells_of(tmp_path / "demo" / "predictions.jsonl")
    assert len(cells) == 7 * 10
    found = json.loads((tmp_path / "demo" / "provenance.json").read_text())
    assert found["command"][1:] == command[3:]
    assert str(tmp_path) not in json.dumps(found)
