"""What adapting the upper blocks only costs in quality, and what it saves: LoRA on real tasks, block by block.

    python -m benchmarks.upper_layers --model FOLDER_OR_NAME --data data/realtasks:sst2,trec_coarse --layers 30 6 2

Every task and seed is adapted to 16 labels with each number of upper blocks, and answers the same 40 questions by their
text. Adds to the JSON file what it lacks, so that it may be stopped. Seconds are of processor time, in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from abmll.config import ModelConfig
from abmll.data.episodes import evaluation_episode
from abmll.data.folder import read_folder
from abmll.data.task import Task
from abmll.evaluation.calibration import accuracy, mixture, nll
from abmll.language import PromptFormat
from abmll.learner import Learner
from abmll.pipeline.build import load_model
from benchmarks.speed.measure import environment

RESULTS = Path(__file__).parent / "results" / "upper_layers.json"


def cell(learner: Learner, task: Task, seed: int, support: int, query: int) -> dict[str, float]:
    """One task's quality, and its seconds, among them those of the trunk."""
    drawn = evaluation_episode(task, seed, support, query)
    targets = torch.tensor([example.target for example in drawn.query])
    start = time.process_time()
    posterior = learner.adapt(drawn.support, seed=seed)
    middle = time.process_time()
    log_probs = posterior.predict(drawn.query, 0).log_probs
    return {
        "adapt_seconds": middle - start,
        "predict_seconds": time.process_time() - middle,
        "nll": float(nll(log_probs, targets)),
        "accuracy": float(accuracy(mixture(log_probs).exp(), targets)),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.upper_layers", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2", help="name or folder of a causal LM")
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="FOLDER:TASK,TASK", help="which tasks of which folders"
    )
    parser.add_argument(
        "--layers", nargs="+", type=int, default=[30, 10, 6, 4, 2], help="upper blocks; 0 for zero-shot"
    )
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3], help="learning rates of AdamW")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--support", type=int, default=16)
    parser.add_argument("--query", type=int, default=40)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    tasks = []
    for part in options.data:
        folder, _, names = part.partition(":")
        found = {task.name: task for task in read_folder(Path(folder)).tasks}
        tasks += [found[name] for name in names.split(",")]
    rows = json.loads(options.output.read_text())["rows"] if options.output.is_file() else []
    done = {_place(row) for row in rows}
    for count in options.layers:
        for rate in options.rates if count else [0.0]:
            wanted = [(task, seed) for seed in options.seeds for task in tasks]
            wanted = [(task, seed) for task, seed in wanted if (count, rate, task.name, seed) not in done]
            if not wanted:
                continue
            learner = _learner(options.model, count, rate, options.steps)
            for task, seed in wanted:
                row = {"layers": count, "rate": rate, "task": task.name, "seed": seed}
                row |= cell(learner, task, seed, options.support, options.query)
                rows.append(row)
                print(json.dumps(row), flush=True)
                told = {name: getattr(options, name) for name in ("model", "steps", "support", "query")}
                result = {"environment": environment(), **told, "rows": sorted(rows, key=_place)}
                options.output.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(table(rows))
    return 0


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["layers"], row["rate"], row["task"], row["seed"]


def _learner(name: str, count: int, rate: float, steps: int) -> Learner:
    model, tokenizer = load_model(ModelConfig(name=name, dtype="float32", device="cpu"))
    all_of_them = model.config.get_text_config().num_hidden_layers
    if count == 0:
        return Learner(model, tokenizer, "pretrained", prompt=PromptFormat(answer="text"), upper_layers=1)
    return Learner(
        model,
        tokenizer,
        "lora",
        prompt=PromptFormat(answer="text"),
        upper_layers=None if count == all_of_them else count,
        num_steps=steps,
        optimizer="adamw",
        learning_rate=rate,
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Means over tasks and seeds, and of the difference in NLL to all blocks at the same rate (standard error)."""
    cells = {_place(row): row for row in rows}
    settings = sorted({(row["layers"], row["rate"]) for row in rows})
    most = settings[-1][0]
    lines = ["layers   rate    n    NLL  accuracy  NLL - all's (s.e.)   adapt s  predict s"]
    for layers, rate in settings:
        own = [row for row in rows if (row["layers"], row["rate"]) == (layers, rate)]
        pairs = [(row, cells.get((most, rate, row["task"], row["seed"]))) for row in own]
        differences = [row["nll"] - other["nll"] for row, other in pairs if other is not None]
        told = "-"
        if len(differences) > 1:
            error = statistics.stdev(differences) / len(differences) ** 0.5
            told = f"{statistics.mean(differences):+.3f} ({error:.3f})"
        mean = {key: statistics.mean(row[key] for row in own) for key in own[0] if key not in ("task", "seed")}
        lines.append(
            f"{layers:6d} {rate:6g} {len(own):4d} {mean['nll']:6.3f} {mean['accuracy']:9.3f}  {told:>19} "
            f"{mean['adapt_seconds']:9.1f} {mean['predict_seconds']:10.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
