"""UnifiedQA's one-line format: `question \\n (A) first (B) second \\n context`, with the answer's text as target.

The `\\n` between the parts is a backslash and the letter n. Choices and context are optional.
Source: the UnifiedQA data files (Khashabi et al. 2020), tab-separated lines of input and answer without a header.
"""

from __future__ import annotations

import re
from typing import NamedTuple

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
        """Context first where there is one, then the question: the choices follow in the library's own format."""
        return f"{self.context}\n{self.question}" if self.context else self.question


def parse_unifiedqa(text: str) -> UnifiedQA:
    """The parts of one UnifiedQA input. Letters may be lower case, as in the lower-cased release."""
    question, *rest = _SEPARATOR.split(text.strip())
    choices: tuple[str, ...] = ()
    if rest:
        choices = _choices(rest[0])
        if choices:
            rest = rest[1:]
    return UnifiedQA(question, choices, "\n".join(part for part in rest if part))


def _choices(text: str) -> tuple[str, ...]:
    """The texts after (A), (B), …, which must start the text and follow each other in the alphabet."""
    starts, ends = [], []
    position = 0
    for number in range(26):
        letter = chr(ord("A") + number)
        mark = re.compile(rf"\(({letter}|{letter.lower()})\)")
        found = mark.match(text) if number == 0 else re.compile(r"\s" + mark.pattern).search(text, position)
        if found is None:
            break
        ends.append(found.start())
        starts.append(found.end())
        position = found.end()
    ends = [*ends[1:], len(text)]
    return tuple(text[start:end].strip() for start, end in zip(starts, ends, strict=True)) if starts else ()


def unifiedqa_rows(file: str, rows: list[Row]) -> tuple[list[Row], list[Problem]]:
    """Rows with UnifiedQA's `input` and `answer` (or `output`, `target`) as rows with input, options and label."""
    made, problems = [], []
    for row in rows:
        answer = next((row.fields[name] for name in ("answer", "output", "target") if name in row.fields), None)
        if not isinstance(row.fields.get("input"), str) or not isinstance(answer, str):
            message = "the row has no text under 'input' and 'answer'"
            cure = "UnifiedQA rows are input<TAB>answer in .tsv, or objects with these two fields in .jsonl"
            problems.append(Problem(file, row.line, "input", message, cure))
            continue
        parts = parse_unifiedqa(row.fields["input"])
        fields = {"input": parts.prompt, "label": _spelled_as(answer, parts.choices)}
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
