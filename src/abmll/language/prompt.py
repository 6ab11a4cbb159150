"""From an example to token ids: render, tokenise, truncate.

The text of the answer is always tokenised in the context of its prompt, and a prompt that is too long is shortened
in the example's own text: the question and the choices are never cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from abmll.core.errors import AbmllError
from abmll.core.notices import tell
from abmll.core.types import Example
from abmll.language.chat import turns_of
from abmll.language.letters import LETTERS
from abmll.language.tokens import behind, ids_of, spells_control
from abmll.rules import Tokens, require_fields

PAPER_INSTRUCTION = "Return only the label of the correct answer for the question below.\n\n"
"""The instruction of the published prompts (arXiv 2508.14285, data files)."""
ELLIPSIS = " … "


@dataclass(frozen=True)
class PromptFormat:
    """How a question is put to the model and its answer scored.

    Attributes:
        answer: "letters" lists the choices as A), B), … and expects the letter (the paper's format); "text" expects the
            choice's own text; "auto" is letters if the model answers by them, else text, found on a few rows without
            their labels when it is first used (`CausalLMLikelihood.settle`).
        score: a choice of several tokens scores the "mean" (length-normalised) or the "sum" of their log-probabilities.
        loss: "choices" is the NLL of the right choice among the choices; "tokens" the NLL of its tokens in the whole
            vocabulary, as published.
        instruction: put before every prompt, verbatim.
        max_tokens: the longest prompt, in tokens; longer ones lose their demonstrations, the first ones first, and only
            then the middle of their text.
        max_question_tokens: the longest question by itself, and the longest demonstration; longer ones lose the middle
            of their text, so that several long rows fit one prompt. None: as long as the prompt may be.
        chat: wrap prompt and answer as a user and an assistant turn by the tokenizer's chat template.

    Raises:
        AbmllError: Naming every field that breaks its rule, the value and the rule.
    """

    answer: Literal["auto", "letters", "text"] = "auto"
    score: Literal["mean", "sum"] = "mean"
    loss: Literal["choices", "tokens"] = "choices"
    instruction: str = ""
    max_tokens: Tokens = 512
    max_question_tokens: Tokens | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        require_fields(self)


CHARACTERS = 64
"""Of a token, at the most: beyond so many on either side a text is cut before it is tokenised."""


class Encoded(NamedTuple):
    """Token ids of one example.

    Attributes:
        prefix: the prompt.
        choices: the answer's tokens, one list a choice.
        ending: tokens that close the answer (chat only).
        supervised: how many tokens at the prompt's end count as part of the answer in the "tokens" loss (the assistant
            turn's header, as published; 0 without chat).
    """

    prefix: list[int]
    choices: list[list[int]]
    target: int | None
    ending: list[int]
    supervised: int


def render(example: Example, prompt_format: PromptFormat) -> tuple[str, list[str]]:
    """The prompt's text (without chat markup) and the answer's text for every choice.

    Demonstrations come first, each written like the question itself, followed by its right answer and a blank line.
    """
    shown = []
    for solved in example.demonstrations:
        body, answers = _body(solved, prompt_format)
        shown.append(f"{body} {answers[solved.known_target]}\n\n")
    body, answers = _body(example, prompt_format)
    return prompt_format.instruction + "".join(shown) + body, answers


def _body(example: Example, prompt_format: PromptFormat) -> tuple[str, list[str]]:
    """One question up to its answer, and the answers, without instruction or demonstrations."""
    if prompt_format.answer == "auto":
        raise AbmllError('answer = "auto" has not been settled for this model. Name "letters" or "text".')
    lines = [line for line in (example.question, example.prompt) if line]
    if prompt_format.answer == "letters":
        if len(example.choices) > len(LETTERS):
            raise AbmllError(
                f"example {example.id or example.prompt[:40]!r} has {len(example.choices)} choices; letters name "
                f'at most {len(LETTERS)}. Use answer = "text" in [prompt].'
            )
        letters = LETTERS[: len(example.choices)]
        lines += ["Choices:", *(f"{letter}) {text}" for letter, text in zip(letters, _spelled(example), strict=True))]
        answers = list(letters)
    else:
        answers = _spelled(example)
    return "\n".join([*lines, "Answer:"]), answers


def _spelled(example: Example) -> list[str]:
    """The choices as a prompt has them: without the spaces around them, where these tell no two of them apart."""
    stripped = [choice.strip() for choice in example.choices]
    return stripped if len(set(stripped)) == len(set(example.choices)) and all(stripped) else list(example.choices)


def encode(example: Example, tokenizer: Any, prompt_format: PromptFormat, context: int | None = None) -> Encoded:
    """Token ids of an example, shortened until the prompt has at most `max_tokens` tokens.

    With `max_question_tokens` the question and every demonstration are cut to that length first. Then demonstrations
    go, from the front, so that the last one shown stays next to the question; then the middle of the example's own
    text.

    Args:
        context: how many tokens the model reads, prompt and longest answer together.

    Raises:
        AbmllError: If a question and its choices do not fit without any text.
    """
    example = without_middle(example, prompt_format)
    if prompt_format.max_question_tokens is not None:
        shown = [_shortened(d, tokenizer, prompt_format, "max_question_tokens") for d in example.demonstrations]
        example = _shortened(example, tokenizer, prompt_format, "max_question_tokens")
        example = example._replace(demonstrations=tuple(shown))
    whole = _encode_whole(example, tokenizer, prompt_format)
    limit = prompt_format.max_tokens
    if context is not None:  # the last token of an answer is predicted and not read
        limit = min(limit, context - max(map(len, whole.choices)) - len(whole.ending) + 1)
    if limit < min(len(whole.prefix), prompt_format.max_tokens):
        tell(
            f"the model reads at most {context} tokens, prompt and answer together: longer prompts are cut to that, "
            f"not to max_tokens = {prompt_format.max_tokens}."
        )
    while example.demonstrations and len(whole.prefix) > limit:
        example = example._replace(demonstrations=example.demonstrations[1:])
        whole = _encode_whole(example, tokenizer, prompt_format)
    if len(whole.prefix) <= limit:
        return whole
    return _encode_whole(_shortened(example, tokenizer, prompt_format, "max_tokens", limit), tokenizer, prompt_format)


def without_middle(example: Example, prompt_format: PromptFormat) -> Example:
    """The example, a very long text without its middle, which no prompt has room for: tokenising it takes minutes."""
    room = CHARACTERS * prompt_format.max_tokens
    if len(example.prompt) <= 2 * room:
        return example
    return example._replace(prompt=f"{example.prompt[:room]}{ELLIPSIS}{example.prompt[-room:]}")


def _shortened(
    example: Example, tokenizer: Any, prompt_format: PromptFormat, setting: str, limit: int | None = None
) -> Example:
    """The example without the middle of its text, so that its prompt without demonstrations fits this setting.

    Args:
        limit: what the model leaves of the setting.
    """
    asked = getattr(prompt_format, setting)
    limit = asked if limit is None else limit
    alone = example._replace(demonstrations=())
    length = len(_encode_whole(alone, tokenizer, prompt_format).prefix)
    if length <= limit:
        return example
    text_ids = ids_of(tokenizer, example.prompt, special=False)
    keep = len(text_ids) - (length - limit)
    while keep > 0:
        text = _middle_cut(tokenizer, text_ids, keep)
        excess = len(_encode_whole(alone._replace(prompt=text), tokenizer, prompt_format).prefix) - limit
        if excess <= 0:
            return example._replace(prompt=text)
        keep -= excess
    room = f"{setting} is {limit}. Raise {setting} in [prompt] or drop the example."
    if limit < asked:
        room = f"the model reads {limit} before the answer. Drop the example, or take a model that reads longer texts."
    raise AbmllError(
        f"example {example.id or example.prompt[:40]!r} does not fit: its question and choices alone take about "
        f"{length - len(text_ids)} tokens, {room}"
    )


def _middle_cut(tokenizer: Any, ids: list[int], keep: int) -> str:
    head, tail = ids[: (keep + 1) // 2], ids[len(ids) - keep // 2 :]
    # A cut inside a character decodes to U+FFFD, which the text never meant.
    parts = [tokenizer.decode(part, skip_special_tokens=True).strip("\ufffd") for part in (head, tail)]
    return ELLIPSIS.join(part.strip() for part in parts)


def _encode_whole(example: Example, tokenizer: Any, prompt_format: PromptFormat) -> Encoded:
    text, answers = render(example, prompt_format)
    if prompt_format.chat:
        return _encode_chat(example, tokenizer, text, answers)
    instruction = prompt_format.instruction
    if instruction and spells_control(tokenizer, instruction):  # a user's own template, with tokens of its own
        start = ids_of(tokenizer, instruction, control=True)
        rest = text.removeprefix(instruction)
        prefix = start + ids_of(tokenizer, rest, special=False)
        wholes = [start + ids_of(tokenizer, f"{rest} {answer}", special=False) for answer in answers]
    else:
        prefix = ids_of(tokenizer, text)
        wholes = [ids_of(tokenizer, f"{text} {answer}") for answer in answers]
    choices = [behind(tokenizer, prefix, whole, f" {answer}") for whole, answer in zip(wholes, answers, strict=True)]
    return Encoded(prefix, choices, example.target, [], 0)


def _encode_chat(example: Example, tokenizer: Any, text: str, answers: list[str]) -> Encoded:
    turns = turns_of(tokenizer)
    text = text.strip() if turns.trims else text

    def written(*parts: str) -> list[int]:
        return ids_of(tokenizer, "".join(parts), special=False, control=True)

    if spells_control(tokenizer, text):  # by itself, or a row could end its own turn
        prefix = written(turns.before) + ids_of(tokenizer, text, special=False) + written(turns.between)
    else:
        prefix = written(turns.before, text, turns.between)
    choices = []
    for answer in answers:
        plain = spells_control(tokenizer, text) or spells_control(tokenizer, answer)
        whole = [] if plain else written(turns.before, text, turns.between, answer)
        choices.append(behind(tokenizer, prefix, whole, answer))
    return Encoded(prefix, choices, example.target, written(turns.after), len(written(turns.header)))
