"""What can only be seen over all rows of a task: duplicates, contradictions, one class only, too few rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from abmll.core.types import Example
from abmll.data.layout import UNKNOWN_TARGET, PlacedExample
from abmll.data.overlap import normalised
from abmll.data.problems import Problem

FEW_ROWS = 32
"""Fewer rows than this leave little to judge on after 16 support rows: a warning."""


def check_rows(file: str, placed: Sequence[PlacedExample], *, labelled: bool = True) -> list[Problem]:
    """All findings about a task's rows taken together, in the order of their lines.

    labelled: False for rows that are only predicted; they may be few, and all of one class.
    """
    problems = [*_duplicate_ids(file, placed), *_duplicate_rows(file, placed)]
    if labelled:
        problems += _classes(file, placed)
    if labelled and 0 < len(placed) < FEW_ROWS:
        cure = f"Add rows: at least {FEW_ROWS} let 16 be adapted on and 16 be judged on"
        problems.append(Problem(file, 0, "", f"the task has only {len(placed)} rows", cure, "warning"))
    return sorted(problems, key=lambda problem: problem.line)


def check_first_tokens(file: str, placed: Sequence[PlacedExample], first_token: Callable[[str], int]) -> list[Problem]:
    """Choices that begin with the same token: scoring by the first token cannot tell them apart.

    first_token: the id of a text's first token, under the tokenizer that will be used.
    """
    problems = []
    seen: set[tuple[str, ...]] = set()
    for line, example in placed:
        if example.choices in seen:
            continue
        seen.add(example.choices)
        by_token: dict[int, list[str]] = defaultdict(list)
        for choice in example.choices:
            by_token[first_token(choice)].append(choice)
        for token, choices in by_token.items():
            if len(choices) > 1:
                names = " and ".join(map(repr, choices))
                message = f"the choices {names} begin with the same token ({token})"
                cure = "Score whole answers or answer with letters, not with the first token; or reword the choices"
                problems.append(Problem(file, line, "options", message, cure, "warning"))
    return problems


def _duplicate_ids(file: str, placed: Sequence[PlacedExample]) -> list[Problem]:
    first: dict[str, int] = {}
    problems = []
    for line, example in placed:
        if example.id in first:
            message = f"the id {example.id!r} stands on line {first[example.id]} too"
            problems.append(Problem(file, line, "id", message, "Give every row its own id, or none at all"))
        first.setdefault(example.id, line)
    return problems


def _duplicate_rows(file: str, placed: Sequence[PlacedExample]) -> list[Problem]:
    """Rows with the same input and choices: contradictions if the answers differ, repeats otherwise.

    Both are warnings: real labels are noisy and the task can be read, but a repeat may stand in support and query.
    """
    first: dict[tuple[str, frozenset[str]], tuple[int, Example]] = {}
    problems = []
    for line, example in placed:
        key = (normalised(example.prompt), frozenset(example.choices))
        if key not in first:
            first[key] = (line, example)
            continue
        earlier, other = first[key]
        answers = _answer(other), _answer(example)
        if answers[0] == answers[1]:
            message = f"the row repeats line {earlier}"
            problems.append(Problem(file, line, "input", message, "Remove one of them", "warning"))
        else:
            message = f"the answer is {answers[1]!r} here and {answers[0]!r} on line {earlier}, for the same input"
            problems.append(Problem(file, line, "target", message, "Keep the right one", "warning"))
    return problems


def _answer(example: Example) -> str:
    return "" if example.target == UNKNOWN_TARGET else example.choices[example.target]


def _classes(file: str, placed: Sequence[PlacedExample]) -> list[Problem]:
    targets = {example.target for _, example in placed}
    if len(placed) < 2 or len(targets) > 1 or targets == {UNKNOWN_TARGET}:
        return []
    target = targets.pop()
    if len({example.choices for _, example in placed}) > 1:
        message = f"in all {len(placed)} rows the right choice is number {target} (counted from 0)"
        return [Problem(file, 0, "target", message, "Shuffle the choices of each row", "warning")]
    message = f"all {len(placed)} rows have one class only, {placed[0].example.choices[target]!r}"
    return [Problem(file, 0, "target", message, "Add rows of the other classes")]
