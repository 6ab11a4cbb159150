"""What can only be seen over all rows of a task: duplicates, contradictions, one class only, too few rows."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise

from abmll.core.errors import shown
from abmll.core.example import Example
from abmll.data.findings import listing
from abmll.data.labels import distinct_spelling, near_equal
from abmll.data.overlap import normalised
from abmll.data.placing import PlacedExample
from abmll.data.problems import SHOWN, Problem, listed_lines

FEW_ROWS = 32
"""Fewer rows than this leave little to judge on after 16 support rows: a warning."""
SEVERAL = 8
"""From so many rows on, the sizes and the order of the classes say something."""
IMBALANCED = 0.9
"""A larger share of one class is told."""
_TWICE = re.compile(r"Ã[\x80-\xbf¤¶¼Ÿ©¨ª«¢§±³´º]|â€[™œ\x9d“”˜¦]|Â[\xa0£°§©®]")


def check_rows(file: str, placed: Sequence[PlacedExample], *, labelled: bool = True) -> list[Problem]:
    """All findings about a task's rows taken together: errors first, then in the order of their lines.

    Args:
        labelled: False for rows that are only predicted; they may be few, and all of one class.
    """
    problems = [*_duplicate_ids(file, placed), *_duplicate_rows(file, placed), *_garbled(file, placed)]
    problems += _alike_choices(file, placed)
    if labelled:
        problems += _classes(file, placed)
    if labelled and 0 < len(placed) < FEW_ROWS:
        cure = f"Add rows: at least {FEW_ROWS} let 16 be adapted on and 16 be evaluated on"
        message = f"the task has only {len(placed)} row{'s' if len(placed) > 1 else ''}"
        problems.append(Problem(file, 0, "", message, cure, "warning"))
    return sorted(problems, key=lambda problem: (problem.severity != "error", problem.line))


def check_first_tokens(file: str, placed: Sequence[PlacedExample], first_token: Callable[[str], int]) -> list[Problem]:
    """Choices that begin with the same token: scoring by the first token cannot tell them apart.

    Args:
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
    again: dict[str, list[int]] = defaultdict(list)
    for line, example in placed:
        if first.setdefault(example.id, line) != line:
            again[example.id].append(line)
    cure = "Give every row its own id, or none at all"
    problems = []
    for identifier, lines in list(again.items())[:SHOWN]:
        message = f"the id {shown(identifier)} stands on line {first[identifier]} too"
        if len(lines) > 1:
            message += f", and on {len(lines) - 1} more (lines {listed_lines(lines[1:])})"
        problems.append(Problem(file, lines[0], "id", message, cure))
    if len(again) > SHOWN:
        lines = sorted(line for found in list(again.values())[SHOWN:] for line in found)
        message = f"{len(again) - SHOWN} more ids stand on several lines ({listed_lines(lines)})"
        problems.append(Problem(file, lines[0], "id", message, cure))
    return problems


def _duplicate_rows(file: str, placed: Sequence[PlacedExample]) -> list[Problem]:
    """Rows with the same input and choices: contradictions if the answers differ, repeats otherwise.

    Both are warnings, one line each: real labels are noisy and the task can be read, but a repeat may stand in support
    and query.
    """
    first: dict[tuple[str, frozenset[str]], tuple[int, Example]] = {}
    repeats: list[tuple[int, int]] = []
    others: list[tuple[int, int, str, str]] = []
    for line, example in placed:
        key = (normalised(example.prompt), frozenset(example.choices))
        earlier, other = first.setdefault(key, (line, example))
        if other is example:
            continue
        answers = _answer(other), _answer(example)
        if answers[0] == answers[1]:
            repeats.append((line, earlier))
        else:
            others.append((line, earlier, *answers))
    problems = []
    if len(repeats) == 1:
        message = f"the row repeats line {repeats[0][1]}"
        problems.append(Problem(file, repeats[0][0], "input", message, "Remove one of them", "warning"))
    elif repeats:
        lines = listed_lines([line for line, _ in repeats])
        message = (
            f"{len(repeats)} rows repeat an earlier one (lines {lines}; line {repeats[0][0]} repeats {repeats[0][1]})"
        )
        problems.append(Problem(file, repeats[0][0], "input", message, "Keep one of each", "warning"))
    if others:
        line, earlier, before, here = others[0]
        message = f"the answer is {shown(here)} here and {shown(before)} on line {earlier}, for the same input"
        cure = "Keep the right one"
        if len(others) > 1:
            lines = listed_lines([line for line, *_ in others[1:]])
            message += f"; {len(others) - 1} more contradict an earlier one (lines {lines})"
            cure = "Keep the right one of each"
        problems.append(Problem(file, line, "target", message, cure, "warning"))
    return problems


def _answer(example: Example) -> str:
    return "" if example.target is None else example.answer


def _classes(file: str, placed: Sequence[PlacedExample]) -> list[Problem]:
    targets = [example.target for _, example in placed if example.target is not None]
    counts = Counter(targets)
    if len(placed) < 2 or not targets:
        return []
    one_set = len({example.choices for _, example in placed}) == 1
    if len(counts) == 1:
        target = next(iter(counts))
        if not one_set:
            message = f"in all {len(placed)} rows the right choice is number {target} (counted from 0)"
            return [Problem(file, 0, "target", message, "Shuffle the choices of each row", "warning")]
        message = f"all {len(placed)} rows have one class only, {shown(placed[0].example.choices[target])}"
        return [Problem(file, 0, "target", message, "Add rows of the other classes")]
    if not one_set or len(placed) < SEVERAL:
        return []
    choices = placed[0].example.choices
    problems = []
    single = [choices[target] for target, count in sorted(counts.items()) if count == 1]
    if single:
        which = f"the class {shown(single[0])} has one row only" if len(single) == 1 else (
            f"{len(single)} classes have one row only: {listing(single)}"
        )  # fmt: skip
        cure = "Add rows, or remove it if it is a slip: it can stand in the support set or be evaluated on, not both"
        problems.append(Problem(file, 0, "target", which, cure, "warning"))
    empty = [choice for target, choice in enumerate(choices) if target not in counts]
    if empty:
        message = f"no row has the answer {listing(empty)}"
        problems.append(Problem(file, 0, "target", message, "Add rows, or leave it out of the choices", "warning"))
    target, most = counts.most_common(1)[0]
    if most > IMBALANCED * len(placed):
        share = most / len(placed)
        message = (
            f"{share:.0%} of the rows have the answer {shown(choices[target])}: saying always that is right so often"
        )
        cure = "Add rows of the others, and look at the calibration more than at the accuracy"
        problems.append(Problem(file, 0, "target", message, cure, "warning"))
    if _in_order(targets):
        message = "the rows stand in the order of their labels"
        cure = "Shuffle them if you take the first ones anywhere; abmll itself draws at random"
        problems.append(Problem(file, 0, "target", message, cure, "note"))
    return problems


def _in_order(targets: Sequence[int]) -> bool:
    """Whether every label's rows stand together, in a file where chance would hardly do so."""
    changes = sum(first != second for first, second in pairwise(targets))
    return len(targets) >= SEVERAL and changes == len(set(targets)) - 1


def _alike_choices(file: str, placed: Sequence[PlacedExample]) -> list[Problem]:
    """Choices of one row that differ only in how they are written; told once."""
    found: list[tuple[int, list[str]]] = []
    seen: set[tuple[str, ...]] = set()
    for line, example in placed:
        if example.choices not in seen:
            seen.add(example.choices)
            found += [(line, group) for group in near_equal(dict.fromkeys(example.choices, 0))]
    if not found:
        return []
    line, group = found[0]
    message = f"the choices {' and '.join(map(distinct_spelling, group))} differ only in how they are written"
    if len(found) > 1:
        message += f"; so do others (lines {listed_lines(sorted({line for line, _ in found[1:]}))})"
    return [Problem(file, line, "options", message, "Spell one choice in one way", "warning")]


def _garbled(file: str, placed: Sequence[PlacedExample]) -> list[Problem]:
    """Texts that were once read in a wrong encoding: told once."""
    lost = [line for line, example in placed if "\ufffd" in example.prompt]
    twice = [line for line, example in placed if not example.prompt.isascii() and _TWICE.search(example.prompt)]
    problems = []
    for lines, what in (
        (lost, "hold U+FFFD, which stands for a character that was lost"),
        (twice, "hold such as 'Ã¼' or 'â€™', which UTF-8 gives when it is read as cp1252"),
    ):
        if lines:
            message = f"{len(lines)} input{'s' if len(lines) > 1 else ''} {what} (lines {listed_lines(lines)})"
            if len(lines) == 1:
                message = message.replace(" hold ", " holds ")
            cure = "Export the data again, in UTF-8 from the start"
            problems.append(Problem(file, lines[0], "input", message, cure, "warning"))
    return problems
