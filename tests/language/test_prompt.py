"""Rendering, tokenising and truncating prompts."""

from __future__ import annotations

import pytest

from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.language.prompt import PAPER_INSTRUCTION, PromptFormat, encode, render
from tests.tiny import tiny_tokenizer

EXAMPLE = Example("The film was good.", ("negative", "positive"), 1, question="What is the sentiment?", id="r1")


def test_letters_are_the_papers_format():
    text, answers = render(EXAMPLE, PromptFormat(answer="letters", instruction=PAPER_INSTRUCTION))
    assert text == (
        "Return only the label of the correct answer for the question below.\n\nWhat is the sentiment?\n"
        "The film was good.\nChoices:\nA) negative\nB) positive\nAnswer:"
    )
    assert answers == ["A", "B"]


def test_text_answers_do_not_list_the_choices():
    text, answers = render(EXAMPLE, PromptFormat(answer="text"))
    assert text == "What is the sentiment?\nThe film was good.\nAnswer:"
    assert answers == ["negative", "positive"]


def test_missing_question_leaves_no_blank_line():
    assert render(EXAMPLE._replace(question=""), PromptFormat(answer="text"))[0] == "The film was good.\nAnswer:"


def test_prompt_and_answer_tokens_decode_to_the_text():
    tokenizer = tiny_tokenizer()
    encoded = encode(EXAMPLE, tokenizer, PromptFormat(answer="text"))
    assert tokenizer.decode(encoded.prefix) == "What is the sentiment?\nThe film was good.\nAnswer:"
    assert [tokenizer.decode(choice) for choice in encoded.choices] == [" negative", " positive"]


@pytest.mark.parametrize("limit", [40, 60, 90])
@pytest.mark.parametrize("text", ["start " + "x y z " * 200 + "finish", "ä€😀" * 100])
def test_long_text_loses_its_middle_and_nothing_else(limit, text):
    tokenizer = tiny_tokenizer()
    example = EXAMPLE._replace(prompt=text, question="Q?", choices=("n", "p"))
    encoded = encode(example, tokenizer, PromptFormat("letters", max_tokens=limit))
    shown = tokenizer.decode(encoded.prefix)
    assert limit - 12 <= len(encoded.prefix) <= limit
    assert shown.startswith("Q?\n" + text[:2])
    assert text[-2:] + "\nChoices:\nA) n\nB) p\nAnswer:" in shown
    assert " … " in shown
    assert "\ufffd" not in shown


def test_question_and_choices_that_do_not_fit_are_an_error_and_never_cut():
    with pytest.raises(AbmllError, match=r"'r1' does not fit: its question and choices alone take about \d+ tokens"):
        encode(EXAMPLE, tiny_tokenizer(), PromptFormat("letters", max_tokens=16))


def test_more_choices_than_letters_name_the_remedy():
    many = EXAMPLE._replace(choices=tuple(str(i) for i in range(27)))
    with pytest.raises(AbmllError, match='Use answer = "text"'):
        render(many, PromptFormat("letters"))


CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_chat_supervises_header_answer_and_ending_as_published(monkeypatch):
    tokenizer = tiny_tokenizer()
    monkeypatch.setattr(tokenizer, "chat_template", CHAT)
    encoded = encode(EXAMPLE, tokenizer, PromptFormat("letters", chat=True))
    text = render(EXAMPLE, PromptFormat("letters"))[0]
    assert tokenizer.decode(encoded.prefix) == f"<|user|>{text}<end><|assistant|>"
    assert [tokenizer.decode(choice) for choice in encoded.choices] == ["A", "B"]
    assert tokenizer.decode(encoded.ending) == "<end>"
    assert tokenizer.decode(encoded.prefix[-encoded.supervised :]) == "<|assistant|>"


def test_chat_without_a_template_is_refused():
    with pytest.raises(AbmllError, match="no chat template"):
        encode(EXAMPLE, tiny_tokenizer(), PromptFormat("letters", chat=True))


def test_a_very_long_text_is_cut_before_it_is_tokenised():
    class Counting:
        """The tiny tokenizer, and the longest text that it was given."""

        longest = 0

        def __getattr__(self, name):
            return getattr(tiny_tokenizer(), name)

        def encode(self, text, **options):
            self.longest = max(self.longest, len(text))
            return tiny_tokenizer().encode(text, **options)

        def __call__(self, text, **options):
            self.longest = max(self.longest, len(text))
            return tiny_tokenizer()(text, **options)

    tokenizer, prompt = Counting(), PromptFormat(answer="text", max_tokens=64)
    text = " ".join(f"the film {n}" for n in range(60_000))
    found = encode(EXAMPLE._replace(prompt=text), tokenizer, prompt)
    assert 0 < tokenizer.longest < 10_000 < len(text)
    shorter = f"{text[:1000]} {text[-1000:]}"  # of which the same ends are kept
    assert found == encode(EXAMPLE._replace(prompt=shorter), tiny_tokenizer(), prompt)
