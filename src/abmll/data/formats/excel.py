"""Excel workbooks: one sheet is a table whose first row names the columns. Every cell is text, as in CSV."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abmll.core.errors import printable
from abmll.data.contents import FILE_LIMIT
from abmll.data.findings import listing
from abmll.data.formats.container import missing_library, read_binary
from abmll.data.formats.format import Format, Options, Reading
from abmll.data.problems import Problem
from abmll.data.row import MOST_COLUMNS, MOST_ROWS, Row

MOST_CELLS = 1_000_000
"""Cells of the largest sheet that is read, at some ten thousand a second."""
MOST_PLACES = 5_000_000
"""The same with the empty places between them."""
_DAMAGED = "Save it again as .xlsx, or as CSV UTF-8"
_SMALLER = "Save the sheet as CSV UTF-8, and take a part of its rows"


def _read(path: Path, options: Options) -> Reading:
    try:
        import openpyxl
    except ImportError:
        return missing_library(path, "an Excel file", "openpyxl", "excel", "save it as CSV UTF-8 from Excel")
    name = printable(path.name)
    data, problems = read_binary(path, "an Excel workbook (.xlsx)", (b"PK\x03\x04",), _DAMAGED)
    if data is None:
        return Reading([], problems)
    try:
        measured = _measure(data)
        if isinstance(measured, str):
            return Reading([], [Problem(name, 0, "", measured, _SMALLER)])
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
        try:
            return _sheet(name, book, options.sheet, formulas=measured)
        finally:
            book.close()
    except Exception as error:  # openpyxl and the parser below raise many kinds on damaged files
        message = f"the workbook cannot be read ({str(error).partition(chr(10))[0] or type(error).__name__})"
        return Reading([], [Problem(name, 0, "", message, _DAMAGED)])


def _measure(data: bytes) -> bool | str:
    """Whether any sheet has formulas; or why the workbook is not read: what it unpacks to, told before it is."""
    formulas = False
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > FILE_LIMIT:
            return f"the workbook unpacks from {len(data):,} to more than {FILE_LIMIT:,} bytes, which is too large"
        for entry in archive.infolist():
            if not entry.filename.startswith("xl/worksheets/") or not entry.filename.endswith(".xml"):
                continue
            rows = cells = 0
            with archive.open(entry) as file:
                end = b""
                while read := file.read(2**20):
                    block, end = end + read, read[-2:]  # shorter than what is counted, so that nothing counts twice
                    rows += block.count(b"<row")
                    cells += block.count(b"<c ") + block.count(b"<c>")
                    formulas |= b"<f>" in block or b"<f " in block
                    if rows > MOST_ROWS or cells > MOST_CELLS:
                        return f"a sheet has more than {MOST_ROWS:,} rows or {MOST_CELLS:,} cells, which is too many"
                    if rows < 2 and cells > MOST_COLUMNS:
                        return f"a sheet has more than {MOST_COLUMNS:,} columns, which is too many"
    return formulas


def _sheet(name: str, book: Any, wanted: str | None, *, formulas: bool) -> Reading:
    names = [sheet.title for sheet in book.worksheets]
    if wanted is not None and wanted not in names:
        message = f"the workbook has no sheet {wanted!r}"
        return Reading([], [Problem(name, 0, "sheet", message, f"Its sheets are: {', '.join(names)}")])
    filled = []
    for sheet in book.worksheets if wanted is None else [book[wanted]]:
        sheet.reset_dimensions()  # some programs write a size that is not the sheet's
        lines = []
        places = characters = 0
        for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
            places += len(row) + 1
            if number > MOST_ROWS or places > MOST_PLACES:  # a cell may say that it stands anywhere
                message = f"the sheet {sheet.title!r} has cells beyond row {number - 1:,}, which is too many"
                return Reading([], [Problem(name, 0, "sheet", message, _SMALLER)])
            cells = [_text(value) for value in row]
            characters += sum(map(len, cells))
            if characters > FILE_LIMIT:  # a workbook keeps a text once, for all the cells that say it
                message = f"the sheet {sheet.title!r} has more than {FILE_LIMIT:,} characters, which is too many"
                return Reading([], [Problem(name, 0, "sheet", message, _SMALLER)])
            if any(cell.strip() for cell in cells):
                lines.append((number, cells))
        if lines:
            filled.append((sheet.title, lines))
    if not filled:
        return Reading([], [Problem(name, 0, "", "the workbook holds no rows", "Add rows, or leave it out")])
    problems = []
    if len(filled) > 1:
        message = f"the sheets {listing(title for title, _ in filled)} hold rows; {filled[0][0]!r} was read"
        problems.append(
            Problem(name, 0, "sheet", message, 'Name another with sheet = "NAME" in a TOML spec', "warning")
        )
    (_, header), *lines = filled[0][1]
    rows, found = _rows(name, [cell.strip() for cell in header], lines)
    empty = [
        column.strip() for column in header if column.strip() and not any(row.fields[column.strip()] for row in rows)
    ]
    if formulas and rows and empty:
        return Reading([], [_uncalculated(name, empty)])
    return Reading(rows, [*problems, *found], table=True)


def _uncalculated(name: str, columns: Sequence[str]) -> Problem:
    message = f"no row has a value in {listing(columns)}, and the sheet holds formulas whose results were not saved"
    cure = "Open it in a spreadsheet program and save it there, or save the sheet as CSV UTF-8"
    return Problem(name, 0, columns[0], message, cure)


def _rows(name: str, header: list[str], lines: list[tuple[int, list[str]]]) -> tuple[list[Row], list[Problem]]:
    while header and not header[-1]:
        header.pop()
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        what = [f"the header names the column {c!r} twice" if c else "a column has no name" for c in repeated]
        return [], [Problem(name, 1, "", "; ".join(what), "Give every column its own name in the first row")]
    rows, problems = [], []
    for number, cells in lines:
        if any(cell.strip() for cell in cells[len(header) :]):
            message = f"the row has a value beyond the header's {len(header)} columns"
            problems.append(Problem(name, number, "", message, "Name that column in the first row, or clear the cell"))
        cells = [*cells[: len(header)], *[""] * (len(header) - len(cells))]
        rows.append(Row(number, dict(zip(header, cells, strict=True))))
    if not rows:
        problems.append(Problem(name, 0, "", "the sheet holds a header and no rows", "Add rows, or leave it out"))
    return rows, problems


def _text(value: Any) -> str:
    """A cell as one would type it: whole numbers without a point, TRUE and FALSE, dates in ISO's form."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


FORMAT = Format("an Excel workbook (.xlsx); one sheet, its first row names the columns (needs the extra excel)", _read)
