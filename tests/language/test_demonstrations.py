"""Demonstrations in the prompt: how they are written, and which of them give way when there is no room."""

from __future__ import annotations

import pytest

from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.language.prompt import PromptFormat, encode, render
from tests.tiny import tiny_tokenizer

QUESTION = "Is it good?"
SOLVED = tuple(
    Example(f"film {i} was {word}.", ("no", "yes"), label, QUESTION, f"d{i}")
    for i, (word, label) in enumerate([("bad", 0), ("good", 1), ("fine", 1)])
)
ASKED = Example("film 9 was fun.", ("no", "yes"), 1, QUESTION, "q", SOLVED)


def shown(example, **options):
    tokenizer = tiny_tokenizer()
    return tokenizer.decode(encode(example, tokenizer, PromptFormat(**{"answer": "letters"} | options)).prefix)


def test_each_is_written_like_the_question_with_its_answer_and_a_blank_line():
    text, answers = render(ASKED._replace(demonstrations=SOLVED[:2]), PromptFormat("text", instruction="Be brief.\n\n"))
    assert text == (
        "Be brief.\n\n"
        "Is it good?\nfilm 0 was bad.\nAnswer: no\n\n"
        "Is it good?\nfilm 1 was good.\nAnswer: yes\n\n"
        "Is it good?\nfilm 9 was fun.\nAnswer:"
    )
    assert answers == ["no", "yes"]


def test_letters_answer_with_the_letter_of_their_own_choices():
    solved = Example("The sea is", ("red", "wet", "dry"), 1)
    text, answers = render(Example("The sky is", ("up", "down"), 0, demonstrations=(solved,)), PromptFormat("letters"))
    assert text == (
        "The sea is\nChoices:\nA) red\nB) wet\nC) dry\nAnswer: B\n\nThe sky is\nChoices:\nA) up\nB) down\nAnswer:"
    )
    assert answers == ["A", "B"]


@pytest.mark.parametrize("kept", [3, 2, 1, 0])
def test_the_first_give_way_until_the_prompt_fits(kept):
    tokenizer, roomy = tiny_tokenizer(), PromptFormat("text", max_tokens=10_000)
    expected = ASKED._replace(demonstrations=SOLVED[3 - kept :])
    exact = len(encode(expected, tokenizer, roomy).prefix)
    assert shown(ASKED, answer="text", max_tokens=exact) == render(expected, roomy)[0]
    if kept:
        fewer = ASKED._replace(demonstrations=SOLVED[4 - kept :])
        assert shown(ASKED, answer="text", max_tokens=exact - 1) == render(fewer, roomy)[0]


def test_the_question_is_shortened_only_when_no_demonstration_is_left():
    long = ASKED._replace(prompt="start " + "x y z " * 50 + "finish")
    text = shown(long, answer="text", max_tokens=60)
    assert "film" not in text
    assert text.startswith("Is it good?\nst")
    assert " … " in text


def test_a_limit_for_questions_makes_room_for_demonstrations():
    """Every row is cut as it would be alone, and the prompt may hold several of them."""
    tokenizer, limit = tiny_tokenizer(), 40
    long = [row._replace(prompt=f"start {i} " + "x y z " * 50 + "finish") for i, row in enumerate((*SOLVED, ASKED))]
    alone = [
        tokenizer.decode(encode(row, tokenizer, PromptFormat("text", max_tokens=limit)).prefix)
        for row in (row._replace(demonstrations=()) for row in long)
    ]
    asked = long[-1]._replace(demonstrations=tuple(long[:-1]))
    options = {"answer": "text", "max_question_tokens": limit}
    solved = [f"{text} {row.choices[row.target]}\n\n" for text, row in zip(alone, SOLVED, strict=False)]
    assert shown(asked, max_tokens=400, **options) == "".join(solved) + alone[-1]
    exact = len(tokenizer.encode("".join(solved[1:]) + alone[-1]))
    assert shown(asked, max_tokens=exact, **options) == "".join(solved[1:]) + alone[-1]
    assert shown(asked, max_tokens=limit, **options) == alone[-1]


def test_a_demonstration_that_fits_no_question_is_told_by_its_own_limit():
    with pytest.raises(AbmllError, match=r"'d0' does not fit.*Raise max_question_tokens in \[prompt\]"):
        shown(ASKED, max_question_tokens=16)


def test_the_answer_that_is_scored_is_the_questions():
    tokenizer = tiny_tokenizer()
    encoded = encode(ASKED._replace(target=0), tokenizer, PromptFormat("text"))
    assert encoded.target == 0
    assert [tokenizer.decode(choice) for choice in encoded.choices] == [" no", " yes"]


def test_a_demonstration_that_cannot_be_written_is_named():
    many = Example("pick", tuple(map(str, range(30))), 0, id="wide")
    with pytest.raises(AbmllError, match="'wide' has 30 choices"):
        render(ASKED._replace(demonstrations=(many,)), PromptFormat("letters"))
