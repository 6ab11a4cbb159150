"""docs/tasks.md is run: its files are written, its suites loaded, its Python executed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from abmll.data.spec import TaskSpec
from abmll.data.suite import SuiteSpec, load_suite, shipped_suites
from abmll.data.validate import check_task

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()


@pytest.fixture
def written(tmp_path, monkeypatch) -> Path:
    """A folder with every file that the page shows."""
    blocks = re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    for name, content in blocks:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_files_are_in_order_but_for_being_few(written):
    for name in ("reviews.csv", "science.jsonl", "pairs.toml"):
        problems = check_task(written / "my_tasks" / name).problems
        assert [problem.message.partition(" only ")[0] for problem in problems] == ["the task has"]


def test_both_suites_hold_out_what_they_say(written):
    for path, name in [("my_tasks", "mine"), ("my_suite.toml", "mine-by-list")]:
        suite = load_suite(path)
        assert suite.name == name
        sides = [[task.name for task in side] for side in (suite.train, suite.validation, suite.test)]
        assert sides == [["reviews"], ["science"], ["pairs"]]
    assert suite.task("pairs").examples[0].choices == ("entailment", "neutral", "contradiction")
    assert suite.task("science").question == "Answer the question."


def test_the_python_runs(written, capsys):
    (written / "my_tasks" / "suite.toml").unlink()
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert sum(lines[0].count(f"'{name}'") for name in ("reviews", "science", "pairs")) == 3
    assert lines[1].count("Example(") == 2
    assert lines[2].count("Example(") == 1


def test_every_key_is_in_the_tables():
    for schema in (TaskSpec, SuiteSpec):
        for key in set(schema.model_fields) - {"metaicl"}:
            assert f"`{key}`" in PAGE, f"{schema.__name__}.{key} is not documented"
    suites = (Path(__file__).parents[2] / "docs" / "suites.md").read_text(encoding="utf-8")
    for name in shipped_suites():
        assert f"| `{name}` |" in suites
