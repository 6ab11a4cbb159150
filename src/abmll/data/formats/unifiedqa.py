"""UnifiedQA's one-line format: `question \\n (A) first (B) second \\n context`; the target is the answer's text.

The `\\n` between the parts is a backslash and the letter n. Choices and context are optional.
Source: the UnifiedQA data files (Khashabi et al. 2020), tab-separated lines of input and answer without a
    header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from abmll.data.formats.container import read_container
from abmll.data.formats.format import CHOICES, INPUT, Format, Misshapen, Options, Reading, answered, reshape
from abmll.data.rows import data_suffix

HEADER = ["input", "answer"]
"""The columns of UnifiedQA's tab-separated files, which have no header line."""
_SEPARATOR = re.compile(r"\s*\\n\s*")
_MARKED = re.compile(r"\\n\s*(\([Aa]\)|\S)")


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


def _fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    # Without a header line, the first row's texts stand where the columns' names are looked for.
    return bool(rows) and all(any(_MARKED.search(text) for text in (*row, *map(str, row.values()))) for row in rows)


def _read(path: Path, options: Options) -> Reading:
    table = data_suffix(path) in (".tsv", ".csv")
    plain = replace(options, quoting=False) if table else options
    return reshape(
        path, read_container(path, plain, header=HEADER if table else None), lambda fields: _shape(fields, options)
    )


def _shape(fields: Mapping[str, Any], options: Options) -> dict[str, Any]:
    answer = next((fields[name] for name in ("answer", "output", "target") if name in fields), None)
    if not isinstance(fields.get("input"), str) or not isinstance(answer or "", str):
        cure = "UnifiedQA rows are input<TAB>answer in .tsv, or objects with these two fields in .jsonl"
        raise Misshapen("input", "the row has no text under 'input' and 'answer'", cure)
    parts = parse_unifiedqa(fields["input"])
    made: dict[str, Any] = {INPUT: parts.prompt}
    if parts.choices:
        made[CHOICES] = list(parts.choices)
    label = _spelled_as(answer, parts.choices) if answer else None
    return made | answered(label, options, "answer", "Add the answer")


def _spelled_as(answer: str, choices: tuple[str, ...]) -> str:
    """The choice that the answer spells up to case and white space; the answer itself if there is none."""
    plain = " ".join(answer.casefold().split())
    return next((choice for choice in choices if " ".join(choice.casefold().split()) == plain), answer)


FORMAT = Format("UnifiedQA's lines: question \\n (A) … (B) … \\n context, and the answer's text", _read, _fits)
