"""A new task: adapt to its examples, predict others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abmll.cli.arguments import (
    Adapter,
    ModelFields,
    OutsideMethod,
    Overwrite,
    adapter_folder,
    existing_file,
    free_path,
    is_first_process,
)


def adapt(
    adapter: Adapter,
    task: Annotated[
        Path, typer.Argument(metavar="TASK", help="Labelled examples: JSONL, CSV or TSV (+.gz), or a TOML spec.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the adapted adapter.")],
    model: ModelFields = None,
    support_size: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Adapt on N examples of TASK instead of all, drawn evenly over its classes."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and of the adaptation's noise.")] = 0,
    method: OutsideMethod = None,
    overwrite: Overwrite = False,
) -> None:
    """Adapt to a new task from a few examples.

    The result is a PEFT adapter, the posterior's mean, with its uncertainty: in the adapter itself, whose subfolder
    lora/ is then the mean as an ordinary LoRA, or in posterior.safetensors beside it.

    The base model is loaded as the adapter names it, in the type that it was trained on.

    \b
    Examples:
      abmll adapt runs/laptop/adapter my_task.jsonl -o adapters/my_task
      abmll adapt runs/8b/adapter my_task.jsonl -o adapters/my_task model.gradient_checkpointing=true
    """
    adapter = adapter_folder(adapter)
    existing_file(task, "task file")
    free_path(out, overwrite, marker="adapter_config.json")
    from abmll import pipeline

    written = pipeline.adapt_run(
        adapter, task, out, support_size=support_size, seed=seed, overrides=model or (), method=method
    )
    if is_first_process():
        typer.echo(f"Adapter: {written}\nNext:    abmll predict {written} FILE")


def predict(
    adapter: Adapter,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Examples to answer, in the format of a task; labels are optional."),
    ],
    model: ModelFields = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Where to write  [default: FILE's name + .predictions.jsonl]"),
    ] = None,
    num_samples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Posterior samples to average; 0 predicts at the mean.")
    ] = 16,
    method: OutsideMethod = None,
    overwrite: Overwrite = False,
) -> None:
    """Predict, with the probability of every choice.

    Writes one JSON line for each example.

    \b
    Example:
      abmll predict adapters/my_task new_rows.csv -o answers.jsonl
    """
    adapter = adapter_folder(adapter)
    existing_file(file, "file of examples")
    out = out or file.with_name(f"{file.name.split('.')[0]}.predictions.jsonl")
    free_path(out, overwrite)
    from abmll import pipeline

    written = pipeline.predict_run(adapter, file, out, num_samples=num_samples, overrides=model or (), method=method)
    if is_first_process():
        typer.echo(f"Predictions: {written}")
