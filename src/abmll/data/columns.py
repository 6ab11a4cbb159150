"""Which column is which, by its name: the usual names, in any case and with any separators."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

INPUT_NAMES = ("input", "prompt", "text")
CHOICES_NAMES = ("options", "choices")
TARGET_NAMES = ("target",)
LABEL_NAMES = ("label", "answer", "output")
ID_NAMES = ("id",)
USUAL_NAMES = INPUT_NAMES + CHOICES_NAMES + TARGET_NAMES + LABEL_NAMES + ID_NAMES

OTHER_INPUTS = (
    *("sentence", "content", "review", "comment", "message", "document", "body", "tweet", "utterance", "query"),
    *("question", "description", "article", "post", "email", "feedback", "ticket", "request", "title", "headline"),
    *("statement", "claim", "passage", "abstract", "review_text", "input_text", "text_content", "full_text"),
)
"""Names of an input that are taken where no column bears a usual one and one column alone bears one of these."""
OTHER_LABELS = (
    *("labels", "class", "category", "sentiment", "intent", "topic", "gold", "gold_label", "tag", "classification"),
    *("rating", "stars", "target_label", "label_text", "class_name", "label_name", "y"),
)
"""The same for labels."""
SPLIT_NAMES = ("split", "subset", "partition", "fold", "set", "split_name", "dataset_split")


def plain(name: str) -> str:
    """A column's name in lower case, words joined by `_`, without what cannot be seen."""
    visible = name if name.isprintable() else "".join(filter(str.isprintable, name))
    return re.sub(r"[\s_-]+", "_", visible.strip().casefold()).strip("_")


_USUAL = {*USUAL_NAMES, *OTHER_INPUTS, *OTHER_LABELS}


_NO_TEXT = {
    *(
        "id",
        "ids",
        "length",
        "len",
        "count",
        "num",
        "number",
        "date",
        "time",
        "language",
        "lang",
        "hash",
        "url",
        "link",
    ),
    *("embedding", "vector", "tokens", "score", "author", "source", "type", "file", "path", "index"),
}


def containing(columns: Iterable[str], words: Sequence[str]) -> list[str]:
    """The columns in whose name one of `words` stands, as in "Ticket Text", but not those such as "text_length"."""
    found = []
    for column in columns:
        parts = set(plain(column).split("_"))
        if parts & set(words) and not parts & _NO_TEXT:
            found.append(column)
    return found


def is_usual(name: str) -> bool:
    """Whether a column of this name is one that a reader knows."""
    return plain(name) in _USUAL


def named(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The columns that bear one of `names`: those spelled exactly so, else those so in any case; in their order."""
    known = list(columns)
    present = set(known)
    exact = [name for name in names if name in present]
    if exact:
        return exact
    by_plain: dict[str, list[str]] = {}
    for column in known:
        by_plain.setdefault(plain(column), []).append(column)
    return [column for name in names for column in by_plain.get(name, ())]
