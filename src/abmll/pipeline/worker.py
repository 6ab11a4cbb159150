"""The worker process of `compare` and `tune`: python -m abmll.pipeline.worker RUN.toml OUT, then see `pool`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from abmll.config import RunConfig, load_config
from abmll.pipeline.pool import attempt


class Bench:
    """Does the units of one run. What they share is loaded when it is first needed."""

    def __init__(self, config: RunConfig, out: Path) -> None:
        self.config, self.out = config, out
        self.suite = cache(self._suite)

    def _suite(self) -> Any:
        from abmll.pipeline.build import load_tasks

        return load_tasks(self.config)

    def perform(self, request: Mapping[str, Any]) -> None:
        """{"work": "evaluate", "method", "seed", "seconds"} or {"work": "tune", "method"}."""
        if request["work"] == "tune":
            from abmll.pipeline.tune import tune_method

            tune_method(self.config, request["method"], self.out)
            return
        from abmll.pipeline.evaluate import evaluate_method

        limit = {"adaptation_seconds": tuple(request["seconds"])} if request["seconds"] else {}
        evaluation = self.config.evaluation.model_copy(update=limit)
        config = self.config.model_copy(update={"evaluation": evaluation})
        evaluate_method(config, self.suite(), request["method"], request["seed"], self.out, progress=False)


def main() -> None:
    # Whatever a library prints must not be taken for an answer: the pipe moves away from standard output.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    bench = Bench(load_config(sys.argv[1]), Path(sys.argv[2]))
    for line in sys.stdin:
        answers.write(json.dumps(attempt(bench.perform, json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
