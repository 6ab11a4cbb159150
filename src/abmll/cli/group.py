"""How a command ends: a user's mistake in one message, an interruption with how to go on, a bug in a traceback."""

from __future__ import annotations

import io
import os
import shlex
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from abmll.core.errors import AbmllError

MISTAKE, INTERRUPTED = 2, 130


class Commands(TyperGroup):
    """The group of all commands."""

    def invoke(self, ctx: Any) -> Any:
        _quieten_libraries()
        _print_everything()
        try:
            return super().invoke(ctx)
        except AbmllError as error:
            complain(f"Error: {error}")
            raise typer.Exit(MISTAKE) from None
        except KeyboardInterrupt:
            complain(f"\nInterrupted. {_how_to_go_on(ctx.invoked_subcommand)}".rstrip())
            raise typer.Exit(INTERRUPTED) from None


def complain(message: str) -> None:
    """Writes to standard error, in red where it is a terminal and NO_COLOR is not set."""
    typer.secho(message, fg=typer.colors.RED, err=True, color=False if os.environ.get("NO_COLOR") else None)


def _print_everything() -> None:
    """Lets the streams write an escape for what their encoding lacks (names that are no UTF-8, old terminals)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _quieten_libraries() -> None:
    """Keeps the libraries below from writing between our lines; what the user has set stays."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|huggingface_hub)\.")


def _how_to_go_on(command: str | None) -> str:
    typed = [word for word in sys.argv[1:] if word != "--resume"]
    if command == "train":
        return f"The last checkpoint is safe. Resume with --resume:\n  {shlex.join(['abmll', *typed, '--resume'])}"
    if command in ("evaluate", "tune", "compare", "demo", "reproduce"):
        return f"What is finished is kept. The same command goes on from there:\n  {shlex.join(['abmll', *typed])}"
    return ""
