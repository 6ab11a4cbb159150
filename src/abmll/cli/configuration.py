"""`abmll config`: every field explained, or a run file checked."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from abmll.cli.arguments import Overrides

WIDTH = 110


def config(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN.toml]", help="Check this run file and print it resolved.")
    ] = None,
    overrides: Overrides = None,
    methods: Annotated[bool, typer.Option("--methods", help="List the methods and their options instead.")] = False,
) -> None:
    """Explain every field of a run file, or check one.

    Without RUN.toml, prints every field with its type, default and meaning; the output is itself a run file. With
    RUN.toml, checks it as `train` would and prints the fields that it sets or leaves at their defaults.

    \b
    Examples:
      abmll config > run.toml
      abmll config run.toml training.num_steps=50
      abmll config --methods
    """
    from abmll.config import dump_toml, load_config

    if methods:
        typer.echo("\n\n".join(_methods()))
    elif run is not None:
        typer.echo(dump_toml(load_config(run, overrides or ())), nl=False)
    else:
        typer.echo("\n".join(_template()))


def _template() -> Iterator[str]:
    from abmll.config import field_entries
    from abmll.config.fields import sections
    from abmll.core.toml_text import toml_value

    yield "# A run file. Lines that begin with # are fields without a value; all others show the default."
    table = ""
    for row in field_entries():
        section, _, name = row.path.rpartition(".")
        if section != table:
            table = section
            yield from ("", *_comment(sections()[section].__doc__ or ""), f"[{section}]")
        yield ""
        yield from _comment(f"{row.description} ({row.rule})")
        unset = row.default is None or row.default == {}
        yield f"# {name} =" if unset else f"{name} = {toml_value(row.default)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")


def _methods() -> Iterator[str]:
    from abmll.core.toml_text import toml_value
    from abmll.methods import METHODS
    from abmll.methods.table.endings import ENDINGS

    # made of a method without options, so that an ending's own alone are shown
    more = {f"NAME{end}": make("Any of the methods above", METHODS["pretrained"]) for end, make in ENDINGS.items()}
    for name, factory in {**METHODS, **more}.items():
        summary = (inspect.getdoc(factory) or "").partition("\n\n")[0]
        parameters = inspect.signature(factory).parameters.values()
        defaults = ["unset" if p.default is None else toml_value(p.default) for p in parameters]
        width = max((len(p.name) for p in parameters), default=0)
        options = [f"  {p.name:{width}} = {default}" for p, default in zip(parameters, defaults, strict=True)]
        yield "\n".join([name, *textwrap.wrap(summary, WIDTH, initial_indent="  ", subsequent_indent="  "), *options])
