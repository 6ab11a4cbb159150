"""Names of methods from outside the table: what is looked up, and that nothing is called that makes no method."""

from __future__ import annotations

from typing import Any

import pytest

from abmll.config import parse_config
from abmll.core.errors import AbmllError
from abmll.methods import build_method, method_names
from abmll.methods.table.outside import load_factory

MODULE = """
from pathlib import Path
from abmll.methods import lora
from abmll.core.types import Method

def good(num_steps: int = 2) -> Method:
    return lora(num_steps=num_steps)

def unsaid(num_steps: int = 2):
    Path("called").touch()

def liar(num_steps: int = 2) -> Method:
    return 3

def needs(num_steps: int) -> Method:
    return lora(num_steps=num_steps)

def many(**anything) -> Method:
    return lora()

def seeded(seed: int = 0, r: int = 3) -> Method:
    return lora()

class Holder:
    @staticmethod
    def inside(num_steps: int = 2) -> Method:
        return lora(num_steps=num_steps)

number = 3
"""


def steps_of(name: str, **options: Any) -> int:
    adaptation: Any = build_method(name, **options).adaptation
    steps: int = adaptation.inner.num_steps
    return steps


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    import sys

    (tmp_path / "their_methods.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("their_methods", "broken"):
        sys.modules.pop(name, None)


def test_a_function_of_a_module_in_the_working_folder():
    assert steps_of("their_methods:good", num_steps=3) == 3
    assert steps_of("their_methods:Holder.inside") == 2
    assert parse_config({"method": {"name": "their_methods:good", "options": {"num_steps": 4}}}).method.options_for(
        "their_methods:good"
    ) == {"num_steps": 4}


def test_the_working_folder_hides_no_module(folder):
    (folder / "json.py").write_text("raise RuntimeError('hidden')")
    with pytest.raises(AbmllError, match="json:dumps is no function that makes a method"):
        build_method("json:dumps")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("their_methods:unsaid", r"is no function that makes a method\. .* -> abmll\.Method"),
        ("os:system", "os:system is no function that makes a method"),
        ("their_methods:number", "is no function that makes a method"),
        ("their_methods:liar", "its factory gave int, not an abmll.Method"),
        ("their_methods:needs", "needs a value for num_steps: give its options defaults"),
        ("their_methods:seeded", r"has options called r, seed, as the learner's own are called: rename them"),
        ("their_methods:absent", "'their_methods' has no 'absent'"),
        ("broken:good", r"cannot import 'broken' \(ZeroDivisionError: division by zero\)"),
        ("absent_module:good", r"cannot import 'absent_module' .*Install it, put its folder on PYTHONPATH"),
        ("their methods:good", "is not of the form package.module:factory"),
        ("their_methods:", "is not of the form package.module:factory"),
        (":good", "is not of the form package.module:factory"),
        ("their_methods:good:x", "is not of the form package.module:factory"),
    ],
)
def test_what_is_no_method_is_told_and_never_called(name, message, folder):
    for use in (lambda: build_method(name), lambda: parse_config({"method": {"name": name}})):
        with pytest.raises(AbmllError, match=message):
            use()
    assert not (folder / "called").exists()


def test_options_that_a_factory_does_not_name_are_unknown():
    with pytest.raises(AbmllError, match=r"rank: their_methods:many has no such option\. It takes none"):
        build_method("their_methods:many", rank=3)


def test_the_tables_own_names_go_first(monkeypatch):
    from importlib.metadata import EntryPoint

    from abmll.methods.table import outside

    found = {"lora": "their_methods:liar", "new": "their_methods:good"}
    points = [EntryPoint(name, value, outside.GROUP) for name, value in found.items()]
    monkeypatch.setattr(outside, "entry_points", lambda group: points)
    assert method_names()[-1] == "new"
    assert method_names().count("lora") == 1
    assert build_method("lora") == build_method("lora", num_steps=5)
    assert steps_of("new") == 2
    points.append(EntryPoint("new", "their_methods:needs", outside.GROUP))
    with pytest.raises(AbmllError, match="two installed packages announce a method 'new': their_methods:good and"):
        build_method("new")


def test_an_announced_method_is_not_imported_by_asking_for_names():
    import sys

    assert method_names()
    assert "their_methods" not in sys.modules
    assert callable(load_factory("x", "their_methods:good"))
    assert "their_methods" in sys.modules
