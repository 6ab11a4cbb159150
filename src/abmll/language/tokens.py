"""From text to token ids: what a person wrote is text, whatever it spells."""

from __future__ import annotations

from typing import Any


def ids_of(tokenizer: Any, text: str, *, special: bool = True, control: bool = False) -> list[int]:
    """The tokens of a text.

    Args:
        special: with what the tokenizer puts before every text; what it puts behind a text is left out, for an answer
            is to follow.
        control: the spelling of a control token stands for that token, as in a chat template; else it is text like any
            other.
    """
    # Not verbose: a text that is longer than the model's context is about to be cut, and needs no warning.
    ids: list[int] = tokenizer.encode(text, add_special_tokens=special, split_special_tokens=not control, verbose=False)
    closing = _closing(tokenizer) if special else 0
    return ids[: len(ids) - closing]


def behind(tokenizer: Any, prefix: list[int], both: list[int], answer: str) -> list[int]:
    """What stands behind `prefix` in `both`; `answer` tokenised alone where the two do not begin alike."""
    if both[: len(prefix)] == prefix and len(both) > len(prefix):
        return both[len(prefix) :]
    return ids_of(tokenizer, answer, special=False)


def spells_control(tokenizer: Any, text: str) -> bool:
    """Whether some of the text would be read as a control token if it could."""
    return ids_of(tokenizer, text, special=False, control=True) != ids_of(tokenizer, text, special=False)


def _closing(tokenizer: Any) -> int:
    """How many tokens the tokenizer puts behind every text (an end of text, a separator)."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return len(whole) - start - len(bare)
    return 0
