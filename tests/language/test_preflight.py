"""Rows that would stop a run, found before it begins; each kind once, with the rows that have it."""

from __future__ import annotations

import pytest

from abmll.core.types import Example
from abmll.language import PromptFormat
from abmll.language.preflight import BATCH, row_mistakes
from abmll.language.prompt import encode
from tests.tiny import tiny_tokenizer
from tests.tiny_tasks import tiny_task

TEXT = PromptFormat(answer="text")


def mistakes(rows, prompt=TEXT, **options):
    return row_mistakes("task 't' (t.csv)", rows, tiny_tokenizer(), prompt, **options)


def test_rows_that_can_be_put_have_none():
    rows = tiny_task("t", 40).examples
    assert mistakes(rows) == mistakes(rows, PromptFormat(answer="letters")) == mistakes(rows, context=512) == []


def test_more_choices_than_letters():
    many = tuple(f"label {n}" for n in range(77))
    rows = [Example(f"text {n}", many, n % 77, id=f"r{n}") for n in range(40)]
    (told,) = mistakes(rows, PromptFormat(answer="letters"))
    assert told == (
        "task 't' (t.csv), row 'r0': it has 77 choices, and letters name at most 26. Set answer = \"text\" in [prompt] "
        "(39 more of its 40 rows: 'r1', 'r2', 'r3', …)."
    )
    assert mistakes(rows) == []


def test_a_row_that_cannot_fit_is_found_wherever_it_stands():
    """Behind the rows that are encoded in full, and cut texts are no mistake: only what cannot be cut is."""
    rows = list(tiny_task("t", BATCH + 50).examples)
    rows[BATCH + 20] = rows[BATCH + 20]._replace(question="is it good? " * 60, id="long")
    rows[BATCH + 30] = rows[BATCH + 30]._replace(prompt="the cat sat on the mat. " * 60)
    prompt = PromptFormat(answer="text", max_tokens=64)
    (told,) = mistakes(rows, prompt)
    assert told.startswith("task 't' (t.csv), row 'long': ")
    assert "its question and choices alone take about" in told
    assert "max_tokens is 64" in told
    (told,) = mistakes(rows, PromptFormat(answer="text", max_question_tokens=64))
    assert "max_question_tokens is 64" in told


def test_longer_than_what_the_model_reads_with_its_answer():
    rows = [row._replace(prompt="the cat sat on the mat. " * 60) for row in tiny_task("t", 3).examples]
    assert mistakes(rows, context=64) == [], "a text is cut"
    long = [row._replace(choices=("good " * 60, "bad")) for row in rows]
    (told,) = mistakes(long, context=64)
    assert told.startswith("task 't' (t.csv), row 't/0': does not fit: its question and choices alone take about ")
    assert "before the answer. Drop the example, or take a model that reads longer texts (2 more of its 3 rows" in told


def test_half_a_character_and_choices_that_are_one_to_the_tokenizer():
    class Unknowing:
        """A tokenizer whose words are few: the others are all one token."""

        eos_token_id = 2

        def encode(self, text, **_):
            return [3 if word == "Answer:" else 0 for word in text.split()]

        def __call__(self, texts, **_):
            return {"input_ids": [self.encode(text) for text in texts]}

    rows = [Example("a\ud800b", ("x", "y"), 0), *tiny_task("t", 3).examples]
    told = row_mistakes("task 't'", rows, Unknowing(), TEXT)
    assert [one.partition(":")[0] for one in told] == ["task 't', row 1", "task 't', row 't/0'"]
    assert r"its input holds \ud800, half of a character, which no tokenizer takes" in told[0]
    assert "the choices 'negative' and 'positive' are the same tokens under this tokenizer" in told[1]


def test_what_a_tokenizer_raises_is_told_as_it_is():
    class Broken:
        eos_token_id = None

        def encode(self, text, **_):
            raise KeyError("missing")

    (told,) = row_mistakes("task 't'", tiny_task("t", 2).examples[:1], Broken(), TEXT)
    assert told == "task 't', row 't/0': the tokenizer cannot take it (KeyError: 'missing')."
    (told,) = mistakes(tiny_task("t", 2).examples, PromptFormat(chat=True))
    assert "the tokenizer has no chat template" in told


@pytest.mark.parametrize(
    "prompt", [TEXT, PromptFormat(answer="letters"), PromptFormat(answer="text", max_question_tokens=20)]
)
def test_what_it_lets_pass_is_encoded_without_error(prompt):
    rows = [
        Example("the cat " * n, tuple(f"{'x' * n} {k}" for k in range(2 + n % 5)), 0, "good? " * (n % 30), id=str(n))
        for n in range(1, 60, 2)
    ]
    rows = [
        row._replace(choices=tuple(f"{choice} " + "y" * (n % 11) for choice in row.choices))
        for n, row in enumerate(rows)
    ]
    prompt = PromptFormat(prompt.answer, max_tokens=48, max_question_tokens=prompt.max_question_tokens)

    def encodes(row):
        try:
            encode(row, tiny_tokenizer(), prompt)
        except ValueError:
            return False
        return True

    refused = {row.id for row in rows if not encodes(row)}
    found = [one for row in rows if (one := row_mistakes("t", [rows[0], row], tiny_tokenizer(), prompt))]
    assert len(found) == len(refused) > 0
