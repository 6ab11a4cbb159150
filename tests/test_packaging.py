"""What a user installs: the wheel holds every file of the package, and importing it loads nothing heavy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import abmll

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "abmll"
MEGABYTE = 10**6


VERSION = abmll.__version__


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A clean copy of what the build backend reads."""
    folder = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(PACKAGE, folder / "src" / "abmll", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory) -> Path:
    """The wheel, built by the build backend itself."""
    return built("wheel", sources, tmp_path_factory.mktemp("wheel"))


def built(kind: str, sources: Path, folder: Path) -> Path:
    """What a build frontend asks of the backend, without the frontend's own start."""
    code = f"import sys; from setuptools.build_meta import build_{kind}; build_{kind}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder], cwd=sources, check=True, capture_output=True)
    [path] = folder.glob("abmll-*")
    return path


def wheel_of(what: Path, folder: Path) -> Path:
    # No isolation: the backend is installed with torch, and a test must not wait for a network.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, what]
    subprocess.run([str(word) for word in command], check=True)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel) -> dict[str, int]:
    """The wheel's files and their sizes in bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


def test_every_file_of_the_package_is_in_the_wheel(contents):
    in_tree = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    in_wheel = {name for name in contents if name.startswith("abmll/")}
    assert in_wheel == in_tree
    for kind in (
        "py.typed",
        "data/suites/realtasks.toml",
        "data/specs/classification.toml",
        "reports/report.html.jinja",
    ):
        assert f"abmll/{kind}" in in_wheel
    assert any(name.startswith("abmll/default/model/") and name.endswith(".safetensors") for name in in_wheel)


def test_nothing_else_is_in_the_wheel_but_its_metadata(contents):
    assert {name.split("/")[0] for name in contents} == {"abmll", f"abmll-{VERSION}.dist-info"}
    assert f"abmll-{VERSION}.dist-info/licenses/LICENSE" in contents


def test_the_wheel_stays_small(wheel, contents):
    weights = [size for name, size in contents.items() if name.endswith(".safetensors")]
    assert max(weights) <= 6 * MEGABYTE
    assert wheel.stat().st_size <= 8 * MEGABYTE


def test_the_wheel_works_where_it_is_unpacked_and_loads_no_torch_for_tasks(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import sys, abmll\n"
        "print(abmll.__file__)\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))\n"
        "from abmll.data.suite import shipped_suites\n"
        "print(*sorted(shipped_suites()))\n"
        "abmll.Task, abmll.Example, abmll.Episode, abmll.AbmllError\n"
        "import abmll.data.episodes, abmll.data.validate, abmll.default.tasks\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    file, at_import, suites, with_tasks = done.stdout.splitlines()
    assert Path(file) == tmp_path / "abmll" / "__init__.py"
    assert at_import == "[]"
    assert suites.split() == sorted(path.stem for path in (PACKAGE / "data" / "suites").glob("*.toml"))
    assert with_tasks == "[]"


@pytest.fixture(scope="module")
def sdist(sources, tmp_path_factory) -> Path:
    path = built("sdist", sources, tmp_path_factory.mktemp("sdist"))
    assert path.name == f"abmll-{VERSION}.tar.gz"
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installed_in_an_environment_of_its_own_it_does_what_the_readme_says(kind, request, tmp_path):
    """The Python block as printed, but for the model, which is the one in the package, and the number of steps.

    The environment has nothing of its own but abmll; what that needs is read from where these tests run, and what is
    installed there in an editable way is not seen.
    """
    file = request.getfixturevalue(kind)
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip())
    (site / "needed.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = {"env": environment, "cwd": tmp_path, "capture_output": True, "text": True}
    install = [python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--force-reinstall", "-q", file]
    done = subprocess.run([*install, "--target", site], **run)
    assert done.returncode == 0, done.stderr

    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    block = block.replace("smollm2", "default").replace("num_steps=200", "num_steps=1")
    (tmp_path / "my_tasks").mkdir()
    rows = "".join(f"{word} film {i},{label}\n" for i in range(20) for word, label in (("good", "yes"), ("bad", "no")))
    for name in ("one", "two"):
        (tmp_path / "my_tasks" / f"{name}.csv").write_text("text,label\n" + rows.replace("film", f"{name} film"))
    done = subprocess.run([python, "-c", f"{block}\nprint(abmll.__file__, abmll.__version__)"], **run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{site / 'abmll' / '__init__.py'} {VERSION}"
    done = subprocess.run([python, "-m", "abmll.cli", "tasks", "validate", "my_tasks"], **run)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_sdist_makes_the_same_wheel(sdist, contents, tmp_path):
    with zipfile.ZipFile(wheel_of(sdist, tmp_path)) as archive:
        again = {info.filename: info.file_size for info in archive.infolist()}
    assert again == contents


def test_every_public_name_exists_and_is_announced():
    assert sorted(abmll.__all__) == sorted(dir(abmll))
    for name in abmll.__all__:
        assert getattr(abmll, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Lerner'"):
        _ = abmll.Lerner


def test_the_pins_satisfy_the_declared_dependencies():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}
    assert all("+" not in version for version in pins.values()), "a local version exists on one machine only"
    for requirement in map(Requirement, declared):
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


def test_the_versions_agree():
    from importlib.metadata import version

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]
    assert abmll.__version__ == version("abmll")
    assert f"version: {abmll.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{abmll.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_file_holds_an_access_token():
    """In none of the files that are published; the patterns are those of the services that this project could meet."""
    tokens = {  # what each begins with, which is found many times as fast as the whole
        b"hf_": rb"\bhf_[A-Za-z]{30,}",
        b"gh": rb"\bgh[pousr]_[A-Za-z0-9]{30,}",
        b"github_pat_": rb"\bgithub_pat_\w{30,}",
        b"pypi-": rb"\bpypi-[\w-]{60,}",
        b"sk-": rb"\bsk-[A-Za-z0-9_-]{32,}",
        b"AKIA": rb"\bAKIA[0-9A-Z]{16}\b",
        b"-----BEGIN ": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    }

    def holds_one(data: bytes) -> bool:
        return any(start in data and re.search(pattern, data) for start, pattern in tokens.items())

    assert holds_one(b"token = 'hf_" + b"abcDEF" * 6 + b"'"), "the pattern finds one"
    kept = {".git", ".venv", "runs", "build", "dist", "shared", "__pycache__"}
    paths = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = set(folders) - kept
        paths += [path for name in names if (path := Path(folder, name)).is_file()]
    assert len(paths) > 200
    assert [path for path in paths if path.stat().st_size < MEGABYTE and holds_one(path.read_bytes())] == []
