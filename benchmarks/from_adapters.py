"""θ from LoRAs that are there already, against the model as it is: on the wide embedded suite's validation tasks.

    python -m benchmarks.from_adapters runs/from_adapters

Trains a LoRA for every third training task, each from a random start of its own, saves it as a PEFT folder, and takes θ
from these folders alone. Then adapts to 16 labels of every validation task. LoRAs that lie in the folder are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import abmll
from abmll import default

STEPS, RATE, BATCH, ROWS = 40, 3e-3, 16, 200


def train_loras(folder: Path, prompt: abmll.PromptFormat) -> None:
    """One LoRA a task, trained by AdamW on 200 of its rows."""
    for seed, task in enumerate(default.wide_suite().train[::3]):
        if not (folder / task.name).exists():
            learner = abmll.Learner(
                "default",
                method="lora",
                prompt=prompt,
                seed=seed,
                num_steps=STEPS,
                optimizer="adamw",
                learning_rate=RATE,
                batch_size=BATCH,
            )
            rows = abmll.Task(task.name, task.examples[:ROWS], question=task.question, family=task.family)
            learner.adapt(rows).save(folder / task.name)
            print(f"{task.name}: {folder / task.name}", flush=True)


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder / "loras"
    prompt = abmll.PromptFormat(answer="text")
    train_loras(folder, prompt)
    learners = {
        "abmll-natural, θ from LoRAs": abmll.Learner("default", method="abmll-natural", prompt=prompt),
        "multitask+scale, θ from LoRAs": abmll.Learner("default", method="multitask+scale", prompt=prompt),
        "abmll-natural, a fresh θ": abmll.Learner("default", method="abmll-natural", prompt=prompt),
        "lora+scale": abmll.Learner("default", method="lora+scale", prompt=prompt),
        "pretrained+scale": abmll.Learner("default", method="pretrained+scale", prompt=prompt),
        "pretrained": abmll.Learner("default", method="pretrained", prompt=prompt),
    }
    found = None
    for name, learner in learners.items():
        if name.endswith("from LoRAs"):
            print(learner.meta_train(from_adapters=[folder]).message, flush=True)
        cells = learner.evaluate(default.wide_suite().validation, support_sizes=(16,), num_query=60, name=name)
        found = cells if found is None else found + cells
        print(found.table(), flush=True)


if __name__ == "__main__":
    main()
