"""How a command ends: a user's mistake in one message, an interruption with how to go on, a bug in a traceback."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import threading
import warnings
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from abmll.core.errors import AbmllError

MISTAKE, INTERRUPTED = 2, 130
ENDING = ("SIGTERM", "SIGHUP")
"""Signals of schedulers and closing terminals, which end a command as Ctrl-C does."""


class Ended(KeyboardInterrupt):
    """A signal that asks the process to end. Whatever tidies up after Ctrl-C does so after it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Commands(TyperGroup):
    """The group of all commands."""

    def invoke(self, ctx: Any) -> Any:
        _quieten_libraries()
        _print_everything()
        before = _end_by_signals()
        try:
            return super().invoke(ctx)
        except AbmllError as error:
            complain(f"Error: {error}")
            raise typer.Exit(MISTAKE) from None
        except Ended as ended:
            complain(f"\nEnded by {ended}. {_how_to_go_on(ctx.invoked_subcommand)}".rstrip())
            raise typer.Exit(128 + ended.number) from None
        except KeyboardInterrupt:
            complain(f"\nInterrupted. {_how_to_go_on(ctx.invoked_subcommand)}".rstrip())
            raise typer.Exit(INTERRUPTED) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end_by_signals() -> dict[int, Any]:
    """From now on the signals in `ENDING` raise `Ended`, the first time; where one was ignored (nohup), it stays so.

    Returns: what they did before.
    """
    before: dict[int, Any] = {}

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough: a second must not cut off the tidying up
        raise Ended(number)

    if threading.current_thread() is not threading.main_thread():
        return before
    for name in ENDING:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, end)
    return before


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
