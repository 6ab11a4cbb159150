"""Rarer relatives of what `test_files` reads: alphabets, marks, separators, signs that nobody sees."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from abmll.cli import app
from abmll.data.encodings import CANDIDATES, guess_encoding
from abmll.data.readers import read_task
from abmll.data.validate import Checked, check_task

TEXTS = {
    "cp1251": ("Отличный товар, рекомендую", "плохо", "Не работает", "очень плохой сервис", "нет"),
    "koi8_r": ("Отличный товар, рекомендую", "хорошо", "Не работает"),
    "cp866": ("Отличный товар, рекомендую", "хорошо", "очень плохой сервис"),
    "iso8859_5": ("Отличный товар, рекомендую", "хорошо", "где мой заказ"),
    "cp1253": ("καλημέρα κόσμε", "πολύ καλό προϊόν"),
    "cp1254": ("çok güzel ürün, teşekkürler", "kötü değil ışık"),
    "cp1255": ("המוצר מצוין, ממליץ", "לא טוב בכלל"),
    "cp1256": ("مرحبا بالعالم", "المنتج ممتاز جدا"),
    "cp874": ("สวัสดีชาวโลก", "สินค้าดีมาก", "แย่มาก"),
    "shift_jis": ("とても良い", "最悪です"),
    "euc_jp": ("とても良い商品です",),
    "euc_kr": ("정말 좋아요", "배송이 너무 느려요", "별로", "최고"),
    "gb18030": ("很好", "好的", "坏的", "服务态度差", "质量不错，物流很快", "差评"),
    "big5": ("服務態度差", "這個東西很好用", "非常滿意"),
    "cp1252": ("déjà vu à l’été", "señor niño mañana", "Ärger über Öl", "café"),
    "cp1250": ("příliš žluťoučký kůň", "łódź śnieg"),
}


def found(tmp_path: Path, name: str, content: str | bytes) -> Checked:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return check_task(tmp_path / name)


def told(checked: Checked) -> str:
    return "\n".join(f"{problem.severity}: {problem}" for problem in checked.problems)


def table(labels: tuple[str, ...] = ("bad", "good"), mark: str = ",", count: int = 40) -> str:
    lines = [f"Some text {n}{mark}{labels[n % len(labels)]}" for n in range(count)]
    return "\n".join([f"text{mark}label", *lines]) + "\n"


@pytest.mark.parametrize("encoding", TEXTS)
def test_short_texts_of_every_alphabet_tell_their_encoding(encoding):
    assert encoding in CANDIDATES
    for text in TEXTS[encoding]:
        raw = f"text,label\n{text},a\n".encode(encoding)
        guessed = guess_encoding(raw, len("text,label\n"))
        assert guessed is not None
        assert guessed.sample == f"{text},a", (text, guessed)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("labels", [("bad", "good"), ("нет", "да"), ("差", "好")])
def test_wide_encodings_need_no_mark(tmp_path, encoding, labels):
    checked = found(tmp_path, "t.csv", table(labels).encode(encoding))
    assert f"the file is {encoding[:6].upper()}, not UTF-8; it was read as that" in told(checked)
    assert checked.profile.classes == dict.fromkeys(sorted(labels), 20)


HIDDEN = {
    "utf-7": ("schönes Gerät, größer als gedacht", "très bien, déjà vu", "Отличный товар"),
    "iso2022_jp": ("とても良い商品です", "最悪です"),
}
MAINFRAME = {
    "cp037": ("It works (most days), and it is quiet!", "naïve café, señor"),
    "cp500": ("It works! And it is quiet! Very good!",),
    "cp273": ("schönes Gerät, größer als gedacht",),
}


@pytest.mark.parametrize("encoding", HIDDEN)
def test_texts_that_are_ascii_to_the_eye_alone(tmp_path, encoding):
    for text in HIDDEN[encoding]:
        line = f'"{text}",good'
        raw = "\n".join(["text,label", "plain text,bad", *[line] * 3, ""]).encode(encoding)
        assert raw.isascii()
        message = told(found(tmp_path, "t.csv", raw))
        assert f"t.csv:3: the text is ASCII; it looks like {encoding}, in which the line reads {line!r}" in message
        (tmp_path / "t.toml").write_text(f'file = "t.csv"\nencoding = "{encoding}"\n')
        assert [row.prompt for row in read_task(tmp_path / "t.toml").examples] == ["plain text", *[text] * 3]


@pytest.mark.parametrize(
    "text",
    [
        "call +12125550100 or +442071838750 or +49123456",
        "x+abc and y+abd and z+1000- is 2+200- or 3+300-",
        "C++ and a+b+c, if (a+bbb) { b+aaa } c+++d",
        "AAAA+BBB/CCC+DDDD+EEE+FFFF== is base64",
        "hot\x1b[0m colours",
    ],
)
def test_plus_signs_are_plus_signs(tmp_path, text):
    checked = found(tmp_path, "t.csv", "text,label\n" + "".join(f'"{text} {n}",{"ab"[n % 2]}\n' for n in range(12)))
    assert "looks like" not in told(checked)
    assert checked.profile.classes == {"a": 6, "b": 6}


def test_bytes_that_are_no_text_are_in_no_encoding(tmp_path):
    message = told(found(tmp_path, "t.csv", b"ID3\x03\0\0" + bytes(range(256)) * 10))
    assert "is not UTF-8. Save it as UTF-8; a text in another encoding, or no text at all" in message


@pytest.mark.parametrize("newline", ["\n", "\x85", "\r\n"])
@pytest.mark.parametrize("encoding", MAINFRAME)
def test_texts_of_mainframes(tmp_path, encoding, newline):
    for text in MAINFRAME[encoding]:
        raw = newline.join(["text,label", *(f'"{text}",{label}' for label in ("good", "bad") * 10)]).encode(encoding)
        message = told(found(tmp_path, "t.csv", raw))
        assert f"is not UTF-8; it looks like {encoding} (EBCDIC), in which the line reads 'text,label'" in message
        (tmp_path / "t.toml").write_text(f'file = "t.csv"\nencoding = "{encoding}"\n')
        assert {row.prompt for row in read_task(tmp_path / "t.toml").examples} == {text}


def test_zero_bytes_make_no_wide_encoding(tmp_path):
    for content in (table().replace("text 3,", "te\0xt 3,"), table() + "\0" * 2000, "a\0b\0" + table()):
        assert "the text holds a NUL character (byte 0)" in told(found(tmp_path, "t.csv", content))


def test_a_wide_text_that_was_cut_off(tmp_path):
    assert "the file ends within a character. It was cut off: fetch it again" in told(
        found(tmp_path, "t.csv", table().encode("utf-16")[:-1])
    )


def test_surrogates_as_bytes_and_the_end_of_ms_dos(tmp_path):
    message = told(found(tmp_path, "t.csv", table().encode() + b"\xed\xa0\xbd\xed\xb8\x80 smile,good\n"))
    assert "t.csv:42: byte 0xed at byte offset" in message
    assert "half of a character (a surrogate), as CESU-8" in message
    assert "utf8mb4" in message
    assert told(found(tmp_path, "t.csv", table() + "\x1a")) == ""


def test_a_joined_file_with_a_mark_of_its_own(tmp_path):
    checked = found(tmp_path, "t.csv", "\ufeff\ufeff" + table() + "\ufeff" + table().replace("Some", "Another"))
    assert "t.csv:42: the names of the columns stand there again (line 42)" in told(checked)
    assert checked.profile.classes == {"bad": 40, "good": 40}


@pytest.mark.parametrize(
    ("mark", "written", "called"),
    [("^", '"^"', "'^'"), (":", '":"', "':'"), ("~", '"~"', "'~'"), ("\x1f", r'"\u001f"', r"'\x1f'")],
)
def test_a_rare_separator_is_named_once_and_taken_from_a_spec(tmp_path, mark, written, called):
    message = told(found(tmp_path, "t.csv", table(mark=mark)))
    assert message.startswith("error: t.csv:1: the header is one cell, ")
    assert f"the cells seem to be separated by {called}. Set delimiter = {written} in a TOML spec." in message
    assert "\n" not in message
    (tmp_path / "t.toml").write_text(f'file = "t.csv"\ndelimiter = {written}\n')
    assert len(read_task(tmp_path / "t.toml")) == 40


def test_spaces_as_separators(tmp_path):
    text = "text label\n" + "".join(f"word{n} {('bad', 'good')[n % 2]}\n" for n in range(40))
    assert "separated by a space. Set delimiter = " in told(found(tmp_path, "t.csv", text))


@pytest.mark.parametrize(
    ("labels", "how"),
    [
        (("❤", "❤\ufe0f"), r"'\u2764\ufe0f' (20) (in characters that cannot be seen)"),
        (("ab", "a\u034fb"), "(in characters that cannot be seen)"),
        (("ab", "ab\U000e0061"), "(in characters that cannot be seen)"),
        (("iyi", "İyi"), "'İyi' (20) (in case)"),
        (("KIRMIZI", "kırmızı"), "'kırmızı' (20) (in case)"),
        (("fine", "ﬁne"), "(in Unicode form)"),
        (("a\u0323\u0307", "a\u0307\u0323"), "(in Unicode form)"),
        (("1", "1e0"), "'1e0' (20) (the same number)"),
        (("100", "1E2"), "(the same number)"),
    ],
)
def test_labels_that_hardly_differ(tmp_path, labels, how):
    message = told(found(tmp_path, "t.csv", table((*labels, "other"), count=60)))
    assert "labels that differ only in how they are written count as different classes" in message
    assert how in message


@pytest.mark.parametrize("nothing", ["\u3164", "\u2800", "\U000e0041", "\ufe0f", "\u034f", "\uffa0"])
def test_texts_and_labels_of_which_nothing_is_seen(tmp_path, nothing):
    lines = table().splitlines()
    lines[5], lines[7] = f"{nothing},good", f"Some text,{nothing}"
    message = told(found(tmp_path, "t.csv", "\n".join(lines)))
    assert "t.csv:6 [text]: the input is empty: nothing in it can be seen. Fill it, or remove the row." in message
    assert "t.csv:8 [label]: the label is empty: nothing in it can be seen. Fill it, or remove the row." in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("field", ["text", "label"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Infinity", "is missing (infinity, or a number beyond 1e308)"),
        ("-1e999", "is missing (infinity, or a number beyond 1e308)"),
        (r'"a\u0000b"', r"the text holds a NUL character (\u0000). Remove it"),
    ],
)
def test_json_values_that_are_nothing(tmp_path, field, value, message):
    lines = [json.dumps({"text": f"t {n}", "label": ("bad", "good")[n % 2]}) for n in range(40)]
    record = {"text": '"a"', "label": '"good"'} | {field: value}
    lines[5] = f'{{"text": {record["text"]}, "label": {record["label"]}}}'
    found_there = told(found(tmp_path, "t.jsonl", "\n".join(lines)))
    assert found_there.startswith(f"error: t.jsonl:6 [{field}]: ")
    assert message in found_there


def test_what_is_said_of_objects_without_fields_of_one_row_and_of_choices_over_lines(tmp_path):
    assert "The fields found are: none." in told(found(tmp_path, "t.jsonl", "{}\n{}\n"))
    assert "the one row has one class only, 'b'" in told(found(tmp_path, "t.csv", "text,label\na,b\n"))
    rows = [{"text": f"t {n}", "choices": ["a\nb", "c"], "target": n % 2} for n in range(40)]
    checked = found(tmp_path, "t.jsonl", "\n".join(map(json.dumps, rows)))
    assert checked.profile.lines()[0] == r"40 rows, 2 classes: a\nb (20), c (20)"


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
@pytest.mark.parametrize("command", ["show", "validate", "import"])
def test_names_and_texts_that_no_terminal_prints_end_no_command(tmp_path, command):
    (tmp_path / "sur.jsonl").write_text(
        "".join(f'{{"text": "t {n} \\ud83d", "label": "{"ab"[n % 2]}"}}\n' for n in range(4))
    )
    with open(os.fsencode(tmp_path) + b"/caf\xe9.csv", "w") as file:
        file.write(table())
    for name in ("sur.jsonl", "caf\udce9.csv"):
        result = CliRunner(env={"PYTHONIOENCODING": "ascii"}).invoke(app, ["tasks", command, str(tmp_path / name)])
        assert result.exit_code in (1, 2), result.exception
        said = " ".join(result.output.split())
        assert "half of a character" in said if name == "sur.jsonl" else r"caf\udce9.csv: " in said
