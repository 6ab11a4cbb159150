"""UnifiedQA's one-line format: `question \\n (A) first (B) second \\n context`; the target is the answer's text.

The `\\n` between the parts is a backslash and the letter n. Choices and context are optional.
Source: the UnifiedQA data files (Khashabi et al. 2020), tab-separated lines of input and answer without a
    header.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from abmll.data.problems import Problem
from abmll.data.rows import Row

HEADER = ["input", "answer"]
"""The columns of UnifiedQA's tab-separated files, which have no header line."""
_SEPARATOR = re.compile(r"\s*\\n\s*")


class UnifiedQA(NamedTuple):
    """The parts of one input. choices is empty for questions that list none."""

    question: str
    choices: tuple[str, ...]
    context: str

    @property
    def prompt(self) -> str:
        """Context first where there is one, then the question; the choices are kept apart."""
        return f"{self.context}\n{self.question}" if self.context else self.question


def parse_unifiedqa(text: str) -> UnifiedQA:
    """The parts of one UnifiedQA input. Letters may be lower case, as in the lower-cased release."""
    question, *rest = _SEPARATOR.split(text.strip())
    choices: tuple[str, ...] = ()
    if rest:
        before, found = lettered_choices(rest[0])
        if found and not before:
            choices, rest = found, rest[1:]
    return UnifiedQA(question, choices, "\n".join(part for part in rest if part))


def lettered_choices(text: str) -> tuple[str, tuple[str, ...]]:
    """The text before "(A)", and the texts after (A), (B), … in either case; (text, ()) if there are not two.

    Each mark is the first one of its letter after the mark before, at the text's start or after white space.
    """
    marks: list[re.Match[str]] = []
    while len(marks) < 26:
        letter = chr(ord("A") + len(marks))
        mark = re.compile(rf"(?<!\S)\(({letter}|{letter.lower()})\)")
        found = mark.search(text, marks[-1].end() if marks else 0)
        if found is None:
            break
        marks.append(found)
    if len(marks) < 2:
        return text, ()
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    choices = tuple(text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True))
    return text[: marks[0].start()].strip(), choices


def unifiedqa_rows(file: str, rows: list[Row]) -> tuple[list[Row], list[Problem]]:
    """Rows with UnifiedQA's `input` and `answer` (or `output`, `target`), as input, options and label."""
    made, problems = [], []
    for row in rows:
        answer = next((row.fields[name] for name in ("answer", "output", "target") if name in row.fields), None)
        if not isinstance(row.fields.get("input"), str) or not isinstance(answer, str):
            message = "the row has no text under 'input' and 'answer'"
            cure = "UnifiedQA rows are input<TAB>answer in .tsv, or objects with these two fields in .jsonl"
            problems.append(Problem(file, row.line, "input", message, cure))
            continue
        parts = parse_unifiedqa(row.fields["input"])
        fields: dict[str, Any] = {"input": parts.prompt, "label": _spelled_as(answer, parts.choices)}
        if parts.choices:
            fields["options"] = list(parts.choices)
        if "id" in row.fields:
            fields["id"] = row.fields["id"]
        made.append(Row(row.line, fields))
    return made, problems


def _spelled_as(answer: str, choices: tuple[str, ...]) -> str:
    """The choice that the answer spells up to case and white space; the answer itself if there is none."""
    plain = " ".join(answer.casefold().split())
    return next((choice for choice in choices if " ".join(choice.casefold().split()) == plain), answer)
