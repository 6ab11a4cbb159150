"""The same commands, unchanged, on real tasks and a real pretrained model. Skipped where they are absent."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from abmll.cli import app
from abmll.data.readers import read_task
from abmll.evaluation.predictions import read_cells
from abmll.methods.parts.head_posterior import NODES

RUN = """
[prompt]
answer = "{answer}"
max_tokens = 96
[data]
suite = "{suite}"
max_rows = 24
[method]
name = "abmll"
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


@pytest.fixture
def model(shared) -> Path:
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    return folder


def abmll_command(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


SOME = """
name = "some"
train = ["sst2", "copa"]
test = ["chem_hiv"]
"""
"""Three of the 45, one of them of a family that is held out; all of them are the long test."""


def three_of(folder: Path, copy: Path) -> Path:
    """A folder with the tasks of `SOME` alone, because a suite reads its whole folder."""
    copy.mkdir()
    entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["tasks"]
    entries = [entry for entry in entries if entry["name"] in {"sst2", "copa", "chem_hiv"}]
    (copy / "manifest.json").write_text(json.dumps({"tasks": entries}), encoding="utf-8")
    for entry in entries:
        shutil.copy(folder / entry["file"], copy)
    return copy


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        ("text", False),
        pytest.param("text", True, marks=pytest.mark.slow),
        pytest.param("letters", True, marks=pytest.mark.slow),
    ],
)
def test_from_real_tasks_to_a_report(answer, whole, shared, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("some.toml").write_text(SOME)
    Path("run.toml").write_text(RUN.format(answer=answer, suite="realtasks" if whole else "some.toml"))
    tasks = shared / "data" / "realtasks"
    tasks = tasks if whole else three_of(tasks, tmp_path / "three")
    fields = [f"model.name={model}", f"data.folder={tasks}"]
    abmll_command("train", "run.toml", "-q", *fields)
    abmll_command("evaluate", "run.toml", "--adapter", "runs/run", "-o", "evaluation", "-q", *fields)
    abmll_command("report", "evaluation/predictions.jsonl", "-o", "report.html")

    log = [json.loads(line) for line in Path("runs/run/training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    references = {"uniform", "label-frequency", "pretrained"}
    cells = [cell for cell in read_cells(Path("evaluation/predictions.jsonl")) if cell.method not in references]
    assert len(cells) == (15 if whole else 1)
    assert {cell.family for cell in cells if cell.extra["held_out_family"]} == (
        {"nli", "chemistry"} if whole else {"chemistry"}
    )
    assert all(cell.log_probs.shape[:2] == (NODES, 2) for cell in cells)
    assert Path("report.html").stat().st_size > 10_000

    # a task of the user's: adapted from its own file, predicted on it
    task = shared / "data" / "realtasks" / "copa.jsonl.gz"
    if not whole:
        with gzip.open(task) as file, gzip.open("copa.jsonl.gz", "wb") as some:
            some.writelines(itertools.islice(file, 16))
        task = Path("copa.jsonl.gz")
    abmll_command("adapt", "runs/run", task, "-o", "copa", "--support-size", "4")
    abmll_command("predict", "copa", task, "-o", "answers.jsonl", "--num-samples", "0")
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    rows = read_task(task).examples
    assert [answer["id"] for answer in answers] == [row.id for row in rows]
    assert all(tuple(answer["probabilities"]) == row.choices for answer, row in zip(answers, rows, strict=True))
