"""What the bytes of a file are, whatever its name says; and what to do with those that are no text."""

from __future__ import annotations

from typing import NamedTuple

HEAD = 4096
"""Bytes at a file's start by which its kind is told."""


class Kind(NamedTuple):
    """A kind of file. name: with its article, for "the file is …". cure: what makes rows of it."""

    name: str
    cure: str


_EXPORT = "Export its table as CSV (UTF-8) or as one JSON object a line"
_SHEET = "Save the sheet as 'CSV UTF-8' from the spreadsheet program, or give the workbook under its own name (.xlsx)"
_UNPACK = "Unpack it, and give the file inside"
_COLUMNS = (
    "Give it under its own name, or write it as JSON Lines: in pandas, "
    "frame.to_json(FILE, orient='records', lines=True)"
)
_DOWNLOAD = "Download the file itself: this is the page around it, or the server's error message"

GZIP = b"\x1f\x8b"
_STARTS: tuple[tuple[bytes, Kind], ...] = (
    (GZIP, Kind("gzip data", "Add .gz to its name, or unpack it (gunzip)")),
    (b"BZh", Kind("bzip2 data", "Unpack it (bunzip2), and give the file inside")),
    (b"\xfd7zXZ\x00", Kind("xz data", "Unpack it (unxz), and give the file inside")),
    (b"\x28\xb5\x2f\xfd", Kind("Zstandard data", "Unpack it (unzstd), and give the file inside")),
    (b"\x04\x22\x4d\x18", Kind("LZ4 data", "Unpack it (unlz4), and give the file inside")),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7-Zip archive", _UNPACK)),
    (b"Rar!\x1a\x07", Kind("a RAR archive", _UNPACK)),
    (b"PAR1", Kind("a Parquet file", _COLUMNS)),
    (b"ARROW1", Kind("an Arrow file", _COLUMNS)),
    (b"\xff\xff\xff\xff", Kind("an Arrow stream, as `datasets` writes it", _COLUMNS)),
    (b"Obj\x01", Kind("an Avro file", _EXPORT)),
    (b"ORC\x0a", Kind("an ORC file", _COLUMNS)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an old Office file (.xls or .doc)", _SHEET)),
    (b"%PDF-", Kind("a PDF document", _EXPORT)),
    (b"{\\rtf", Kind("an RTF document", _EXPORT)),
    (b"SQLite format 3\x00", Kind("an SQLite database", _EXPORT)),
    (b"\x89HDF\r\n", Kind("an HDF5 file", _EXPORT)),
    (b"\x93NUMPY", Kind("a NumPy array", _EXPORT)),
    (b"$FL2", Kind("an SPSS file", _EXPORT)),
    (b"<stata_dta>", Kind("a Stata file", _EXPORT)),
    (b"\x89PNG", Kind("an image (PNG)", "Give a file of texts and labels")),
    (b"\xff\xd8\xff", Kind("an image (JPEG)", "Give a file of texts and labels")),
    (b"GIF8", Kind("an image (GIF)", "Give a file of texts and labels")),
    (b"\x7fELF", Kind("a program", "Give a file of texts and labels")),
    (b"version https://git-lfs", Kind("a pointer of Git LFS, not the data", "Fetch the data: git lfs pull")),
    (b"/annex/objects/", Kind("a pointer of git-annex, not the data", "Fetch the data: git annex get FILE")),
)
_AMBIGUOUS = (b"BZh", b"PAR1", b"ARROW1", b"ORC\x0a", b"$FL2", b"GIF8")
"""A text may begin so too: there a byte that no text holds must follow."""
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_INSIDE_ZIP = (
    (b"xl/w", Kind("an Excel workbook (.xlsx)", _SHEET)),
    (b"opendocument.spreadsheet", Kind("an OpenDocument spreadsheet (.ods)", _SHEET)),
    (b"word/", Kind("a Word document (.docx)", _EXPORT)),
    (b"Index/Document.iwa", Kind("a Numbers or Pages document", _EXPORT)),
)
_MARKUP = (
    (b"<!doctype html", Kind("a web page (HTML)", _DOWNLOAD)),
    *((tag, Kind("a web page (HTML)", _DOWNLOAD)) for tag in (b"<html", b"<head", b"<body", b"<table", b"<meta")),
    (b"<!--", Kind("a web page or XML", _DOWNLOAD)),
    (b"<?xml", Kind("XML", "Export its rows as CSV (UTF-8); an <Error> in it is a server's message, not your file")),
    (b"<error>", Kind("a server's error message (XML)", _DOWNLOAD)),
)


def kind_of_bytes(raw: bytes) -> Kind | None:
    """The kind of a file that is no table of text, by its content; None for what may be one."""
    head = raw[:HEAD]
    if head.startswith(_ZIP):
        return next((kind for mark, kind in _INSIDE_ZIP if mark in raw), Kind("a ZIP archive", _UNPACK))
    for start, kind in _STARTS:
        if head.startswith(start) and (start not in _AMBIGUOUS or any(byte < 9 for byte in head[:64])):
            return kind
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and raw[-1:] == b".":
        return Kind("a Python pickle, which can run code when read", _EXPORT)
    if head[257:262] == b"ustar":
        return Kind("a tar archive", _UNPACK)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((kind for tag, kind in _MARKUP if text.startswith(tag)), None)
