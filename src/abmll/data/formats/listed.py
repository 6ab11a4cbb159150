"""Choices that stand in a text: "(A) x (B) y", or one a line as "A) x", "A. x", "- x"."""

from __future__ import annotations

import re

from abmll.data.formats.unifiedqa import lettered_choices

_LINE = re.compile(r"^[ \t]*\(?([A-Za-z])[).:][ \t]+(.+?)[ \t]*$", re.MULTILINE)
_DASH = re.compile(r"^[ \t]*-[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"\n?[ \t]*(?:options|choices|answer choices)[ \t]*:[ \t]*$", re.IGNORECASE)
_ENDING = re.compile(r"^\s*(?:the )?(?:correct )?answer\s*(?:is)?\s*:?\s*$", re.IGNORECASE)


def listed_choices(text: str) -> tuple[str, tuple[str, ...]]:
    """The text before the choices, without a heading such as "Options:", and the choices; (text, ()) if it lists none.

    One choice a line, lettered from A without a gap, with nothing behind but "Answer:"; or "(A) x (B) y" in a line.
    """
    marks = list(_LINE.finditer(text))
    for start, mark in reversed(list(enumerate(marks))):
        if mark[1] in "Aa":
            run = _run(marks[start:])
            if len(run) >= 2 and _closes(text[run[-1].end() :]):
                return _before(text[: mark.start()]), tuple(found[2] for found in run)
            break
    before, choices = lettered_choices(text)
    return (_before(before), choices) if choices else (text, ())


def dashed_choices(text: str) -> tuple[str, tuple[str, ...]]:
    """Like `listed_choices`, for choices behind dashes under a heading "Options:"."""
    heading = re.search(r"(?:^|\n)[ \t]*options[ \t]*:[ \t]*\n", text, re.IGNORECASE)
    if heading is None:
        return text, ()
    lines = text[heading.end() :].strip("\n").split("\n")
    found = [_DASH.fullmatch(line) for line in lines]
    if len(found) < 2 or not all(found):
        return text, ()
    return text[: heading.start()].rstrip(), tuple(mark[1] for mark in found if mark)


def letter_index(text: str) -> int | None:
    """The index that an answer such as "B", "(b)", "B)" or "B." means; None for any other text."""
    mark = re.fullmatch(r"\s*\(?([A-Za-z])[).:]?\s*", text)
    return ord(mark[1].upper()) - ord("A") if mark else None


def _run(marks: list[re.Match[str]]) -> list[re.Match[str]]:
    run: list[re.Match[str]] = []
    for mark in marks:
        if ord(mark[1].upper()) - ord("A") != len(run) or mark[1].isupper() != marks[0][1].isupper():
            break
        run.append(mark)
    return run


def _closes(rest: str) -> bool:
    return not rest.strip() or _ENDING.match(rest) is not None


def _before(text: str) -> str:
    return _HEADING.sub("", text.rstrip()).strip()
