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


HOSTILE = """
[core]
    fsmonitor = touch {trap}; false
    hooksPath = {folder}
    pager = touch {trap}
    sshCommand = touch {trap}
[filter "evil"]
    clean = touch {trap}; cat
    smudge = touch {trap}; cat
    process = touch {trap}
[diff]
    external = touch {trap}
[alias]
    status = !touch {trap}
[include]
    path = {folder}/more
"""


def test_nothing_that_a_repository_names_is_run(repository, tmp_path_factory):
    """Neither while files are as committed nor while one differs, which makes git ask its filters."""
    head = provenance()["commit"]
    trap = tmp_path_factory.mktemp("trap") / "ran"
    (repository / "more").write_text(f"[core]\n    fsmonitor = touch {trap}; false\n")
    (repository / ".gitattributes").write_text("* filter=evil diff=evil\n")
    config = repository / ".git" / "config"
    config.write_text(config.read_text() + HOSTILE.format(trap=trap, folder=repository))
    for hook in ("post-index-change", "fsmonitor-watchman"):
        (repository / ".git" / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {trap}\n")
        (repository / ".git" / "hooks" / hook).chmod(0o755)
    assert provenance()["commit"] == head
    (repository / "file").write_text("two")
    assert provenance()["commit"] == f"{head}+changes"
    assert not trap.exists()
    subprocess.run(["git", "status"], check=False, capture_output=True)
    assert trap.exists(), "the trap is one: git by itself runs it"


def test_the_commit_is_found_in_packed_references_and_other_working_trees(repository, monkeypatch):
    head = provenance()["commit"]
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "pack-refs", "--all"], check=True)
    assert provenance()["commit"] == head
    subprocess.run([*git, "worktree", "add", "-q", "-b", "other", "elsewhere"], check=True)
    monkeypatch.chdir(repository / "elsewhere")
    assert provenance()["commit"] == head
    (repository / "elsewhere" / "file").write_text("two")
    assert provenance()["commit"] == f"{head}+changes"
    subprocess.run([*git, "commit", "-qam", "second"], check=True)
    second = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert provenance()["commit"] == second != head
    subprocess.run([*git, "checkout", "-q", "--detach"], check=True)
    assert provenance()["commit"] == second


@pytest.mark.parametrize("head", ["", "ref: ../../etc/passwd", "ref: refs/heads/../../config", "nonsense", "\xff"])
def test_a_damaged_head_is_no_commit(repository, head):
    (repository / ".git" / "HEAD").write_text(head, encoding="latin-1")
    assert provenance()["commit"] is None


def test_a_missing_package_is_none_and_not_an_error(monkeypatch):
    monkeypatch.setitem(provenance.__globals__, "PACKAGES", ("torch", "no-such-package"))
    versions = provenance()["versions"]
    assert (versions["torch"] is None, versions["no-such-package"]) == (False, None)


def test_it_loads_no_library():
    code = "import sys; from abmll.config import provenance; provenance(); print({'torch', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
