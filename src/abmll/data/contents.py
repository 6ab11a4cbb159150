"""From a file to its text: read within bounds, unpacked, recognised by its bytes, decoded."""

from __future__ import annotations

import codecs
import gzip
import io
import unicodedata
import zlib
from pathlib import Path

from abmll.core.errors import Unreadable, printable, shown
from abmll.core.files import read_bytes
from abmll.data.encodings import EBCDIC, Guessed, guess_encoding, hidden_encoding
from abmll.data.kinds import GZIP, HEAD, kind_of_bytes
from abmll.data.problems import Problem

FILE_LIMIT = 256 * 2**20
"""Bytes of the largest text that is read as one file, unpacked."""
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)
_NO_TEXT = {"Cc", "Cs", "Co", "Cn"}
_OF_NAMES = ("punycode", "idna")
"""Of hosts' names, not of texts, of which they take time in the square of the length."""
_CUT_OFF = "the file ends within a character", "It was cut off: fetch it again"


def read_text(path: Path, *, encoding: str | None = None) -> tuple[str | None, list[Problem]]:
    """The file's text; None where it cannot be had, with the reason among the problems.

    Gzip data is unpacked, UTF-8 and UTF-16 are told by their marks, and other kinds of file by their bytes.

    Args:
        encoding: in which the text is, by its Python name; by default UTF-8, or what a byte-order mark says.
    """
    name = printable(path.name)
    data, problems = read_unpacked(path)
    if data is None:
        return None, problems
    kind = kind_of_bytes(data)
    if kind is not None and encoding is None:
        return None, [*problems, Problem(name, 0, "", f"the file is {kind.name}", kind.cure)]
    text, found = _decode(name, data, encoding)
    text = None if text is None else text.removesuffix("\x1a")  # as MS-DOS ended a text
    for ending in ("\r", "\x85"):  # as computers of the last century ended a line, and as mainframes do
        if text is not None and ending in text and "\n" not in text:
            text = text.replace(ending, "\n")
    return text, [*problems, *found]


def read_unpacked(path: Path) -> tuple[bytes | None, list[Problem]]:
    """The file's bytes, gzip data unpacked; None where they cannot be had, with the reason among the problems."""
    name = printable(path.name)
    try:
        raw = read_bytes(path, FILE_LIMIT)
    except Unreadable as error:
        cure = error.cure if "too large" not in error.found else _smaller()
        return None, [Problem(name, 0, "", error.found.replace(f"{printable(str(path))} ", "the file ", 1), cure)]
    return _unpack(path, name, raw)


def _unpack(path: Path, name: str, raw: bytes) -> tuple[bytes | None, list[Problem]]:
    named = path.name.lower().endswith(".gz")
    if not raw.startswith(GZIP):
        if not named:
            return raw, []
        kind = kind_of_bytes(raw)
        what = "it is empty" if not raw else f"it is {kind.name}" if kind else "it does not begin as gzip does"
        cure = "Compress it again (gzip FILE), or remove .gz from its name if it is not compressed"
        return None, [Problem(name, 0, "", f"the gzip data is damaged ({what})", cure)]
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            data = file.read(FILE_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        cure = "Compress it again (gzip FILE), or remove .gz from its name if it is not compressed"
        return None, [Problem(name, 0, "", f"the gzip data is damaged ({error})", cure)]
    if len(data) > FILE_LIMIT:
        message = f"the file unpacks from {len(raw):,} to more than {FILE_LIMIT:,} bytes, which is too large"
        return None, [Problem(name, 0, "", message, _smaller())]
    if named:
        return data, []
    message = "the file is gzip data, which its name does not say; it was unpacked"
    return data, [Problem(name, 0, "", message, "Add .gz to its name", "warning")]


def _smaller() -> str:
    return "Take a part of its rows, e.g. shuf -n 10000 FILE > part.jsonl (keep the header line of a CSV file)"


def _decode(name: str, raw: bytes, encoding: str | None) -> tuple[str | None, list[Problem]]:
    if encoding is not None:
        return _decode_as(name, raw, encoding)
    mark, marked = next((one for one in _MARKS if raw.startswith(one[0])), (b"", ""))
    marked = marked or _unmarked(raw)
    if marked.startswith(("utf-16", "utf-32")):
        text, problems = _decode_as(name, raw, marked)
        told = f"the file is {marked[:6].upper()}, not UTF-8; it was read as that"
        return text, problems or [Problem(name, 0, "", told, "Nothing needs to be done", "note")]
    problems = []
    if mark:
        what = "the file starts with a byte-order mark (BOM); it was skipped"
        problems = [Problem(name, 1, "", what, "Nothing needs to be done", "note")]
    try:
        text = raw.decode(marked)
    except UnicodeDecodeError as error:
        return None, [*problems, _no_utf8(name, raw, error.start + (len(mark) if marked == "utf-8-sig" else 0))]
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        cure = "Restore the file from its source: a text holds no such character"
        return None, [*problems, Problem(name, line, "", "the text holds a NUL character (byte 0)", cure)]
    if (hidden := hidden_encoding(text)) is not None:
        position, guessed = hidden
        line = 1 + text.count("\n", 0, position)
        return None, [*problems, _in_another(name, line, "the text is ASCII", guessed)]
    return text, problems


def _unmarked(raw: bytes) -> str:
    """The UTF-16 or UTF-32 of a text without a mark, told by zero bytes that make plain text under it; else "utf-8"."""
    head = raw[: min(len(raw), HEAD) // 4 * 4] or raw
    if b"\0" in head:
        for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
            try:
                text = codecs.getincrementaldecoder(encoding)().decode(head)
            except UnicodeDecodeError:
                continue
            if _is_plain(text):
                return encoding
    return "utf-8"


def _is_plain(text: str) -> bool:
    """Whether nothing in a text is but letters and signs, and some of it is ASCII, as separators and digits are."""
    if sum(character < "\x80" for character in text) < len(text) / 20 or not text:
        return False
    return all(character in "\t\n\r" or unicodedata.category(character) not in _NO_TEXT for character in text)


def _decode_as(name: str, raw: bytes, encoding: str) -> tuple[str | None, list[Problem]]:
    try:
        if codecs.lookup(encoding).name in _OF_NAMES:
            raise LookupError
        return raw.decode(encoding).removeprefix("\ufeff"), []
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = raw.count(b"\n", 0, start) + 1
        message = f"byte 0x{raw[start]:02x} at byte offset {start} is not {encoding}" if raw else "it is empty"
        if raw and start >= len(raw) - 3 and encoding.startswith(("utf-16", "utf-32")):
            return None, [Problem(name, line, "", f"{message}: {_CUT_OFF[0]}", _CUT_OFF[1])]
        return None, [Problem(name, line, "", message, "Correct encoding in the spec, or save the file as UTF-8")]
    except LookupError:
        return None, [Problem(name, 0, "encoding", f"unknown encoding {shown(encoding)}", "Write utf-8, cp1252, …")]


def _no_utf8(name: str, raw: bytes, start: int) -> Problem:
    """What is told of bytes that are no UTF-8: which encoding it is, as far as one can see."""
    line = raw.count(b"\n", 0, start) + 1
    message = f"byte 0x{raw[start]:02x} at byte offset {start} is not UTF-8"
    if start >= len(raw) - 3 and raw[start] >= 0xC2:
        return Problem(name, line, "", f"{message}: {_CUT_OFF[0]}", _CUT_OFF[1])
    if raw[start] == 0xED and 0xA0 <= raw[start + 1] <= 0xBF:
        message += ": it is half of a character (a surrogate), as CESU-8 and Java's modified UTF-8 write it"
        return Problem(name, line, "", message, "Export the file again as UTF-8 (in MySQL utf8mb4, in Oracle AL32UTF8)")
    wrong = sum(character == "\ufffd" for character in raw.decode("utf-8", "replace"))
    right = sum(byte >= 0xC2 for byte in raw[:start])
    if right > wrong:
        cure = "Most of the file is UTF-8: correct that line, or export the whole file in one encoding"
        return Problem(name, line, "", f"{message} (nor are {wrong - 1} more)" if wrong > 1 else message, cure)
    guessed = guess_encoding(raw, start)
    if guessed is None:
        return Problem(name, line, "", message, "Save it as UTF-8; a text in another encoding, or no text at all")
    return _in_another(name, line, message, guessed)


def _in_another(name: str, line: int, message: str, guessed: Guessed) -> Problem:
    mainframe = " (EBCDIC)" if guessed.encoding in EBCDIC else ""
    message += f"; it looks like {guessed.encoding}{mainframe}, in which the line reads {shown(guessed.sample, 60)}"
    cure = (
        f"Save it as UTF-8 (in Excel: 'CSV UTF-8'), e.g. iconv -f {_iconv(guessed.encoding)} -t utf-8 {name} > new; "
        f'or write encoding = "{guessed.encoding}" in a TOML spec'
    )
    return Problem(name, line, "", message, cure)


def _iconv(encoding: str) -> str:
    names = {"mac_roman": "macintosh", "iso8859_5": "iso-8859-5", "iso2022_jp": "iso-2022-jp"}
    return names.get(encoding, encoding.replace("_", "-") if encoding.startswith(("koi8", "euc")) else encoding)
