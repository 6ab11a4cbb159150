"""What a stranger's tokenizer is asked before it is given a text: whether it makes much of a little."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from abmll.core.errors import AbmllError, shown

MOST_GROWTH = 1000
"""Characters that one may become before a text is cut into tokens. Real ones replace one by one to three."""


def check_tokenizer(tokenizer: Any, name: str) -> None:
    """Refuses a tokenizer whose replacements, one after the other, would fill all memory from one short text, and one
    whose longest text is no number.

    Raises:
        AbmllError: For such a tokenizer; it names the model.
    """
    longest = getattr(tokenizer, "model_max_length", 0)
    if isinstance(longest, bool) or not isinstance(longest, (int, float)):
        raise AbmllError(
            f"the tokenizer of model {shown(name)} ([model] name) says model_max_length = {shown(longest)}, which is "
            "no number. Correct it in tokenizer_config.json, or fetch it again."
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for part in (getattr(backend, "normalizer", None), getattr(backend, "decoder", None)):
        if part is not None and _growth(json.loads(part.__getstate__())) > MOST_GROWTH:
            raise AbmllError(
                f"the tokenizer of model {shown(name)} ([model] name) makes a text more than {MOST_GROWTH:,} times as "
                "long by its replacements (tokenizer.json): it is damaged, or meant to do harm. Fetch it again."
            )


def _steps(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer or decoder, as its JSON describes it, in order."""
    within = part.get("normalizers") or part.get("decoders")
    if within is None:
        yield part
    for one in within or ():
        yield from _steps(one)


def _growth(part: Mapping[str, Any]) -> float:
    """How many characters one character may become at the most, all replacements done."""
    others, longest = 1.0, dict[str, float]()  # from the step that is looked at to the end, by character
    for step in reversed(list(_steps(part))):
        if step.get("type") != "Replace":
            continue
        pattern = (step.get("pattern") or {}).get("String")
        made = sum(longest.get(character, others) for character in step.get("content") or "")
        if pattern:
            for character in pattern:
                longest[character] = max(longest.get(character, others), made / len(pattern))
        else:  # an expression, which may match any single character
            others = max(others, made)
            longest = {character: max(length, made) for character, length in longest.items()}
    return max(others, *longest.values(), 0.0)
