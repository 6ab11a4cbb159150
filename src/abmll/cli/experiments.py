"""The stages that need the model, train and evaluate, and the demonstration that runs everything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abmll.cli.arguments import Overrides, Quiet, RunFile, adapter_folder, is_first_process, require_one_process
from abmll.cli.reporting import print_table
from abmll.core.errors import AbmllError


def train(
    run: RunFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of an interrupted run.")
    ] = False,
    from_adapters: Annotated[
        list[Path] | None,
        typer.Option(
            "--from-adapters",
            metavar="DIR",
            help="Learn from LoRAs that PEFT has trained, one a task, instead of from tasks: a folder that holds their "
            "folders. May be given several times.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Meta-train an adapter over many tasks.

    Checkpoints, the log training.jsonl and the adapter go to the run's output folder. A method that learns nothing
    across tasks, such as lora or laplace with start="none", gets the fresh adapter that it adapts from.
    Under torchrun, processes share the episodes of each step (docs/scale.md).

    \b
    Examples:
      abmll train examples/laptop.toml
      abmll train run.toml training.num_steps=50 output=runs/short
      abmll train run.toml --resume
      abmll train run.toml --from-adapters my_loras/
    """
    from abmll.config import load_config

    config = load_config(run, overrides or ())
    if len(config.method.names) != 1:
        raise AbmllError(
            f"{run} names {len(config.method.names)} methods, but train takes one. Choose it on the command line: "
            f"method.name={config.method.names[0]}"
        )
    from abmll import pipeline

    if from_adapters:
        if resume:
            raise AbmllError("--from-adapters takes no steps that --resume could go on with: give one of them.")
        written, said = pipeline.learn_from_loras(config, from_adapters)
        typer.echo(f"{said}\nAdapter: {written}\nNext:    abmll adapt {written} TASK -o DIR")
        return
    written = pipeline.train_run(config, resume=resume, progress=not quiet)
    if is_first_process():
        typer.echo(f"Adapter: {written}\nNext:    abmll adapt {written} TASK -o DIR")


def evaluate(
    run: RunFile,
    overrides: Overrides = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter", metavar="DIR", help="Evaluate this adapter; without it, each method is trained first."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Folder for predictions.jsonl  [default: the run's output]"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Adapt to every held-out task, and predict it.

    With a list of methods, compares them on the same examples. Every prediction goes to predictions.jsonl, from
    which all metrics and the report are made. Under torchrun, processes share the tasks (docs/scale.md).

    \b
    Examples:
      abmll evaluate run.toml --adapter runs/laptop/adapter
      abmll evaluate run.toml 'method.name=["pretrained", "lora", "abmll"]'
    """
    from abmll.config import load_config

    config = load_config(run, overrides or ())
    if adapter is not None:
        adapter = adapter_folder(adapter)
        if len(config.method.names) != 1:
            raise AbmllError(
                f"{run} names {len(config.method.names)} methods, but an adapter has one. Add method.name=NAME."
            )
    from abmll import pipeline

    written = pipeline.evaluate_run(config, adapter, out or config.output, progress=not quiet)
    if is_first_process():
        print_table(written)
        typer.echo(f"\nPredictions: {written}\nNext:        abmll report {written} -o report.html")


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the runs and the report.")] = Path(
        "runs/demo"
    ),
    model: Annotated[
        str,
        typer.Option("--model", metavar="NAME", help="A name of `abmll models list`, a folder or a Hugging Face name."),
    ] = "default",
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="SUITE",
            help="A folder of tasks, a suite TOML or a shipped suite; else the generated tasks that fit the model.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Repetitions; the intervals need at least 3.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of a minute: fewer steps and tasks.")] = False,
    quiet: Quiet = False,
) -> None:
    """See the whole story in minutes.

    Trains, adapts, compares and reports; offline, on generated tasks and with a small model that is part of the
    package, unless another model or suite is named. smollm2 is a real language model, fetched on first use. The same
    command goes on where it stopped.

    \b
    Examples:
      abmll demo -o runs/demo
      abmll demo --model smollm2 -o runs/demo-llm
      abmll demo --model smollm2 --suite my_tasks/ -o runs/mine
    """
    require_one_process("demo")
    if out.exists() and not out.is_dir():
        raise AbmllError(f"{out} is a file; give a folder with -o.")
    from abmll import pipeline
    from abmll.cli.comparison import tell_comparison

    written = pipeline.demo_run(out, model=model, suite=suite, seeds=seeds, progress=not quiet, quick=quick)
    tell_comparison(written)
