"""Typer's commands, built once: it reads the signatures of all of them each time that it is asked."""

from __future__ import annotations

import functools
from typing import Any

import typer


@functools.cache
def command_group(app: typer.Typer) -> Any:
    """What `typer.main.get_command` makes of an app."""
    return typer.main.get_command(app)
