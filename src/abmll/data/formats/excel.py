"""Excel workbooks: one sheet is a table whose first row names the columns. Every cell is text, as in CSV."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from abmll.data.formats.container import missing_library
from abmll.data.formats.format import Format, Options, Reading
from abmll.data.problems import Problem
from abmll.data.rows import Row


def _read(path: Path, options: Options) -> Reading:
    try:
        import openpyxl
    except ImportError:
        return missing_library(path, "an Excel file", "openpyxl", "excel", "save it as CSV UTF-8 from Excel")
    if not path.is_file():
        return Reading([], [Problem(path.name, 0, "", f"there is no file {path}", "Check the path")])
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, TypeError) as error:
        message = f"the workbook cannot be read ({str(error).partition(chr(10))[0]})"
        return Reading([], [Problem(path.name, 0, "", message, "Save it again as .xlsx, or as CSV UTF-8")])
    try:
        return _sheet(path, book, options.sheet)
    finally:
        book.close()


def _sheet(path: Path, book: Any, wanted: str | None) -> Reading:
    names = [sheet.title for sheet in book.worksheets]
    if wanted is not None and wanted not in names:
        message = f"the workbook has no sheet {wanted!r}"
        return Reading([], [Problem(path.name, 0, "sheet", message, f"Its sheets are: {', '.join(names)}")])
    filled = []
    for sheet in book.worksheets if wanted is None else [book[wanted]]:
        cells = [[_text(value) for value in row] for row in sheet.iter_rows(values_only=True)]
        lines = [(number, row) for number, row in enumerate(cells, start=1) if any(cell.strip() for cell in row)]
        if lines:
            filled.append((sheet.title, lines))
    if not filled:
        return Reading([], [Problem(path.name, 0, "", "the workbook holds no rows", "Add rows, or leave it out")])
    problems = []
    if len(filled) > 1:
        message = f"the sheets {', '.join(repr(name) for name, _ in filled)} hold rows; {filled[0][0]!r} was read"
        problems.append(
            Problem(path.name, 0, "sheet", message, 'Name another with sheet = "NAME" in a TOML spec', "warning")
        )
    (_, header), *lines = filled[0][1]
    rows, found = _rows(path.name, [cell.strip() for cell in header], lines)
    return Reading(rows, [*problems, *found], table=True)


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
