"""How CrossFit makes a line `input<TAB>output` of a row of the hub, as data; what cannot be said so has a name here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from abmll.core.errors import AbmllError
from abmll.data.template import Template, cell_text
from abmll.data.toml_file import Schema

Fields = Mapping[str, Any]
CHOICES = "choices"
"""The place in an input's template where the choices stand, each behind its mark: " (A) first (B) second"."""


class Line(NamedTuple):
    """One line. text, output: as CrossFit writes them. prompt: the text without its choices, where it lists some."""

    text: str
    output: str
    prompt: str
    choices: tuple[str, ...] = ()


class CrossFitLine(Schema):
    """The keys of `[crossfit]` in a hub task's spec.

    Attributes:
        input: a template over columns; `{choices}` is where the choices stand. A list of texts is joined by spaces.
        output: the column of the label, or of the right choice.
        labels: what stands there -> the word that CrossFit has.
        choices: the columns of the choices, or the one that lists them; "" if the labels are all.
        answer: what `output` says of the choices: their index from `first_index`, a letter, one of their marks, a text.
        marks_apart: whether a space stands before and behind a mark.
        prompt: of the text without its choices, where that is not `input` without them.
        strip: columns without white space around, and with every run of it one space.
        clean: likewise.
        clean_line: the whole text.
        replace: by column, a text and what CrossFit writes in its place.
        others: whether rows with another label than those of `labels` are left out, or an error.
        unless_blank: columns whose rows are left out where nothing is in them.
        prepare: what is done to a row first, by its name in `PREPARED`.
        per_class: 16 rows a class are drawn; otherwise 32 in all.
        carve: for a set of one split, shuffled by seed 42: the share to draw from, or how many rows, and how many to
            judge.
        test_share: of the test rows, shuffled by seed 42, that are judged on.

    Source: the scripts in tasks/ of CrossFit's repository (Ye et al. 2021), as adapted in preprocess/ of MetaICL's.
    """

    input: str
    output: str
    labels: dict[str, str] = Field(default_factory=dict)
    choices: str | list[str] = ""
    answer: Literal["label", "index", "letter", "mark", "text"] = "label"
    first_index: int = 0
    marks_apart: bool = True
    prompt: str = ""
    strip: list[str] = Field(default_factory=list)
    clean: list[str] = Field(default_factory=list)
    clean_line: bool = False
    replace: dict[str, dict[str, str]] = Field(default_factory=dict)
    others: Literal["error", "skip"] = "error"
    unless_blank: list[str] = Field(default_factory=list)
    prepare: str = ""
    per_class: bool
    carve: float | list[int] | None = None
    test_share: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> CrossFitLine:
        places = Template(self.input, bare_is_column=False).columns
        if (CHOICES in places or bool(self.prompt)) != bool(self.choices) or (self.answer == "label") == bool(
            self.choices
        ):
            raise ValueError("choices, answer, and {choices} in input or a prompt belong together")
        if self.prepare and self.prepare not in PREPARED:
            raise ValueError(f"prepare is {self.prepare!r}; known are {', '.join(PREPARED)}")
        if self.per_class and not self.labels:
            raise ValueError("rows are drawn by class, so the labels must be listed")
        return self

    def line(self, fields: Fields, chance: Any = None) -> Line | None:
        """The line of a row, or None for one that CrossFit leaves out.

        Args:
            chance: what the row is dealt by a generator: see `PREPARED`. Raises AbmllError for a label that is not in
                `labels`.
        """
        fields = PREPARED[self.prepare](fields, chance) if self.prepare else fields
        texts = {name: self._text(name, value) for name, value in fields.items()}
        if any(not texts[name] for name in self.unless_blank):
            return None
        output = self.label(fields)
        if not self.choices:
            text = self._rendered(self.input, texts)
            return None if output is None else Line(text, output, text.strip())
        marks, listed = self._listed(fields, texts)
        right = self._right(fields[self.output], marks, listed)
        if not right.strip() and self.prepare in LEAVES_OUT:
            return None
        apart = " " if self.marks_apart else ""
        shown = "".join(f"{apart}({mark}){apart}{choice}" for mark, choice in zip(marks, listed, strict=True))
        prompt = self._rendered(self.prompt or self.input, texts | {CHOICES: ""}).strip()
        text = self._rendered(self.input, texts | {CHOICES: shown})
        return Line(text, right, prompt, tuple(choice.strip() for choice in listed))

    def label(self, fields: Fields) -> str | None:
        """CrossFit's word for the label of a prepared row; None where the row is left out or lists its own choices."""
        value = fields.get(self.output)
        if self.choices or value is None:
            return None
        spelled = cell_text(value)
        if not self.labels or spelled in self.labels:
            return self.labels.get(spelled, spelled)
        if self.others == "skip":
            return None
        known = ", ".join(map(repr, self.labels))
        raise AbmllError(f"the column {self.output!r} holds {spelled!r}; its spec knows {known}. The set was changed")

    def _text(self, name: str, value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return " ".join(self._one(name, item) for item in value if isinstance(item, str))
        return self._one(name, value) if isinstance(value, (str, bool, int, float)) else ""

    def _one(self, name: str, value: Any) -> str:
        text = cell_text(value)
        for old, new in self.replace.get(name, {}).items():
            text = text.replace(old, new)
        text = text.strip() if name in self.strip else text
        return cleaned(text) if name in self.clean else text

    def _rendered(self, template: str, texts: Mapping[str, str]) -> str:
        text = Template(template, bare_is_column=False).render(texts)
        return cleaned(text) if self.clean_line else text

    def _listed(self, fields: Fields, texts: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """Marks and texts of a row's choices."""
        if not isinstance(self.choices, str):
            listed = [texts[name] for name in self.choices]
            return _letters(listed), listed
        value = fields[self.choices]
        if isinstance(value, Mapping):  # {"text": […], "label": […]}
            listed = [self._one(self.choices, text) for text in value["text"]]
            return list(map(str, value["label"])), listed
        listed = [self._one(self.choices, text) for text in value]
        return _letters(listed), listed

    def _right(self, value: Any, marks: Sequence[str], listed: Sequence[str]) -> str:
        spelled = cell_text(value).strip()
        try:
            if self.answer == "text":
                return self._one(self.output, value)
            if self.answer == "index":
                place = int(spelled) - self.first_index
            else:
                place = (_letters(listed) if self.answer == "letter" else list(marks)).index(spelled)
            if place < 0:
                raise IndexError
            return listed[place]
        except (ValueError, IndexError):
            raise AbmllError(f"{self.output!r} is {spelled!r}, of {len(listed)} choices. The set was changed") from None


def cleaned(text: str) -> str:
    """Without line breaks, also such as are written as a backslash and an n, and every run of white space one space."""
    return " ".join(text.replace("\\n", " ").split())


def _letters(choices: Sequence[str]) -> list[str]:
    return [chr(ord("A") + number) for number in range(len(choices))]


def _pair(fields: Fields, chance: float) -> Fields:
    """blimp, crows_pairs: the good sentence is first where the row's number from [0, 1) is above a half."""
    good, other = (fields[name] for name in fields)
    return (
        {"first": good, "second": other, "place": 0} if chance > 0.5 else {"first": other, "second": good, "place": 1}
    )


def _shuffled(fields: Fields, chance: Sequence[int]) -> Fields:
    """sciq: the distractors and the right answer, in the order that the row is dealt."""
    listed = [fields[name] for name in ("distractor1", "distractor2", "distractor3", "correct_answer")]
    return {**fields, "listed": [listed[place] for place in chance]}


def _majority(fields: Fields, _: Any) -> Fields:
    """hatexplain: what most annotators say; rows without a majority are left out."""
    annotators = fields["annotators"]
    said = [one["label"] for one in annotators] if isinstance(annotators, list) else annotators["label"]
    counts = Counter(said).most_common(2)
    tied = len(counts) > 1 and counts[0][1] == counts[1][1]
    return {**fields, "majority": None if tied else counts[0][0]}


def _rating(fields: Fields, _: Any) -> Fields:
    """google_wellformed_query: below 0.4 and above 0.6; rows between are left out."""
    rating = fields["rating"]
    return {**fields, "well_formed": 0 if rating < 0.4 else 1 if rating > 0.6 else None}


def _cited(fields: Fields, _: Any) -> Fields:
    """scicite: the citation, cut out of its sentence."""
    return {**fields, "cited": fields["string"][fields["citeStart"] : fields["citeEnd"]]}


def _options_in_text(fields: Fields, _: Any) -> Fields:
    """math_qa: five options in one text, "a ) 38 , b ) 27 , …", cut at the commas as CrossFit cuts them."""
    parts = fields["options"].split(",")
    ends = [parts[0][4:-1], *(part[5:-1] for part in parts[1:4]), parts[4][5:]]
    return {**fields, "listed": ends, "letter": fields["correct"].upper()}


def _without_letters(fields: Fields, _: Any) -> Fields:
    """aqua_rat: options such as "A)21"."""
    return {**fields, "listed": [option[2:] for option in fields["options"]]}


def _two_in_text(fields: Fields, __: Any) -> Fields:
    """quarel: the question lists its two choices, "… (A) first or (B) second"."""
    before, _, rest = fields["question"].partition("(A)")
    listed = [part[1:].removesuffix("or ").strip() for part in rest.partition("(B)")[::2]]
    return {**fields, "before": before, "listed": listed}


def _one_answer(fields: Fields, _: Any) -> Fields:
    """kilt_fever: the answer out of a list of records; a row with several is left out."""
    records = fields["output"]
    said = {one["answer"] for one in records} if isinstance(records, list) else set(records["answer"])
    return {**fields, "said": said.pop() if len(said) == 1 else None}


def _without_heading(fields: Fields, _: Any) -> Fields:
    """onestop_english: some texts begin with a word of their label."""
    return {**fields, "text": fields["text"].replace("\n", " ").removeprefix("Intermediate  ")}


PREPARED: Mapping[str, Callable[[Fields, Any], Fields]] = {
    "pair": _pair,
    "shuffled": _shuffled,
    "majority": _majority,
    "rating": _rating,
    "cited": _cited,
    "options in text": _options_in_text,
    "without letters": _without_letters,
    "two in text": _two_in_text,
    "one answer": _one_answer,
    "without heading": _without_heading,
}
"""What no key can say of a row. The first two are dealt a number, or an order of four, by a generator of seed 42."""
LEAVES_OUT = ("majority", "rating", "options in text")
"""Those that may find that CrossFit makes no line of a row."""
