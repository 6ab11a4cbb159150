"""What is written beside a result: enough to make it again, and nothing private."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version

import pytest

from abmll.config import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").write_text("one")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    return tmp_path


def test_versions_machine_seeds_and_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/someone/.venv/bin/abmll", "train", "run.toml", "seed=3"])
    info = provenance([3, 4])
    assert info["command"] == ["abmll", "train", "run.toml", "seed=3"]
    assert info["seeds"] == [3, 4]
    assert info["versions"]["python"] == platform.python_version()
    for package in ("abmll", "torch", "transformers", "peft"):
        assert info["versions"][package] == version(package)
    assert info["cpus"] >= 1
    assert "/home/someone" not in json.dumps(info)


def test_the_commit_of_the_working_folder_and_whether_files_differ_from_it(repository):
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert provenance()["commit"] == head
    (repository / "new").write_text("untracked files are results, not changes")
    assert provenance()["commit"] == head
    (repository / "file").write_text("two")
    assert provenance()["commit"] == f"{head}+changes"


def test_no_commit_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance()["commit"] is None


def test_a_missing_package_is_none_and_not_an_error(monkeypatch):
    from importlib import metadata

    def missing(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", missing)
    assert provenance()["versions"]["peft"] is None


def test_it_loads_no_library():
    code = "import sys; from abmll.config import provenance; provenance(); print({'torch', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
