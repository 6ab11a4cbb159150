"""Whether the defaults hold on a model: zero-shot, adapted at the mean, and adapted as `predict` answers by default.

    python benchmarks/defaults.py --model smollm2 TASK [TASK ...] --support 16 -o runs/defaults

No meta-training and no option: what a user gets who adapts to one file. TASK is anything that `abmll.read_task` reads.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def judge(learner, task, support_size: int, num_query: int) -> dict[str, tuple[float, float]]:
    """(accuracy, NLL) of each way to answer, on the same rows."""
    import torch

    from abmll.core.types import META
    from abmll.data.episodes import evaluation_episode
    from abmll.evaluation.calibration import mixture
    from abmll.methods.parts.gradient import NoAdaptation

    episode = evaluation_episode(task, 0, support_size, num_query, max_support=support_size, balanced=True)
    targets = torch.tensor([row.target for row in episode.query])
    likelihood, adaptation = learner.likelihood, learner.method.adaptation
    assert likelihood.parameters(META)

    def score(posterior, num_samples: int) -> tuple[float, float]:
        log_probs = mixture(posterior.predict(episode.query, num_samples))
        right = log_probs.gather(1, targets[:, None]).squeeze(1)
        return float((log_probs.argmax(1) == targets).float().mean()), -float(right.mean())

    adapted = adaptation.adapt(likelihood, episode.support)
    inner = getattr(adaptation, "adaptation", adaptation)
    return {
        "uniform": (1 / len(task.examples[0].choices), math.log(len(task.examples[0].choices))),
        "zero-shot": score(NoAdaptation().adapt(likelihood, episode.support), 1),
        "mean": score(inner.adapt(likelihood, episode.support), 1),
        "default": score(adapted, 16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--support", type=int, default=16)
    parser.add_argument("--query", type=int, default=100)
    parser.add_argument("--upper-layers", type=int, default=None)
    options = parser.parse_args()

    import abmll

    learner = abmll.Learner(options.model, upper_layers=options.upper_layers)
    print(f"{'task':40} {'way':10} accuracy   NLL")
    for path in options.tasks:
        for way, (accuracy, nll) in judge(learner, abmll.read_task(path), options.support, options.query).items():
            print(f"{path.name:40} {way:10} {accuracy:8.3f} {nll:6.3f}", flush=True)


if __name__ == "__main__":
    main()
