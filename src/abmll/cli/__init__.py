"""The command line. Importing it loads no library but typer: each command imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from abmll.cli import (
    adaptation,
    comparison,
    configuration,
    experiments,
    fetching,
    foreign,
    models,
    reporting,
    reproducing,
    tasks,
)
from abmll.cli.group import Commands

app = typer.Typer(
    name="abmll",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=lambda v: _version(v)),
    ] = False,
) -> None:
    """Fine-tune a language model over many tasks, so that it adapts to a new one from a handful of examples and
    knows how sure it is.

    \b
    A first look, offline, in minutes:  abmll demo
    With your own tasks:                abmll tasks validate my_tasks/
                                        abmll config > run.toml    (then edit it)
                                        abmll train run.toml
    """


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"abmll {version('abmll')}")
        raise typer.Exit


app.command()(experiments.train)
app.command()(adaptation.adapt)
app.command()(adaptation.predict)
app.command("try")(adaptation.try_)
app.command()(adaptation.acquire)
app.command()(experiments.evaluate)
app.command()(comparison.tune)
app.command()(comparison.compare)
app.command()(reproducing.reproduce)
app.command()(reporting.report)
tasks.app.command("import")(foreign.import_)
tasks.app.command()(fetching.fetch)
app.add_typer(tasks.app, name="tasks")
app.add_typer(models.app, name="models")
app.command()(experiments.demo)
app.command("config")(configuration.config)
