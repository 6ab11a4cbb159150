"""The documentation: its blocks run, its commands exist, its links lead somewhere, and nothing public is left out."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

import abmll
from abmll import default, models
from abmll.cli import app
from abmll.config import load_config
from abmll.data import formats
from abmll.data.hub.spec import hub_spec
from abmll.data.readers import read_task
from abmll.data.suite import load_suite
from tests.commands import command_group
from tests.tiny import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
PAGES |= {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")}
REFERENCE = "\n".join(text for name, text in PAGES.items() if "/reference/" in name)
RUN_BY = {  # pages whose Python is run by a test of their own
    "README.md": "tests/test_readme.py",
    "docs/tasks.md": "tests/data/test_tasks_page.py",
    "docs/add-a-method.md": "tests/methods/test_add_a_method.py",
}


def blocks(page, language):
    """The page's blocks of one language; those in lists are indented."""
    found = re.findall(rf"^( *)```{language}[^\n]*\n(.*?)^ *```$", PAGES[page], re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def files(page, folder):
    """Writes every block that names its file; returns their names."""
    found = re.findall(r"^( *)```\w+ file=(\S+)\n(.*?)^ *```$", PAGES[page], re.DOTALL | re.MULTILINE)
    for indent, name, content in found:
        (folder / name).write_text(re.sub(rf"^{indent}", "", content, flags=re.MULTILINE), encoding="utf-8")
    return [name for _, name, _ in found]


def run_python(page, changes=(), scope=None):
    """Executes the page's Python blocks one after the other, with a few things made smaller."""
    scope = {} if scope is None else scope
    for block in blocks(page, "python"):
        for told, done in changes:
            assert told in PAGES[page]
            block = block.replace(told, done)
        exec(compile(block, page, "exec"), scope)
    return scope


def commands():
    """Every line of a shell block that calls abmll, with its page."""
    for page in PAGES:
        for block in [*blocks(page, "bash"), *blocks(page, "sh")]:
            for line in block.splitlines():
                if line.startswith("abmll "):
                    yield page, line


# Words


def test_every_public_name_has_a_place_in_the_reference():
    named = re.findall(r"^::: (\S+)", REFERENCE, re.MULTILINE)
    assert {f"abmll.{name}" for name in abmll.__all__ if name != "__version__"} <= set(named)
    for name in named:
        home, _, attribute = name.rpartition(".")
        module = importlib.import_module(home)
        assert hasattr(module, attribute) or importlib.import_module(name), name


def test_every_page_has_a_place_in_the_navigation():
    def leaves(part):
        if isinstance(part, dict):
            part = list(part.values())
        return [leaf for one in part for leaf in leaves(one)] if isinstance(part, list) else [part]

    nav = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert len(nav) == len(set(nav))
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} <= set(nav)
    results = {path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    assert results <= set(nav)


@pytest.mark.parametrize("page", PAGES)
def test_every_local_link_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[page])
    missing = [t for t in targets if "://" not in t and not (ROOT / page).parent.joinpath(t).exists()]
    assert not missing


def test_every_local_link_leads_to_a_file_of_the_site():
    """What the strict build would find in minutes; source code is linked to nowhere, for it is not on the site."""
    pytest.importorskip("mkdocs", reason="the extra abmll[docs] is not installed")
    hook = runpy.run_path(str(DOCS / "hooks" / "pages.py"))
    for page in [name for name in PAGES if name in hook["HOMES"] or name.startswith("docs/")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[page]):
            meant = Path(os.path.normpath(ROOT / Path(page).parent / target))
            if "://" not in target and meant.is_file():
                name = meant.relative_to(ROOT).as_posix()
                assert name in hook["sources"]() or name.startswith("docs/"), f"{page}: {target}"


def test_every_environment_variable_is_one_that_something_reads():
    read = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    for page, text in PAGES.items():
        for name in re.findall(r"\bABMLL_[A-Z_]+\b", text):
            assert name in read, f"{page}: {name}"


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_and_its_options_exist(page, line):
    words = shlex.split(line, comments=True)[1:]
    command = command_group(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def test_every_page_with_python_is_run():
    known = {*RUN_BY, *(f"docs/{name}.md" for name in ("quickstart", "calibration", "default-model", "real-model"))}
    known |= {"docs/formats.md", "docs/performance.md", "docs/from-adapters.md"}
    assert {page for page in PAGES if blocks(page, "python")} == known
    for page, test in RUN_BY.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


# Blocks that run


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_suite(monkeypatch):
    """The generated suite, with few rows of few tasks."""
    suite = default.suite(num_rows=40)
    few = type(suite)(suite.name, suite.train[:3], suite.validation[:1], suite.test[:1])
    monkeypatch.setitem(default.SUITES, "default", lambda seed=0, num_rows=300: few)


def test_the_python_of_the_quickstart(inside, small_suite, shallow, capsys):
    page = "docs/quickstart.md"
    assert files(page, inside) == ["reviews.csv", "run.toml", "new.csv"]
    assert load_config(inside / "run.toml").training.num_steps == 100
    scope = run_python(page, [("num_steps=100", "num_steps=1")])
    assert set(scope["prediction"].labels) <= {"negative", "positive"}
    assert (inside / "adapters" / "from_python" / "posterior.safetensors").is_file()


@pytest.mark.slow
def test_the_commands_of_the_quickstart(inside, small_suite):
    """As printed, with one outer step instead of a hundred, and one draw."""
    page = "docs/quickstart.md"
    files(page, inside)
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert len(lines) == 5
    less = {"train": ["training.num_steps=1"], "try": ["--seeds", "1"]}
    for line in lines:
        words = shlex.split(line)[1:]
        result = CliRunner().invoke(app, words + less.get(words[0], []))
        assert result.exit_code == 0, f"{line}: {result.output}{result.exception}"
    answers = (inside / "answers.csv").read_text(encoding="utf-8").splitlines()
    assert len(answers) == 3
    assert "text" in answers[0]
    for promised in re.findall(r"^\| `(\S+?)` \|", PAGES[page], re.MULTILINE):
        assert (inside / promised).exists(), promised


def test_calibration_in_ten_lines(inside, shallow, capsys):
    page = "docs/calibration.md"
    first = blocks(page, "python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 10
    scope = run_python(page, [("32:64", "32:44")])
    told = capsys.readouterr().out.splitlines()
    assert len([line for line in told if " | " in line]) == 12
    assert all(0.4 <= float(line.split(" | ")[0]) <= 1 for line in told[:12])
    assert len(scope["curve"].coverage) == 12


def test_the_embedded_default_loads_as_its_page_says():
    fewer = [(f"{name}()", f"{name}(num_rows=10)") for name in (".suite", ".wide_suite")]
    scope = run_python("docs/default-model.md", fewer)
    for name, counts in (("suite", (24, 6, 10)), ("wide", (60, 12, 48))):
        found = scope[name]
        assert (len(found.train), len(found.validation), len(found.test)) == counts


def test_a_real_model_by_name(monkeypatch):
    def load(name, **_):
        assert name == "smollm2"
        return tiny_llama(layers=1), tiny_tokenizer()

    monkeypatch.setattr(models, "load", load, raising=False)
    scope = run_python("docs/real-model.md", scope={"abmll": abmll})
    assert scope["learner"].name == "abmll"


def test_a_prior_from_loras_on_disk(inside, small_suite, shallow):
    names = ["q_proj", "v_proj"]
    for seed in range(2):
        posterior = abmll.Learner("default", method="lora", r=4, target_modules=names, seed=seed, num_steps=1)
        posterior.adapt(default.suite(num_rows=8).train[seed]).save(inside / "my_loras" / str(seed))
    changes = [('"my_tasks/"', '"default"'), ("num_steps=50", "num_steps=1")]
    scope = run_python("docs/from-adapters.md", changes, {"abmll": abmll})
    assert scope["learner"].trained_steps == 1


def test_the_format_of_the_page_reads_a_file(inside, monkeypatch):
    """As the page says: a file in the folder of the formats, and nothing else."""
    (source,) = blocks("docs/formats.md", "python")
    (inside / "two_claims.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(inside)])
    monkeypatch.setitem(sys.modules, "abmll.data.formats.two_claims", None)
    del sys.modules["abmll.data.formats.two_claims"]  # forgotten again after the test
    rows = [{"claim": "Ice floats.", "verdict": "true"}, {"claim": "Iron floats.", "verdict": "false"}]
    assert formats.find_format("two-claims").fits(rows)
    (inside / "claims.json").write_text(json.dumps(rows * 20))
    (inside / "claims.toml").write_text('file = "claims.json"\nformat = "two-claims"\n')
    task = read_task(inside / "claims.toml")
    assert task.examples[0].prompt == "Claim: Ice floats."
    assert task.examples[0].choices == ("false", "true")


def test_compiling_and_quantising_say_names_that_exist():
    """Bitsandbytes and a compiler are not everywhere: names are looked up, and what they do is in tests/adapters."""
    first, second = blocks("docs/performance.md", "python")
    assert first.strip() == "learner.model.compile()"
    assert callable(torch.nn.Module.compile)
    tree = ast.parse(second)
    found = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    imports = [(node.module, name.name) for node in found for name in node.names]
    assert imports
    for module, name in imports:
        assert hasattr(importlib.import_module(module), name)


def test_the_suites_of_the_page(inside):
    assert files("docs/add-a-suite.md", inside) == ["my_nli.toml", "boolq.toml"]
    with pytest.raises(abmll.AbmllError, match="MetaICL/data") as told:
        load_suite(inside / "my_nli.toml")
    assert "sick" not in str(told.value), "the list is read, and only its data are absent"
    shipped = (ROOT / "src/abmll/data/hub/tasks/boolq.toml").read_text(encoding="utf-8").splitlines()
    assert (inside / "boolq.toml").read_text(encoding="utf-8").splitlines() == shipped[1:]
    assert hub_spec("boolq")


@pytest.mark.slow
def test_the_site_builds_and_is_strict(tmp_path):
    """`make docs` without its installation; fails on a link or a name that leads nowhere."""
    build = pytest.importorskip("mkdocs.commands.build", reason="the extra abmll[docs] is not installed")
    from mkdocs.config import load_config

    pytest.importorskip("mkdocstrings", reason="the extra abmll[docs] is not installed")
    pytest.importorskip("material", reason="the extra abmll[docs] is not installed")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"))
    assert config.strict
    config.plugins.on_startup(command="build", dirty=False)
    build.build(config)
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="method.html"' in index
    elsewhere = re.findall(r"<(?:script|link)[^>]+(?:src|href)=\"(https?://[^\"]+)", index)
    assert not elsewhere, "the pages load nothing from elsewhere"
