"""Checking a task file before anything is run on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from abmll.data.checks import check_first_tokens
from abmll.data.problems import Problem, listed_lines
from abmll.data.profile import Profile, profile
from abmll.data.readers import parse_task

ALIKE = 5
"""Problems of one kind that are told one by one before the others are only counted."""
_RANK = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Checked:
    """What was found in one file: problems, errors first; and a profile of the rows that could be read, if any."""

    problems: tuple[Problem, ...]
    profile: Profile | None

    def told(self) -> Iterator[Problem]:
        """The problems, where many of one kind are put together after the first few."""
        for _, group in groupby(sorted(self.problems, key=_kind_in_order(self.problems)), key=_kind):
            problems = list(group)
            several = len(problems) > 2 * ALIKE
            yield from problems[: ALIKE if several else None]
            if several:
                rest = problems[ALIKE:]
                lines = listed_lines(sorted({problem.line for problem in rest}), most=12)
                message = f"{len(rest)} more of this kind (lines {lines})"
                first = problems[0]
                yield Problem(first.file, 0, first.field, message, first.cure, first.severity)


def check_task(
    path: str | Path,
    *,
    first_token: Callable[[str], int] | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> Checked:
    """What there is to know about a task file or TOML spec before it is used.

    Args:
        first_token: a text's first token id under the tokenizer to be used; if given, choices that begin alike are
            named, which matters where answers are scored by their first token.
        count_tokens: how many tokens a text has under it; if given, lengths are told in tokens too.
    """
    parsed = parse_task(Path(path))
    problems = list(parsed.problems)
    if first_token is not None:
        problems += check_first_tokens(Path(path).name, parsed.placed, first_token)
    problems.sort(key=lambda problem: _RANK[problem.severity])
    examples = [example for _, example in parsed.placed]
    support = len(parsed.task.support_pool) if parsed.task is not None else 0
    if parsed.task is not None:
        examples = [*parsed.task.examples, *parsed.task.support_pool]
    return Checked(tuple(problems), profile(examples, support, count_tokens))


def _kind(problem: Problem) -> tuple[str, str, str]:
    """What problems have in common that differ only in a value or a place."""
    return problem.severity, problem.field, re.sub(r"'(?:[^'\\]|\\.)*'|\"[^\"]*\"|\d+", "…", problem.message)


def _kind_in_order(problems: Sequence[Problem]) -> Callable[[Problem], int]:
    """A key that keeps the problems of a kind together, kinds in the order of their first problem."""
    first: dict[tuple[str, str, str], int] = {}
    for place, problem in enumerate(problems):
        first.setdefault(_kind(problem), place)
    return lambda problem: first[_kind(problem)]
