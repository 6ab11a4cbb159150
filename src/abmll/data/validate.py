"""Checking a task file before anything is run on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from abmll.data.checks import check_first_tokens
from abmll.data.problems import Problem
from abmll.data.readers import parse_task


def validate_task(path: str | Path, *, first_token: Callable[[str], int] | None = None) -> list[Problem]:
    """Everything that is wrong with a task file or TOML spec: all findings at once, none for a file in order.

    first_token: a text's first token id under the tokenizer to be used; if given, choices that begin alike
        are named, which matters where answers are scored by their first token.
    """
    parsed = parse_task(Path(path))
    problems = list(parsed.problems)
    if first_token is not None:
        problems += check_first_tokens(Path(path).name, parsed.placed, first_token)
    return problems
