"""`abmll tasks fetch`: tasks of the Hugging Face hub into its cache, once, and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abmll.cli.group import complain
from abmll.core.errors import AbmllError

if TYPE_CHECKING:
    from abmll.data.suite import SuiteSpec


def fetch(
    names: Annotated[
        list[str], typer.Argument(metavar="SUITE...", help='Shipped suites, or tasks such as "hub:boolq".')
    ],
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="DIR", help="Cache of Hugging Face  [default: its own, HF_HOME]")
    ] = None,
) -> None:
    """Fetch the tasks of a suite from the Hugging Face hub.

    Rows and columns of every split are compared with what the task's spec says. What has come is kept, so that the
    same command goes on after an interruption; afterwards the suite is read without a network. Exit status 1 if a task
    could not be fetched.

    \b
    Examples:
      abmll tasks fetch bayesian-lora
      abmll tasks fetch hub:winogrande-m hub:boolq
    """
    from abmll.data.hub.fetch import fetch_tasks

    tasks = [task for name in names for task in _tasks(name)]
    for line in dict.fromkeys(line for name in names for line in _without(name)):
        typer.echo(line)
    done, failed = fetch_tasks(list(dict.fromkeys(tasks)), cache=cache, tell=typer.echo)
    rows = sum(one.rows for one in done)
    typer.echo(f"{len({one.task for one in done})} of {len(set(tasks))} tasks in the cache, {rows} rows")
    for line in _licences(list(dict.fromkeys(one.task for one in done))):
        typer.echo(line)
    for failure in failed:
        complain(f"{failure.task}: {failure.error}.")
    raise typer.Exit(1 if failed else 0)


def _licences(names: list[str]) -> list[str]:
    """The licences of tasks, and which of them are not pinned to a commit, for people."""
    from abmll.data.hub.spec import CONVERTED, hub_spec

    specs = [hub_spec(name) for name in names]
    licences: dict[str, list[str]] = {}
    for spec in specs:
        licences.setdefault(spec.licence, []).append(spec.name)
    lines = [f"licence {licence}: {', '.join(those)}" for licence, those in licences.items()]
    loose = [spec.name for spec in specs if spec.revision == CONVERTED]
    return [*lines, f"not pinned to a commit ({CONVERTED}): {', '.join(loose)}"] if loose else lines


def _without(name: str) -> list[str]:
    """Which tasks of a CrossFit suite the hub cannot give, and why, for people."""
    from abmll.data.hub.crossfit import left_out
    from abmll.data.hub.spec import HUB

    if name.startswith(HUB) or (spec := _suite(name)).format != "crossfit":
        return []
    reasons: dict[str, list[str]] = {}
    why = left_out()
    for task in (task for side in spec.listed().values() for task in side if task in why):
        reasons.setdefault(why[task], []).append(task)
    return [
        f"not to be had from the hub: {len(those)} tasks, {reason}: {', '.join(those)}"
        for reason, those in reasons.items()
    ]


def _suite(name: str) -> SuiteSpec:
    from abmll.core.errors import unknown_name
    from abmll.data.suite import read_suite_spec, shipped_suites

    path, shipped = Path(name), shipped_suites()
    if not path.is_file() and name not in shipped:
        raise unknown_name("suite", name, shipped)
    return read_suite_spec(path if path.is_file() else shipped[name])


def _tasks(name: str) -> list[str]:
    """The hub tasks of a suite, or the one that `name` is."""
    from abmll.data.hub.crossfit import crossfit_spec
    from abmll.data.hub.spec import HUB, hub_spec

    if name.startswith(HUB):
        return [hub_spec(name.removeprefix(HUB)).name]
    spec = _suite(name)
    listed = [task for side in spec.listed().values() for task in side]
    if spec.format == "crossfit":
        return [made.name for task in listed if (made := crossfit_spec(task)) is not None]
    found = [task.removeprefix(HUB) for task in listed if spec.format == "hub" or task.startswith(HUB)]
    if not found:
        raise AbmllError(
            f"the suite {name!r} has no task of the hub: its data are made by the collection's own scripts "
            "(docs/suites.md)."
        )
    return found
