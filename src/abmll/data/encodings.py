"""Which encoding a text that is no UTF-8 is in: the one under which its words look like words."""

from __future__ import annotations

import codecs
import unicodedata
from typing import NamedTuple

CANDIDATES = (
    *("cp1252", "mac_roman", "cp850", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254"),
    *("shift_jis", "euc_jp", "euc_kr", "gb18030", "big5"),
)
"""What offices write, the commonest first: it wins where several fit equally well."""
_NEEDS = {"shift_jis": "kana", "euc_jp": "kana", "euc_kr": "hangul"}
"""Scripts without which these are not believed: by their bytes alone, Chinese texts often pass for them."""
_JOINED = {"kana": "cjk"}  # one Japanese word is written in both
SAMPLE = 20_000
"""Bytes around the first one that is no UTF-8, by which the encoding is told."""
_WESTERN = set("äöüßàâáãåæçèéêëìíîïñòóôõøœùúûÄÖÜÀÂÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕØŒÙÚÛ")
_OTHER_LATIN = set("şğıİŞĞąćęłńśźżĄĆĘŁŃŚŹŻčďěňřšťůžČĎĚŇŘŠŤŮŽőűŐŰăâîșțȘȚ")
_PUNCTUATION = set("“”„‘’‚«»–—…€£§°©®™·•¿¡´ \u00a0¨ªº")


class Guessed(NamedTuple):
    """An encoding, by the name that iconv and Python know, and a text as it reads under it."""

    encoding: str
    sample: str


def guess_encoding(raw: bytes, position: int) -> Guessed | None:
    """The likeliest encoding of a text that has no UTF-8 at `position`; None if no candidate reads it."""
    start = raw.rfind(b"\n", 0, position) + 1
    start = max(start, position - 2000)
    sample = raw[start : start + SAMPLE]
    best, best_score = None, float("-inf")
    for encoding in CANDIDATES:
        try:
            # Not final: the sample may end within a character.
            text = codecs.getincrementaldecoder(encoding)().decode(sample)
        except UnicodeDecodeError:
            continue
        if encoding in _NEEDS and not any(_script(character) == _NEEDS[encoding] for character in text):
            continue
        score = plausibility(text)
        if score > best_score + 1e-9:
            best, best_score = encoding, score
    if best is None or best_score <= 0:
        return None
    line = raw[start:].split(b"\n", 1)[0]
    return Guessed(best, line.decode(best, "replace").strip())


def plausibility(text: str) -> float:
    """-1 to 1: how much the characters beyond ASCII fit their neighbours.

    A letter fits beside letters of its own script, lower case after lower case; signs such as quotation marks fit at a
    word's edge. A capital within a word, a sign between two letters, or two scripts in one word are what the wrong
    encoding makes of a text.
    """
    score, count = 0.0, 0
    for place, character in enumerate(text):
        if character < "\x80":
            continue
        count += 1
        before = text[place - 1] if place else " "
        after = text[place + 1] if place + 1 < len(text) else " "
        score += _fit(before, character, after)
    return score / count if count else 0.0


def _fit(before: str, character: str, after: str) -> float:
    category = unicodedata.category(character)
    if category in ("Cc", "Cn", "Co"):
        return -2.0
    if not category.startswith("L"):
        within = before.isalpha() and after.isalpha() and character not in "’·´"
        return -1.0 if within or character not in _PUNCTUATION else 0.8
    script = _script(character)
    if any(
        other.isalpha() and _JOINED.get(_script(other), _script(other)) != _JOINED.get(script, script)
        for other in (before, after)
    ):
        return -1.0
    if script == "other":
        return -0.5
    if script not in ("latin", "cyrillic", "greek"):
        return 1.0 if script == "cjk" else 1.1
    if not before.isalpha() and not after.isalpha():
        return 0.5
    if character.isupper() and before.islower():
        return -1.0
    if character.islower() and before.isupper() and after.isupper():
        return -1.0
    if script == "latin":
        return 0.9 if character in _WESTERN else 0.6 if character in _OTHER_LATIN else 0.0
    return 1.0 if character.islower() else 0.9  # one Cyrillic encoding's small letters are another's capitals


def _script(character: str) -> str:
    if character < "\x80":
        return "latin"
    name = unicodedata.name(character, "")
    for start, script in (
        *(("LATIN", "latin"), ("CYRILLIC", "cyrillic"), ("GREEK", "greek"), ("CJK", "cjk")),
        *(("HIRAGANA", "kana"), ("KATAKANA", "kana"), ("HANGUL", "hangul"), ("MODIFIER", "latin")),
    ):
        if name.startswith(start):
            return script
    return "other"
