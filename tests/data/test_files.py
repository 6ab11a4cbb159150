"""What users, offices and hubs export: read right, or refused with one clear line. The messages are what is tested."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from abmll.cli import app
from abmll.core.types import Example
from abmll.data.readers import read_task
from abmll.data.validate import Checked, check_task

TEXTS = ("Broke after a day.", "Does what it should.", "I would buy it again.", "Terrible thing, avoid.")
LABELS = ("negative", "positive", "positive", "negative")


def rows(count: int = 40) -> list[tuple[str, str]]:
    return [(f"{TEXTS[n % 4]} ({n})", LABELS[n % 4]) for n in range(count)]


def csv(pairs: list[tuple[str, str]], header: str = "text,label", mark: str = ",") -> str:
    return "\n".join([header, *(f'"{text}"{mark}{label}' for text, label in pairs)]) + "\n"


def jsonl(records: list[dict]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def found(tmp_path: Path, name: str, content: str | bytes) -> Checked:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return check_task(tmp_path / name)


def told(checked: Checked) -> list[str]:
    return [f"{problem.severity}: {problem}" for problem in checked.problems]


def one(checked: Checked, severity: str) -> str:
    (problem,) = [problem for problem in checked.problems if problem.severity == severity]
    return str(problem)


def classes(checked: Checked) -> dict[str, int]:
    assert checked.profile is not None, told(checked)
    return checked.profile.classes


def examples(tmp_path: Path, name: str, content: str | bytes) -> tuple[Example, ...]:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_task(tmp_path / name).examples


EVEN = {"negative": 20, "positive": 20}


# Quotes.


def stray(mark: str) -> str:
    lines = [f"{text}{mark}{label}" for text, label in rows()]
    lines[5] = f'"A quote opens here{mark}positive'
    lines[9] = f'and closes here."{mark}positive'
    return "\n".join([f"text{mark}label", *lines]) + "\n"


@pytest.mark.parametrize(("name", "mark"), [("t.tsv", "\t"), ("t.csv", ";"), ("t.csv", "|")])
def test_a_quote_that_swallows_rows_names_the_line_and_how_many(tmp_path, name, mark):
    assert one(found(tmp_path, name, stray(mark)), "error").startswith(
        f"{name}:7: a double quote opens a cell that closes on line 11 only: 4 lines that look like rows of their own "
        "are swallowed. Set quoting = false in a TOML spec"
    )


def test_quoting_says_how_such_a_file_is_meant(tmp_path):
    (tmp_path / "t.tsv").write_text(stray("\t"))
    (tmp_path / "t.toml").write_text('file = "t.tsv"\nquoting = false\n')
    task = read_task(tmp_path / "t.toml")
    assert len(task) == 40
    assert task.examples[5].prompt == '"A quote opens here'
    (tmp_path / "t.toml").write_text('file = "t.tsv"\nquoting = true\n')
    assert len(read_task(tmp_path / "t.toml")) == 36


def test_cells_over_several_lines_are_no_swallowed_rows(tmp_path):
    letter = '"Dear Sir, hello\nI wrote, ""yes""\n, good, positive\nBye",positive\n'
    assert "error" not in {problem.severity for problem in found(tmp_path, "t.csv", csv(rows()) + letter).problems}


def test_a_quote_that_is_never_closed_says_how_far_it_goes(tmp_path):
    text = csv(rows()).replace('"I would buy it again. (2)"', '"I would buy it again. (2)')
    assert "t.csv:4: broken quoting in the row that starts here" in one(found(tmp_path, "t.csv", text), "error")


def test_single_quotes_spaces_before_quotes_and_typographic_ones(tmp_path):
    single = "'text','label'\n" + "".join(f"'{text}',{label}\n" for text, label in rows())
    assert examples(tmp_path, "t.csv", single)[3].prompt == "Terrible thing, avoid. (3)"
    spaced = "label, text\n" + "".join(f'{label}, "{text}"\n' for text, label in rows())
    assert examples(tmp_path, "t.csv", spaced)[3].prompt == "Terrible thing, avoid. (3)"
    curly = "“text”,“label”\n" + "".join(f"“{n}”,“{label}”\n" for n, (_, label) in enumerate(rows()))
    assert "typographic quotes (“ ”), which CSV does not know" in one(found(tmp_path, "t.csv", curly), "error")


# Labels.


@pytest.mark.parametrize(
    ("odd", "how"),
    [
        ("Negative", "'Negative' (1) (in case)"),
        ("very\u00a0negative", None),
        ("\u200bnegative", r"'\u200bnegative' (1) (in characters that cannot be seen)"),
        ("negative\ufeff", r"'negative\ufeff' (1) (in characters that cannot be seen)"),
        ("nega\u00adtive", r"'nega\xadtive' (1) (in characters that cannot be seen)"),
        ("ｎｅｇａｔｉｖｅ", "(1) (in Unicode form)"),
        ("negative.", "'negative.' (1) (in punctuation)"),
        ("Negative!", "'Negative!' (1) (in punctuation)"),
        ("n\u0435gative", r"'n\u0435gative' (1) (in letters of another alphabet)"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_labels_that_differ_only_in_how_they_are_written(tmp_path, odd, how, form):
    pairs = rows()
    pairs[3] = (pairs[3][0], odd)
    records = jsonl([{"text": text, "label": label} for text, label in pairs])
    checked = found(tmp_path, f"t.{form}", csv(pairs) if form == "csv" else records)
    message = next((text for text in told(checked) if "differ only in how they are written" in text), None)
    if how is None:
        assert message is None
        return
    assert message is not None
    assert "'negative' (19) and " in message
    assert how in message
    assert "Spell them alike in the file, or map all labels under labels in a TOML spec, among them " in message
    assert sum("differ only" in text for text in told(checked)) == 1
    assert any("has one row only" in text for text in told(checked))


def test_underscores_and_hyphens_for_spaces_are_told_and_other_marks_are_not(tmp_path):
    pairs = [(text, ["very_bad", "very bad", "C", "C++"][n % 4]) for n, (text, _) in enumerate(rows())]
    (message,) = [text for text in told(found(tmp_path, "t.csv", csv(pairs))) if "differ only" in text]
    assert "'very bad' (10) and 'very_bad' (10) (in punctuation)" in message
    assert "C++" not in message
    pairs = [(text, ["\u0441\u043e\u0440", "cop", "+", "-"][n % 4]) for n, (text, _) in enumerate(rows())]
    assert not any("differ only" in text for text in told(found(tmp_path, "t.csv", csv(pairs))))


def test_labels_that_another_program_wrote_as_lists_are_told(tmp_path):
    pairs = [(text, f"['{label}']") for text, label in rows()]
    message = one(found(tmp_path, "t.csv", csv(pairs)), "warning")
    assert "labels are lists of another program: ['negative'] (20), ['positive'] (20). Write the label alone" in message


def test_what_turns_the_direction_of_a_terminal_is_escaped(tmp_path):
    pairs = [(text, f"\u202e{label}") for text, label in rows()]
    (tmp_path / "t.csv").write_text(csv(pairs), encoding="utf-8")
    shown = CliRunner().invoke(app, ["tasks", "validate", str(tmp_path / "t.csv")]).output
    assert r"\u202enegative (20)" in shown
    assert "\u202e" not in shown
    path = tmp_path / "evil\u202egpj.csv"
    path.write_text(csv(rows()))
    (problem,) = check_task(path).problems
    assert str(problem) == r"evil\u202egpj.csv: the file's name holds characters that no terminal prints. Rename it."


def test_the_unicode_form_of_labels_is_told_in_escapes(tmp_path):
    pairs = [(f"Texte {n}", "thé" if n % 2 else "café") for n in range(40)]
    pairs[4] = ("Texte 4", "cafe\u0301")
    message = next(text for text in told(found(tmp_path, "t.csv", csv(pairs))) if "are written" in text)
    assert r"'café' (19) and 'cafe\u0301' (1) (in Unicode form)" in message


@pytest.mark.parametrize("space", [" ", "\u00a0", "\t", "\u3000"])
def test_spaces_around_labels_are_left_out_and_told(tmp_path, space):
    pairs = [(text, f"{space}{label}{space}" if n < 7 else label) for n, (text, label) in enumerate(rows())]
    checked = found(tmp_path, "t.csv", csv(pairs))
    assert classes(checked) == EVEN
    assert "the spaces around 7 labels are left out" in one(checked, "note")


def test_numerals_of_one_number_are_told(tmp_path):
    pairs = [(text, ("1", "01", "0")[n % 3]) for n, (text, _) in enumerate(rows(42))]
    checked = found(tmp_path, "t.csv", csv(pairs))
    assert any("'01' (14) and '1' (14) (the same number)" in text for text in told(checked))


def test_numbers_find_their_words_whatever_their_form(tmp_path):
    (tmp_path / "t.toml").write_text('file = "t.csv"\nlabels = {0 = "bad", 1 = "good"}\n')
    for zero, one_ in (("0", "1"), ("0.0", "1.0"), ("00", "01")):
        (tmp_path / "t.csv").write_text(csv([(text, one_ if label == "positive" else zero) for text, label in rows()]))
        task = read_task(tmp_path / "t.toml")
        assert task.examples[0].choices == ("bad", "good")
        assert task.target_counts == {0: 20, 1: 20}
    (tmp_path / "t.toml").write_text('file = "t.jsonl"\nlabels = {0 = "bad", 1 = "good"}\n')
    (tmp_path / "t.jsonl").write_text(jsonl([{"text": t, "label": float(y == "positive")} for t, y in rows()]))
    assert read_task(tmp_path / "t.toml").target_counts == {0: 20, 1: 20}


def test_integer_labels_of_hubs_are_classes_and_their_texts_are_named(tmp_path):
    records = [{"text": text, "label": n % 2, "label_text": label} for n, (text, label) in enumerate(rows())]
    checked = found(tmp_path, "t.jsonl", jsonl(records))
    assert classes(checked) == {"0": 20, "1": 20}
    assert 'Set label = "label_text" in a TOML spec, or map them to words' in one(checked, "warning")


def test_a_target_without_choices_is_the_class(tmp_path):
    pairs = [(text, str(n % 2)) for n, (text, _) in enumerate(rows())]
    assert classes(found(tmp_path, "t.csv", csv(pairs, "text,target"))) == {"0": 20, "1": 20}
    assert classes(found(tmp_path, "t.csv", csv(rows(), "text,target"))) == EVEN


@pytest.mark.parametrize("written", [["true", "false"], ["True", "False"], None])
def test_true_and_false_are_labels(tmp_path, written):
    records = [{"text": f"Is it {n}?", "label": n % 2 == 1} for n in range(40)]
    if written:
        records = [record | {"choices": written} for record in records]
    checked = found(tmp_path, "t.jsonl", jsonl(records))
    assert set(classes(checked).values()) == {20}
    assert told(checked) == []


def test_measurements_are_no_classes(tmp_path):
    pairs = [(text, f"{n / 7:.3f}") for n, (text, _) in enumerate(rows())]
    assert "They look like measurements: put them into classes" in one(found(tmp_path, "t.csv", csv(pairs)), "error")


def test_a_class_of_one_row_is_told(tmp_path):
    pairs = [*rows(), ("Odd one out", "mixed")]
    assert one(found(tmp_path, "t.csv", csv(pairs)), "warning").startswith(
        "t.csv [target]: the class 'mixed' has one row only. Add rows, or remove it if it is a slip"
    )


def test_labels_that_name_several_and_lists_of_labels(tmp_path):
    pairs = [(f"ticket {n}", '"billing, technical"' if n % 3 == 0 else "billing") for n in range(40)]
    message = one(found(tmp_path, "t.csv", csv(pairs)), "warning")
    assert "labels that name several others count as classes of their own: billing, technical (14)" in message
    records = [{"text": text, "label": [label, "other"]} for text, label in rows()]
    checked = found(tmp_path, "t.jsonl", jsonl(records))
    assert "the labels are lists or objects, and a row has one right choice" in one(checked, "error")
    some = jsonl([{"text": text, "label": label} for text, label in rows()]) + jsonl(records[:1])
    assert "the label is a list of 2, and a row has one right choice" in one(found(tmp_path, "t.jsonl", some), "error")


# What is missing.


@pytest.mark.parametrize(
    ("field", "value", "written"),
    [
        ("text", "NaN", "null or NaN"),
        ("text", "null", "null or NaN"),
        ("label", "NaN", "null or NaN"),
        ("label", "null", "null or NaN"),
        ("text", '"nan"', "'nan', which stands for nothing"),
        ("label", '"#N/A"', "'#N/A', which stands for nothing"),
    ],
)
def test_nan_and_null_are_missing(tmp_path, field, value, written):
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows()]
    record = {"text": '"a"', "label": '"positive"'} | {field: value}
    lines[5] = f'{{"text": {record["text"]}, "label": {record["label"]}}}'
    message = one(found(tmp_path, "t.jsonl", "\n".join(lines)), "error")
    what = "input" if field == "text" else "label"
    assert message == f"t.jsonl:6 [{field}]: the {what} is missing ({written}). Fill it, or remove the row."


def test_nan_as_text_in_csv_is_missing_but_none_may_be_a_class(tmp_path):
    pairs = rows()
    pairs[5], pairs[6] = ("nan", "positive"), (pairs[6][0], "NaN")
    assert [text.split(": ")[1:3] for text in told(found(tmp_path, "t.csv", csv(pairs)))] == [
        ["t.csv:7 [text]", "the input is missing ('nan', which stands for nothing). Fill it, or remove the row."],
        ["t.csv:8 [label]", "the label is missing ('NaN', which stands for nothing). Fill it, or remove the row."],
    ]
    half = [(text, "none" if n % 2 else "some") for n, (text, _) in enumerate(rows())]
    assert told(found(tmp_path, "t.csv", csv(half))) == []
    few = [*rows(), ("a", "none"), ("b", "none")]
    assert (
        "labels that may stand for a missing one count as classes: none (2)"
        in told(found(tmp_path, "t.csv", csv(few)))[0]
    )


@pytest.mark.parametrize("nothing", ["", " ", "\u200b", "\ufeff", "\u200e\u200f", "\u00ad", "\u2060 \u3000"])
def test_an_input_of_which_nothing_can_be_seen_is_empty(tmp_path, nothing):
    pairs = rows()
    pairs[5] = (nothing, "positive")
    message = one(found(tmp_path, "t.csv", csv(pairs)), "error")
    assert message.startswith("t.csv:7 [text]: the input is empty")


@pytest.mark.parametrize("field", ["text", "label", "id"])
def test_a_lone_surrogate_is_told_at_reading_with_line_and_field(tmp_path, field):
    records = [{"id": f"r{n}", "text": text, "label": label} for n, (text, label) in enumerate(rows())]
    records[5][field] += " \ud83d"
    message = one(found(tmp_path, "t.jsonl", jsonl(records)), "error")
    assert message.startswith(f"t.jsonl:6 [{field}]: the text holds \\ud83d, half of a character (a lone surrogate).")


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_file_name_that_is_no_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.csv"
    with open(path, "w") as file:
        file.write(csv(rows()))
    (problem,) = check_task(Path(os.fsdecode(path))).problems
    assert str(problem) == "caf\\udce9.csv: the file's name is not UTF-8. Rename it."


# What the bytes are.


@pytest.mark.parametrize(
    ("content", "what", "cure"),
    [
        (
            b"<!DOCTYPE html><html><head><title>404</title></head></html>",
            "a web page (HTML)",
            "Download the file itself",
        ),
        (b"\n <HTML><body>", "a web page (HTML)", "Download the file itself"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML", "a server's message"),
        (b"PK\x03\x04" + b"\0" * 40 + b"xl/workbook.xml", "an Excel workbook (.xlsx)", "CSV UTF-8"),
        (b"PK\x03\x04" + b"\0" * 40 + b"word/document.xml", "a Word document (.docx)", "Export its table"),
        (b"PK\x03\x04" + b"\0" * 40 + b"data.csv", "a ZIP archive", "Unpack it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 100, "an old Office file", "CSV UTF-8"),
        (b"PAR1\x15\x04\x15\x00PAR1", "a Parquet file", "orient='records', lines=True"),
        (b"ARROW1\0\0", "an Arrow file", "orient='records', lines=True"),
        (b"%PDF-1.7\n", "a PDF document", "Export its table"),
        (b"{\\rtf1\\ansi}", "an RTF document", "Export its table"),
        (b"SQLite format 3\0", "an SQLite database", "Export its table"),
        (b"BZh91AY&SY\x01\x02", "bzip2 data", "bunzip2"),
        (b"\xfd7zXZ\0\0", "xz data", "unxz"),
        (b"\x28\xb5\x2f\xfd\x04", "Zstandard data", "unzstd"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it"),
        (b"\x80\x04\x95\x10}.", "a Python pickle, which can run code when read", "Export its table"),
        (b"\x93NUMPY\x01\0", "a NumPy array", "Export its table"),
        (b"\x89PNG\r\n\x1a\n", "an image (PNG)", "texts and labels"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS", "git lfs pull"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.txt"])
def test_a_file_is_named_by_its_bytes(tmp_path, content, what, cure, name):
    message = one(found(tmp_path, name, content), "error")
    assert message.startswith(f"{name}: the file is {what}")
    assert cure in message
    assert "iconv" not in message
    assert "Name it" not in message


def test_texts_that_begin_like_other_files_are_texts(tmp_path):
    for start in ("BZh", "PAR1", "ORC", "GIF8"):
        assert classes(found(tmp_path, "t.csv", csv(rows(), f"text,label,{start}").replace(",negative", ",negative,x")
                             .replace(",positive", ",positive,y"))) == EVEN  # fmt: skip
        lines = csv(rows()).splitlines()[1:]
        assert (
            classes(found(tmp_path, "t.csv", "\n".join([f"{start},text,label", *(f"1,{line}" for line in lines)])))
            == EVEN
        )


def test_gzip_data_is_read_under_any_name_and_told(tmp_path):
    checked = found(tmp_path, "t.csv", gzip.compress(csv(rows()).encode()))
    assert classes(checked) == EVEN
    assert one(checked, "warning").startswith(
        "t.csv: the file is gzip data, which its name does not say; it was unpacked."
    )
    twice = gzip.compress(gzip.compress(csv(rows()).encode()))
    assert "t.csv.gz: the file is gzip data" in one(found(tmp_path, "t.csv.gz", twice), "error")
    page = one(found(tmp_path, "t.csv.gz", b"<html>"), "error")
    assert page.startswith("t.csv.gz: the gzip data is damaged (it is a web page (HTML)).")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "für Größe “X” – 20 €"),
        ("mac_roman", "für Größe “X” schön"),
        ("cp850", "für Größe schön"),
        ("cp1251", "где мой заказ"),
        ("koi8_r", "где мой заказ"),
        ("cp1250", "źle działa, proszę"),
        ("shift_jis", "注文はどこですか"),
        ("gb18030", "我的订单在哪里"),
        ("euc_kr", "내 주문은 어디에"),
    ],
)
def test_the_encoding_is_recognised_and_the_line_is_shown_as_it_reads(tmp_path, encoding, text):
    pairs = [(f"{text} {n}", label) for n, (_, label) in enumerate(rows())]
    content = csv(pairs).encode(encoding)
    message = one(found(tmp_path, "t.csv", content), "error")
    assert f"is not UTF-8; it looks like {encoding}, in which the line reads" in message
    assert text in message
    assert f'or write encoding = "{encoding}" in a TOML spec' in message
    (tmp_path / "t.toml").write_text(f'file = "t.csv"\nencoding = "{encoding}"\n')
    assert read_task(tmp_path / "t.toml").examples[0].prompt == f"{text} 0"


def test_other_encodings_cut_files_mixtures_and_nul(tmp_path):
    for encoding in ("utf-16", "utf-16-le", "utf-8-sig"):
        assert classes(found(tmp_path, "t.csv", csv(rows()).encode(encoding))) == EVEN
    cut = (csv(rows()) + "schö").encode()[:-1]
    assert "the file ends within a character. It was cut off" in one(found(tmp_path, "t.csv", cut), "error")
    mixed = csv([(f"schön {n}", label) for n, (_, label) in enumerate(rows())]).encode() + b'"sch\xf6n",positive\n'
    assert "t.csv:42: byte 0xf6" in one(found(tmp_path, "t.csv", mixed), "error")
    assert "Most of the file is UTF-8" in one(found(tmp_path, "t.csv", mixed), "error")
    nul = csv(rows()).replace("(7)", "\0")
    assert "t.csv:9: the text holds a NUL character" in one(found(tmp_path, "t.csv", nul), "error")
    for unknown in ("klingon", "rot13", "punycode"):
        (tmp_path / "t.toml").write_text(f'file = "t.csv"\nencoding = "{unknown}"\n')
        assert f"unknown encoding '{unknown}'" in str(check_task(tmp_path / "t.toml").problems[0])


def test_texts_that_were_once_read_wrongly_are_told(tmp_path):
    pairs = rows()
    pairs[5] = ("schön".encode().decode("latin1"), "positive")
    pairs[6] = ("sch\ufffdn", "positive")
    lost, twice = [text for text in told(found(tmp_path, "t.csv", csv(pairs))) if "input" in text]
    assert "t.csv:7 [input]: 1 input holds such as 'Ã¼'" in lost
    assert "t.csv:8 [input]: 1 input holds U+FFFD" in twice


# Headers, separators, lines.


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_separator_and_the_line_ends_are_recognised(tmp_path, mark, name, end):
    text = csv(rows(), f"text{mark}label", mark).replace("\n", end)
    checked = found(tmp_path, name, text)
    assert classes(checked) == EVEN
    usual = "," if name == "t.csv" else "\t"
    assert bool(checked.problems) == (mark != usual)
    if checked.problems:
        assert "cells are separated by" in one(checked, "note")


def test_the_separator_line_of_spreadsheets(tmp_path):
    checked = found(tmp_path, "t.csv", "sep=;\r\n" + csv(rows(), "text;label", ";"))
    assert classes(checked) == EVEN
    assert read_task(tmp_path / "t.csv").examples[0].id == "t:3"


@pytest.mark.parametrize(
    "header",
    [
        "Text,Label",
        "TEXT,LABEL",
        " text , label ",
        "Prompt,Answer",
        "\u200btext,label",
        "sentence,label",
        "Review,Sentiment",
        "tweet,Category",
        "input,class",
    ],
)
def test_usual_names_in_any_case(tmp_path, header):
    assert classes(found(tmp_path, "t.csv", csv(rows(), header))) == EVEN


def test_several_columns_that_could_be_the_input(tmp_path):
    lines = ["title,body,label", *(f'{n},"{text}",{label}' for n, (text, label) in enumerate(rows()))]
    message = one(found(tmp_path, "t.csv", "\n".join(lines)), "error")
    assert message.startswith(
        "t.csv:2 [input]: no row has a field 'input' or 'prompt' or 'text', but several that could be the input. Say "
        'which in a TOML spec: input = "body", or both: input = "{body}\\n{title}".'
    )


@pytest.mark.parametrize(
    "header", [",text,label", "Unnamed: 0,text,label", "index,text,label", "text,label,", "text,label,,"]
)
def test_index_columns_and_columns_without_a_name_are_passed_over(tmp_path, header):
    front = not header.startswith("text")
    tail = "" if front else "," * header.count(",,") + ","
    lines = [header, *(f'{n},"{t}",{y}' if front else f'"{t}",{y}{tail}' for n, (t, y) in enumerate(rows()))]
    assert classes(found(tmp_path, "t.csv", "\n".join(lines) + "\n,,\n")) == EVEN


def test_a_file_without_a_header_is_told_and_can_be_named(tmp_path):
    body = "".join(f'"{text}",{label}\n' for text, label in rows())
    message = one(found(tmp_path, "t.csv", body), "error")
    assert message.startswith(
        "t.csv:1: the first line seems to be a row, not the names of the columns: its 'negative' stands in 19 other "
    )
    assert 'write columns = ["text", "label"] in a TOML spec' in message
    (tmp_path / "t.toml").write_text('file = "t.csv"\ncolumns = ["text", "label"]\n')
    assert len(read_task(tmp_path / "t.toml")) == 40


def test_lines_before_the_header_are_told(tmp_path):
    message = one(found(tmp_path, "t.csv", "Export of 2024-01-01\n\n" + csv(rows())), "error")
    assert "41 of 41 rows have another number of cells than the header, which has 1" in message
    assert "The header seems to be line 3: remove the lines before it" in message


def test_many_ragged_rows_are_one_line_with_the_cause(tmp_path):
    body = "text,label\n" + "".join(f"{text}, really,{label}\n" for text, label in rows())
    (message,) = told(found(tmp_path, "t.csv", body))
    assert "40 of 40 rows have another number of cells than the header, which has 2 (" in message
    assert "Texts that contain a comma need double quotes around them" in message


def test_letters_and_indices_as_answers_are_told_once_with_the_way_out(tmp_path):
    words = ["ash", "birch", "cedar", "date"]
    letters = [{"text": f"Which is {n}?", "choices": words, "answer": "ABCD"[n % 4]} for n in range(40)]
    message = one(found(tmp_path, "t.jsonl", jsonl(letters)), "error")
    assert "the answers of 40 rows are letters (A, B, C, D), and none is among its choices" in message
    assert 'format = "letters"' in message
    (tmp_path / "t.toml").write_text('file = "t.jsonl"\nformat = "letters"\n')
    assert [row.target for row in read_task(tmp_path / "t.toml").examples] == [0, 1, 2, 3] * 10
    indices = [record | {"answer": n % 4 + 1} for n, record in enumerate(letters)]
    message = one(found(tmp_path, "t.jsonl", jsonl(indices)), "error")
    assert 'set target = "answer" in a TOML spec with first_index = 1' in message
    (tmp_path / "t.toml").write_text('file = "t.jsonl"\ntarget = "answer"\nfirst_index = 1\n')
    assert [row.target for row in read_task(tmp_path / "t.toml").examples] == [0, 1, 2, 3] * 10


def test_columns_of_letters_are_told(tmp_path):
    lines = ["question,A,B,C,D,answer", *(f"ticket {n},w{n},x{n},y{n},z{n},{'ABCD'[n % 4]}" for n in range(40))]
    message = one(found(tmp_path, "t.csv", "\n".join(lines)), "error")
    assert "the labels are the letters of the columns 'A', 'B', 'C', 'D', which seem to hold the choices" in message
    (tmp_path / "t.toml").write_text('file = "t.csv"\nformat = "letters"\n')
    assert read_task(tmp_path / "t.toml").examples[1].choices == ("w1", "x1", "y1", "z1")


# Choices.


def test_a_choice_has_one_spelling_in_the_prompt(tmp_path):
    records = [{"text": f"Is it {n}?", "choices": [" yes", " no"], "target": n % 2} for n in range(40)]
    assert examples(tmp_path, "t.jsonl", jsonl(records))[0].choices == ("yes", "no")
    labelled = [
        {"text": f"Is it {n}?", "choices": [" yes", "no "], "label": "yes" if n % 2 else " no"} for n in range(40)
    ]
    assert [row.target for row in examples(tmp_path, "t.jsonl", jsonl(labelled))] == [1, 0] * 20


def test_choices_that_differ_by_spaces_or_in_writing(tmp_path):
    records = [{"text": f"Is it {n}?", "choices": ["yes", "yes ", "no"], "label": "no"} for n in range(40)]
    checked = found(tmp_path, "t.jsonl", jsonl(records))
    assert "the choice 'yes' stands there twice (but for spaces around it)" in str(checked.problems[0])
    assert [str(problem) for problem in checked.told()][5:] == [
        "t.jsonl [choices]: 35 more of this kind (lines 6-40). Make the choices differ."
    ]
    records = [
        {"text": f"Is it {n}?", "choices": ["yes", "Yes", "no"], "label": ["Yes", "no"][n % 2]} for n in range(40)
    ]
    checked = found(tmp_path, "t.jsonl", jsonl(records))
    assert {row.target for row in read_task(tmp_path / "t.jsonl").examples} == {1, 2}
    assert "the choices 'Yes' and 'yes' differ only in how they are written" in "".join(told(checked))


def test_files_that_were_joined_with_their_headers(tmp_path):
    checked = found(tmp_path, "t.csv", csv(rows()) + csv([(f"{text} again", label) for text, label in rows()]))
    message = one(checked, "warning")
    assert message.startswith(
        "t.csv:42: the names of the columns stand there again (line 42). Several files were joined"
    )
    assert len(read_task(tmp_path / "t.csv").examples) == 80


# JSON in other shapes.


RECORDS = [{"text": text, "label": label} for text, label in rows()]
TEXT_COLUMN, LABEL_COLUMN = ([record[name] for record in RECORDS] for name in ("text", "label"))


@pytest.mark.parametrize(
    "document",
    [
        {"text": TEXT_COLUMN, "label": LABEL_COLUMN},
        {"text": dict(enumerate(TEXT_COLUMN)), "label": dict(enumerate(LABEL_COLUMN))},
        {"columns": ["text", "label"], "index": list(range(40)), "data": [list(pair) for pair in rows()]},
        {f"r{n}": record for n, record in enumerate(RECORDS)},
        {"version": 1, "data": RECORDS},
    ],
    ids=["columns", "pandas", "pandas split", "by id", "data"],
)
def test_json_by_columns_and_by_ids(tmp_path, document):
    assert classes(found(tmp_path, "t.json", json.dumps(document))) == EVEN
    assert [row.prompt for row in read_task(tmp_path / "t.json").examples] == TEXT_COLUMN


@pytest.mark.parametrize(
    "document",
    [
        {"text": TEXT_COLUMN, "label": LABEL_COLUMN[:-1]},
        {"columns": ["text"], "data": [list(pair) for pair in rows()]},
        {"text": "one", "label": "row"},
        {},
    ],
)
def test_objects_that_are_no_rows(tmp_path, document):
    assert "the file is an object, not a list of rows" in one(found(tmp_path, "t.json", json.dumps(document)), "error")


def test_json_under_the_name_of_a_table_and_a_table_under_that_of_json(tmp_path):
    for text, name in (
        (jsonl(RECORDS), ".jsonl"),
        (json.dumps(RECORDS), ".json"),
        (json.dumps(RECORDS, indent=2), ".json"),
    ):
        for ending in ("csv", "tsv"):
            message = one(found(tmp_path, f"t.{ending}", text), "error")
            assert message.startswith(f"t.{ending}:1: the file holds JSON, not a table. Name it {name}")
    message = one(found(tmp_path, "t.jsonl", csv(rows())), "error")
    assert message.startswith("t.jsonl:1: no line is an object; broken JSON at line 1")
    assert "A table with a header line is named .csv or .tsv" in message


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_arrays_and_objects_over_several_lines(tmp_path, name):
    records = [{"text": text, "label": label} for text, label in rows()]
    for text in (json.dumps(records), json.dumps(records, indent=2), "\ufeff" + json.dumps(records)):
        assert classes(found(tmp_path, name, text)) == EVEN
    if name == "t.jsonl":
        assert classes(found(tmp_path, name, "\n".join(json.dumps(record, indent=2) for record in records))) == EVEN
        assert read_task(tmp_path / name).examples[1].id == "t:5"
        ended = json.dumps(records)[:-200]
        assert "t.jsonl:1: broken JSON at line 1" in one(found(tmp_path, name, ended), "error")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a", "label": "positive"},', "Remove the comma at the line's end"),
        ('{"text": "a", "label": "positive",}', "Remove the comma before the closing bracket"),
        ("{'text': 'a', 'label': 'positive'}", "Put texts in double quotes, not single ones"),
        ('{"text": "a", "label": "posi', "It ends too early"),
        ("text,label", "this one is no JSON. A table with a header line is named .csv or .tsv"),
        ('["a", "positive"]', "the row is a list, not an object"),
        ('{"text": "a", "label": 1' + "0" * 5000 + "}", "a whole number of more than 100 digits"),
        ('{"text": ' + "[" * 5000 + "]" * 5000 + "}", "nested more than 64 levels deep"),
    ],
)
def test_lines_that_are_no_rows(tmp_path, line, message):
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows()]
    lines[4] = line
    told_of = one(found(tmp_path, "t.jsonl", "\n".join(lines)), "error")
    assert told_of.startswith("t.jsonl:5")
    assert message in told_of


def test_every_row_is_named_and_reading_stops_when_it_is_enough(tmp_path):
    lines = [json.dumps({"text": "", "label": "ab"[n % 2]}) for n in range(12_000)]
    problems = found(tmp_path, "t.jsonl", "\n".join(lines)).problems
    assert len(problems) <= 10_002
    assert "the rows after this one were not looked at" in problems[-1].message


# Columns that split the rows.


def split_file(values: tuple[str, ...], column: str = "split") -> str:
    lines = [f"text,label,{column}"]
    lines += [f'"{text}",{label},{values[n % len(values)]}' for n, (text, label) in enumerate(rows(60))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("values", "judged"),
    [
        (("train", "test"), 30),
        (("Train", "TEST", "validation"), 20),
        (("training", "dev"), 30),
        (("train", "val", "test"), 20),
    ],
)
@pytest.mark.parametrize("column", ["split", "Split", "SET", "partition"])
def test_a_split_column_is_used_and_told(tmp_path, values, judged, column):
    checked = found(tmp_path, "t.csv", split_file(values, column))
    task = read_task(tmp_path / "t.csv")
    assert (len(task), len(task.support_pool)) == (judged, 60 - judged)
    assert f"the column {column!r} splits the rows: {judged} (" in one(checked, "note")
    assert checked.profile.support_rows == 60 - judged
    assert len(read_task(tmp_path / "t.csv", labelled=False)) == 60


def test_a_split_can_be_named_or_refused_and_other_columns_are_none(tmp_path):
    (tmp_path / "t.csv").write_text(split_file(("train", "test"), "side"))
    assert len(read_task(tmp_path / "t.csv")) == 60
    (tmp_path / "t.toml").write_text('file = "t.csv"\nsplit = "side"\n')
    assert len(read_task(tmp_path / "t.toml")) == 30
    (tmp_path / "t.csv").write_text(split_file(("train", "test")))
    (tmp_path / "t.toml").write_text('file = "t.csv"\nsplit = false\n')
    assert len(read_task(tmp_path / "t.toml")) == 60
    (tmp_path / "t.csv").write_text(split_file(("train", "test", "A")))
    assert len(read_task(tmp_path / "t.csv")) == 60
    (tmp_path / "t.toml").write_text('file = "t.csv"\nsplit = "split"\n')
    assert "t.csv:4 [split]: the split is 'A'. Write train, validation or test" in str(
        check_task(tmp_path / "t.toml").problems[0]
    )


# All rows together.


def test_repeats_and_contradictions_are_a_line_each(tmp_path):
    pairs = [*rows(), *rows(12), *[(text, "positive") for text, label in rows(8) if label == "negative"]]
    messages = told(found(tmp_path, "t.csv", csv(pairs)))
    assert len(messages) == 2
    assert "12 rows repeat an earlier one (lines 42-53; line 42 repeats 2). Keep one of each." in messages[0]
    assert (
        "the answer is 'positive' here and 'negative' on line 2, for the same input; 3 more contradict" in messages[1]
    )


def test_imbalance_order_and_classes_without_rows(tmp_path):
    pairs = sorted(
        ((text, "positive" if n else "negative") for n, (text, _) in enumerate(rows())), key=lambda row: row[1]
    )
    messages = told(found(tmp_path, "t.csv", csv(pairs)))
    assert any("98% of the rows have the answer 'positive'" in message for message in messages)
    assert messages[-1].startswith("note: t.csv [target]: the rows stand in the order of their labels")
    records = [{"text": text, "choices": ["negative", "neutral", "positive"], "label": label} for text, label in rows()]
    assert "no row has the answer 'neutral'" in one(found(tmp_path, "t.jsonl", jsonl(records)), "warning")


def test_the_summary_says_rows_classes_and_lengths(tmp_path):
    pairs = [*rows(), ("word " * 100, "positive")]
    (tmp_path / "t.csv").write_text(csv(pairs))
    summary = check_task(tmp_path / "t.csv", count_tokens=lambda text: len(text.split()) + 1).profile
    assert summary.lines() == [
        "41 rows, 2 classes: positive (21), negative (20)",
        "texts of 4-100 words (median 5), 22-500 characters (median 25); always the commonest answer: 51% right",
        "5-101 tokens (median 6) a text, 2 tokens an answer",
    ]
    assert summary.as_dict()["classes"] == {"positive": 21, "negative": 20}
    assert summary.as_dict()["words"] == {"least": 4, "median": 5, "most": 100}


def test_errors_come_first_and_rows_that_could_be_read_are_summed_up(tmp_path):
    pairs = [*rows(), *rows(4), ("", "positive")]
    checked = found(tmp_path, "t.csv", csv(pairs, "text;label", ";"))
    assert [problem.severity for problem in checked.problems] == ["error", "note"]
    assert checked.profile.rows == 44
