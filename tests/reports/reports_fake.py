"""Predictions and learning curves that look like a real run: five methods, ten tasks, three seeds."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from abmll.evaluation.predictions import Cell, encode_cell

# name: (skill without support, skill per doubling of support, overconfidence, posterior samples, spread of samples)
METHODS = {
    "abmll": (0.55, 0.16, 1.05, 8, 0.5),
    "pretrained": (0.15, 0.0, 1.3, 1, 0.0),
    "lora": (0.15, 0.15, 2.6, 1, 0.0),
    "multitask": (0.4, 0.13, 2.0, 1, 0.0),
    "reptile": (0.48, 0.16, 1.7, 1, 0.0),
}
TASKS = {
    "sentiment of reviews": ("sentiment", 2),
    "sentiment of tweets": ("sentiment", 3),
    "stance on climate": ("stance", 3),
    "stance on atheism": ("stance", 3),
    "stance on feminism": ("stance", 3),
    "entailment": ("inference", 3),
    "contradiction <b>or</b> not & $x$": ("inference", 2),
    "medical question pairs": ("inference", 2),
    "grammar: which of two sentences is acceptable": ("grammar", 2),
    "topic of headline": ("topic", 4),
}
HELD_OUT_FAMILY = "stance"


@functools.cache
def fake_cell(method: str, seed: int, task: str, support_size: int, num_query: int = 120) -> Cell:
    """Predictions from logits = skill·(noisy truth), sharpened by the method's overconfidence. Deterministic."""
    names, methods = list(TASKS), list(METHODS)
    family, num_choices = TASKS[task]
    base, slope, sharpness, num_samples, spread = METHODS[method]
    truth = torch.Generator().manual_seed(1000 * seed + names.index(task))  # shared by the methods: paired
    targets = torch.randint(num_choices, (num_query,), generator=truth)
    evidence = torch.randn(num_query, num_choices, generator=truth)
    own = torch.Generator().manual_seed(100_000 * seed + 100 * names.index(task) + methods.index(method))
    difficulty = 0.6 + 0.08 * names.index(task)
    skill = (base + slope * (support_size + 1) ** 0.5 / 2) * difficulty * (1 + 0.15 * torch.randn((), generator=own))
    logits = skill * 2.2 * torch.nn.functional.one_hot(targets, num_choices) + evidence
    logits = logits + 0.4 * torch.randn(num_query, num_choices, generator=own)
    samples = sharpness * logits + spread * torch.randn(num_samples, num_query, num_choices, generator=own)
    return Cell(
        method=method,
        seed=seed,
        task=task,
        family=family,
        support_size=support_size,
        ids=[f"{task}/{i}" for i in range(num_query)],
        targets=targets,
        log_probs=samples.log_softmax(-1),
        seconds=1.0 + support_size / 10,
        extra={"held_out_family": family == HELD_OUT_FAMILY},
    )


def fake_cells(
    methods: Sequence[str] = tuple(METHODS),
    tasks: Sequence[str] = tuple(TASKS),
    seeds: Sequence[int] = (0, 1, 2),
    support_sizes: Sequence[int] = (4, 16, 64),
) -> list[Cell]:
    return [fake_cell(m, s, t, k) for m in methods for s in seeds for t in tasks for k in support_sizes]


def write_cells(path: Path, cells: Sequence[Cell]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(encode_cell, cells)))
    return path


def write_training_log(path: Path, seed: int, level: float, num_steps: int = 300) -> Path:
    """A learning curve that falls to `level` and goes on being noisy."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.arange(num_steps)
    loss = level + 0.5 * torch.exp(-steps / 60) + 0.12 * torch.randn(num_steps, generator=generator)
    rows = [{"step": int(i), "loss": float(x), "seconds": 0.2} for i, x in zip(steps, loss, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
