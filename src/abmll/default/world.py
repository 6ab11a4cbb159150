"""A small generated world: things with hidden graded attributes, sentences that tell of them, documents to learn from.

Everything is a pure function of a `random.Random`, so that one seed gives the same text on every machine.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

from abmll.default.vocabulary import ASPECTS, ATTRIBUTES, KINDS, LEVELS, NAMES, OPINION, Kind

MENTIONED = 4
"""How many of a thing's six attributes a description tells."""
CUTS = (-0.8, 0.0, 0.8)
"""Where a hidden value passes from one level to the next."""

FORMS = (
    "{Article} {a}, {b} {noun}. {pronoun} is {c} and {d}.",
    "This {noun} is {a}, {b}, {c} and {d}.",
    "The {noun} is {a} and {b}. {pronoun} is also {c} and {d}.",
    "Here is {article} {a} {noun}: {b}, {c}, {d}.",
    "{Article} {a}, {b}, {c} and {d} {noun}.",
)
"""How a description is put: four attributes a to d, and the thing's noun and pronoun."""


class Thing(NamedTuple):
    """One thing as a description tells it: its kind, its noun, and the level (0-3) of each mentioned attribute."""

    kind: str
    noun: str
    levels: dict[str, int]

    def words(self) -> list[str]:
        """The words of the mentioned attributes, in the order in which they are told."""
        return [ATTRIBUTES[name].words[level] for name, level in self.levels.items()]


def draw_thing(rng: Random, kind: Kind) -> Thing:
    """A thing whose attributes share one hidden standard-normal factor, each by the kind's loading."""
    factor = rng.gauss(0.0, 1.0)
    levels = {}
    for name, loading in kind.loadings.items():
        value = loading * factor + math.sqrt(1.0 - loading**2) * rng.gauss(0.0, 1.0)
        levels[name] = bisect_left(CUTS, value)
    told = rng.sample(list(levels), MENTIONED)
    return Thing(kind.name, rng.choice(kind.nouns), {name: levels[name] for name in told})


def score(thing: Thing, weights: dict[str, float]) -> float:
    """Sum of weight times hidden value over the attributes that the description mentions."""
    return sum(weights.get(name, 0.0) * LEVELS[level] for name, level in thing.levels.items())


def choice_probs(score: float, num_choices: int) -> list[float]:
    """p(choice) for choices ordered from what low scores get to what high scores get.

    Two choices: p(second) = sigmoid(score). More: choices stand at evenly spaced positions on the score axis and
    p is proportional to exp(-(score - position)²/4), an ordinal model in which neighbours are confused most.
    """
    spread = 2.0 if num_choices == 2 else 4.0
    positions = [spread * (k / (num_choices - 1) - 0.5) for k in range(num_choices)]
    powers = [math.exp(-((score - position) ** 2) / 4.0) for position in positions]
    total = sum(powers)
    return [power / total for power in powers]


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def describe(rng: Random, thing: Thing) -> str:
    """One or two sentences that mention all four attributes, in one of several forms."""
    a, b, c, d = thing.words()
    noun, pronoun = thing.noun, KINDS[thing.kind].pronoun
    words = {"a": a, "b": b, "c": c, "d": d, "noun": noun, "pronoun": pronoun}
    return rng.choice(FORMS).format(**words, article=article(a), Article=article(a).capitalize())


def text_format(question: str, prompt: str, answer: str) -> str:
    """A question-and-answer document whose answer is a word."""
    return f"{question}\n{prompt}\nAnswer: {answer}"


def letters_format(question: str, prompt: str, choices: Sequence[str], target: int) -> str:
    """A question-and-answer document whose answer is the letter of a listed choice."""
    listed = "\n".join(f"{'ABCDEFGH'[k]}) {choice}" for k, choice in enumerate(choices))
    return f"{question}\n{prompt}\nChoices:\n{listed}\nAnswer: {'ABCDEFGH'[target]}"


def attribute_question(rng: Random, thing: Thing) -> tuple[str, tuple[str, ...], int]:
    """A question about one mentioned attribute: its word, one word's truth, or one of two opposites."""
    name = rng.choice(list(thing.levels))
    words, level = ATTRIBUTES[name].words, thing.levels[name]
    form = rng.randrange(4)
    if form == 0:
        return f"What is its {name}?", words, level
    if form == 1:
        low, high = words[rng.randrange(2)], words[2 + rng.randrange(2)]
        pair = (low, high) if rng.random() < 0.5 else (high, low)
        return f"Is it more {pair[0]} or {pair[1]}?", pair, pair.index(high if level >= 2 else low)
    asked = rng.randrange(4)
    true = (level >= 2) == (asked >= 2) if form == 2 else level == asked
    return f"Is it {'rather' if form == 2 else 'just'} {words[asked]}?", ("no", "yes"), int(true)


OPINION_QUESTIONS = (
    ("Is it good?", ("no", "yes")),
    ("Do people like it?", ("no", "yes")),
    ("Will they like it?", ("no", "yes")),
    ("Would they feed or hire it?", ("no", "yes")),
    ("Do they stay or leave?", ("leave", "stay")),
    ("Which shelf do they choose?", ("low", "middle", "top")),
    ("What will they do with it?", ("sell", "keep")),
    ("What will they do with it?", ("sell", "lend", "keep")),
    ("What will people do with it?", ("burn", "sell", "lend", "keep")),
)
"""What the pretraining text asks about the general opinion: (question, choices from worst to best)."""


def draw_choice(rng: Random, probs: Sequence[float]) -> int:
    return rng.choices(range(len(probs)), weights=probs)[0]


def opinion_question(rng: Random, thing: Thing) -> tuple[str, tuple[str, ...], int]:
    """A question about what people in general make of the thing; the answer is drawn, not certain."""
    question, choices = rng.choice(OPINION_QUESTIONS)
    return question, choices, draw_choice(rng, choice_probs(score(thing, OPINION), len(choices)))


def aspect_question(rng: Random, thing: Thing) -> tuple[str, tuple[str, ...], int]:
    """A question about an aspect that follows a rule over several attributes; the answer is drawn, not certain."""
    aspect = rng.choice(list(ASPECTS))
    return f"Is it {aspect}?", ("no", "yes"), draw_choice(rng, choice_probs(score(thing, ASPECTS[aspect]), 2))


def story(rng: Random, thing: Thing) -> str:
    """A short story: someone meets the thing, hears of its attributes, and likes it or not."""
    who, other = rng.sample(NAMES, 2)
    likes = draw_choice(rng, choice_probs(score(thing, OPINION), 2))
    opening = rng.choice(
        (f"{who} saw a {thing.noun}.", f"One day {who} met {other} near a {thing.noun}.", f"{who} and {other} talk.")
    )
    ending = rng.choice(
        (
            (f"{who} did not like it.", f"{who} likes it."),
            (f'"It is bad," said {who}.', f'"It is good," said {who}.'),
            (f"{other} would sell it.", f"{other} would keep it."),
            (f"{who} wants to leave.", f"{who} wants to stay."),
            (f"{other} will choose the low shelf.", f"{other} will choose the top shelf."),
        )
    )
    return f"{opening} {describe(rng, thing)} {ending[likes]}"


def document(rng: Random) -> str:
    """One pretraining document: a story, or a question and its answer in one of the library's prompt formats."""
    thing = draw_thing(rng, KINDS[rng.choice(list(KINDS))])
    if rng.random() < 0.1:
        return story(rng, thing)
    ask = rng.choices((attribute_question, aspect_question, opinion_question), weights=(4, 4, 3))[0]
    question, choices, target = ask(rng, thing)
    prompt = describe(rng, thing)
    if rng.random() < 0.9:
        return text_format(question, prompt, choices[target])
    order = rng.sample(range(len(choices)), len(choices))
    return letters_format(question, prompt, [choices[k] for k in order], order.index(target))


def documents(seed: int, split: str = "train") -> Iterator[str]:
    """An endless stream of pretraining documents; `split` names streams that share no randomness."""
    rng = Random(f"world/{split}/{seed}")
    while True:
        yield document(rng)
