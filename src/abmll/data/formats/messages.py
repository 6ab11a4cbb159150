"""Chats as fine-tuning services take them: {"messages": [{"role", "content"}, …]}, or ShareGPT's conversations.

What stands before the last assistant turn is the input, that turn the answer. Choices that the prompt lists ("A) …")
become the row's choices, and an answer by letter the choice's text; otherwise the answers of all rows are the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abmll.data.formats.container import read_container
from abmll.data.formats.format import CHOICES, INPUT, LABEL, Format, Misshapen, Options, Reading, answered, reshape
from abmll.data.formats.listed import letter_index, listed_choices

CURE = 'Write {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}'
ASSISTANTS = ("assistant", "gpt", "model", "bot")


def _turns(fields: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Who says what, in order; None if the row is no chat of texts."""
    turns = fields.get("messages", fields.get("conversations"))
    if not isinstance(turns, list) or not turns:
        return None
    said = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            return None
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if isinstance(content, list):  # parts, as in newer services: texts only
            parts = [part.get("text") for part in content if isinstance(part, Mapping)]
            content = "\n".join(part for part in parts if isinstance(part, str)) if len(parts) == len(content) else None
        if not isinstance(role, str) or not isinstance(content, str):
            return None
        said.append((role.casefold(), content))
    return said


def _fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and all(_turns(row) is not None for row in rows)


def _read(path: Path, options: Options) -> Reading:
    return reshape(path, read_container(path, options), lambda fields: _shape(fields, options))


def _shape(fields: Mapping[str, Any], options: Options) -> dict[str, Any]:
    turns = _turns(fields)
    if turns is None:
        raise Misshapen("messages", "the row is no chat: a list of turns with a role and a text", CURE)
    answer = turns.pop()[1].strip() if turns[-1][0] in ASSISTANTS else None
    # A single turn needs no speaker's name; a longer talk does.
    spoken = [text for role, text in turns if role != "system"]
    if len(spoken) > 1:
        spoken = [
            f"{'Assistant' if role in ASSISTANTS else 'User'}: {text}" for role, text in turns if role != "system"
        ]
    text = "\n".join([*(text for role, text in turns if role == "system"), *spoken])
    before, choices = listed_choices(text)
    made: dict[str, Any] = {INPUT: before if choices else text}
    if choices:
        made[CHOICES] = list(choices)
    if not answer:
        return made | answered(None, options, "messages", "Add an assistant turn with the answer")
    index = letter_index(answer)
    if choices and index is not None and answer not in choices and index < len(choices):
        answer = choices[index]
    return made | {LABEL: answer}


FORMAT = Format(
    'chats: {"messages": [{"role", "content"}]} or conversations; the last assistant turn answers', _read, _fits
)
