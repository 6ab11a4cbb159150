"""A new task: adapt to its examples, predict others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from abmll.cli.arguments import (
    Adapter,
    ModelFields,
    OutsideMethod,
    Overrides,
    Overwrite,
    adapter_folder,
    existing_file,
    free_path,
    is_first_process,
    require_one_process,
)
from abmll.cli.group import complain
from abmll.core.errors import AbmllError


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
    check: Annotated[
        bool,
        typer.Option(help="Cross-validate, to say whether adapting helps; takes four adaptations more."),
    ] = True,
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
        adapter,
        task,
        out,
        support_size=support_size,
        seed=seed,
        overrides=model or (),
        method=method,
        check=check,
        tell=_tell,
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

    Writes one JSON line for each example, with its id; or, if the file's name ends in .csv, the columns of FILE and
    beside them what is predicted. Where examples carry labels, says accuracy, NLL and chance.

    \b
    Examples:
      abmll predict adapters/my_task new_rows.csv -o answers.jsonl
      abmll predict adapters/my_task new_rows.csv -o answers.csv
    """
    adapter = adapter_folder(adapter)
    existing_file(file, "file of examples")
    out = out or file.with_name(f"{_stem(file.name)}.predictions.jsonl")
    free_path(out, overwrite, source=file)
    from abmll import pipeline

    written = pipeline.predict_run(
        adapter, file, out, num_samples=num_samples, overrides=model or (), method=method, tell=_tell
    )
    if is_first_process():
        typer.echo(f"Predictions: {written}")


def try_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Labelled examples: JSONL, CSV or TSV (+.gz), or a TOML spec.")
    ],
    overrides: Overrides = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", metavar="DIR", help="Adapt from this adapter, by its own method.")
    ] = None,
    method: Annotated[
        str, typer.Option("--method", metavar="METHOD", help="Without an adapter: how to adapt.")
    ] = "lora",
    support: Annotated[int, typer.Option("--support", min=1, metavar="N", help="Examples to adapt to.")] = 16,
    seeds: Annotated[int, typer.Option("--seeds", min=1, metavar="N", help="Draws of these examples.")] = 3,
    query: Annotated[int, typer.Option("--query", min=1, metavar="N", help="Most examples to judge on.")] = 200,
) -> None:
    """Try one labelled file: adapt to a part, judge on the rest.

    Says how good the answers to rows not seen are, beside the model as it is and beside chance, and where they are most
    wrong. Writes nothing.

    \b
    Examples:
      abmll try reviews.csv model.name=smollm2
      abmll try reviews.csv --adapter runs/laptop/adapter --support 32
    """
    require_one_process("try")
    existing_file(file, "task file")
    from abmll import pipeline
    from abmll.config import parse_overrides

    given, config = list(overrides or ()), None
    if adapter is not None:
        adapter = adapter_folder(adapter)
    elif not any(field.startswith("model.name=") for field in given):
        raise AbmllError(
            "which model? Name one, such as model.name=smollm2 (fetched once, 270 MB) or a folder or name of Hugging "
            "Face (model.name=NAME), or give --adapter DIR."
        )
    else:
        config = parse_overrides([*given, f"method.name={method}"])
    trial = pipeline.try_run(
        file, config, adapter, support_size=support, seeds=seeds, num_query=query, overrides=given if adapter else ()
    )
    typer.echo(trial.text)


def _tell(sentence: str, warning: bool) -> None:
    """Prints, on the first process; warnings go to standard error."""
    if is_first_process():
        complain(sentence) if warning else typer.echo(sentence)


def acquire(
    adapter: Adapter,
    pool: Annotated[Path, typer.Argument(metavar="POOL", help="Unlabelled examples, in the format of a task.")],
    model: ModelFields = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, metavar="N", help="How many rows to choose.")] = 8,
    by: Annotated[
        str, typer.Option(metavar="SCORE", help="margin, or mutual-information where the method's samples differ.")
    ] = "margin",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Where to write  [default: POOL's name + .acquire.jsonl]"),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=0, metavar="N", help="Posterior samples to compare.")] = 16,
    overwrite: Overwrite = False,
) -> None:
    """Choose the unlabelled rows to label next.

    Writes the rows that the adapted model is least sure of, first, as JSON lines. Whether their labels are worth more
    than those of rows drawn at random was measured on generated tasks, where they were not.

    \b
    Example:
      abmll acquire adapters/my_task unlabelled.csv -n 8 -o label_these.jsonl
    """
    adapter = adapter_folder(adapter)
    existing_file(pool, "file of examples")
    if by not in ("margin", "mutual-information"):
        raise AbmllError(f"--by {by!r}: give margin or mutual-information.")
    out = out or pool.with_name(f"{_stem(pool.name)}.acquire.jsonl")
    free_path(out, overwrite, source=pool)
    from abmll.pipeline.acquire import acquire_run

    score: Any = by
    written = acquire_run(adapter, pool, out, count=count, by=score, num_samples=num_samples, overrides=model or ())
    typer.echo(f"To label: {written}")


def _stem(name: str) -> str:
    """A file's name without what says its format; whatever else stands between full stops tells files apart."""
    for ending in (".gz", ".jsonl", ".json", ".csv", ".tsv", ".toml", ".txt"):
        if len(name) > len(ending) and name.lower().endswith(ending):
            name = name[: -len(ending)]
    return name
