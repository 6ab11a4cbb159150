"""What was run, for the top of a report: model, suite, prompts, and each method's steps, rates and seconds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abmll.reports.costs import DASH, without_dashes
from abmll.reports.learning import training_seconds
from abmll.reports.notation import amount

OPTIONS = {"num_steps": "Inner steps", "learning_rate": "Inner rate", "outer_learning_rate": "Outer rate"}
"""The options of a method that have a column of their own."""


def settings(
    run_info: Mapping[str, Any], training_logs: Mapping[str, Path], methods: Sequence[str]
) -> dict[str, Any] | None:
    """For the template: facts of the run, and one line a method; None if nothing is known of the run.

    Args:
        run_info: With "setting" and "options", as `config.about` gives them.
        training_logs: Run name to training.jsonl; a name that begins with a method's is of that method.
        methods: In this order.
    """
    options: Mapping[str, Mapping[str, Any]] = run_info.get("options", {})
    seconds = {method: _seconds(method, training_logs) for method in methods}
    if not options and not any(seconds.values()):
        return None
    rows = [["Method", *OPTIONS.values(), "Training, s a seed", "Other options"]]
    for method in methods:
        own = options.get(method, {})
        columns = [f"{own[key]:g}" if own.get(key) is not None else DASH for key in OPTIONS]
        spent = amount(statistics.mean(seconds[method])) if seconds[method] else DASH
        others = [f"{key} = {value}" for key, value in own.items() if key not in OPTIONS and value is not None]
        rows.append([method, *columns, spent, ", ".join(others) or DASH])
    header, *body = without_dashes(rows)
    return {"facts": run_info.get("setting", {}), "header": header, "rows": body}


def _seconds(method: str, logs: Mapping[str, Path]) -> list[float]:
    """Of every training run of a method. Its runs are named METHOD/seed-N, as folders are."""
    return [training_seconds(path) for name, path in logs.items() if method in Path(name).parts or name == method]
