"""JSON and TOML from anybody: a value, or one error that names the place, in bounded time."""

from __future__ import annotations

import math
import os
import time

import pytest

from abmll.core.documents import DEEPEST, parse_json, parse_toml, read_json, read_toml
from abmll.core.errors import Unreadable, nearest, printable, shown

LONG = "9" * 5000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, true, null, "x"]}', {"a": [1, 2.5, True, None, "x"]}),
        ("\ufeff[1]", [1]),
        (b"\xef\xbb\xbf[1]", [1]),
        ('"\\ud83d\\ude00"', "😀"),
        ('{"digits": "' + LONG + '", "n": 7}', {"digits": LONG, "n": 7}),
        ("[" * DEEPEST + "]" * DEEPEST, None),
        ("1" + "0" * 99, 10**99),
    ],
)
def test_json_in_order(text, value):
    found = parse_json(text)
    assert value is None or found == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is empty"),
        ('{"a": 1,}', "double quotes at line 1, column 9. Remove the comma before the closing bracket."),
        ("[1, 2,\n]", "Expecting value at line 2, column 1. Remove the comma before the closing bracket."),
        ("{'a': 1}", "Put texts in double quotes, not single ones."),
        ('{"a": "b', "It ends too early: the rest is missing, or a closing quote."),
        ('{"a": 1} // b', "Remove the comments: JSON has none."),
        ('{"a": 1, "b": 2, "a": 3}', "the field 'a' stands twice. Keep one of them."),
        ('{"a": NaN}', "NaN is no JSON number. Write a finite number, or null."),
        ('{"a": -Infinity}', "-Infinity is no JSON number."),
        ('{"a": 1e400}', "a number is too large. Write a finite number below 1e308."),
        ('{"a":\n ' + LONG + "}", "a whole number of more than 100 digits at line 2, column 2."),
        ('{"a": -1' + "0" * 150 + "}", "a whole number of more than 100 digits at line 1, column 8."),
        ('{"a": ["x \\uD83D y"]}', "the text holds \\ud83d, half of a character (a lone surrogate)."),
        ('{"a": ["x\\u0000"]}', "the text holds a NUL character (\\u0000). Remove it: a text holds no such character."),
        ('{"\\udc00": 1}', "the text holds \\udc00, half of a character"),
        ("[" * 100_000, "nested more than 64 levels deep."),
        ('{"a":' * 65 + "1" + "}" * 65, "nested more than 64 levels deep."),
        (b'{"a": "\xe9"}', "byte 0xe9 at byte offset 7 is not UTF-8 at line 1. Save it as UTF-8."),
    ],
)
def test_json_that_is_told(text, told):
    with pytest.raises(Unreadable) as raised:
        parse_json(text)
    assert told in str(raised.value)


def test_nan_is_null_where_it_means_a_missing_value():
    assert parse_json('{"a": NaN, "b": Infinity, "c": "NaN"}', nan_is_null=True) == {
        "a": None,
        "b": math.inf,
        "c": "NaN",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = " + "[" * 50_000, "nested more than 64 levels deep."),
        ("x = " + "[" * 65 + "]" * 65, "nested more than 64 levels deep."),
        ("x = " + "{a=" * 5000, "nested more than 64 levels deep."),
        ("y = 1\nx = " + LONG, "a whole number of more than 100 digits at line 2, column 5."),
        ("x = 0x" + "f" * 9000, "a whole number of more than 100 digits."),
        ("y = 1\n" + ".".join("a" * 100_000) + " = 1", "a key of more than 64 parts at line 2."),
        ("[" + ".".join(['"a"'] * 100) + "]", "a key of more than 64 parts at line 1."),
        ("y = 1\nx = no", "broken TOML: Invalid value at line 2, column 5. Texts stand in double quotes"),
        ('x = "open', "broken TOML: Unterminated string at line 1."),
        ("x = 1\nx = 2", "broken TOML: Cannot overwrite a value at line 2"),
        ('x = "a\udcff"', "the text holds \\udcff, half of a character"),
        ('x = {y = ["a\\u0000"]}', "the text holds a NUL character"),
    ],
)
def test_toml_that_is_told(text, told):
    start = time.monotonic()
    with pytest.raises(Unreadable) as raised:
        parse_toml(text)
    assert told in str(raised.value)
    assert time.monotonic() - start < 5


def test_toml_in_order():
    assert parse_toml("\ufeffx = 'a.b.c" + ".d" * 200 + "'\n") == {"x": "a.b.c" + ".d" * 200}
    assert parse_toml("x = [" + "0.5, " * 500 + "]") == {"x": [0.5] * 500}


def test_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "large.json").write_text("[" + " " * 200 + "]")
    for name, told in [
        ("pipe.json", "pipe.json is a named pipe, not a file."),
        ("loop.json", "cannot be read: Too many levels of symbolic links."),
        ("gone.json", "It is a link to a file that is gone"),
        ("absent.json", "there is no file "),
        ("a\0b.json", "embedded null byte"),
        ("n" * 300, "File name too long"),
        (".", "is a folder, not a file."),
        ("/dev/zero", "is a device, not a file."),
        ("large.json", "is too large: 202 bytes, at most 100 are read."),
    ]:
        with pytest.raises(Unreadable) as raised:
            read_json(tmp_path / name, limit=100)
        assert told in str(raised.value)


def test_the_path_is_named_and_what_no_terminal_prints_is_escaped(tmp_path):
    path = tmp_path / "run\x1b[31m.toml"
    path.write_text("x = 1\ny = no\n")
    with pytest.raises(Unreadable) as raised:
        read_toml(path)
    assert "run\\x1b[31m.toml: broken TOML: Invalid value at line 2, column 5." in str(raised.value)
    assert printable("a\udcff") == "a\\udcff"
    assert shown("é\ud83d") == "'é\\ud83d'"
    assert shown("a" * 10**6).endswith("… (1,000,000 characters)")


def test_the_nearest_name_takes_bounded_time():
    assert nearest("Positive", ["negative", "positive"]) == "positive"
    assert nearest("postive", ["negative", "positive"]) == "positive"
    assert nearest("x", ["negative", "positive"]) is None
    start = time.monotonic()
    assert nearest("ab" * 10**6, ["ba" * 10**6] * 1000) is None
    assert time.monotonic() - start < 1
