"""Looking at tasks: what a suite holds, what one task says, what is wrong with a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abmll.cli.arguments import aligned, existing_file
from abmll.cli.group import complain
from abmll.core.errors import AbmllError

if TYPE_CHECKING:
    from abmll.core.types import Example
    from abmll.data.suite import Suite

SHOWN_TEXT = 400
SHOWN_CHOICES = 10

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show and check tasks.")


@app.command("list")
def list_(
    suite: Annotated[
        str, typer.Argument(metavar="[SUITE]", help="A shipped suite, a folder of task files or a suite TOML.")
    ] = "default",
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Where the suite's task files lie, if elsewhere.")
    ] = None,
) -> None:
    """List the tasks of a suite, and its split.

    \b
    Examples:
      abmll tasks list
      abmll tasks list my_tasks/
    """
    found = _suite(suite, folder)
    rows = [("split", "task", "family", "rows", "choices")]
    for split, members in (("train", found.train), ("validation", found.validation), ("test", found.test)):
        rows += [(split, task.name, task.family, str(len(task)), str(task.num_choices)) for task in members]
    for line in aligned(rows):
        typer.echo(line)
    sizes = f"{len(found.train)} to train on, {len(found.validation)} for validation, {len(found.test)} held out"
    typer.echo(f"\n{found.name}: {sizes}")


@app.command()
def show(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="JSONL, CSV or TSV (+.gz), or a TOML spec.")],
    rows: Annotated[int, typer.Option("-n", "--rows", min=0, metavar="N", help="How many rows to print.")] = 3,
) -> None:
    """Show a task's question, classes and first rows.

    \b
    Example:
      abmll tasks show my_task.jsonl -n 5
    """
    existing_file(task, "task file")
    from abmll.data.readers import read_task

    found = read_task(task)
    typer.echo(f"{found.name}: {len(found)} rows" + (f", family {found.family}" if found.family else ""))
    if found.question:
        typer.echo(f"Question: {found.question}")
    if found.is_classification:
        choices = found.examples[0].choices
        counts = [f"{choices[target]} ({count})" for target, count in found.target_counts.items()]
        typer.echo(f"Classes: {', '.join(counts)}")
    else:
        typer.echo(f"Multiple choice: up to {found.num_choices} choices a row")
    for example in found.examples[:rows]:
        typer.echo(_row(example))


@app.command()
def validate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Task files, or folders of them.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also check that this model's tokens tell the choices apart at once."),
    ] = None,
) -> None:
    """Check task files.

    Names every bad row with its file, line, field and cure. The exit status is 1 if there is an error.

    \b
    Examples:
      abmll tasks validate my_tasks/
      abmll tasks validate my_tasks/ --model meta-llama/Meta-Llama-3-8B
    """
    from abmll.data.validate import validate_task

    first_token = None if model is None else _first_token(model)
    files = [file for path in paths for file in _task_files(path)]
    problems = [(file, problem) for file in files for problem in validate_task(file, first_token=first_token)]
    for file, problem in problems:
        place = str(file) if Path(problem.file).name == file.name else f"{file} ({problem.file})"
        at = (f":{problem.line}" if problem.line else "") + (f" [{problem.field}]" if problem.field else "")
        line = f"{place}{at}: {problem.severity}: {problem.message}. {problem.cure}."
        complain(line) if problem.severity == "error" else typer.echo(line)
    num_errors = sum(problem.severity == "error" for _, problem in problems)
    checked = f"{len(files)} file{'s' if len(files) > 1 else ''} checked"
    typer.echo(f"{checked}: {num_errors} errors, {len(problems) - num_errors} warnings")
    raise typer.Exit(1 if num_errors else 0)


def _suite(name: str, folder: Path | None) -> Suite:
    from abmll import default

    return default.find_suite(name, folder=folder)


def _first_token(model: str) -> Callable[[str], int]:
    """A choice's first token id where it is an answer, that is after a space."""
    from abmll import models

    tokenizer = models.load_tokenizer(model)
    return lambda text: int(tokenizer.encode(f" {text}", add_special_tokens=False)[0])


def _task_files(path: Path) -> list[Path]:
    from abmll.data.folder import task_files

    if path.is_dir():
        files = task_files(path)
        if files:
            return files
        raise AbmllError(f"{path} holds no task: put .jsonl, .csv or .tsv files (or .gz of them) or .toml specs there.")
    return [existing_file(path, "task file or folder")]


def _row(example: Example) -> str:
    text = " ".join(example.prompt.split())
    text = text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}…"
    more = [f"… and {len(example.choices) - SHOWN_CHOICES} more"] if len(example.choices) > SHOWN_CHOICES else []
    choices = " | ".join([*example.choices[:SHOWN_CHOICES], *more])
    return f"\n[{example.id}] {text}\n    choices: {choices}\n    answer:  {example.answer}"
