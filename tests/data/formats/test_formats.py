"""Every format: 500 random rows come back as they were, and what is broken is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from abmll.core.errors import AbmllError
from abmll.data.formats import find_format, format_names
from abmll.data.formats.format import Options
from abmll.data.readers import parse_task, read_task
from tests import format_files as written

NAMES = [
    *(
        "arc",
        "argilla",
        "bbh",
        "bigbench",
        "chembench",
        "crossfit",
        "datasets",
        "excel",
        "json",
        "label-studio",
        "letters",
        "messages",
    ),
    *("metaicl", "natural-instructions", "parquet", "promptfoo", "unifiedqa"),
]
PAGE = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")


def test_formats_are_found_by_name():
    assert format_names() == NAMES
    assert all(find_format(name).says and f"| `{name}` |" in PAGE for name in format_names())
    with pytest.raises(AbmllError, match=r"unknown format 'parket'. Did you mean 'parquet'"):
        find_format("parket")


def test_a_spec_with_an_unknown_format_says_which_there_are(tmp_path):
    (tmp_path / "task.toml").write_text('file = "x.csv"\nformat = "mesages"\n')
    with pytest.raises(AbmllError, match=r"task.toml \[format\]: unknown format 'mesages'. Did you mean 'messages'"):
        read_task(tmp_path / "task.toml")


def test_every_format_has_its_500_rows():
    known = {write.__name__.replace("_", "-") for write in [*written.LABELS, *written.WITHOUT_A_SIGN, *written.CHOICES]}
    assert known - {"csv-table", "json-lines", "json-array"} | {"json"} == set(NAMES)


@pytest.mark.parametrize(
    "write", [*written.LABELS, *written.WITHOUT_A_SIGN, *written.CHOICES], ids=lambda write: write.__name__
)
def test_500_random_rows_come_back(write, tmp_path):
    rows = written.multiple_choice(500) if write in written.CHOICES else written.classification(500)
    pytest.importorskip({"parquet": "pyarrow", "datasets": "pyarrow", "excel": "openpyxl"}.get(write.__name__, "json"))
    (tmp_path / "task.toml").write_text(write(tmp_path, rows))
    task = read_task(tmp_path / "task.toml")
    plain = write is written.unifiedqa
    expected = [(row.text.replace("\\n", "").strip() if plain else row.text, row.choices, row.target) for row in rows]
    assert [(row.prompt, row.choices, row.target) for row in task.examples] == expected
    assert len({row.id for row in task.examples}) == 500


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_something_else_is_one_clear_problem(name, tmp_path):
    if name in ("parquet", "datasets", "excel"):
        pytest.importorskip("openpyxl" if name == "excel" else "pyarrow")
    suffix = {"parquet": "parquet", "excel": "xlsx", "datasets": "arrow", "messages": "jsonl", "letters": "csv"}
    file = tmp_path / f"task.{suffix.get(name, 'json')}"
    for content in (b'{"x": 1}', b"[1, 2]", b"\x00\xff not it", b"", b"[" * 100_000):
        file.write_bytes(content)
        (tmp_path / "task.toml").write_text(f'file = "{file.name}"\nformat = "{name}"\n')
        parsed = parse_task(tmp_path / "task.toml")
        assert parsed.task is None
        found = [problem for problem in parsed.problems if problem.severity == "error"]
        assert found, (name, content[:20])
        assert all(problem.message and problem.cure for problem in found)


def test_class_labels_come_out_as_their_names_and_hidden_ones_are_missing(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "flag": {"names": ["0", "1"]}}
    table = arrow.table({"text": ["a", "b", "c"], "label": [0, 1, -1], "flag": [0, 1, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, tmp_path / "x.parquet")
    reading = find_format("parquet").read(tmp_path / "x.parquet", Options())
    assert [row.fields["label"] for row in reading.rows] == ["neg", "pos", None]
    assert [row.fields["flag"] for row in reading.rows] == [0, 1, 1]


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.partition(".")[0] in ("pyarrow", "openpyxl"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    for name, extra in (("x.parquet", "parquet"), ("x.xlsx", "excel")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(AbmllError, match=rf"pip install 'abmll\[{extra}\]'"):
            read_task(tmp_path / name)


def test_a_workbook_with_two_sheets_says_which_was_read(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "first"
    second = book.create_sheet("second")
    for sheet, label in ((book.active, 1), (second, "b")):
        for row in (["text", "label", "score"], ["x", label, 2.0], ["y", True, None], ["z", "c", 0.5]):
            sheet.append(row)
    book.save(tmp_path / "w.xlsx")
    parsed = parse_task(tmp_path / "w.xlsx")
    assert "'first', 'second' hold rows; 'first' was read" in parsed.problems[0].message
    assert parsed.placed[0].example.choices == ("1", "TRUE", "c")
    (tmp_path / "w.toml").write_text('file = "w.xlsx"\nsheet = "second"\n')
    assert read_task(tmp_path / "w.toml").examples[0].choices == ("TRUE", "b", "c")
    (tmp_path / "w.toml").write_text('file = "w.xlsx"\nsheet = "third"\n')
    with pytest.raises(AbmllError, match=r"no sheet 'third'. Its sheets are: first, second"):
        read_task(tmp_path / "w.toml")


def test_a_datasets_folder_of_several_splits_asks_for_one(tmp_path):
    pytest.importorskip("pyarrow")
    written.datasets(tmp_path, written.classification(210))
    (tmp_path / "t.toml").write_text('file = "saved"\n')
    with pytest.raises(AbmllError, match=r'holds several splits \(train\). Name one: file = "saved/train"'):
        read_task(tmp_path / "t.toml")
    (tmp_path / "saved" / "train" / "data-00001.arrow").unlink()
    (tmp_path / "t.toml").write_text('file = "saved/train"\n')
    with pytest.raises(AbmllError, match=r"names the data file 'data-00001.arrow', which is not there"):
        read_task(tmp_path / "t.toml")
