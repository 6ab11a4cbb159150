"""The README's promises: its Python block runs as printed, its commands and links exist."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch
import transformers

from abmll import default

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def write_task(path, task, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([row.prompt, row.choices[row.target]] for row in task.examples[:rows])


def test_the_python_block_runs_as_printed(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    model, tokenizer = default.model()
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda name: model)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda name: tokenizer)
    monkeypatch.chdir(tmp_path)
    suite = default.suite()
    (tmp_path / "my_tasks").mkdir()
    for task in suite.train[:3]:
        write_task(tmp_path / "my_tasks" / f"{task.name}.csv", task, 40)
    write_task(tmp_path / "new_task.csv", suite.test[0], 24)
    scope: dict = {}
    exec(block.replace("num_steps=500", "num_steps=1"), scope)  # fewer steps, nothing else changed
    probabilities = scope["probabilities"]
    assert probabilities.shape == (8, 2)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(8))
    assert (tmp_path / "adapter" / "lora" / "adapter_config.json").is_file()


def test_every_local_link_leads_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert targets
    assert not missing


@pytest.mark.parametrize("line", re.findall(r"^abmll (\w+)", README, flags=re.MULTILINE))
def test_every_command_exists(line):
    from abmll.cli import app

    app([line, "--help"], standalone_mode=False)
