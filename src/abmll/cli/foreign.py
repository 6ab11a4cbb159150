"""`abmll tasks import`: other people's files as tasks, with a word on everything that was guessed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abmll.cli.group import complain
from abmll.core.errors import AbmllError

if TYPE_CHECKING:
    from abmll.data.foreign import Found
    from abmll.data.task import Task

SHOWN_PROMPTS = 3
SHOWN_CHARS = 600
SHOWN_PROBLEMS = 3
HOW = {"input": "--input", "label": "--label", "target": "--label", "choices": "--choices"}


def import_(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A file, a folder that `datasets` saved, or a folder of files.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder for the specs  [default: beside the data]")
    ] = None,
    input_: Annotated[
        str | None, typer.Option("--input", metavar="COLUMN", help='The input: a column, or a template "{a} {b}".')
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="COLUMN", help="The answer: its text, or its number.")
    ] = None,
    choices: Annotated[
        str | None,
        typer.Option("--choices", metavar="A,B,…", help="The choices: one column of lists, several columns, or texts."),
    ] = None,
    question: Annotated[str, typer.Option("--question", metavar="TEXT", help="What is asked of every row.")] = "",
    family: Annotated[str, typer.Option("--family", metavar="NAME", help="Tasks of one family test one skill.")] = "",
    copy: Annotated[bool, typer.Option("--copy", help="Also write the rows there, as JSON Lines.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show everything and write nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier specs.")] = False,
) -> None:
    """Make tasks of other people's files.

    Recognises CSV, TSV, JSON Lines, JSON, Parquet, Excel, saved data sets, chats and the exports of benchmarks and
    annotation tools (docs/formats.md); says which columns it took and why, shows three prompts, and writes a TOML spec
    for each. Exit status 1 if a file could not be read.

    \b
    Examples:
      abmll tasks import export.xlsx -o my_tasks
      abmll tasks import downloads/ -o my_tasks --dry-run
      abmll tasks import answers.csv --input "{title}: {body}" --label verdict -o my_tasks
    """
    from abmll.data.foreign import propose_all
    from abmll.data.guess import Given

    listed = None if choices is None else tuple(part.strip() for part in choices.split(",") if part.strip())
    folder = out if out is not None else (path if path.is_dir() and not (path / "state.json").exists() else path.parent)
    found, passed = propose_all(path, Given(input_, label, listed), question=question, family=family)
    if not found:
        raise AbmllError(f"{path} holds no file that can be read: see docs/formats.md for what can.")
    good = [one for one in found if one.spec is not None]
    if not dry_run:
        _require_free(folder, good, overwrite)
    for one in found:
        _tell(one, folder)
    if not dry_run:
        _write(folder, good, copy)
        _write_split(path, folder, good)
    where = "nothing written (--dry-run)" if dry_run else f"specs in {folder}"
    typer.echo(f"{len(good)} of {len(found)} read; {where}")
    if passed:
        typer.echo(f"passed over, of no known kind: {', '.join(passed)}")
    if good and not dry_run:
        typer.echo(f"Next: abmll tasks validate {folder}")
    raise typer.Exit(0 if len(good) == len(found) else 1)


def _tell(found: Found, folder: Path) -> None:
    typer.echo(f"{found.source.path.name}: {_kind(found)}")
    if found.source.support is not None:
        typer.echo(f"  support sets are drawn from {found.source.support.name}")
    for guess in found.guesses:
        if guess.key == "split":
            typer.echo(
                f"  the column {guess.value!r} parts the rows ({guess.why}); all of them were taken as one task's"
            )
            continue
        change = "" if guess.given or guess.key not in HOW else f"; {HOW[guess.key]} changes it"
        typer.echo(f"  {guess.key} = {guess.value!r}  ({guess.why}{change})")
    if found.spec is None or found.parsed is None or found.parsed.task is None:
        for problem in found.problems[:SHOWN_PROBLEMS]:
            complain(f"  not taken: {problem}")
        if len(found.problems) > SHOWN_PROBLEMS:
            complain(f"  … and {len(found.problems) - SHOWN_PROBLEMS} more")
        return
    task = found.parsed.task
    typer.echo(f"  {_summary(task)}")
    warnings = [problem for problem in found.problems if problem.severity == "warning"]
    for problem in warnings[:SHOWN_PROBLEMS]:
        typer.echo(f"  note: {problem}")
    if len(warnings) > SHOWN_PROBLEMS:
        typer.echo(f"  … and {len(warnings) - SHOWN_PROBLEMS} more notes: abmll tasks validate")
    _prompts(task)


def _kind(found: Found) -> str:
    from abmll.data.formats import TABLE, find_format

    return "a table" if found.format == TABLE else find_format(found.format).says


def _summary(task: Task) -> str:
    if not task.is_classification:
        return f"{len(task)} rows, up to {task.num_choices} choices a row"
    choices = task.examples[0].choices
    counts = ", ".join(f"{choices[target]} ({count})" for target, count in task.target_counts.items())
    return f"{len(task)} rows; classes: {counts}"


def _prompts(task: Task) -> None:
    from abmll.language.prompt import PromptFormat, render

    # Letters name at most 26 choices; with more, the model answers by their text.
    form = PromptFormat(answer="letters" if task.num_choices <= 26 else "text")
    for number, example in enumerate(task.examples[:SHOWN_PROMPTS], start=1):
        text, answers = render(example, form)
        text = text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS // 2]} … {text[-SHOWN_CHARS // 2 :]}"
        typer.echo(f"  prompt {number}:")
        for line in f"{text} {answers[example.known_target]}".split("\n"):
            typer.echo(f"    | {line}")


def _spec_path(folder: Path, found: Found) -> Path:
    return folder / f"{found.source.name}.toml"


def _require_free(folder: Path, found: list[Found], overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise AbmllError(f"{folder} is a file; give a folder with -o.")
    taken = [path for path in (_spec_path(folder, one) for one in found) if path.exists()]
    if taken and not overwrite:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise AbmllError(f"{taken[0]}{more} exist. Give another folder with -o, or add --overwrite.")


def _write(folder: Path, found: list[Found], copy: bool) -> None:
    from abmll.core.files import write_whole
    from abmll.data.foreign import spec_text
    from abmll.data.foreign_copy import copied

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in found:
            written, rows = copied(one, folder) if copy else (one, {})
            for file, content in rows.items():
                write_whole(file, content)
            write_whole(_spec_path(folder, one), spec_text(written, folder))
    except OSError as error:
        raise AbmllError(f"{folder} cannot be written: {error.strerror}. Give another folder with -o.") from error


def _write_split(path: Path, folder: Path, found: list[Found]) -> None:
    """The official split of a folder of Super-NaturalInstructions, as a suite.toml beside the specs."""
    from abmll.data.formats.natural_instructions import official_split

    split = official_split(path) if path.is_dir() else None
    names = {one.source.name for one in found}
    suite = folder / "suite.toml"
    if split is None or suite.exists():
        return
    train, test = ([name for name in side if name in names] for side in split)
    if train and test:
        from abmll.core.files import write_whole
        from abmll.core.toml_text import toml_value

        lists = f"train = {toml_value(train)}\ntest = {toml_value(test)}\n"
        write_whole(suite, f'name = "natural-instructions"\n{lists}')
        typer.echo(f"the official split, {len(train)} to train on and {len(test)} held out: {suite}")
