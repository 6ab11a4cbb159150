"""From the text of a CSV or TSV file to rows: which line is the header, what separates the cells, what quotes mean."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from abmll.core.errors import shown
from abmll.data.columns import is_usual
from abmll.data.problems import Problem, listed_lines
from abmll.data.row import MOST_COLUMNS, MOST_LINES, MOST_ROWS, Row, too_many_rows

SEPARATORS = (",", ";", "\t", "|")
NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar (|)", " ": "a space"}
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r|$)")
_SEP_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)
_RULE = re.compile(r":?-{2,}:?|")
_JSON_LINE = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:')
_UNUSUAL = ("^", ":", " ", "~", "¦", "\x1f", "\x01")
"""What separates cells now and then: named where the header looks so, and not taken by itself."""
_TYPOGRAPHIC = ("“", "”", "„", "«", "»")


@dataclass
class Dialect:
    """How the cells of a table are written.

    Attributes:
        delimiter: None where it is to be recognised.
        quoting: whether a double quote at a cell's start encloses the cell. None: it does, but a quote that encloses
            what look like other rows is an error; True takes these as they are.
        header: column names of a file without a header line.
    """

    delimiter: str | None = None
    quoting: bool | None = None
    header: list[str] | None = None
    usual: str = ","
    """What separates the cells if nothing else is seen: a tab in .tsv."""
    quotechar: str = '"'


@dataclass
class _Record:
    line: int
    cells: list[str]
    lines: list[str] = field(default_factory=list)
    """The lines of the file that it was read from."""


def table_rows(name: str, text: str, dialect: Dialect) -> tuple[list[Row], list[Problem]]:
    """All rows of a table, and what keeps others from being read."""
    problems: list[Problem] = []
    if text.count("\n") > MOST_LINES:
        return [], [too_many_rows(name)]
    if (problem := _json(name, text)) is not None:
        return [], [problem]
    start, mark = _separator_line(text)
    first = next((line for line in _lines(text[start:]) if line.strip()), "")
    delimiter = dialect.delimiter or mark or _recognised(first, text[start:], dialect)
    quotechar = "'" if _single_quoted(first, delimiter) else dialect.quotechar
    reader = _Reader(text[start:], delimiter, dialect.quoting is not False, quotechar, 2 if mark else 1)
    header = dialect.header
    if header is None:
        record = next(iter(reader), None)
        if record is None:
            return [], _broken(name, reader, delimiter)
        header = [_trimmed(cell) for cell in record.cells]
        problems = _check_header(name, record.line, header)
        if dialect.delimiter is None and len(header) == 1:
            problems += _one_cell(name, record.line, header[0], text[start:])
        if problems:
            return [], problems
    if delimiter != dialect.usual and dialect.delimiter is None:
        told = f"cells are separated by {NAMES.get(delimiter, repr(delimiter))}"
        problems.append(Problem(name, 0, "", told, "Nothing needs to be done", "note"))
    rows: list[Row] = []
    ragged: list[_Record] = []
    several: list[_Record] = []
    again: list[int] = []
    width = len(header)
    named = [(place, column) for place, column in enumerate(header) if column]
    for record in reader:
        cells = record.cells
        if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
            cells = cells[:width]  # a spreadsheet writes as many cells as its widest row has
        if not rows and all(_RULE.fullmatch(cell.strip()) for cell in cells):
            continue  # the rule under the header of a Markdown table
        if not any(cell.strip() for cell in cells) and (len(cells) > 1 or width == 1):
            continue
        if len(rows) >= MOST_ROWS:
            return [], [too_many_rows(name)]
        if dialect.header is None and [_trimmed(cell) for cell in cells] == header:
            again.append(record.line)
            continue
        if len(cells) != width:
            ragged.append(_Record(record.line, cells))
            continue
        if len(record.lines) > 1 and len(several) < 1000:
            several.append(_Record(record.line, cells, record.lines))
        rows.append(Row(record.line, {column: cells[place] for place, column in named}))
    problems += _broken(name, reader, delimiter)
    if again:
        message = (
            f"the names of the columns stand there again (line{'s' if len(again) > 1 else ''} {listed_lines(again)})"
        )
        cure = "Several files were joined: look whether rows repeat, and remove such lines; they are passed over"
        problems.append(Problem(name, again[0], "", message, cure, "warning"))
    if dialect.quoting is None:
        problems += _swallowed(name, header, rows, several, delimiter)
    problems += _ragged(name, header, ragged, len(rows), delimiter, text[start:])
    return rows, problems


class _Reader:
    """The records of a table with the lines that each was read from. `error` is set where quoting breaks."""

    def __init__(self, text: str, delimiter: str, quoting: bool, quotechar: str, first_line: int) -> None:
        csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than a long document
        self.error: csv.Error | None = None
        self.line = self._next = first_line
        self._buffer: list[str] = []
        lines = self._tee(_lines(text))
        spaced = quoting and _spaced_quotes(text, delimiter, quotechar)
        self._csv = csv.reader(
            lines,
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
            quotechar=quotechar,
            strict=True,
            skipinitialspace=spaced,
        )

    def _tee(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            self._buffer.append(line)
            yield line

    def __iter__(self) -> Iterator[_Record]:
        while True:
            try:
                cells = next(self._csv)
            except StopIteration:
                return
            except csv.Error as error:
                self.error = error
                self.line = self._next
                return
            lines, self._buffer = self._buffer, []
            self.line, self._next = self._next, self._next + len(lines)
            if cells:
                yield _Record(self.line, cells, lines)

    @property
    def pending(self) -> int:
        """Lines of the record in which reading stopped."""
        return len(self._buffer)


def _lines(text: str) -> Iterator[str]:
    """The lines of a text with their ends, one after the other: a list of all would take a multiple of the text."""
    start = 0
    while start < len(text):
        found = _LINE.match(text, start)
        assert found is not None
        yield found[0]
        start = found.end()


def _separator_line(text: str) -> tuple[int, str | None]:
    """Excel's first line `sep=;`: where the table starts behind it, and the separator."""
    first = _LINE.match(text)
    found = _SEP_LINE.fullmatch(first[0].strip('" \r\n')) if first else None
    return (first.end(), found[1]) if first and found else (0, None)


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _recognised(first: str, text: str, dialect: Dialect) -> str:
    """The separator: the usual one if the header has it, else the one under which the first lines are a table."""
    best, best_rank = dialect.usual, (-1, -1)
    for delimiter in (dialect.usual, *(one for one in SEPARATORS if one != dialect.usual)):
        cells = _cells(first, delimiter)
        if len(cells) < 2 or not _even(text, delimiter, len(cells)):
            continue
        rank = (sum(is_usual(cell) for cell in cells), 1 if delimiter == dialect.usual else 0)
        if rank > best_rank:
            best, best_rank = delimiter, rank
    return best


def _even(text: str, delimiter: str, width: int) -> bool:
    """Whether most of the first records have as many cells as the header; also if there are none."""
    same = count = 0
    reader = _Reader(text[:100_000], delimiter, True, '"', 1)
    for record in reader:
        count += 1
        same += len(record.cells) == width
        if count == 20:
            break
    return same > count / 2


def _single_quoted(first: str, delimiter: str) -> bool:
    cells = [cell.strip() for cell in first.rstrip("\r\n").split(delimiter)]
    return len(cells) > 1 and all(len(cell) > 2 and cell[0] == cell[-1] == "'" for cell in cells)


def _spaced_quotes(text: str, delimiter: str, quotechar: str) -> bool:
    """Whether cells are enclosed in quotes behind a space, as in `a, "b, c"`: so in most of the first lines."""
    if delimiter == " ":
        return False
    behind_space = re.compile(rf"{re.escape(delimiter)} +{quotechar}[^{quotechar}]")
    lines = [line for _, line in zip(range(20), _lines(text[:100_000]), strict=False) if line.strip()]
    return sum(behind_space.search(line) is not None for line in lines[1:] or lines) > len(lines[1:] or lines) / 2


def _json(name: str, text: str) -> Problem | None:
    """What is told of JSON under the name of a table; None for anything else."""
    start = text[:10_000].lstrip()
    array = start.startswith("[")
    if not _JSON_LINE.match(start[1:].lstrip() if array else start):
        return None
    cure = "Name it .json" if array else "Name it .jsonl (one object a line) or .json (one object or array)"
    return Problem(name, 1, "", "the file holds JSON, not a table", cure)


def _trimmed(cell: str) -> str:
    """Without the spaces around it, and without the mark at the start of a file that was joined to another."""
    return cell.strip().strip("\ufeff").strip()


def _one_cell(name: str, line: int, header: str, text: str) -> list[Problem]:
    """What is told of a header in one cell whose names stand there, separated by what rarely separates cells."""
    for delimiter in _UNUSUAL:
        cells = header.split(delimiter)
        if len(cells) > 1 and all(is_usual(cell) for cell in cells) and _even(text, delimiter, len(cells)):
            what = NAMES.get(delimiter, repr(delimiter))
            message = f"the header is one cell, {shown(header, 40)}: the cells seem to be separated by {what}"
            return [Problem(name, line, "", message, f"Set delimiter = {json.dumps(delimiter)} in a TOML spec")]
    return []


def _check_header(name: str, line: int, header: list[str]) -> list[Problem]:
    if len(header) > MOST_COLUMNS:
        message = f"the header has {len(header):,} columns; at most {MOST_COLUMNS:,} are read"
        return [Problem(name, line, "", message, "Keep the columns of the text and the label")]
    if any(column.startswith(_TYPOGRAPHIC) and column.endswith(_TYPOGRAPHIC) for column in header):
        message = (
            f"the cells are enclosed in typographic quotes ({header[0][0]} {header[0][-1]}), which CSV does not know"
        )
        return [Problem(name, line, "", message, 'Replace them by straight ones (")')]
    counts = Counter(column for column in header if column)
    return [
        Problem(
            name,
            line,
            column,
            f"the header names the column {shown(column)} {'twice' if count == 2 else f'{count} times'}",
            "Give every column its own name",
        )
        for column, count in sorted(counts.items())
        if count > 1
    ]


def _broken(name: str, reader: _Reader, delimiter: str) -> list[Problem]:
    if reader.error is None:
        return []
    message = f"broken quoting in the row that starts here ({reader.error})"
    if reader.pending > 1:
        message += f"; it goes on over {reader.pending - 1} more line{'s' if reader.pending > 2 else ''}"
    cure = "Double each quote inside a quoted cell, or set quoting = false in a TOML spec if quotes mean nothing"
    if "\\" in "".join(reader._buffer[:50]):
        cure = f"{cure}; a backslash before a quote means nothing in CSV"
    return [Problem(name, reader.line, "", message, cure)]


def _swallowed(
    name: str, header: Sequence[str], rows: Sequence[Row], several: Sequence[_Record], delimiter: str
) -> list[Problem]:
    """Quoted cells over several lines that look like rows of their own: a stray quote opened and another closed it.

    A line of such a cell, the last one aside, is taken for a row if it has as many cells as the header. In TSV that is
    enough: texts hold no tabs. Elsewhere it must also say, in one of its columns, what other rows say there, such as a
    label.
    """
    if not several or len(header) < 2:
        return []
    said: list[Counter[str]] = [Counter() for _ in header]
    if delimiter != "\t":
        for row in rows:
            for place, column in enumerate(header):
                cell = row.fields.get(column, "")
                if len(cell) <= 60 and "\n" not in cell:
                    said[place][cell.strip()] += 1
    problems = []
    for record in several:
        count = 0
        for line in record.lines[:-1]:  # behind the last one's closing quote, the row goes on
            cells = [cell.strip().strip('"') for cell in line.rstrip("\r\n").split(delimiter)]
            fits = len(cells) == len(header) and any(cells)
            known = delimiter == "\t" or any(said[place][cell] > 1 for place, cell in enumerate(cells) if cell and fits)
            count += fits and known
        if count:
            last = record.line + len(record.lines) - 1
            rows_are = (
                f"{count} lines that look like rows of their own are"
                if count > 1
                else "a line that looks like a row is"
            )
            message = f"a double quote opens a cell that closes on line {last} only: {rows_are} swallowed"
            cure = (
                "Set quoting = false in a TOML spec if quotes mean nothing (quoting = true reads it as it stands), or "
                "double each quote inside a cell"
            )
            problems.append(Problem(name, record.line, "", message, cure))
    return problems


def _ragged(
    name: str, header: Sequence[str], ragged: Sequence[_Record], num_rows: int, delimiter: str, text: str
) -> list[Problem]:
    """Rows with another number of cells than the header: each, or all at once with the cause if they are many."""
    width = len(header)
    if not ragged:
        return []
    if len(ragged) >= 3 and len(ragged) > num_rows / 4:
        counts = Counter(len(record.cells) for record in ragged)
        found = ", ".join(f"{count} with {cells}" for cells, count in counts.most_common(3))
        message = (
            f"{len(ragged)} of {len(ragged) + num_rows} rows have another number of cells than the header, which has "
            f"{width} ({found}; lines {listed_lines([record.line for record in ragged])})"
        )
        return [Problem(name, ragged[0].line, "", message, _cause(header, ragged, delimiter, text))]
    problems = []
    for record in ragged:
        message = f"the row has {len(record.cells)} cells, the header has {width}"
        cure = f"Give it {width} cells; put double quotes around a cell that contains {delimiter!r}"
        problems.append(Problem(name, record.line, "", message, cure))
    return problems


def _cause(header: Sequence[str], ragged: Sequence[_Record], delimiter: str, text: str) -> str:
    for number, line in enumerate(_lines(text), start=1):
        if number > 20:
            break
        cells = _cells(line, delimiter)
        if number > 1 and len(cells) > 1 and sum(is_usual(cell) for cell in cells) > sum(map(is_usual, header)):
            return f"The header seems to be line {number}: remove the lines before it"
    for other in SEPARATORS:
        if other != delimiter and _even(text, other, len(_cells(text.partition("\n")[0], other))):
            cells = _cells(text.partition("\n")[0], other)
            if len(cells) > 1:
                return f"The cells may be separated by {NAMES[other]}: set delimiter = {other!r} in a TOML spec"
    if all(len(record.cells) > len(header) for record in ragged):
        return (
            f"Texts that contain {NAMES.get(delimiter, repr(delimiter))} need double quotes around them: export the "
            "file again with quoting, or with another separator"
        )
    return "Export the file again: every row needs as many cells as the header"
