"""Whatever a file holds, it is either read or told about: no other exception, and no silence."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abmll.data.readers import parse_task

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = st.sampled_from(["t.jsonl", "t.csv", "t.tsv", "t.jsonl.gz", "t.toml"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["", "a", "b", "0", "1"]))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.sampled_from("xy"), SCALARS, max_size=1))
FIELDS = st.sampled_from(["id", "input", "text", "options", "choices", "choice_0", "choice_1", "target", "label"])
CELLS = st.text(alphabet='ab01|,\t"\n', max_size=6)


def read_or_told(path) -> None:
    parsed = parse_task(path)
    told = any(problem.severity == "error" for problem in parsed.problems)
    assert (parsed.task is None) == told
    if parsed.task is not None:
        assert all(0 <= row.target < len(row.choices) for row in parsed.task.examples)
        assert all(row.prompt.strip() and len(set(row.choices)) == len(row.choices) for row in parsed.task.examples)


@QUICK
@given(name=NAMES, content=st.binary(max_size=60))
def test_any_bytes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    read_or_told(tmp_path / name)


@QUICK
@given(rows=st.lists(st.dictionaries(FIELDS, VALUES, max_size=5), min_size=1, max_size=5))
def test_any_json_rows(tmp_path, rows):
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read_or_told(tmp_path / "t.jsonl")


@QUICK
@given(header=st.lists(FIELDS, min_size=1, max_size=4), rows=st.lists(st.lists(CELLS, max_size=4), max_size=5))
def test_any_table(tmp_path, header, rows):
    (tmp_path / "t.csv").write_text("\n".join(",".join(row) for row in [header, *rows]))
    read_or_told(tmp_path / "t.csv")


@QUICK
@given(rows=st.lists(st.tuples(CELLS, st.sampled_from(["x", "y"])), min_size=2, max_size=6))
def test_tables_in_order(tmp_path, rows):
    """Tables that mostly are in order, so that the reading side is exercised too."""
    quoted = ['"' + text.replace('"', '""') + f'",{label}' for text, label in rows]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *quoted]))
    read_or_told(tmp_path / "t.csv")
