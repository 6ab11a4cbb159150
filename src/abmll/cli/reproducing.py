"""`abmll reproduce`: a published table, ours beside theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abmll.cli.arguments import Overrides, Quiet, aligned, require_one_process
from abmll.cli.comparison import Jobs
from abmll.cli.group import complain

if TYPE_CHECKING:
    from abmll.pipeline.protocol import Protocol
    from abmll.pipeline.reproduce import Estimate, Line, Planned


def reproduce(
    protocol: Annotated[str, typer.Argument(metavar="TABLE", help="abmll-v1, abmll-v3, blob or metaicl.")],
    overrides: Overrides = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Model  [default: the one of the paper]")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Where the suites' data lie (docs/suites.md).")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="A,B,…", help="Of the table's experiments, these.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder  [default: runs/reproduce/TABLE]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tasks, steps, time and GB that it would take; nothing is run.")
    ] = False,
    timed: Annotated[
        bool,
        typer.Option("--time/--no-time", help="A dry run times a step of each method, if data are here."),
    ] = True,
    jobs: Jobs = 1,
    quiet: Quiet = False,
) -> None:
    """Run a published table under its protocol.

    Prompts, steps, order of tasks and rows, test subsets and the paper's own measures are those of the publication;
    what is not followed, and what no source says, is told. Prints our numbers, the published ones and the difference.
    The same command goes on where it stopped. Exit status 1 if a part failed.

    \b
    Examples:
      abmll reproduce abmll-v3 --dry-run
      abmll reproduce abmll-v3 --folder MetaICL/data --only cls-45
      abmll reproduce abmll-v1 --model smollm2 --folder MetaICL/data training.num_steps=68 evaluation.seeds=[1]
    """
    require_one_process("reproduce")
    from abmll.pipeline.protocol import read_protocol
    from abmll.pipeline.reproduce import estimate, plan, reproduce_run, time_pieces

    table = read_protocol(protocol)
    names = [name.strip() for name in (only or "").split(",") if name.strip()]
    where = out if out is not None else Path("runs") / "reproduce" / protocol
    planned = plan(table, model=model, folder=folder, only=names, out=where, overrides=overrides or ())
    for word in dict.fromkeys(word for one in planned for word in one.words):
        typer.echo(f"note: {word}")
    if dry_run:
        pieces = time_pieces(planned) if timed else None
        _tell_estimates(table, planned, [estimate(table, one, pieces) for one in planned])
        raise typer.Exit
    lines, failures = reproduce_run(table, planned, where, jobs=jobs, progress=not quiet)
    _tell_lines(table, lines)
    _tell_differences(table, planned)
    typer.echo(f"\nNumbers: {where / 'reproduction.json'}; each experiment's table and report lie in its folder there")
    if failures:
        complain("\n".join(f"{failure.unit}: {failure.error}" for failure in failures))
        raise typer.Exit(1)


def _tell_estimates(table: Protocol, planned: Sequence[Planned], found: Sequence[Estimate]) -> None:
    typer.echo(f"{table.title}\n")
    rows = [("experiment", "train+val+test", "rows", "seeds", "outer steps", "examples back", "forward", "time", "GB")]
    for one in found:
        tasks = "+".join(map(str, one.tasks))
        numbers = (str(one.rows), str(one.seeds), f"{one.steps:,}", f"{one.trained:,.0f}", f"{one.predicted:,.0f}")
        rows.append((one.experiment, tasks, *numbers, _time(one.hours), f"{one.gigabytes:,.1f}"))
    for line in aligned(rows):
        typer.echo(line)
    hours = sum(one.hours for one in found)
    memory = max(one.gigabytes for one in found)
    where = "this machine's processor" if all(one.device == "cpu" for one in found) else "one GPU"
    typer.echo(f"\n{_time(hours)} in all on {where}; at least {memory:,.1f} GB of its memory")
    seconds = "seconds assumed: 2 operations a parameter and token forward, 4 back"
    if all(one.timed for one in found):
        seconds = "seconds timed here: a step of each method, and two tasks adapted to"
    typer.echo(f"counted: examples through the model; {seconds}")
    absent = [p for one in planned for p in one.experiment.published if p.status == "missing"]
    known = [p for one in planned for p in one.experiment.published if p.status != "missing"]
    typer.echo(f"{len(known)} published numbers to compare with, {len(absent)} missing")


def _time(hours: float) -> str:
    """Hours, or what is a round number of minutes or seconds."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 30 else f"{max(1.0, 3600 * hours):.0f} s"


def _tell_lines(table: Protocol, lines: Sequence[Line]) -> None:
    from abmll.pipeline.protocol import STATUS

    rows = [("experiment", "row", "metric", "ours", "theirs", "difference", "theirs is")]
    for line in lines:
        ours = "–" if line.ours is None else f"{line.ours:.3f}" + (f" ± {line.spread:.3f}" if line.spread else "")
        theirs = line.published.value
        spread = f" ± {line.published.spread:.3f}" if line.published.spread else ""
        shown = "–" if theirs is None else f"{theirs:.3f}{spread}"
        gap = "" if line.difference is None else f"{line.difference:+.3f}"
        rows.append(
            (line.experiment, line.published.row, line.published.metric, ours, shown, gap, line.published.status)
        )
    typer.echo(f"{table.title}\n{table.source}\n")
    for text in aligned(rows):
        typer.echo(text)
    typer.echo(
        "\n± ours: standard deviation over seeds. " + "; ".join(f"{key}: {words}" for key, words in STATUS.items())
    )
    notes = dict.fromkeys(line.published.note for line in lines if line.published.note)
    for note in notes:
        typer.echo(f"  {note}")


def _tell_differences(table: Protocol, planned: Sequence[Planned]) -> None:
    rows = {name: row for one in planned for name, row in one.rows.items()}
    said = [*table.differs, *(f"{name}: {words}" for name, row in rows.items() for words in row.differs)]
    for title, words in (("Not as published:", said), ("What no source says:", table.open)):
        if words:
            typer.echo(f"\n{title}")
            for one in words:
                typer.echo(f"  {one}")
