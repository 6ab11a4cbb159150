"""The predictions file: what is read is what was written, whatever interrupts the writing."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from typing import Any

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.evaluation import predictions
from abmll.evaluation.predictions import Cell, CellKey, append_cell, index, read_cells


def make_cell(seed: int = 0, num_samples: int = 2, num_query: int = 5, **changes) -> Cell:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(num_samples, num_query, 3, generator=generator)
    logits[:, 0, 2] = -math.inf  # the first example has two choices
    fields: dict[str, Any] = {
        "method": "abmll",
        "seed": seed,
        "task": "tâche “1”\u2028",
        "family": "f",
        "support_size": 16,
        "ids": [f"q{i}" for i in range(num_query)],
        "targets": torch.randint(2, (num_query,), generator=generator),
        "log_probs": logits.log_softmax(-1),
        "seconds": 0.1,
        "extra": {"held_out_family": True, "nested": {"list": [1, 2.5, None]}},
    }
    return Cell(**(fields | changes))


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "new" / "folder" / "predictions.jsonl"
    cells = [make_cell(seed, num_samples=1 + seed) for seed in range(3)]
    for cell in cells:
        append_cell(path, cell)
    for read, cell in zip(read_cells(path), cells, strict=True):
        assert read.same_predictions(cell)
        assert read.key == cell.key
        assert (read.family, read.seconds, read.extra) == (cell.family, cell.seconds, cell.extra)
        assert read.log_probs[0, 0, 2] == -math.inf
    assert "null" in path.read_text()
    assert "Infinity" not in path.read_text()


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_float64_is_stored_as_float32(tmp_path, default):
    path = tmp_path / "p.jsonl"
    exact = torch.randn(1, 5, 3, dtype=torch.float64).log_softmax(-1)
    append_cell(path, make_cell(log_probs=exact))
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(default)
        read = read_cells(path)[0]
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(read.log_probs, exact.float())


def test_smallest_and_largest_numbers_survive(tmp_path):
    tiny = [math.log(1e-30), -1e-7, -87.33654, -103.27893]
    for i, low in enumerate(tiny):
        cell = make_cell(seed=i, ids=["a"], targets=[1], log_probs=torch.tensor([[[low, math.log1p(-math.exp(low))]]]))
        append_cell(tmp_path / "p.jsonl", cell)
        assert read_cells(tmp_path / "p.jsonl")[i].same_predictions(cell)


def test_index_for_resuming(tmp_path):
    path = tmp_path / "p.jsonl"
    assert index(path) == set()
    cell = make_cell()
    append_cell(path, cell)
    assert index(path) == {CellKey("abmll", 0, cell.task, 16)}


@pytest.mark.parametrize("line", [b"{}", b'{"version": 1, "method": "m", "seed": "x", "task": "t", "support_size": 4}'])
def test_index_names_a_line_that_names_no_cell(tmp_path, line):
    path = tmp_path / "p.jsonl"
    append_cell(path, make_cell())
    path.write_bytes(line + b"\n" + path.read_bytes())
    with pytest.raises(AbmllError, match=r"line 1: .*Delete that line"):
        index(path)


def test_index_of_a_long_file_is_that_of_its_cells(tmp_path):
    path = tmp_path / "p.jsonl"
    for seed in range(5):
        append_cell(path, make_cell(seed))
    assert index(path) == {cell.key for cell in read_cells(path)}


@pytest.mark.parametrize("kept", [1, 10, 300, -2])
def test_torn_last_line_is_named_and_dropped(tmp_path, kept):
    path = tmp_path / "p.jsonl"
    append_cell(path, make_cell(0))
    append_cell(path, make_cell(1))
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(first + b"\n" + second[:kept])
    with pytest.warns(UserWarning, match="line 2 .the last. was cut off"):
        assert [c.seed for c in read_cells(path)] == [0]
    with pytest.warns(UserWarning, match=r"was cut off; it is removed"):
        append_cell(path, make_cell(2))
    assert [c.seed for c in read_cells(path)] == [0, 2]


def test_whole_last_line_without_line_break_is_kept(tmp_path):
    path = tmp_path / "p.jsonl"
    append_cell(path, make_cell(0))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(read_cells(path)) == 1
    append_cell(path, make_cell(1))
    assert [c.seed for c in read_cells(path)] == [0, 1]


@pytest.mark.parametrize("failing", ["fsync", "write"])
def test_failed_append_leaves_the_file_as_it_was(tmp_path, monkeypatch, failing):
    path = tmp_path / "p.jsonl"
    append_cell(path, make_cell(0))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    def half_then_full(file, data):
        file.write(data[: len(data) // 2])
        full()

    with monkeypatch.context() as patch:
        if failing == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(predictions, "_write_all", half_then_full)
        with pytest.raises(OSError, match="No space left"):
            append_cell(path, make_cell(1))
    assert path.read_bytes() == before


def append_many(path, cells):
    for cell in cells:
        append_cell(path, cell)


@pytest.mark.skipif(predictions.fcntl is None, reason="no file locks on this system")  # type: ignore[attr-defined]
def test_two_processes_append_to_one_file(tmp_path):
    path = tmp_path / "p.jsonl"
    # Cells are made before the fork: a forked child must not start torch's threads.
    seeds = range(15), range(100, 115)
    cells = [[make_cell(seed, num_samples=4, num_query=200) for seed in each] for each in seeds]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append_many, args=(path, each)) for each in cells]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(c.seed for c in read_cells(path)) == [*seeds[0], *seeds[1]]


def test_identical_repeat_counts_once_and_a_different_one_is_an_error(tmp_path):
    path = tmp_path / "p.jsonl"
    append_cell(path, make_cell(0))
    append_cell(path, make_cell(0, seconds=9.0))
    assert len(read_cells(path)) == 1
    append_cell(path, make_cell(0, log_probs=make_cell(5).log_probs))
    with pytest.raises(AbmllError, match=r"line 3: a second cell abmll, seed 0.*own file"):
        read_cells(path)


class TestErrors:
    def test_no_file_and_no_cells(self, tmp_path):
        with pytest.raises(AbmllError, match=r"cannot read predictions from .*No such file"):
            read_cells(tmp_path / "absent.jsonl")
        (tmp_path / "empty.jsonl").touch()
        with pytest.raises(AbmllError, match="holds no predictions: run `abmll evaluate`"):
            read_cells(tmp_path / "empty.jsonl")

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda line: line[:50], "line 1: not valid JSON"),
            (lambda line: '{"version": 1, "x": ' + "[" * 100_000, "line 1: not valid JSON .nested more than 64 levels"),
            (lambda line: line.replace('"seed": 0', '"seed": ' + "9" * 5000), "a whole number of more than 100 digits"),
            (lambda line: line.replace('"seed": 0', '"seed": NaN'), "line 1: not valid JSON .NaN is no JSON number"),
            (lambda line: line.replace('"seed": 0', '"seed": 0, "seed": 1'), "the field 'seed' stands twice"),
            (lambda line: line.replace('"version": 1', '"version": 0'), "line 1: not a prediction of format version 1"),
            (lambda line: "[1, 2]", "line 1: not a prediction of format version 1"),
            (lambda line: line.replace('"targets"', '"target"'), "line 1: a field is missing, unknown or malformed"),
            (lambda line: line.replace('"log_probs"', '"probs"'), "line 1: a field is missing, unknown or malformed"),
            (lambda line: line.replace('"q1"', '"q0"'), "line 1: cell abmll, .*'q0' occurs twice"),
        ],
    )
    def test_damaged_line(self, tmp_path, damage, message):
        path = tmp_path / "p.jsonl"
        append_cell(path, make_cell(0))
        line = path.read_text().rstrip("\n")
        path.write_text(damage(line) + "\n" + line + "\n")
        with pytest.raises(AbmllError, match=message):
            read_cells(path)

    @pytest.mark.parametrize("end", ["\n", ""])
    def test_a_line_of_a_newer_version_is_no_damage(self, tmp_path, end):
        """Neither to be deleted, nor cut off for want of a line break."""
        path = tmp_path / "p.jsonl"
        append_cell(path, make_cell(0))
        newer = path.read_text() + path.read_text().rstrip("\n").replace('"version": 1', '"version": 2') + end
        path.write_text(newer)
        for use in (read_cells, index, *([lambda path: append_cell(path, make_cell(1))] if not end else [])):
            with pytest.raises(AbmllError) as refused:
                use(path)
            assert "written by a newer abmll (format version 2, this one reads 1). Update abmll" in str(refused.value)
            assert "Delete" not in str(refused.value)
        assert path.read_text() == newer

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"ids": ["a"]}, "1 ids for 5 targets"),
            ({"ids": list("aabcd")}, "'a' occurs twice"),
            ({"targets": [0, 0, 0, 0, 3]}, r"targets\[4\] is 3"),
            ({"targets": [2, 0, 0, 0, 0]}, "example 0 lacks that choice"),
            ({"log_probs": torch.zeros(1, 5, 3)}, "sums to 3"),
            ({"log_probs": torch.full((1, 5, 3), math.nan)}, "is NaN"),
            ({"log_probs": torch.zeros(1, 4, 1)}, r"shape \(1, 4, 1\) for 5 targets"),
            ({"ids": [], "targets": [], "log_probs": torch.zeros(1, 0, 1)}, r"shape \(1, 0, 1\)"),
        ],
    )
    def test_bad_cell(self, changes, message):
        with pytest.raises(AbmllError, match=rf"cell abmll, seed 0, .*: .*{message}"):
            make_cell(**changes)

    @pytest.mark.parametrize("extra", [{"x": math.nan}, {"x": torch.zeros(1)}, {"x": object()}])
    def test_extra_that_is_not_json(self, tmp_path, extra):
        with pytest.raises(AbmllError, match="not JSON"):
            append_cell(tmp_path / "p.jsonl", make_cell(extra=extra))
        assert not (tmp_path / "p.jsonl").exists()


def test_lines_follow_the_documented_format(tmp_path):
    append_cell(tmp_path / "p.jsonl", make_cell(0))
    record = json.loads((tmp_path / "p.jsonl").read_text())
    documented = json.loads(
        predictions.__doc__[predictions.__doc__.index("{") : predictions.__doc__.index("}\n\n") + 1].replace(
            ", ...", ""
        )
    )
    assert list(record) == list(documented)
