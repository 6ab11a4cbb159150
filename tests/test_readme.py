"""The README's promises: its Python block runs as printed, its commands and links exist."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

from abmll import default, models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def write_task(path, task, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([row.prompt, row.choices[row.target]] for row in task.examples[:rows])


def test_the_python_block_runs_as_printed(tmp_path, monkeypatch, capsys, shallow):
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    asked = []
    monkeypatch.setattr(models, "load", lambda name, **_: asked.append(name) or default.model(), raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tasks").mkdir()
    for task in default.suite(num_rows=40).train[:3]:
        write_task(tmp_path / "my_tasks" / f"{task.name}.csv", task, 40)
    scope: dict = {}
    exec(block.replace("num_steps=200", "num_steps=1"), scope)  # fewer steps, nothing else changed
    assert asked == ["smollm2", default.NAME], "the saved posterior asks for its base model by itself"
    prediction = scope["prediction"]
    assert prediction.classes == ("bad", "good")
    assert set(prediction.labels) <= {"bad", "good"}
    torch.testing.assert_close(prediction.probabilities.sum(-1), torch.ones(2))
    assert (tmp_path / "adapters" / "films" / "adapter_config.json").is_file()
    assert (tmp_path / "adapters" / "films" / "posterior.safetensors").is_file()
    assert "tensor" in capsys.readouterr().out


def test_every_local_link_leads_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert targets
    assert not missing


@pytest.mark.parametrize("line", re.findall(r"^abmll (\w+)", README, flags=re.MULTILINE))
def test_every_command_exists(line):
    from abmll.cli import app

    app([line, "--help"], standalone_mode=False)
