"""Where a chat template puts an answer: found in a finished conversation as the template itself writes it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from abmll.core.errors import AbmllError, printable
from abmll.language.chat_writer import LONGEST, MEMORY, SECONDS, write_once

ASKED, ANSWERED = "abmllasked", "abmllanswered"
"""What stands for the two turns' texts while the template is read."""


class Turns(NamedTuple):
    """What a template writes around the texts of a user's and an assistant's turn.

    Attributes:
        before: up to the user's text.
        between: from there to the answer.
        header: the part of `between` that belongs to the assistant's turn.
        after: what closes it.
        trims: whether the template takes the spaces around the user's text away.
    """

    before: str
    between: str
    header: str
    after: str
    trims: bool


def turns_of(tokenizer: Any) -> Turns:
    """The turns of a tokenizer's chat template.

    Not the generation prompt decides where an answer stands, but a finished conversation: some templates write a block
    of thought, which may be empty, before an answer and not before a reply that is about to be generated, or the other
    way round.

    Raises:
        AbmllError: If there is no template, if it refuses such a conversation, does not write both texts once, or takes
            more time or memory than any template needs.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise AbmllError("chat = true in [prompt], but the tokenizer has no chat template. Set chat = false.")
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:  # several of them, and none is the default
        raise _refused(str(error)) from error
    written = write_once(template, json.dumps(tokenizer.special_tokens_map, default=str), CONVERSATIONS)
    if written is None:
        raise AbmllError(
            "chat = true in [prompt], but the tokenizer's chat template does not end, or takes up all memory: for two "
            f"turns of a word each it needs more than {SECONDS} seconds, {MEMORY // 2**20} MiB, or {LONGEST:,} "
            "characters. It is broken, or meant to do harm. Take the model from another source, or set chat = false."
        )
    bare, behind_system = written[:3], written[3:]
    if bare[0].error is not None and behind_system[0].error is not None:
        raise _refused(bare[0].error)
    finished, asked, spaced = bare if bare[0].error is None else behind_system
    assert finished.text is not None
    if finished.text.count(ASKED) != 1 or finished.text.count(ANSWERED) != 1 or not _in_order(finished.text):
        raise AbmllError(
            "chat = true in [prompt], but the tokenizer's chat template does not write a question and its answer once "
            "each, in this order, so that there is no place to score an answer at. Set chat = false."
        )
    before, rest = finished.text.split(ASKED)
    between, after = rest.split(ANSWERED)
    header = ""
    if asked.text and finished.text.startswith(asked.text):  # not where a template insists on an answer
        header = finished.text.removeprefix(asked.text).split(ANSWERED)[0]
    if spaced.text is None:
        raise _refused(str(spaced.error))
    return Turns(before, between, header, after, f" {ASKED} " not in spaced.text)


def _conversations() -> list[list[dict[str, str]]]:
    """A finished one, one without its answer, and one with spaces around the question; then the three again behind a
    system's turn without a text, where a template insists on one."""
    user, answer = {"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}
    three = [[user, answer], [user], [{"role": "user", "content": f" {ASKED} "}, answer]]
    system = {"role": "system", "content": ""}
    return [*three, *([system, *turns] for turns in three)]


CONVERSATIONS = json.dumps(_conversations())


def _in_order(text: str) -> bool:
    return text.index(ASKED) < text.index(ANSWERED)


def _refused(reason: str) -> AbmllError:
    return AbmllError(
        "chat = true in [prompt], but the tokenizer's chat template refuses a conversation of a user's and an "
        f"assistant's turn ({printable(reason)}). Set chat = false."
    )
