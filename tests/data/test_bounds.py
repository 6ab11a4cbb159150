"""Bad input costs bounded time and memory: a clear refusal in seconds."""

from __future__ import annotations

import gzip
import json
import os
import time
import tracemalloc

import pytest

from abmll.data.contents import FILE_LIMIT
from abmll.data.row import MOST_ROWS
from abmll.data.validate import check_task

SECONDS = 20
"""An order of magnitude above what it takes, for a slow and busy machine."""


def refused(path, content: bytes | None = None) -> str:
    if content is not None:
        path.write_bytes(content)
    start = time.process_time()
    checked = check_task(path)
    assert time.process_time() - start < SECONDS
    found = [str(problem) for problem in checked.problems if problem.severity == "error"]
    assert found, checked.problems
    assert max(map(len, found)) < 1500
    return found[0]


FORMS = [("t.csv.gz", b"a,b\n"), ("t.jsonl.gz", b"{}\n"), ("t.tsv.gz", b"a\tb\n")]


@pytest.mark.parametrize(("name", "line"), FORMS)
def test_more_rows_than_are_read(tmp_path, monkeypatch, name, line):
    """With a limit of a thousand rows: what is told, whatever kind of file it is."""
    for module in ("row", "table_rows", "json_rows"):
        monkeypatch.setattr(f"abmll.data.{module}.MOST_ROWS", 1000)
    header = b"text\tlabel\n" if b"\t" in line else b"text,label\n"
    told = refused(tmp_path / name, gzip.compress(header + line * 8_000))
    assert told.startswith(f"{name}: the file has more than 1,000 rows, which is too many. Take a part of them")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "line"), FORMS)
def test_millions_of_rows_in_a_small_file(tmp_path, name, line):
    data = gzip.compress(b"text,label\n" + line * 8_000_000)
    assert len(data) < 100_000
    tracemalloc.start()
    told = refused(tmp_path / name, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told.startswith(f"{name}: the file has more than {MOST_ROWS:,} rows, which is too many. Take a part of them")
    assert peak < 1.5e9


def test_a_gzip_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr("abmll.data.contents.FILE_LIMIT", 2**20)
    told = refused(tmp_path / "t.csv.gz", gzip.compress(bytes(2**20 + 1)))
    assert "to more than 1,048,576 bytes, which is too large" in told


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "t.csv", "wb") as file:
        file.truncate(FILE_LIMIT + 1)
    assert "t.csv: the file is too large: " in refused(tmp_path / "t.csv")


def test_a_hundred_thousand_columns(tmp_path):
    names = ",".join(["text", "label", *(f"c{n}" for n in range(100_000))])
    told = refused(tmp_path / "t.csv", f"{names}\n{',' * 100_001}\n".encode())
    assert told.startswith("t.csv:1: the header has 100,002 columns; at most 5,000 are read.")
    same = ",".join(["text"] * 4000)
    assert "the header names the column 'text' 4000 times" in refused(tmp_path / "t.csv", f"{same}\n".encode())


def test_a_hundred_thousand_choices_or_classes(tmp_path):
    choices = [f"choice {n}" for n in range(100_000)]
    record = json.dumps({"text": "a", "options": choices, "target": 3})
    assert "the row has 100,000 choices; at most 1,000 are scored" in refused(tmp_path / "t.jsonl", record.encode())
    cell = f"text,options,target\na,{'|'.join(choices)},3\n"
    assert "the row has 100,000 choices" in refused(tmp_path / "t.csv", cell.encode())
    labels = "text,label\n" + "".join(f"text {n},class {n // 3}\n" for n in range(30_000))
    assert "the labels are 10,000 classes; at most 1,000 are scored" in refused(tmp_path / "t.csv", labels.encode())


def test_very_long_texts_labels_and_names(tmp_path):
    long = "word " * 400_000
    assert "the input has 2,000,000 characters; at most 1,000,000" in refused(
        tmp_path / "t.csv", f'text,label\n"{long}",a\n"b",b\n'.encode()
    )
    rows = [{"text": f"t{n}", "options": ["a" * 300_000, "b" * 300_000], "label": "c" * 300_000} for n in range(3)]
    told = refused(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert "… (300,000 characters) is not among the choices" in told
    refused(tmp_path / "t.csv", f"{'x' * 10**6},{'y' * 10**6}\na,b\n".encode())


def test_a_spec_that_makes_much_of_a_small_file(tmp_path, monkeypatch):
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{'x' * 5000},{'ab'[n % 2]}\n" for n in range(100)))
    (tmp_path / "t.toml").write_text(f'file = "rows.csv"\ninput = "{"{text}" * 1000}"\n')
    told = "rows.csv:2 [text]: the input has 5,000,000 characters; at most 1,000,000 are read"
    assert refused(tmp_path / "t.toml").startswith(told)
    monkeypatch.setattr("abmll.data.placing.FILE_LIMIT", 2**20)
    (tmp_path / "t.toml").write_text(f'file = "rows.csv"\ninput = "{"{text}" * 20}"\n')
    assert "the texts that the spec makes have more than 1,048,576 characters together" in refused(tmp_path / "t.toml")


def test_a_json_array_of_too_many_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("abmll.data.formats.json.MOST_ROWS", 1000)
    monkeypatch.setattr("abmll.data.row.MOST_ROWS", 1000)
    assert "more than 1,000 rows, which is too many" in refused(tmp_path / "t.json", b"[" + b"[]," * 1000 + b"[]]")


def test_thousands_of_mistakes_with_long_lists_of_names(tmp_path):
    choices = [f"choice number {n}" for n in range(900)]
    lines = [json.dumps({"text": f"t{n}", "options": choices, "label": f"chioce number {n}"}) for n in range(400)]
    assert "Did you mean 'choice number " in refused(tmp_path / "t.jsonl", "\n".join(lines).encode())


def test_things_that_are_no_files(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nothing.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "loop.csv: the file cannot be read: Too many levels of symbolic links" in refused(tmp_path / "loop.csv")
    assert "It is a link to a file that is gone" in refused(tmp_path / "gone.csv")
    assert "pipe.csv: the file is a named pipe, not a file" in refused(tmp_path / "pipe.csv")
    (tmp_path / "t.toml").write_text('file = "pipe.csv"\n')
    assert "is a named pipe" in refused(tmp_path / "t.toml")
    (tmp_path / "t.toml").write_text('file = "loop.csv"\n')
    refused(tmp_path / "t.toml")
    (tmp_path / "t.toml").write_text('file = "a\\u0000b.csv"\n')
    refused(tmp_path / "t.toml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = " + "[" * 50_000, "t.toml: nested more than 64 levels deep."),
        ("file = " + "9" * 5000, "t.toml:1: a whole number of more than 100 digits."),
        ("file = 'a.csv'\n" + ".".join("k" * 100_000) + " = 1", "t.toml:2: a key of more than 64 parts."),
        ("file = 'a.csv'\nfile = 'b.csv'", "t.toml:2: broken TOML: Cannot overwrite a value."),
    ],
)
def test_specs_of_strangers(tmp_path, text, told):
    assert refused(tmp_path / "t.toml", text.encode()).startswith(told)
