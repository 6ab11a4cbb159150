"""A user's tasks and run files for the tests of the stages."""

from __future__ import annotations

import csv
import json

from abmll.config import parse_config
from abmll.evaluation.predictions import read_cells
from tests.tiny_tasks import tiny_task

HELD_OUT = ("task-4", "task-5")


def write_csv(path, task, *, labelled=True):
    """Columns text, choices and, if labelled, label; returns the path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "choices", *(["label"] if labelled else [])])
        for row in task.examples:
            label = [row.choices[row.target]] if labelled else []
            writer.writerow([row.id, row.prompt, "|".join(row.choices), *label])
    return path


def write_tasks(folder, *, rows=24):
    for number in range(6):
        task = tiny_task(f"task-{number}", rows)
        rows_of_its_own = [row._replace(prompt=f"{row.prompt} {number}") for row in task.examples]
        write_csv(folder / f"task-{number}.csv", type(task)(task.name, tuple(rows_of_its_own)))
    held_out = ", ".join(f'"{name}"' for name in HELD_OUT)
    (folder / "suite.toml").write_text(f"test_tasks = [{held_out}]\n")
    return folder


def run_config(base, suite, output, **sections):
    """Two outer steps on small episodes, two layers adapted; `sections` replace fields, and `method` all of its own."""
    data = {
        "output": str(output),
        "model": {"name": str(base), "device": "cpu"},
        "data": {"suite": str(suite)},
        "prompt": {"answer": "text"},
        "adapter": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"]},
        "method": {"name": "abmll"},
        "episodes": {"support_size": 4, "query_size": 4},
        "training": {"num_steps": 2},
        "evaluation": {"support_sizes": [4], "seeds": [0], "num_query": 5, "num_samples": 2, "references": False},
    }
    for name, fields in sections.items():
        data[name] = fields if name == "method" else data.get(name, {}) | fields
    return parse_config(data)


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def cells_of(path):
    return {cell.key: cell for cell in read_cells(path)}
