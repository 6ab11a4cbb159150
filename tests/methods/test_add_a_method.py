"""The skeleton of docs/add-a-method.md is a method: copied out, registered, held to the contract, its test run."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest

from abmll.methods import METHODS
from tests.methods import test_contract
from tests.methods.short import short
from tests.toy import ToyEpisodes, toy_for

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"
BLOCKS = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
CONTRACT = [
    name
    for name, function in vars(test_contract).items()
    if name.startswith("test_") and "method" in inspect.signature(function).parameters
]


def load(path, source, tmp_path, monkeypatch):
    """The block as the module that its file would be."""
    name = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
    file = tmp_path / Path(path).name
    file.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def polyak(tmp_path, monkeypatch):
    module = load("src/abmll/methods/polyak.py", BLOCKS["src/abmll/methods/polyak.py"], tmp_path, monkeypatch)
    monkeypatch.setattr("abmll.methods.METHODS", dict(METHODS))
    exec(BLOCKS["src/abmll/methods/__init__.py"], {"METHODS": sys.modules["abmll.methods"].METHODS, **vars(module)})
    return module


@pytest.mark.parametrize("name", CONTRACT)
def test_the_skeleton_passes_the_contract(polyak, name):
    method = short("polyak")
    given = {
        "row": "polyak",
        "method": method,
        "likelihood": toy_for(method.adapter),
        "episodes": ToyEpisodes(support_size=10, query_size=4),
    }
    function = getattr(test_contract, name)
    function(**{parameter: given[parameter] for parameter in inspect.signature(function).parameters})


def test_the_skeletons_own_test_passes_and_can_fail(polyak, tmp_path, monkeypatch):
    path = "tests/methods/test_polyak.py"
    module = load(path, BLOCKS[path], tmp_path, monkeypatch)
    module.test_the_average_of_a_geometric_series()
    wrong = load(path, BLOCKS[path].replace("(7 * (1 - r))", "(6 * (1 - r))"), tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        wrong.test_the_average_of_a_geometric_series()


def test_the_page_names_only_what_exists():
    assert len(CONTRACT) >= 8
    root = PAGE.parents[1]
    text = PAGE.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:tests/|methods/)[\w/]+\.py)`", text):
        base = root if path.startswith("tests/") else root / "src" / "abmll"
        assert (base / path).is_file(), path
