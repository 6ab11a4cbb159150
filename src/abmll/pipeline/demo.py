"""The whole story in one call: meta-train, adapt to tasks never seen, compare, report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from abmll.config import RunConfig, parse_config
from abmll.data.suite import SUITE_FILE
from abmll.default import NAME
from abmll.pipeline.compare import Comparison, compare_run

METHODS = ("abmll", "pretrained", "lora", "multitask", "reptile")
ADAMW = {"optimizer": "adamw", "learning_rate": 1e-3}
"""The other rows' inner steps on a real model: those that are usual for a LoRA. Multi-task learning has `abmll`'s outer
rate, too."""
EMBEDDED = ("default", NAME)
HELD_OUT = 0.3
"""Fraction of the tasks that are held out of a folder which does not say its split."""


def demo_config(
    out: Path, *, model: str = "default", suite: str | None = None, seeds: int = 3, quick: bool = False
) -> RunConfig:
    """The demo's run: the first comparison, 16 support examples a task.

    Args:
        out: Folder for everything.
        model: "default", the embedded model; or any other, which gets fewer steps and rows, and adapters in its last
            blocks only, so that a model of 135 million parameters is done in a quarter of an hour on two cores.
        suite: A folder of tasks, a suite TOML or a shipped suite; None takes the tasks that fit the model: "default"
            for the embedded one, which knows their world, "concepts" for any other, which knows English.
        seeds: Repetitions.
        quick: A smoke test.
    """
    settings = _embedded(quick) if model in EMBEDDED else _of_a_real_model(quick)
    suite = suite or ("default" if model in EMBEDDED else "concepts")
    data: dict[str, Any] = {"suite": suite, **settings.pop("data", {})}
    folder = Path(suite)
    if folder.is_dir() and not (folder / SUITE_FILE).is_file():
        data["held_out"] = HELD_OUT
    settings["evaluation"] = {"support_sizes": [16], "seeds": list(range(seeds))} | settings["evaluation"]
    run = {"output": str(out), "model": {"name": model}, "data": data, "prompt": {"answer": "text"}, **settings}
    return parse_config(run, "the demo's run")


def _embedded(quick: bool) -> dict[str, Any]:
    return {
        "method": {"name": list(METHODS)},
        "training": {"num_steps": 10 if quick else 160},
        "evaluation": {"num_samples": 8, "num_query": 20 if quick else 100},
    }


def _of_a_real_model(quick: bool) -> dict[str, Any]:
    """Rows are few, so that what the frozen blocks make of them is computed once and used in every step and method."""
    return {
        "data": {"max_rows": 16 if quick else 48},
        "prompt": {"answer": "auto", "max_tokens": 128},
        "adapter": {"upper_layers": 4 if quick else 8},
        "method": {
            "name": ["abmll", "pretrained+scale", "lora+scale", "multitask+scale"],
            "options": {"lora+scale": ADAMW, "multitask+scale": ADAMW | {"outer_learning_rate": 2e-3}},
        },
        "training": {"num_steps": 2 if quick else 40, "checkpoint_every": 10},
        "episodes": {"support_size": 8, "query_size": 8},
        "evaluation": {"num_samples": 4, "num_query": 24} | ({"support_sizes": [8], "num_query": 4} if quick else {}),
    }


def demo_run(
    out: Path,
    *,
    model: str = "default",
    suite: str | None = None,
    seeds: int = 3,
    progress: bool = True,
    quick: bool = False,
) -> Comparison:
    """Runs the demo into `out`, going on where an earlier call stopped.

    The embedded model runs in two processes where there are two cores; any other in one that takes all cores, for each
    process would hold the model and compute its frozen blocks' part once more.
    """
    jobs = min(2, os.cpu_count() or 1) if model in EMBEDDED else 1
    config = demo_config(out, model=model, suite=suite, seeds=seeds, quick=quick)
    return compare_run(config, out, baseline=config.method.names[0], jobs=jobs, progress=progress)
