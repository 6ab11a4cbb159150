"""JSON and TOML from anybody: every text gives a value in bounded time, or one error that names the place.

The parsers of the standard library end in a RecursionError on deep nesting, in a bare ValueError on long whole
numbers, keep the last of two equal keys in silence, and pass on NaN, infinity and lone surrogates, on which whatever
uses the value fails much later. Every reader of a JSON or TOML file goes through this module instead.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from abmll.core.errors import Unreadable, printable, shown
from abmll.core.files import read_bytes

T = TypeVar("T")

DOCUMENT_LIMIT = 16 * 2**20
"""Bytes of the largest file that is read as one JSON document (cards, manifests, records of runs)."""
TOML_LIMIT = 2**20
"""Bytes of the largest TOML file: tomllib reads some 200 KB a second."""
DEEPEST = 64
"""Levels of nesting."""
MOST_DIGITS = 100
"""Digits of the longest whole number; Python itself stops at 4300."""
MOST_VALUES = 10_000_000
"""Values of the largest JSON text: each takes some hundred bytes of memory."""
LONGEST_KEY = 64
"""Parts of the longest dotted key; tomllib needs time in the square of their number."""

_LONG_NUMBER = re.compile(rf"[0-9]{{{MOST_DIGITS + 1},}}")
# What begins with one certain character is found many times as fast as what begins with one of several.
_LARGE_EXPONENTS = re.compile(r"e\+?[0-9]{3}"), re.compile(r"E\+?[0-9]{3}")
_NO_TEXT_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_NUL_ESCAPE = re.compile(r"\\(u0000|U00000000|x00)")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_ALL_DIGITS_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_RUN = b"0" * (MOST_DIGITS + 1)
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_KEY_PART = re.compile(r"[\s\w-]+")


def parse_json(text: str | bytes, *, nan_is_null: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: bytes are decoded as UTF-8; a byte-order mark is skipped.
        nan_is_null: whether NaN, as pandas and Python write a missing value, is read as None, and infinity as a float.
            By default both are refused: JSON has neither.

    Raises:
        Unreadable: for broken JSON, a field that stands twice in an object, a whole number of more than 100 digits,
            more than 64 levels of nesting, more than ten million values, a lone surrogate or a NUL character in a text,
            and (unless `nan_is_null`) numbers that are not finite.
    """
    text = _decoded(text)
    if len(text) > MOST_VALUES and sum(map(text.count, ",[{")) > MOST_VALUES:
        raise Unreadable(f"more than {MOST_VALUES:,} values", "Take a part of it")
    try:
        value = (_LENIENT if nan_is_null else _STRICT).decode(text)
        if _has_long_number(text):
            value = _checked_numbers(nan_is_null).decode(text)
    except Unreadable as error:
        raise _placed(error, text) from None
    except json.JSONDecodeError as error:
        raise _broken(error, text) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # of int(), beyond 4300 digits
        raise _placed(_too_long_number(), text) from None
    _check_depth(value, text.count("[") + text.count("{"))
    if _NO_TEXT_ESCAPE.search(text) or _holds_no_text(text):
        _check_texts(value)
    if not nan_is_null and any(pattern.search(text) for pattern in _LARGE_EXPONENTS):
        _check_finite(value)
    return value


def parse_toml(text: str | bytes) -> dict[str, Any]:
    """The table of a TOML text.

    Raises:
        Unreadable: for broken TOML, a whole number of more than 100 digits, more than 64 levels of nesting or parts of
            a key, and lone surrogates and NUL characters.
    """
    text = _decoded(text)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > LONGEST_KEY and _longest_chain(line) > LONGEST_KEY:
            cure = "Write fewer names between the full stops"
            raise Unreadable(f"a key of more than {LONGEST_KEY} parts", cure, line=number)
    if _holds_no_text(text):
        _check_texts(text)
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The message ends "(at line 3, column 7)"; `lineno` exists from Python 3.14 on only.
        reason, _, place = str(error).rpartition(" (at ")
        found = re.search(r"line (\d+), column (\d+)", place)
        last = text.count("\n") + 1 if place else 0  # "at end of document"
        row, column = (int(found[1]), int(found[2])) if found else (last, 0)
        cure = "Texts stand in double quotes, one key = value a line, a table begins with [name], a list is [1, 2]"
        raise Unreadable(f"broken TOML: {reason or error}", cure, line=row, column=column) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise _placed(_too_long_number(), text) from None
    _check_depth(value, DEEPEST + 1)
    _each(value, _check_size)
    if _NUL_ESCAPE.search(text):
        _check_texts(value)
    return value


def read_json(path: Path, *, limit: int = DOCUMENT_LIMIT) -> Any:
    """The value of a JSON file. Raises Unreadable, which names the path, as `read_bytes` and `parse_json` do."""
    return _read(path, parse_json, limit)


def read_toml(path: Path, *, limit: int = TOML_LIMIT) -> dict[str, Any]:
    """The table of a TOML file. Raises Unreadable, which names the path, as `read_bytes` and `parse_toml` do."""
    return _read(path, parse_toml, limit)


def _read(path: Path, parse: Callable[[bytes], T], limit: int) -> T:
    data = read_bytes(path, limit)
    try:
        return parse(data)
    except Unreadable as error:
        found = f"{printable(str(path))}: {error.found}"
        raise Unreadable(found, error.cure, line=error.line, column=error.column, field=error.field) from None


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raw = error.object  # without a byte-order mark, like the offset
        found = f"byte 0x{raw[error.start]:02x} at byte offset {error.start} is not UTF-8"
        raise Unreadable(found, "Save it as UTF-8", line=raw.count(b"\n", 0, error.start) + 1) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Unreadable(f"the field {shown(key)} stands twice", "Keep one of them", field=printable(key[:80]))
    return fields


def _not_finite(constant: str) -> Any:
    raise Unreadable(f"{constant} is no JSON number", "Write a finite number, or null")


def _nan_as_null(constant: str) -> float | None:
    return None if constant == "NaN" else float(constant)


def _too_long_number() -> Unreadable:
    return Unreadable(f"a whole number of more than {MOST_DIGITS} digits", "Write a shorter one, or put it in quotes")


def _too_deep() -> Unreadable:
    return Unreadable(f"nested more than {DEEPEST} levels deep", "Write it flatter; nothing that is read here nests so")


def _short_int(digits: str) -> int:
    if len(digits) > MOST_DIGITS + 1:
        raise _too_long_number()
    return int(digits)


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_not_finite)
_LENIENT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_nan_as_null)


def _checked_numbers(nan_is_null: bool) -> json.JSONDecoder:
    """A slower decoder that measures every whole number, for texts in which a long run of digits stands anywhere."""
    constant = _nan_as_null if nan_is_null else _not_finite
    return json.JSONDecoder(object_pairs_hook=_unique, parse_constant=constant, parse_int=_short_int)


def _has_long_number(text: str) -> bool:
    """Whether `_LONG_NUMBER` is found: a search for one text may skip, one for any digits tries every place."""
    return _LONG_RUN in text.encode("utf-8", "surrogatepass").translate(_ALL_DIGITS_ZERO)


def _holds_no_text(text: str) -> bool:
    """Whether `_NO_TEXT` is found."""
    return "\0" in text or (not text.isascii() and bool(_NO_TEXT.search(text)))


def _placed(error: Unreadable, text: str) -> Unreadable:
    """The error with the line of the first long number, where that is what it is about and there are several lines."""
    match = _LONG_NUMBER.search(text) if "digits" in error.found else None
    if match is None:
        return error
    line = text.count("\n", 0, match.start()) + 1
    return Unreadable(error.found, error.cure, line=line, column=match.start() - text.rfind("\n", 0, match.start()))


def _broken(error: json.JSONDecodeError, text: str) -> Unreadable:
    cure = "Correct it there"
    rest = text[error.pos :].lstrip()
    if not text.strip():
        return Unreadable("it is empty", "Write it again, or remove it")
    if error.msg.startswith(("Expecting property name", "Expecting value")) and rest[:1] in "}]":
        cure = "Remove the comma before the closing bracket" if rest else "It ends too early: the rest is missing"
    elif rest[:1] == "'":
        cure = "Put texts in double quotes, not single ones"
    elif not rest or error.msg.startswith("Unterminated string"):
        cure = "It ends too early: the rest is missing, or a closing quote"
    elif rest.startswith(("//", "#", "/*")):
        cure = "Remove the comments: JSON has none"
    return Unreadable(f"broken JSON: {error.msg}", cure, line=error.lineno, column=error.colno)


def _longest_chain(line: str) -> int:
    """The most parts of anything in a line, quoted texts aside, that looks like a dotted key."""
    longest = run = 0
    for part in _QUOTED.sub("x", line).split("."):
        run = run + 1 if _KEY_PART.fullmatch(part) else 0
        longest = max(longest, run)
    return longest


def _check_depth(value: Any, brackets: int) -> None:
    """brackets: opening ones in the text; no deeper than their number can the nesting be."""
    if brackets <= DEEPEST:
        return
    level, depth = [value] if isinstance(value, (list, dict)) else [], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise _too_deep()
        level = [child for node in level for child in _containers(node)]


def _containers(node: Any) -> list[Any]:
    """The lists and dicts in a list or dict; most have none, which their types say at once."""
    children = node.values() if isinstance(node, dict) else node
    if {list, dict}.isdisjoint(map(type, children)):
        return []
    return [child for child in children if isinstance(child, (list, dict))]


def _each(value: Any, check: Callable[[Any], None]) -> None:
    """Calls `check` with every leaf and every key; `value` is known to be shallow."""
    if isinstance(value, dict):
        for key, child in value.items():
            check(key)
            _each(child, check)
    elif isinstance(value, list):
        for child in value:
            _each(child, check)
    else:
        check(value)


def _check_texts(value: Any) -> None:
    """Raises Unreadable for half of a character, and for a NUL character: neither is text."""

    def check(leaf: Any) -> None:
        if isinstance(leaf, str) and (found := _NO_TEXT.search(leaf)):
            if found[0] == "\0":
                raise Unreadable(
                    "the text holds a NUL character (\\u0000)", "Remove it: a text holds no such character"
                )
            code = f"\\u{ord(found[0]):04x}"
            cure = "Half a character was cut off when the text was written: remove it, or restore the whole text"
            raise Unreadable(f"the text holds {code}, half of a character (a lone surrogate)", cure)

    for key, child in value.items() if isinstance(value, dict) else [("", value)]:
        check(key)
        try:
            _each(child, check)
        except Unreadable as error:
            raise Unreadable(error.found, error.cure, field=key[:80]) from None


def _check_finite(value: Any) -> None:
    def check(leaf: Any) -> None:
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise Unreadable("a number is too large", "Write a finite number below 1e308")

    _each(value, check)


def _check_size(leaf: Any) -> None:
    if isinstance(leaf, int) and abs(leaf) >= 10**MOST_DIGITS:
        raise _too_long_number()
