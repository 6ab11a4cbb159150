"""What a label is: its spelling, what counts as missing, which labels differ only in how they are written."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from abmll.core.errors import shown

MISSING = frozenset(
    {"nan", "<na>", "nat", "#n/a", "#na", "#value!", "#ref!", "#div/0!", "#name?", "#null!", "#num!", "#nv", "#wert!"}
)
"""What pandas and spreadsheets write where nothing is, in lower case: never a label, and no input."""
PERHAPS_MISSING = frozenset({"none", "null", "na", "n/a", "-", "--", "?", "unknown", "undefined", "missing"})
"""What may be a label ("none" often is) or stand for a missing one."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(?:[.,][0-9]{0,30})?(?:[eE][+-]?[0-9]{1,2})?")
_DASHES = (
    dict.fromkeys(map(ord, "‐‑‒–—−"), "-") | dict.fromkeys(map(ord, "‘’ʼ´`"), "'") | dict.fromkeys(map(ord, "“”„"), '"')
)


_ENDS = ".,;:!?\"'…"
"""What a sentence ends with, and what encloses a word: at a label's ends it makes no other label."""
_JOINED = re.compile(r"(?<=[^\W_])[_-](?=[^\W_])")
_LISTED = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)
# Cyrillic and Greek letters that look like Latin ones, which keyboards and homoglyph attacks bring in.
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝАВЕКМНОРСТУХІЈЅαονρτυΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxijshdqwABEKMHOPCTYXIJSaovptuABEZHIKMNOPTYX",
)


_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
"""What takes no room or shows nothing and is no format character (Cf): fillers, blanks, selectors of a variant."""


def visible(text: str) -> str:
    """The text without the characters that take no room (zero-width spaces, marks of direction, soft hyphens), or that
    show nothing (the blank of Braille, fillers of Hangul, what selects a variant of an emoji)."""
    if text.isascii():
        return text
    return _UNSEEN.sub("", "".join(character for character in text if unicodedata.category(character) != "Cf"))


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: white space and characters without width alone."""
    return not text or text.isspace() or not visible(text).strip()


def is_missing(value: Any) -> bool:
    """Whether a cell says that nothing is there: null, no finite number, or their usual spellings."""
    if isinstance(value, float):
        return not math.isfinite(value)
    return value is None or (isinstance(value, str) and len(value) < 16 and value.strip().casefold() in MISSING)


def is_number(text: str) -> bool:
    """Whether a label is a bare number, such as 0, -1, 1.0."""
    return _NUMBER.fullmatch(text.strip()) is not None


def _without_case(text: str) -> str:
    """Casefolded, Turkish too: the capitals of i and of ı, each by the other's rules, are one letter."""
    return text.casefold().replace("i\u0307", "i").replace("ı", "i")


def spelling_key(label: str) -> str:
    """What labels have in common that differ only in case, spaces, Unicode form, invisible characters, the kind of
    dash or quotation mark, or as numerals of one number."""
    text = " ".join(_without_case(visible(unicodedata.normalize("NFKC", visible(label))).translate(_DASHES)).split())
    if _NUMBER.fullmatch(text):
        return str(Decimal(text.replace(",", ".")).normalize() + 0)
    return text


def loose_key(label: str) -> str:
    """As `spelling_key`, and what labels have in common that differ in punctuation at their ends, in "_" and "-" for a
    space, or in letters of another alphabet that look alike."""
    key = spelling_key(_one_alphabet(label))
    return _JOINED.sub(" ", key).strip(_ENDS) or key


def _one_alphabet(label: str) -> str:
    """The label in Latin letters, if some of it is Latin and all the rest looks so; a word of one alphabet is left."""
    latin = label.translate(_LOOKALIKES)
    return (
        latin if latin.isascii() and any(character.isascii() and character.isalpha() for character in label) else label
    )


def near_equal(counts: Mapping[str, int], key: Callable[[str], str] = spelling_key) -> list[list[str]]:
    """Groups of labels that differ only in how they are spelled; in each the most frequent comes first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        groups[key(label)].append(label)
    return [sorted(group, key=lambda label: (-counts[label], label)) for group in groups.values() if len(group) > 1]


def difference(first: str, second: str) -> str:
    """In words, how two near-equal labels differ."""
    if is_number(first) and is_number(second):
        return "the same number"
    ways: Sequence[tuple[str, Any]] = (
        ("in characters that cannot be seen", visible),
        ("in Unicode form", lambda text: unicodedata.normalize("NFKC", text)),
        ("in spaces", lambda text: " ".join(text.split())),
        ("in case", _without_case),
        ("in letters of another alphabet", lambda text: spelling_key(_one_alphabet(text))),
        ("in punctuation", loose_key),
    )
    for name, way in ways:
        if way(first) == way(second):
            return name
    return "in spelling"


def distinct_spelling(label: str) -> str:
    """The label in quotes; where it holds what looks like nothing or like another character, in escapes."""
    shaped = unicodedata.normalize("NFC", label) != label or visible(label) != label
    shaped = shaped or _one_alphabet(label) != label
    spaced = any(character.isspace() and character != " " for character in label)
    return ascii(label[:60]) if shaped or spaced else shown(label, 40)


def is_listed(label: str) -> bool:
    """Whether a label is written as another program writes a list or a mapping: "['positive']"."""
    return _LISTED.fullmatch(label.strip()) is not None


def match_label(value: Any, text: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that a label names: spelled exactly so; else the only one equal as a number or as true or
    false, where the label is a number or a JSON boolean; else None.

    Args:
        value: as it stood in the file.
        text: the label, stripped.
    """
    if text in choices:
        return choices.index(text)
    if isinstance(value, bool) or is_number(text):
        key = spelling_key(text)
        equal = [index for index, choice in enumerate(choices) if spelling_key(choice) == key]
        return equal[0] if len(equal) == 1 else None
    return None


def look_up(labels: Mapping[str, str], text: str) -> str | None:
    """What a map says of a label: under its exact spelling, else under the only equal number; None if nothing."""
    if text in labels:
        return labels[text]
    if is_number(text):
        key = spelling_key(text)
        equal = {choice for name, choice in labels.items() if spelling_key(name) == key}
        return equal.pop() if len(equal) == 1 else None
    return None


def several_in_one(labels: Iterable[str]) -> str:
    """The separator with which labels such as "billing, technical" name several others; "" if none does.

    Told where at least one of the parts, and half of all parts, stand alone somewhere.
    """
    known = set(labels)
    for mark in (",", ";", "|", "/", "+", "&"):
        parts = [part.strip() for label in known if mark in label for part in label.split(mark)]
        if parts and sum(part in known for part in parts) >= len(parts) / 2:
            return mark
    return ""


def counted(counts: Counter[str], most: int = 12) -> str:
    """ "positive (20), negative (19)" by falling count, at most `most` of them."""
    listed = [f"{label} ({count})" for label, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]
    return ", ".join(listed[:most]) + (f", … ({len(listed)} in all)" if len(listed) > most else "")
