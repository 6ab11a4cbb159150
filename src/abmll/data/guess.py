"""Which column is the input, which the answer, which the choices: a guess, with the reason for each part of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from abmll.core.errors import AbmllError
from abmll.data.rows import Row
from abmll.data.template import Template, cell_text

ANSWERS = (
    *("label", "target", "answer", "gold_label", "gold", "category", "class", "sentiment", "intent", "topic", "output"),
    *(
        "labels",
        "verdict",
        "correct",
        "answerkey",
        "correct_answer",
        "answer_index",
        "correct_option",
        "stars",
        "rating",
    ),
    *("coarse_label", "label_text", "y"),
)
CHOICES = ("options", "choices", "candidates", "answer_choices", "alternatives")
PAIRS = (
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2")),
    *(("context", "question"), ("passage", "question"), ("article", "question"), ("question", "sentence")),
    *(("story", "question"), ("paragraph", "question"), ("claim", "evidence"), ("ctx_a", "ctx_b")),
)
INPUTS = (
    *(
        "input",
        "prompt",
        "text",
        "sentence",
        "question",
        "content",
        "review",
        "review_text",
        "tweet",
        "message",
        "body",
    ),
    *(
        "comment",
        "document",
        "passage",
        "utterance",
        "query",
        "statement",
        "goal",
        "ctx",
        "context",
        "premise",
        "claim",
    ),
    *("headline", "title", "description", "abstract", "smiles"),
)
IDS = ("id", "idx", "guid", "uid", "qid", "pid", "uuid", "question_id", "example_id", "index_id", "row_id")
SPLITS = ("split", "subset", "partition", "fold", "set")
SPLIT_VALUES = {"train", "training", "test", "testing", "dev", "development", "validation", "valid", "val", "eval"}
MAX_CLASSES = 30
_FAMILY = re.compile(r"(ending|sol|option|choice|answer|ans|alternative|candidate|mc|op|opt)[ _-]?(\d+|[a-h])", re.I)


@dataclass(frozen=True)
class Guess:
    """One key of a spec: what was taken, and why. given: the user said so, nothing was guessed."""

    key: str
    value: Any
    why: str
    given: bool = False


@dataclass(frozen=True)
class Given:
    """What the user has said: each a column's name; input may be a template, choices a list of texts or columns."""

    input: str | None = None
    label: str | None = None
    choices: tuple[str, ...] | None = None


def guess_columns(rows: Sequence[Row], *, table: bool, given: Given) -> list[Guess]:
    """The keys of a spec for rows of any columns.

    Raises AbmllError where nothing fits, or several columns fit equally well: then the user must say.
    """
    return _Guesser(rows, table, given).guess()


class _Guesser:
    def __init__(self, rows: Sequence[Row], table: bool, given: Given) -> None:
        self.table, self.given = table, given
        self.columns: dict[str, list[Any]] = {}
        for row in rows:
            for name in row.fields:
                self.columns.setdefault(name, [])
        for row in rows:
            for name, values in self.columns.items():
                values.append(row.fields.get(name))
        self.taken: set[str] = set()

    def guess(self) -> list[Guess]:
        found = [*self._id(), *self._split()]
        if self.given.input is not None:
            self.taken |= set(self._require(self.given.input, "--input"))
        if self.given.label is not None:
            self.taken |= set(self._require(self.given.label, "--label"))
        choices = self._choices()
        answer = self._answer(bool(choices), next((len(g.value) for g in choices if isinstance(g.value, list)), None))
        return [*self._input(), *choices, *answer, *found]

    def _named(self, names: Sequence[str]) -> str | None:
        """The first free column that bears one of the names, in any case and with any separators."""
        plain = {
            re.sub(r"[ _-]+", "_", name.strip().casefold()): name for name in self.columns if name not in self.taken
        }
        return next((plain[name] for name in names if name in plain), None)

    def _require(self, text: str, option: str) -> list[str]:
        try:
            columns = Template(text).columns
        except ValueError as error:
            raise AbmllError(f"{option}: {error}") from None
        missing = [name for name in columns if name not in self.columns]
        if missing:
            listed = ", ".join(map(repr, self.columns))
            raise AbmllError(f"{option}: there is no column {missing[0]!r}. The columns are: {listed}.")
        return columns

    # Parts of the spec.

    def _id(self) -> list[Guess]:
        name = self._named(IDS)
        if name is None:
            return []
        values = [cell_text(value) for value in self.columns[name] if isinstance(value, (str, int)) and value != ""]
        self.taken.add(name)
        if len(values) < len(self.columns[name]) or len(set(values)) < len(values):
            return []
        return [Guess("id", name, "its name; every row has its own")]

    def _split(self) -> list[Guess]:
        name = self._named(SPLITS)
        if name is None:
            return []
        values = {value.strip().casefold() for value in self.columns[name] if isinstance(value, str)}
        if not values or not values <= SPLIT_VALUES:
            return []
        self.taken.add(name)
        return [Guess("split", name, f"its values: {', '.join(sorted(values))}")]

    def _choices(self) -> list[Guess]:
        given = self.given.choices
        if given is not None:
            texts = [f"{{{text}}}" if text in self.columns else text for text in given]
            self.taken |= {text for text in given if text in self.columns}
            if len(given) == 1:
                if given[0] not in self.columns:
                    self._require(given[0], "--choices")
                return [Guess("choices", given[0], "you said so", given=True)]
            return [Guess("choices", texts, "you said so", given=True)]
        name = self._named(CHOICES)
        if name is not None and all(self._is_choices(value) for value in self.columns[name]):
            self.taken.add(name)
            return [Guess("choices", name, "its name, and a list of choices in every row")]
        family = self._family()
        if family:
            self.taken |= set(family)
            return [Guess("choices", [f"{{{name}}}" for name in family], "columns of one name, counted")]
        return []

    def _is_choices(self, value: Any) -> bool:
        if self.table:
            return isinstance(value, str) and value.count("|") >= 1
        return isinstance(value, list) and len(value) > 1 and all(isinstance(item, str) for item in value)

    def _family(self) -> list[str]:
        groups: dict[str, dict[int, str]] = {}
        for name in self.columns:
            mark = _FAMILY.fullmatch(name.strip())
            if mark and name not in self.taken:
                number = int(mark[2]) if mark[2].isdigit() else ord(mark[2].upper()) - ord("A")
                groups.setdefault(mark[1].casefold() + mark[2].isdigit() * "#", {})[number] = name
        for group in groups.values():
            numbers = sorted(group)
            if len(numbers) >= 2 and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[-1] + 1)):
                return [group[number] for number in numbers]
        return []

    def _answer(self, has_choices: bool, count: int | None) -> list[Guess]:
        given, why = self.given.label, "you said so"
        name = given
        if name is None:
            name, why = self._named(ANSWERS), "its name"
        if name is None and not has_choices:
            name, why = self._closed_set()
        if name is None:
            listed = ", ".join(map(repr, self.columns))
            raise AbmllError(
                f"no column could be told to be the answer. Name it with --label; the columns are: {listed}."
            )
        self.taken.add(name)
        values = [value for value in self.columns[name] if value not in (None, "")]
        if not values:
            raise AbmllError(f"the column {name!r}, taken as the answer, is empty. Name another with --label.")
        if has_choices and all(self._index(value) is not None for value in values):
            return self._target(
                name, why, [index for value in values if (index := self._index(value)) is not None], count
            )
        guesses = [Guess("label", name, why, given=given is not None)]
        if has_choices:
            return guesses
        if not all(isinstance(value, (str, int, float)) for value in values):
            raise AbmllError(
                f"the column {name!r}, taken as the answer, holds lists or objects. Name another with --label."
            )
        return guesses + self._labels(name, [cell_text(value).strip() for value in values])

    def _labels(self, name: str, values: list[str]) -> list[Guess]:
        classes = sorted(set(values))
        if len(classes) > MAX_CLASSES and len(classes) * 4 > len(values):
            raise AbmllError(
                f"the column {name!r}, taken as the answer, has {len(classes)} different values in {len(values)} rows: "
                "free text, which cannot be chosen from. Name another with --label, or the choices with --choices."
            )
        if len(classes) < 2:
            raise AbmllError(
                f"the column {name!r}, taken as the answer, says {classes[0]!r} in every row. Name another with "
                "--label."
            )
        if all(re.fullmatch(r"[+-]?\d+(\.\d+)?", value) for value in classes):
            numbers = sorted(classes, key=float)
            return [
                Guess(
                    "labels",
                    {value: value for value in numbers},
                    "numbers; put words in their place, which the model reads",
                )
            ]
        return []

    def _closed_set(self) -> tuple[str | None, str]:
        """The one column that holds few values, each many times."""
        fitting = []
        for name, values in self.columns.items():
            texts = [cell_text(value).strip() for value in values if isinstance(value, (str, int)) and value != ""]
            classes = set(texts)
            if (
                name not in self.taken
                and len(texts) == len(values)
                and 2 <= len(classes) <= min(MAX_CLASSES, len(texts) // 4)
            ):
                fitting.append((name, len(classes)))
        if len(fitting) > 1:
            listed = " or ".join(f"{name!r} ({count} different values)" for name, count in fitting)
            raise AbmllError(f"the answer could be {listed}: say which with --label.")
        return (fitting[0][0], f"{fitting[0][1]} different values") if fitting else (None, "")

    def _index(self, value: Any) -> int | None:
        if isinstance(value, bool):
            return None
        if isinstance(value, int):
            return value
        text = value.strip() if isinstance(value, str) else ""
        return int(text) if re.fullmatch(r"\d+", text) else None

    def _target(self, name: str, why: str, values: list[int], count: int | None) -> list[Guess]:
        most = count or 0
        if not most:
            lists = next((v for n, v in self.columns.items() if n in self.taken and all(map(self._is_choices, v))), [])
            most = max((len(v.split("|") if isinstance(v, str) else v) for v in lists), default=0)
        first = 1 if min(values) >= 1 and max(values) == most else 0
        reason = f"{why}; numbers from {min(values)} to {max(values)}, {most} choices"
        found = [Guess("target", name, reason, given=self.given.label is not None)]
        return (
            [*found, Guess("first_index", 1, "no row says 0, and one says the number of choices")] if first else found
        )

    def _input(self) -> list[Guess]:
        if self.given.input is not None:
            return [Guess("input", self.given.input, "you said so", given=True)]
        plain = {
            name.strip().casefold(): name for name in self.columns if name not in self.taken and self._is_text(name)
        }
        for first, second in PAIRS:
            if first in plain and second in plain:
                one, two = plain[first], plain[second]
                template = f"{_title(one)}: {{{one}}}\n{_title(two)}: {{{two}}}"
                return [Guess("input", template, f"the columns {one!r} and {two!r} go together")]
        usual = next((plain[name] for name in INPUTS if name in plain), None)
        if usual is not None:
            return [Guess("input", usual, "its name")]
        lengths = {name: sum(map(len, map(str, self.columns[name]))) for name in plain.values()}
        if not lengths:
            listed = ", ".join(map(repr, self.columns))
            raise AbmllError(
                f"no column could be told to be the input. Name it with --input; the columns are: {listed}."
            )
        longest = max(lengths, key=lambda name: lengths[name])
        others = (
            f"; others are {', '.join(repr(name) for name in lengths if name != longest)}" if len(lengths) > 1 else ""
        )
        return [Guess("input", longest, f"the longest text{others}")]

    def _is_text(self, name: str) -> bool:
        values = [value for value in self.columns[name] if value is not None]
        return (
            bool(values) and all(isinstance(value, str) for value in values) and any(value.strip() for value in values)
        )


def _title(column: str) -> str:
    return column.replace("_", " ").strip().capitalize()
