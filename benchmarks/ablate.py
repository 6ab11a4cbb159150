"""Which of ABMLL's options earn their place: `python benchmarks/ablate.py -o runs/ablation --seeds 3`.

Every variant differs in one option from `abmll-natural`, the method that fits the package's small model; all are
meta-trained and evaluated alike, on the validation tasks of the wide embedded suite, so that the choice of the default
never sees a test task. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

VARIANTS: dict[str, dict] = {
    "default": {},
    "both orders": {"symmetric": True},
    "Adam's steps": {"method": "abmll"},
    "Adam's steps, one order": {"method": "abmll", "symmetric": False},
    "first-order gradient": {"gradient": "first_order"},
    "no support term": {"support_weight": 0.0},
    "support term 0.3": {"support_weight": 0.3},
    "fixed variances": {"variance_rate": 1e-6},
    "no scale": {"scale": False},
    "scale's prior N(1, 0.3²)": {"scale_mean": 1.0, "scale_std": 0.3},
    "trust 0.15": {"trust": 0.15},
    "trust 0.5": {"trust": 0.5},
    "no warm-up": {"warm_up": 0.0},
    "first variance e^-4": {"log_var_offset": -4.0},
    "first variance e^4": {"log_var_offset": 4.0},
    "outer rate 1e-3": {"outer_learning_rate": 1e-3},
    "outer rate 5e-3": {"outer_learning_rate": 5e-3, "variance_rate": 10.0},
    "the first version's default": {"method": "abmll-output"},
}


def run(variant: str, seed: int, out: Path, num_steps: int) -> str:
    """Trains and judges one variant with one seed."""
    import torch

    torch.set_num_threads(1)
    from abmll import AbmllError, Learner, PromptFormat, default
    from abmll.evaluation.predictions import append_cell, index

    suite, path = default.wide_suite(), out / "predictions.jsonl"
    done = index(path)
    if sum(key.method == variant and key.seed == seed for key in done) == len(suite.validation):
        return f"{variant}, seed {seed}: done before"
    learner = Learner(
        *default.model(),
        prompt=PromptFormat(answer="text"),
        seed=seed,
        **{"method": "abmll-natural"} | VARIANTS[variant],
    )
    try:
        learner.meta_train(suite.train, num_steps=num_steps, seed=seed, progress=False)
    except AbmllError as error:  # a variant that diverges is a result, and no reason to lose the others
        return f"{variant}, seed {seed}: {error}"
    for cell in learner.evaluate(suite.validation, name=variant, seed=seed, num_query=100, done=done):
        append_cell(path, cell)
    return f"{variant}, seed {seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        units = [(variant, seed) for seed in range(options.seeds) for variant in options.only]
        for line in pool.map(run, *zip(*((v, s, options.out, options.steps) for v, s in units), strict=True)):
            print(line, flush=True)
    from abmll.evaluation.predictions import read_cells
    from abmll.evaluation.summary import summarise
    from abmll.reports.tables import markdown_table

    table = markdown_table(summarise(read_cells(options.out / "predictions.jsonl"), baseline="default"))
    (options.out / "table.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
