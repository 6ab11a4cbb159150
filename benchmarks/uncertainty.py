"""What the uncertainty is worth in use: contraction with labels, the choice of the next label, error against coverage.

    python -m benchmarks.uncertainty adapter ADAPTER [ADAPTER ...] --suite default-wide -o results.md
    python -m benchmarks.uncertainty coverage PREDICTIONS [PREDICTIONS ...] --baseline abmll -o results.md

`adapter` takes adapters that differ in their training seed alone. Everything is on the suite's test tasks; intervals
are 95 % bootstrap intervals over tasks, seeds averaged first.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

SIZES = (4, 16, 64)
START, MORE, POOL = 8, 8, 64
"""Labels to start with, labels to buy, and among how many rows they are chosen."""
WAYS: tuple[Literal["margin", "mutual-information"], ...] = ("margin", "mutual-information")
RANDOM_DRAWS = 3
COVERAGES = (0.25, 0.5, 0.75, 1.0)

Values = dict[str, dict[str, list[float]]]
"""What was measured, by its name and the task, one value a seed or draw."""


def contraction(learner: Any, tasks: Sequence[Any], seed: int, num_query: int, into: Values) -> None:
    """Entropies, NLLs and what the posterior itself is wide by at each number of labels, on the same query rows."""
    import torch

    from abmll.data.episodes import evaluation_episode
    from abmll.evaluation.calibration import entropy, mixture, nll
    from abmll.methods.parts.head_posterior import HeadPosterior
    from abmll.methods.parts.scaled import ScaledPosterior

    for task, size in itertools.product(tasks, SIZES):
        episode = evaluation_episode(task, seed, size, num_query, max_support=max(SIZES))
        targets = torch.tensor([row.known_target for row in episode.query])
        posterior = learner.method.adaptation.adapt(learner.likelihood, episode.support)
        samples = posterior.predict(episode.query, 16).double().log_softmax(-1)
        found = {
            "NLL": float(nll(samples, targets)),
            "entropy of the prediction": float(entropy(mixture(samples).exp()).mean()),
            "expected entropy": float(torch.stack([entropy(one.exp()).mean() for one in samples]).mean()),
        }
        if isinstance(posterior, ScaledPosterior):
            mean, deviation = posterior.scale
            found |= {"mean of a": mean, "deviation of a": deviation}
            point = posterior.without_scale().predict(episode.query, 1)
            found["NLL of the mean φ, without a scale"] = float(nll(point, targets))
        if isinstance(posterior, HeadPosterior):
            covariance = posterior.scores(episode.query)[1]
            own = covariance.diagonal(dim1=1, dim2=2)
            variance = own + own[:, :1] - 2 * covariance[:, 0]  # of the score of a choice less that of the first
            found["deviation of the scores' differences"] = float(variance[:, 1:].mean().sqrt())
            found["NLL at the scores' mean"] = float(nll(posterior.predict(episode.query, 0), targets))
        for name, value in found.items():
            into[f"{name}, {size} labels"][task.name].append(value)


def acquisition(learner: Any, tasks: Sequence[Any], seed: int, num_query: int, into: Values) -> None:
    """NLL and accuracy after buying more labels, by margin, by mutual information, and at random."""
    import torch

    from abmll.core.seeds import derive_seed
    from abmll.data.episodes import evaluation_episode
    from abmll.evaluation.acquisition import doubt
    from abmll.evaluation.calibration import accuracy, mixture, nll

    adaptation, likelihood = learner.method.adaptation, learner.likelihood
    for task in tasks:
        episode = evaluation_episode(task, seed, START + POOL, num_query, max_support=START + POOL)
        start, pool = list(episode.support[:START]), list(episode.support[START:])
        targets = torch.tensor([row.known_target for row in episode.query])
        samples = adaptation.adapt(likelihood, start).predict(pool, 16).double().log_softmax(-1)
        chosen: dict[str, Any] = {way: doubt(samples, way).argsort(descending=True, stable=True) for way in WAYS}
        for draw in range(RANDOM_DRAWS):
            generator = torch.Generator().manual_seed(derive_seed("acquire", task.name, seed, draw))
            chosen[f"random {draw}"] = torch.randperm(len(pool), generator=generator)
        for way, order in chosen.items():
            rows = [*start, *(pool[place] for place in order[:MORE].tolist())]
            log_probs = adaptation.adapt(likelihood, rows).predict(episode.query, 16)
            name = way.split()[0]
            into[f"NLL, {name}"][task.name].append(float(nll(log_probs, targets)))
            into[f"accuracy, {name}"][task.name].append(float(accuracy(mixture(log_probs).exp(), targets)))


def coverage(paths: Iterable[Path], into: dict[str, Values]) -> None:
    """Error rate of the surest rows of each cell, by method."""
    import torch

    from abmll.evaluation.calibration import mixture, risk_coverage
    from abmll.evaluation.predictions import read_cells

    for path in paths:
        for cell in read_cells(path):
            curve = risk_coverage(mixture(cell.log_probs).exp(), torch.as_tensor(cell.targets))
            values = into[cell.method]
            values["AURC"][cell.task].append(float(curve.area))
            for share in COVERAGES:
                place = max(1, round(share * len(curve.risk))) - 1
                values[f"error at {share:.0%}"][cell.task].append(float(curve.risk[place]))


def interval(by_task: Mapping[str, Sequence[float]]) -> str:
    """Mean and 95 % bootstrap interval over tasks."""
    import numpy as np

    from abmll.evaluation.statistics import bootstrap_interval

    found = bootstrap_interval(np.array([[np.mean(values)] for values in by_task.values()]))
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def difference(first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]]) -> str:
    """Of the tasks that both have, first less second."""
    import numpy as np

    both = [task for task in first if task in second]
    return interval({task: [float(np.mean(first[task]) - np.mean(second[task]))] for task in both})


def of_adapters(options: argparse.Namespace) -> list[str]:
    import torch

    import abmll
    from abmll.default import find_suite

    torch.set_num_threads(1)
    tasks = find_suite(options.suite, folder=options.folder).test[: options.tasks]
    shrinking: Values = defaultdict(lambda: defaultdict(list))
    bought: Values = defaultdict(lambda: defaultdict(list))
    for seed, path in enumerate(options.paths):
        learner = abmll.Learner.load(path)
        contraction(learner, tasks, seed, options.query, shrinking)
        acquisition(learner, tasks, seed, options.query, bought)
        print(f"{path}: done", flush=True)
    names = dict.fromkeys(name.rsplit(", ", 1)[0] for name in shrinking)
    lines = ["| | " + " | ".join(f"{size} labels" for size in SIZES) + " |", "|---|" + "---:|" * len(SIZES)]
    lines += [f"| {n} | " + " | ".join(interval(shrinking[f"{n}, {s} labels"]) for s in SIZES) + " |" for n in names]
    lines += ["", f"| {MORE} more labels after {START} | NLL | accuracy | NLL less random's |", "|---|---:|---:|---:|"]
    for way in ("random", *WAYS):
        less = "" if way == "random" else difference(bought[f"NLL, {way}"], bought["NLL, random"])
        lines.append(f"| {way} | {interval(bought[f'NLL, {way}'])} | {interval(bought[f'accuracy, {way}'])} | {less} |")
    return lines


def of_predictions(options: argparse.Namespace) -> list[str]:
    found: dict[str, Values] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    coverage(options.paths, found)
    names = list(next(iter(found.values())))
    whose = f"AURC less that of {options.baseline}"
    lines = [f"| | {' | '.join(names)} | {whose} |", "|---|" + "---:|" * (len(names) + 1)]
    for method, values in sorted(found.items(), key=lambda item: interval(item[1]["AURC"])):
        less = "" if method == options.baseline else difference(values["AURC"], found[options.baseline]["AURC"])
        lines.append(f"| {method} | {' | '.join(interval(values[name]) for name in names)} | {less} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("adapter", "coverage"))
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--suite", default="default-wide")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--baseline", default="abmll")
    parser.add_argument("--query", type=int, default=100)
    parser.add_argument("--tasks", type=int, help="only the first so many")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    text = "\n".join(of_adapters(options) if options.what == "adapter" else of_predictions(options)) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
