"""docs/add-a-method.md, "Without touching this repository", followed to the letter in a folder of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import abmll
from abmll import models
from abmll.card import CARD, read_card
from abmll.cli import app
from abmll.core.errors import AbmllError
from tests.pipeline.stages import HELD_OUT, cells_of, read_lines, write_csv, write_tasks
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-method.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
SMALL = {
    "config": ["training.num_steps=1"],
    "train": ["training.num_steps=1", "episodes.support_size=4", "episodes.query_size=4", "prompt.answer=text"],
    "compare": ["evaluation.seeds=[0]", "evaluation.num_query=4", "evaluation.support_sizes=[4]"],
}
SMALL["compare"] += SMALL["train"]


@pytest.fixture
def folder(base, tmp_path, monkeypatch):
    """A user's folder, outside of every repository: the page's files, their tasks, and a small model."""
    for module in ("polyak", "trap"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "polyak.py").write_text(BLOCKS["src/abmll/methods/polyak.py"], encoding="utf-8")
    (tmp_path / "run.toml").write_text(BLOCKS["run.toml"], encoding="utf-8")
    (tmp_path / "my_tasks").mkdir()
    write_tasks(tmp_path / "my_tasks")
    write_csv(tmp_path / "new_task.csv", tiny_task("new", 8))
    write_csv(tmp_path / "new_rows.csv", tiny_task("new", 4), labelled=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("polyak", None)


def abmll_command(line, extra=()):
    words = line.split()
    assert words[0] == "abmll"
    result = CliRunner().invoke(app, [*words[1:], *extra])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def test_every_command_of_the_page(folder, base, undrawn):
    """Fewer steps and a smaller model, nothing else changed."""
    for line in BLOCKS["commands"].strip().splitlines():
        command = line.split()[1]
        extra = [*SMALL.get(command, []), *([f"model.name={base}"] if command != "config" else [])]
        extra += ["--quiet"] if command in ("train", "compare") else []
        told = abmll_command(line, extra)
        if command == "config":
            assert 'name = "polyak:polyak"' in told
    card = read_card(folder / "adapters" / "new_task")
    assert card.method == "polyak:polyak"
    assert card.options == {"num_steps": 3, "learning_rate": 3e-3, "outer_learning_rate": 0.5}, "all that hold"
    assert len(read_lines(folder / "answers.jsonl")) == 4
    cells = cells_of(folder / "runs" / "compared" / "predictions.jsonl")
    assert {(key.method, key.task) for key in cells} >= {(m, t) for m in ("polyak:polyak", "lora") for t in HELD_OUT}


def test_the_python_block_runs_as_printed(folder, monkeypatch):
    def load(name, **_):
        model = tiny_llama(layers=1)
        model.config._name_or_path = model.name_or_path = name
        return model, tiny_tokenizer()

    monkeypatch.setattr(models, "load", load, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    scope: dict = {}
    exec(BLOCKS["in_python.py"], scope)
    assert scope["prediction"].classes == ("bad", "good")
    assert scope["learner"].name == "polyak:polyak"


def test_a_mistake_in_an_option_is_told_as_one_of_the_table(folder):
    (folder / "run.toml").write_text(
        BLOCKS["run.toml"].replace("num_steps = 3", 'num_stepz = 3, learning_rate = "0.1"')
    )
    result = CliRunner().invoke(app, ["config", "run.toml"])
    assert "polyak:polyak has no such option. Did you mean 'num_steps'?" in result.output
    assert 'learning_rate = "0.1": must be a number. Write 0.1 without quotes' in result.output
    with pytest.raises(AbmllError, match=r"num_stepz: polyak:polyak has no such option. Did you mean 'num_steps'"):
        abmll.Learner(tiny_llama(layers=1), tiny_tokenizer(), "polyak:polyak", num_stepz=3)


def test_a_package_announces_a_method(folder, tmp_path, monkeypatch):
    (folder / "pyproject.toml").write_text(BLOCKS["pyproject.toml"], encoding="utf-8")
    (folder / "package").mkdir()
    for name in ("pyproject.toml", "polyak.py"):
        (folder / name).rename(folder / "package" / name)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", "site"]
    subprocess.run([*command, "./package"], check=True, cwd=folder)
    monkeypatch.syspath_prepend(str(folder / "site"))
    assert "polyak" in abmll.methods.method_names()
    assert "polyak" not in sys.modules, "listing imports nothing"
    method = abmll.build_method("polyak", num_steps=2)
    adaptation: Any = method.adaptation
    assert adaptation.inner.num_steps == 2
    learner = abmll.Learner(tiny_llama(layers=1), tiny_tokenizer(), "polyak", r=2)
    saved = learner.save(tmp_path / "adapter")
    with pytest.raises(
        AbmllError, match=r"is of a method from outside abmll, \"polyak\".*abmll\.load\(folder, method="
    ):
        abmll.load(saved, tiny_llama(layers=1), tiny_tokenizer())
    assert abmll.load(saved, tiny_llama(layers=1), tiny_tokenizer(), method="polyak").method == learner.method


# A card is data from anybody


TRAP = """
import pathlib
pathlib.Path("sprung").touch()
def factory(num_steps: int = 1):
    pathlib.Path("sprung").touch()
"""


def test_a_card_imports_nothing_that_nobody_named(folder):
    (folder / "trap.py").write_text(TRAP)
    saved = abmll.Learner(tiny_llama(layers=1), tiny_tokenizer(), r=2).save(folder / "adapter")
    for name in ("trap:factory", "os:system", "json:dumps"):
        card = json.loads((saved / CARD).read_text()) | {"method": name, "options": {"command": "touch sprung"}}
        (saved / CARD).write_text(json.dumps(card))
        assert read_card(saved).method == name
        for load in (abmll.load, abmll.Learner.load):
            with pytest.raises(
                AbmllError, match=r"is of a method from outside abmll, .* run that module's code. If you"
            ):
                load(saved, tiny_llama(layers=1), tiny_tokenizer())
        with pytest.raises(AbmllError, match=rf"was made by method '{name}', not by 'lora'"):
            abmll.load(saved, tiny_llama(layers=1), tiny_tokenizer(), method="lora")
        for command in (["adapt", "adapter", "new_task.csv", "-o", "out"], ["predict", "adapter", "new_rows.csv"]):
            result = CliRunner().invoke(app, [*command, "model.name=default"])
            assert result.exit_code != 0
            assert "is of a method from outside abmll" in result.output + str(result.exception)
    assert not (folder / "sprung").exists()
    assert "trap" not in sys.modules


def test_a_method_given_as_an_object_is_given_again(folder, tmp_path):
    method = abmll.build_method("reptile", num_steps=2)
    learner = abmll.Learner(tiny_llama(layers=1), tiny_tokenizer(), method, r=2)
    assert learner.name == "custom"
    rows = tiny_task("new", 8)
    posterior = learner.adapt(rows)
    saved = posterior.save(tmp_path / "adapter")
    with pytest.raises(AbmllError, match=r"made with a method that was given as an object. Give it again"):
        abmll.load(saved, tiny_llama(layers=1), tiny_tokenizer())
    loaded = abmll.load(saved, tiny_llama(layers=1), tiny_tokenizer(), method=method)
    assert loaded.predict(rows).labels == posterior.predict(rows).labels
    with pytest.raises(AbmllError, match=r"options \(num_steps\) go with a method's name: this one is an object"):
        abmll.Learner(tiny_llama(layers=1), tiny_tokenizer(), method, num_steps=3)
    with pytest.raises(
        AbmllError, match=r"method is int: give a name, a function that makes a method, or an abmll.Method"
    ):
        abmll.Learner(tiny_llama(layers=1), tiny_tokenizer(), 3)  # type: ignore[arg-type]
