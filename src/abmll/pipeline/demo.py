"""The whole story on the embedded default: meta-train, adapt to tasks never seen, compare, report."""

from __future__ import annotations

import os
from pathlib import Path

from abmll.config import RunConfig, parse_config
from abmll.pipeline.compare import Comparison, compare_run

METHODS = ("abmll", "pretrained", "lora", "multitask", "reptile")


def demo_config(out: Path, *, seeds: int = 3, quick: bool = False) -> RunConfig:
    """The demo's run: the first comparison on the default suite, 16 support examples a task."""
    return parse_config(
        {
            "output": str(out),
            "prompt": {"answer": "text"},
            "method": {"name": list(METHODS)},
            "training": {"num_steps": 10 if quick else 160},
            "evaluation": {
                "support_sizes": [16],
                "num_samples": 8,
                "seeds": list(range(seeds)),
                "num_query": 20 if quick else 100,
            },
        },
        "the demo's run",
    )


def demo_run(out: Path, *, seeds: int = 3, progress: bool = True, quick: bool = False) -> Comparison:
    """Runs the demo into `out`, going on where an earlier call stopped: two processes where there are two cores."""
    jobs = min(2, os.cpu_count() or 1)
    return compare_run(demo_config(out, seeds=seeds, quick=quick), out, jobs=jobs, progress=progress)
