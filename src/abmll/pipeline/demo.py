"""The whole story on the embedded default: meta-train, adapt to tasks never seen, compare, report."""

from __future__ import annotations

from pathlib import Path

from abmll.config import RunConfig, parse_config, provenance
from abmll.pipeline.evaluate import evaluate_run
from abmll.reports.report import render_report


def demo_config(out: Path, *, seeds: int = 3, quick: bool = False) -> RunConfig:
    """The demo's run: every row of the first comparison on the default suite, 16 support examples a task."""
    return parse_config(
        {
            "output": str(out),
            "prompt": {"answer": "text"},
            "method": {"name": ["abmll", "pretrained", "lora", "multitask", "reptile"]},
            "training": {"num_steps": 20 if quick else 200, "checkpoint_every": 100},
            "evaluation": {
                "support_sizes": [16],
                "seeds": list(range(seeds)),
                "num_query": 32 if quick else 150,
            },
        }
    )


def demo_run(out: Path, *, seeds: int = 3, progress: bool = True, quick: bool = False) -> Path:
    """Runs the demo into `out`, going on where an earlier call stopped, and returns the report."""
    config = demo_config(out, seeds=seeds, quick=quick)
    predictions = evaluate_run(config, None, out, progress=progress)
    logs = {f"{log.parent.parent.name}, {log.parent.name}": log for log in sorted(out.glob("*/*/training.jsonl"))}
    return render_report(predictions, out / "report.html", logs, provenance(config.evaluation.seeds))
