"""Where a chat template puts an answer: found in a finished conversation as the template itself writes it."""

from __future__ import annotations

from typing import Any, NamedTuple

from abmll.core.errors import AbmllError

ASKED, ANSWERED = "abmllasked", "abmllanswered"
"""What stands for the two turns' texts while the template is read."""


class Turns(NamedTuple):
    """What a template writes around the texts of a user's and an assistant's turn.

    before: up to the user's text. between: from there to the answer. header: the part of `between` that belongs to the
    assistant's turn. after: what closes it.
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

    Raises: AbmllError if there is no template, if it refuses such a conversation, or does not write both texts once.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise AbmllError("chat = true in [prompt], but the tokenizer has no chat template. Set chat = false.")
    opening = _opening(tokenizer)
    user = [*opening, {"role": "user", "content": ASKED}]
    finished = _written(tokenizer, [*user, {"role": "assistant", "content": ANSWERED}])
    if finished.count(ASKED) != 1 or finished.count(ANSWERED) != 1 or finished.index(ASKED) > finished.index(ANSWERED):
        raise AbmllError(
            "chat = true in [prompt], but the tokenizer's chat template does not write a question and its answer once "
            "each, in this order, so that there is no place to score an answer at. Set chat = false."
        )
    before, rest = finished.split(ASKED)
    between, after = rest.split(ANSWERED)
    try:
        asked = _written(tokenizer, user)
    except AbmllError:  # a template may insist on an answer
        asked = ""
    header = finished.removeprefix(asked).split(ANSWERED)[0] if asked and finished.startswith(asked) else ""
    spaced = [*opening, {"role": "user", "content": f" {ASKED} "}, {"role": "assistant", "content": ANSWERED}]
    return Turns(before, between, header, after, f" {ASKED} " not in _written(tokenizer, spaced))


def _opening(tokenizer: Any) -> list[dict[str, str]]:
    """The turns that a conversation must begin with: none, or a system's without a text where a template insists."""
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
    system = [{"role": "system", "content": ""}]
    try:
        _written(tokenizer, turns)
    except AbmllError as error:
        try:
            _written(tokenizer, [*system, *turns])
        except AbmllError:
            raise error from None
        return system
    return []


def _written(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # a template is a program, which may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AbmllError(
            "chat = true in [prompt], but the tokenizer's chat template refuses a conversation of a user's and an "
            f"assistant's turn ({reason}). Set chat = false."
        ) from error
