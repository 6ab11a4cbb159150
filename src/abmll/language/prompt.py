"""From an example to token ids: render, tokenise, truncate.

The text of the answer is always tokenised in the context of its prompt, and a prompt that is too long is shortened
in the example's own text: the question and the choices are never cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.language.letters import LETTERS
from abmll.rules import Tokens, require_fields

PAPER_INSTRUCTION = "Return only the label of the correct answer for the question below.\n\n"
"""The instruction of the published prompts (arXiv 2508.14285, data files)."""
ELLIPSIS = " … "


@dataclass(frozen=True)
class PromptFormat:
    """How a question is put to the model and its answer scored.

    answer: "letters" lists the choices as A), B), … and expects the letter (the paper's format); "text" expects
        the choice's own text; "auto" is letters if the model answers by them, else text, found on a few rows without
        their labels when it is first used (`CausalLMLikelihood.settle`).
    score: a choice of several tokens scores the "mean" (length-normalised) or the "sum" of their log-probabilities.
    loss: "choices" is the NLL of the right choice among the choices; "tokens" the NLL of its tokens in the whole
        vocabulary, as published.
    instruction: put before every prompt, verbatim.
    max_tokens: the longest prompt, in tokens; longer ones lose their demonstrations, the first ones first, and only
        then the middle of their text.
    max_question_tokens: the longest question by itself, and the longest demonstration; longer ones lose the middle of
        their text, so that several long rows fit one prompt. None: as long as the prompt may be.
    chat: wrap prompt and answer as a user and an assistant turn by the tokenizer's chat template.

    Raises: AbmllError naming every field that breaks its rule, the value and the rule.
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


class Encoded(NamedTuple):
    """Token ids of one example.

    prefix: the prompt. choices: the answer's tokens, one list a choice. ending: tokens that close the answer
    (chat only). supervised: how many tokens at the prompt's end count as part of the answer in the "tokens" loss
    (the assistant turn's header, as published; 0 without chat).
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
        lines += ["Choices:", *(f"{letter}) {text}" for letter, text in zip(letters, example.choices, strict=True))]
        answers = list(letters)
    else:
        answers = list(example.choices)
    return "\n".join([*lines, "Answer:"]), answers


def encode(example: Example, tokenizer: Any, prompt_format: PromptFormat) -> Encoded:
    """Token ids of an example, shortened until the prompt has at most `max_tokens` tokens.

    With `max_question_tokens` the question and every demonstration are cut to that length first. Then demonstrations
    go, from the front, so that the last one shown stays next to the question; then the middle of the example's own
    text. Raises: AbmllError if a question and its choices do not fit without any text.
    """
    if prompt_format.max_question_tokens is not None:
        shown = [_shortened(d, tokenizer, prompt_format, "max_question_tokens") for d in example.demonstrations]
        example = _shortened(example, tokenizer, prompt_format, "max_question_tokens")
        example = example._replace(demonstrations=tuple(shown))
    whole = _encode_whole(example, tokenizer, prompt_format)
    while example.demonstrations and len(whole.prefix) > prompt_format.max_tokens:
        example = example._replace(demonstrations=example.demonstrations[1:])
        whole = _encode_whole(example, tokenizer, prompt_format)
    if len(whole.prefix) <= prompt_format.max_tokens:
        return whole
    return _encode_whole(_shortened(example, tokenizer, prompt_format, "max_tokens"), tokenizer, prompt_format)


def _shortened(example: Example, tokenizer: Any, prompt_format: PromptFormat, setting: str) -> Example:
    """The example without the middle of its text, so that its prompt without demonstrations fits this setting."""
    limit = getattr(prompt_format, setting)
    alone = example._replace(demonstrations=())
    length = len(_encode_whole(alone, tokenizer, prompt_format).prefix)
    if length <= limit:
        return example
    text_ids = _ids(tokenizer, example.prompt, special=False)
    keep = len(text_ids) - (length - limit)
    while keep > 0:
        text = _middle_cut(tokenizer, text_ids, keep)
        excess = len(_encode_whole(alone._replace(prompt=text), tokenizer, prompt_format).prefix) - limit
        if excess <= 0:
            return example._replace(prompt=text)
        keep -= excess
    raise AbmllError(
        f"example {example.id or example.prompt[:40]!r} does not fit: its question and choices alone take about "
        f"{length - len(text_ids)} tokens, {setting} is {limit}. Raise {setting} in [prompt] or drop the example."
    )


def _ids(tokenizer: Any, text: str, *, special: bool = True) -> list[int]:
    # Not verbose: a text that is longer than the model's context is about to be cut, and needs no warning.
    return tokenizer.encode(text, add_special_tokens=special, verbose=False)


def _middle_cut(tokenizer: Any, ids: list[int], keep: int) -> str:
    head, tail = ids[: (keep + 1) // 2], ids[len(ids) - keep // 2 :]
    # A cut inside a character decodes to U+FFFD, which the text never meant.
    parts = [tokenizer.decode(part, skip_special_tokens=True).strip("\ufffd") for part in (head, tail)]
    return ELLIPSIS.join(part.strip() for part in parts)


def _encode_whole(example: Example, tokenizer: Any, prompt_format: PromptFormat) -> Encoded:
    text, answers = render(example, prompt_format)
    if prompt_format.chat:
        return _encode_chat(example, tokenizer, text, answers)
    prefix = _ids(tokenizer, text)
    eos = tokenizer.eos_token_id
    if prefix and eos is not None and prefix[-1] == eos:  # some tokenizers close every text
        prefix = prefix[:-1]
    choices = [_continue(tokenizer, text, prefix, " " + answer) for answer in answers]
    return Encoded(prefix, choices, example.target, [], 0)


def _continue(tokenizer: Any, text: str, prefix: list[int], answer: str) -> list[int]:
    """The tokens that `answer` adds to `text`, tokenised together where the boundary allows."""
    both = _ids(tokenizer, text + answer)
    if both and both[-1] == tokenizer.eos_token_id:
        both = both[:-1]
    return _behind(tokenizer, prefix, both, answer)


def _behind(tokenizer: Any, prefix: list[int], both: list[int], answer: str) -> list[int]:
    """What stands behind `prefix` in `both`; `answer` tokenised alone where the two do not begin alike."""
    if both[: len(prefix)] == prefix and len(both) > len(prefix):
        return both[len(prefix) :]
    return _ids(tokenizer, answer, special=False)


def _encode_chat(example: Example, tokenizer: Any, text: str, answers: list[str]) -> Encoded:
    if getattr(tokenizer, "chat_template", None) is None:
        raise AbmllError("chat = true in [prompt], but the tokenizer has no chat template. Set chat = false.")

    def template(messages: list[dict[str, str]], **options: Any) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    user = [{"role": "user", "content": text}]
    bare, opened = template(user), template(user, add_generation_prompt=True)
    closed = template([*user, {"role": "assistant", "content": answers[0]}])
    after = closed.removeprefix(opened + answers[0])
    ending = _ids(tokenizer, after, special=False) if after != closed else []
    prefix = _ids(tokenizer, opened, special=False)
    header = _ids(tokenizer, opened.removeprefix(bare), special=False) if opened != bare else []
    choices = [
        _behind(tokenizer, prefix, _ids(tokenizer, opened + answer, special=False), answer) for answer in answers
    ]
    return Encoded(prefix, choices, example.target, ending, len(header))
