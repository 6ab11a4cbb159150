"""Every row as the model will be given it, looked at before the model is: what would stop a run is told at its start.

A row can be refused by its own settings alone: more choices than there are letters, a question that does not fit, an
answer without tokens. In training such a row may come up after hours. Here every row is tokenised once, in large
batches, and only those near a limit are encoded in full.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from abmll.core.errors import AbmllError, printable, shown
from abmll.core.types import Example
from abmll.language.letters import LETTERS
from abmll.language.prompt import Encoded, PromptFormat, encode, render, without_middle

BATCH = 1000
"""Rows that are tokenised in one call."""
SAMPLED = 32
"""Different sets of choices of a task that are encoded in full, whatever their length."""
MARGIN = 8
"""Tokens by which a length that was not measured on the whole prompt may be wrong."""
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class _Kind:
    """One kind of mistake in the rows of one task: what is wrong with the first of them, and which have it."""

    message: str
    rows: list[str] = field(default_factory=list)


def row_mistakes(
    place: str, rows: Sequence[Example], tokenizer: Any, prompt_format: PromptFormat, context: int | None = None
) -> list[str]:
    """What would stop a run at one of these rows: one text for each kind, which names the first row that has it.

    Args:
        place: where the rows are from, such as "task 'news' (my_tasks/news.csv)".
        rows: all rows of it.
        tokenizer: the model's.
        prompt_format: how they are put.
        context: the most tokens the model reads, prompt and answer together; None if it does not say.

    Returns:
        The mistakes; none if every row can be encoded.
    """
    if prompt_format.answer == "auto":  # not yet settled: text is what every row can be answered by
        prompt_format = replace(prompt_format, answer="text")
    kinds: dict[str, _Kind] = {}
    for name, kind, message in _findings(rows, tokenizer, prompt_format, context):
        kinds.setdefault(kind, _Kind(message)).rows.append(name)
    return [_told(place, kind, len(rows)) for kind in kinds.values()]


def _told(place: str, kind: _Kind, count: int) -> str:
    first = f"{place}, row {kind.rows[0]}: {kind.message}"
    others = len(kind.rows) - 1
    if not others:
        return first
    named = ", ".join(kind.rows[1:4]) + (", …" if others > 3 else "")
    return f"{first.rstrip('.')} ({others} more of its {count} rows: {named})."


def _findings(
    rows: Sequence[Example], tokenizer: Any, prompt_format: PromptFormat, context: int | None
) -> Iterator[tuple[str, str, str]]:
    """(name of the row, kind of the mistake, what is wrong), a row at most once."""
    seen: set[tuple[str, ...]] = set()
    whole: list[tuple[int, Example]] = []
    plain: list[tuple[int, Example]] = []
    overhead = 0
    for number, row in enumerate(rows, start=1):
        if (found := _unusable(row, prompt_format)) is not None:
            yield _name(row, number), *found
        elif row.choices not in seen and len(seen) < SAMPLED:
            seen.add(row.choices)
            whole.append((number, row))
        else:
            plain.append((number, row))
    for number, row in whole:
        encoded, found = _encoded(row, tokenizer, prompt_format, context)
        if found is not None:
            yield _name(row, number), *found
        if encoded is not None:
            bare = _lengths([row], tokenizer, prompt_format)[0]
            overhead = max(overhead, len(encoded.prefix) - bare)
    limit = min(prompt_format.max_tokens, prompt_format.max_question_tokens or prompt_format.max_tokens)
    if context is not None:
        limit = min(limit, context)
    for start in range(0, len(plain), BATCH):
        batch = plain[start : start + BATCH]
        lengths = _lengths([row for _, row in batch], tokenizer, prompt_format)
        for (number, row), length in zip(batch, lengths, strict=True):
            # every character of an answer may be a token of its own, or several bytes of one
            answer = max(len(choice.encode()) for choice in row.choices) if prompt_format.answer == "text" else 4
            if length + overhead + MARGIN + answer > limit:
                _, found = _encoded(row, tokenizer, prompt_format, context)
                if found is not None:
                    yield _name(row, number), *found


def _unusable(row: Example, prompt_format: PromptFormat) -> tuple[str, str] | None:
    for what, text in (("id", row.id), ("question", row.question), ("input", row.prompt), *_each_choice(row)):
        if broken := _SURROGATE.search(text):
            code = f"\\u{ord(broken[0]):04x}"
            return "surrogate", f"its {what} holds {code}, half of a character, which no tokenizer takes. Remove it."
    if prompt_format.answer == "letters" and len(row.choices) > len(LETTERS):
        return (
            "letters",
            f"it has {len(row.choices)} choices, and letters name at most {len(LETTERS)}. "
            'Set answer = "text" in [prompt].',
        )
    return None


def _each_choice(row: Example) -> list[tuple[str, str]]:
    return [(f"choice {choice!a}", choice) for choice in row.choices]


def _encoded(
    row: Example, tokenizer: Any, prompt_format: PromptFormat, context: int | None
) -> tuple[Encoded | None, tuple[str, str] | None]:
    """The row's tokens, and what is wrong with them as (kind, message)."""
    try:
        encoded = encode(row, tokenizer, prompt_format, context)
    except AbmllError as error:
        kind = re.sub(r"\d+", "0", re.sub(r"'.*?'|\".*?\"", "", str(error)))
        return None, (kind, str(error).removeprefix(f"example {row.id or row.prompt[:40]!r} "))
    except Exception as error:  # of a tokenizer or its template: whatever it is, it would stop the run
        return None, (type(error).__name__, f"the tokenizer cannot take it ({type(error).__name__}: {error}).")
    for choice, tokens in zip(row.choices, encoded.choices, strict=False):
        if not tokens:
            return encoded, ("empty", f"the choice {shown(choice)} has no tokens under this tokenizer. Reword it.")
    different = {tuple(tokens) for tokens in encoded.choices}
    if len(different) < len(encoded.choices):
        first, second = _same(row.choices, encoded.choices)
        return encoded, (
            "same",
            f"the choices {shown(first)} and {shown(second)} are the same tokens under this tokenizer, so that nothing "
            "can tell them apart. Reword one, or take another model.",
        )
    return encoded, None


def _same(choices: Sequence[str], tokens: Sequence[Sequence[int]]) -> tuple[str, str]:
    first: dict[tuple[int, ...], int] = {}
    for place, one in enumerate(tokens):
        earlier = first.setdefault(tuple(one), place)
        if earlier != place:
            return choices[earlier], choices[place]
    raise AssertionError("no two are the same")


def _lengths(rows: Sequence[Example], tokenizer: Any, prompt_format: PromptFormat) -> list[int]:
    """Tokens of each prompt as plain text, without demonstrations and the marks of a chat."""
    alone = [without_middle(row._replace(demonstrations=()), prompt_format) for row in rows]
    texts = [render(row, prompt_format)[0] for row in alone]
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=True, verbose=False)["input_ids"]]


def _name(row: Example, number: int) -> str:
    return f"{printable(row.id[:60])!r}" if row.id else str(number)
