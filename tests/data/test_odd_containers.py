"""Workbooks, Parquet files and Arrow data that are damaged, too large, or not what their names say: one clear line."""

from __future__ import annotations

import gzip
import io
import json
import os
import time
import zipfile
from pathlib import Path

import pytest

from abmll.data.readers import read_task
from abmll.data.validate import check_task

arrow = pytest.importorskip("pyarrow")
openpyxl = pytest.importorskip("openpyxl")
SHEET = "xl/worksheets/sheet1.xml"
SECONDS = 10
"""An order of magnitude above what a refusal takes, for a slow and busy machine."""


def rows(count: int = 40) -> list[tuple[str, str]]:
    return [(f"Some text {n}", ("bad", "good")[n % 2]) for n in range(count)]


def told(path: Path) -> str:
    start = time.process_time()
    problems = check_task(path).problems
    assert time.process_time() - start < SECONDS
    return "\n".join(str(problem) for problem in problems)


def workbook(values: list[tuple] | None = None, /, **replaced: bytes) -> bytes:
    """A workbook with a table; replaced: the content of its parts by their names."""
    book = openpyxl.Workbook()
    for row in [("text", "label"), *(values or rows())]:
        book.active.append(row)
    book.save(whole := io.BytesIO())
    with zipfile.ZipFile(whole) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()} | replaced
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return changed.getvalue()


def sheet(body: str) -> bytes:
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return f'<worksheet xmlns="{space}"><sheetData>{body}</sheetData></worksheet>'.encode()


@pytest.mark.parametrize(
    ("part", "content"),
    [
        (SHEET, b"junk"),
        (SHEET, sheet("<row><c r='A1'><v>1")[:-30]),
        (SHEET, sheet("<row r='1'><c r='ZZZZZ99999'><v>1</v></c></row>")),
        (SHEET, sheet("<row r='1'><c r='A1' t='s'><v>99</v></c></row>")),
        ("xl/workbook.xml", b"junk"),
        ("[Content_Types].xml", b""),
    ],
)
def test_a_damaged_workbook(tmp_path, part, content):
    (tmp_path / "t.xlsx").write_bytes(workbook(**{part: content}))
    message = told(tmp_path / "t.xlsx")
    assert message.startswith("t.xlsx: the workbook cannot be read (")
    assert message.endswith("Save it again as .xlsx, or as CSV UTF-8.")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"<row>{'<c/><c ></c>' * 200}</row>" * 5001, "a sheet has more than 1,000,000 rows or 1,000,000 cells"),
        ("<row></row>" * 1_001_000, "a sheet has more than 1,000,000 rows or 1,000,000 cells"),
        ("<row>" + "<c><v>1</v></c>" * 6000 + "</row>", "a sheet has more than 5,000 columns"),
    ],
)
def test_a_small_workbook_that_unpacks_to_much(tmp_path, body, message):
    (tmp_path / "t.xlsx").write_bytes(workbook(**{SHEET: sheet(body)}))
    assert (tmp_path / "t.xlsx").stat().st_size < 200_000
    assert message in told(tmp_path / "t.xlsx")


@pytest.mark.parametrize(
    "body",
    [
        "<row r='1'/><row r='900000000'><c r='A900000000'><v>1</v></c></row>",
        "".join(f"<row r='{n}'><c r='XFD{n}'><v>1</v></c></row>" for n in range(1, 90)),
    ],
)
def test_cells_may_say_that_they_stand_anywhere(tmp_path, body, monkeypatch):
    monkeypatch.setattr("abmll.data.formats.excel.MOST_ROWS", 1000)
    monkeypatch.setattr("abmll.data.formats.excel.MOST_PLACES", 1_000_000)
    (tmp_path / "t.xlsx").write_bytes(workbook(**{SHEET: sheet(body)}))
    assert "the sheet 'Sheet' has cells beyond row " in told(tmp_path / "t.xlsx")


def test_a_workbook_that_unpacks_to_more_bytes_than_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("abmll.data.formats.excel.FILE_LIMIT", 2**20)
    (tmp_path / "t.xlsx").write_bytes(workbook(**{"xl/media/image1.png": bytes(2**20)}))
    assert "the workbook unpacks from" in told(tmp_path / "t.xlsx")


def test_a_sheet_whose_size_is_written_wrongly_is_read_whole(tmp_path):
    whole = workbook()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        content = archive.read(SHEET)
    assert b'ref="A1:B41"' in content
    (tmp_path / "t.xlsx").write_bytes(workbook(**{SHEET: content.replace(b'ref="A1:B41"', b'ref="A1:B9"')}))
    assert len(read_task(tmp_path / "t.xlsx")) == 40


def test_formulas_that_nothing_has_calculated(tmp_path):
    (tmp_path / "t.xlsx").write_bytes(workbook([(f'="a"&{n}', label) for n, (_, label) in enumerate(rows())]))
    assert told(tmp_path / "t.xlsx") == (
        "t.xlsx [text]: no row has a value in 'text', and the sheet holds formulas whose results were not saved. Open "
        "it in a spreadsheet program and save it there, or save the sheet as CSV UTF-8."
    )


@pytest.mark.parametrize("name", ["t.xlsx", "t.parquet", "t.arrow"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"text,label\na,b\n", "the file does not begin as "),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "the file is an old Office file (.xls or .doc), not "),
        (b"<!doctype html><html></html>", "the file is a web page (HTML), not "),
    ],
)
def test_what_a_file_is_if_it_is_not_what_its_name_says(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert told(tmp_path / name).startswith(f"{name}: {message}")


@pytest.mark.parametrize("name", ["t.xlsx", "t.parquet", "t.arrow"])
def test_no_ordinary_file_is_opened(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert told(tmp_path / name) == f"{name}: the file is a named pipe, not a file. Give an ordinary file."
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / name).symlink_to(tmp_path / "x" / name)
    assert "Too many levels of symbolic links" in told(tmp_path / "x" / name)


def parquet(table) -> bytes:
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, sink := io.BytesIO(), compression="zstd")
    return sink.getvalue()


def ipc(table, kind: str = "stream") -> bytes:
    sink = io.BytesIO()
    with (arrow.ipc.new_stream if kind == "stream" else arrow.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def table(**more):
    texts, labels = zip(*rows(), strict=True)
    return arrow.table({"text": texts, "label": labels} | more)


WRITERS = {"t.parquet": parquet, "t.arrow": ipc}


def test_gzip_feather_and_nanoseconds_are_read(tmp_path):
    (tmp_path / "t.parquet.gz").write_bytes(gzip.compress(parquet(table())))
    (tmp_path / "t.arrow").write_bytes(ipc(table(), "file"))
    at = arrow.array([1577836800000000001] * 40, arrow.timestamp("ns", "UTC"))
    (tmp_path / "t.parquet").write_bytes(parquet(table(at=at)))
    for name in ("t.parquet.gz", "t.arrow", "t.parquet"):
        assert [(row.prompt, row.answer) for row in read_task(tmp_path / name).examples] == rows()


@pytest.mark.parametrize("name", WRITERS)
def test_bounds_of_tables(tmp_path, name, monkeypatch):
    write, path = WRITERS[name], tmp_path / name
    same = arrow.array(["a"]).dictionary_encode()
    many = arrow.DictionaryArray.from_arrays(arrow.nulls(1_000_001, arrow.int32()).fill_null(0), same.dictionary)
    path.write_bytes(write(arrow.table({"text": many, "label": many})))
    assert "the file has more than 1,000,000 rows, which is too many" in told(path)
    path.write_bytes(write(arrow.table({f"c{n}": ["a"] for n in range(5001)})))
    assert "the table has 5,001 columns; at most 5,000 are read" in told(path)
    path.write_bytes(write(arrow.table([["a"], ["b"], ["c"]], names=["text", "label", "label"])))
    assert told(path) == f"{name} [label]: the table names the column 'label' twice. Give every column its own name."
    for module in ("contents", "formats.arrow", "formats.datasets"):
        monkeypatch.setattr(f"abmll.data.{module}.FILE_LIMIT", 2**20)
    path.write_bytes(write(arrow.table({"text": ["a" * 2**21], "label": ["b"]})))
    assert "too large" in told(path) or "too many" in told(path)


ONE, FEW, MANY = arrow.array(["x" * 1_000_000]), arrow.array([0, 1, 2], arrow.int32()), 100_000
REPEATED = arrow.array([0] * MANY, arrow.int32())
VIEWS = [None, arrow.py_buffer((10**6).to_bytes(4, "little") + b"xxxx" + bytes(8)), arrow.py_buffer(b"x" * 10**6)]
SMALL_IN_A_FILE = {
    "a dictionary": (arrow.DictionaryArray.from_arrays(REPEATED, ONE), "unpacks to more than 268,435,456 bytes"),
    "views of texts": (
        arrow.Array.from_buffers(arrow.string_view(), MANY, [None, arrow.py_buffer(bytes(VIEWS[1]) * MANY), VIEWS[2]]),
        "unpacks to more than 268,435,456 bytes",
    ),
    "run ends": (
        arrow.RunEndEncodedArray.from_arrays(arrow.array([MANY], arrow.int32()), ONE),
        "of the type 'run_end_encoded<",
    ),
    "views of lists": (
        arrow.ListViewArray.from_arrays(REPEATED, arrow.array([1] * MANY, arrow.int32()), ONE),
        "of the type 'list_view<item: string>', which is not read",
    ),
    "lists of a dictionary": (
        arrow.array([[]] * (MANY - 1) + [["a"]], arrow.list_(arrow.dictionary(arrow.int32(), arrow.string()))),
        "of the type 'list<item: dictionary<",
    ),
    "nulls": (
        arrow.ListArray.from_arrays(arrow.array([0] * MANY + [2**30], arrow.int32()), arrow.nulls(2**30)),
        "unpacks to more than 268,435,456 bytes",
    ),
}


@pytest.mark.parametrize("kind", SMALL_IN_A_FILE)
def test_columns_that_say_one_value_many_times(tmp_path, kind):
    column, message = SMALL_IN_A_FILE[kind]
    whole = arrow.table({"text": [f"t{n}" for n in range(MANY)], "label": ["a", "b"] * (MANY // 2), "more": column})
    (tmp_path / "t.arrow").write_bytes(ipc(whole))
    assert message in told(tmp_path / "t.arrow")


def test_columns_of_every_ordinary_type_are_read(tmp_path):
    texts = arrow.array([text for text, _ in rows()]).cast(arrow.string_view())
    labels = arrow.array([label for _, label in rows()]).dictionary_encode()
    pairs = arrow.array([[("a", 1)]] * 40, arrow.map_(arrow.string(), arrow.int64()))
    more = {"none": arrow.array([[]] * 40), "parts": arrow.array([{"a": [1]}] * 40), "pairs": pairs}
    fixed = arrow.array([[1, 2]] * 40, arrow.list_(arrow.int8(), 2))
    (tmp_path / "t.arrow").write_bytes(ipc(arrow.table({"text": texts, "label": labels, "two": fixed} | more)))
    assert [(row.prompt, row.answer) for row in read_task(tmp_path / "t.arrow").examples] == rows()


def test_a_workbook_keeps_a_text_once_for_all_its_cells(tmp_path, monkeypatch):
    shared = '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>{}</t></si></sst>'
    part = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    with zipfile.ZipFile(io.BytesIO(workbook())) as archive:
        types = archive.read("[Content_Types].xml").decode()
    types = types.replace("</Types>", f'<Override PartName="/xl/sharedStrings.xml" ContentType="{part}"/></Types>')
    cells = "<row><c t='s'><v>0</v></c></row>" * 2000
    replaced = {SHEET: sheet(cells), "xl/sharedStrings.xml": shared.format("word " * 10_000).encode()}
    monkeypatch.setattr("abmll.data.formats.excel.FILE_LIMIT", 2**24)
    (tmp_path / "t.xlsx").write_bytes(workbook(**replaced, **{"[Content_Types].xml": types.encode()}))
    assert "the sheet 'Sheet' has more than 16,777,216 characters, which is too many" in told(tmp_path / "t.xlsx")


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_tables(tmp_path, name):
    path, whole = tmp_path / name, WRITERS[name](table())
    for damaged in (whole[:-100], whole[:60] + bytes([whole[60] ^ 255]) * 40 + whole[100:]):
        path.write_bytes(damaged)
        assert " data " in (message := told(path))
        assert " cannot be read (" in message
    for offsets in ([0, 4, 8], [0, 400_000, 8]):
        buffers = [
            None,
            arrow.py_buffer(b"".join(n.to_bytes(4, "little") for n in offsets)),
            arrow.py_buffer(b"caf\xe9" * 2),
        ]
        broken = arrow.Array.from_buffers(arrow.string(), 2, buffers)
        if offsets[1] > 8 and name == "t.parquet":
            continue  # cannot be written
        path.write_bytes(WRITERS[name](arrow.table({"text": broken, "label": ["a", "b"]})))
        assert "cannot be read (In column 0: Invalid" in told(path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("[1]", "its state.json names no data files"),
        ('{"_data_files": []}', "its state.json names no data files"),
        ("[" * 100_000, "its state.json names no data files"),
        ('{"_data_files": [{"filename": "../t.arrow"}]}', "names the data file '../t.arrow', which is not there"),
        (
            '{"_data_files": [{"filename": "t.arrow"}, {"filename": "u.arrow"}]}',
            "u.arrow has other columns than t.arrow",
        ),
    ],
)
def test_damaged_folders_of_datasets(tmp_path, state, message):
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "t.arrow").write_bytes(ipc(table()))
    (folder / "t.arrow").write_bytes(ipc(table()))
    (folder / "u.arrow").write_bytes(ipc(arrow.table({"other": [1]})))
    (folder / "state.json").write_text(state)
    assert message in told(folder)


def test_a_json_text_of_too_many_values(tmp_path, monkeypatch):
    monkeypatch.setattr("abmll.core.documents.MOST_VALUES", 1000)
    (tmp_path / "t.json").write_text(json.dumps([{} for _ in range(1000)]))
    assert told(tmp_path / "t.json") == "t.json: more than 1,000 values. Take a part of it."
