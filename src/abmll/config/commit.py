"""The commit of a working folder, found without running anything that a repository asks to be run.

A repository's own configuration may name programs (core.fsmonitor, filters, hooks, a pager, the transport of a partial
clone) that git starts even for `git status`, and a folder from elsewhere is no reason to start them. So HEAD is read
from its files, and whether files differ from it is asked of a git that is shown a configuration of ours.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF = re.compile(r"refs/[\w.+@=-][\w.+@=/-]*")
_MOST_BYTES = 256 * 2**20
"""Of an index or of packed references."""


class _Repository(NamedTuple):
    """top: of the working tree. own: of this working tree. common: of all working trees."""

    top: Path
    own: Path
    common: Path


def commit_of(folder: Path) -> str | None:
    """HEAD of the repository around `folder`, with "+changes" if tracked files differ from it; None outside of one."""
    try:
        found = _repository(folder)
        head = None if found is None else _head(found)
        if found is None or head is None:
            return None
        changed = _changed(found, head)
    except OSError:
        return None
    return head if changed is False else f"{head}+changes" if changed else f"{head} (changes unknown)"


def _repository(folder: Path) -> _Repository | None:
    ceilings = {Path(os.path.realpath(one)) for one in os.environ.get("GIT_CEILING_DIRECTORIES", "").split(":") if one}
    place = Path(os.path.realpath(folder))
    for top in (place, *place.parents):
        if top in ceilings and top != place:
            return None
        own = top / ".git"
        if own.is_file():  # a further working tree, or a submodule
            named = _line(own).removeprefix("gitdir: ")
            own = top / named
        if (own / "HEAD").is_file():
            common = own / _line(own / "commondir") if (own / "commondir").is_file() else own
            return _Repository(top, own, common)
    return None


def _head(found: _Repository) -> str | None:
    text = _line(found.own / "HEAD")
    if _HASH.fullmatch(text):
        return text
    ref = text.removeprefix("ref: ")
    if not _REF.fullmatch(ref) or ".." in ref:
        return None
    for folder in (found.own, found.common):
        if (folder / ref).is_file():
            text = _line(folder / ref)
            return text if _HASH.fullmatch(text) else None
    packed = found.common / "packed-refs"
    if packed.is_file() and packed.stat().st_size < _MOST_BYTES:
        for line in packed.read_text(encoding="utf-8", errors="replace").splitlines():
            commit, _, name = line.partition(" ")
            if name == ref and _HASH.fullmatch(commit):
                return commit
    return None


def _changed(found: _Repository, head: str) -> bool | None:
    """Whether tracked files differ from HEAD; None if that cannot be told."""
    program = shutil.which("git")
    index = found.own / "index"
    if program is None or not index.is_file() or index.stat().st_size > _MOST_BYTES:
        return None
    with tempfile.TemporaryDirectory(prefix="abmll-") as folder:
        ours = Path(folder)
        (ours / "refs").mkdir()
        (ours / "objects" / "info").mkdir(parents=True)
        (ours / "objects" / "info" / "alternates").write_text(f"{found.common / 'objects'}\n", encoding="utf-8")
        (ours / "HEAD").write_text(f"{head}\n", encoding="utf-8")
        version = "repositoryformatversion = 0\n" if len(head) == 40 else "repositoryformatversion = 1\n"
        kind = "" if len(head) == 40 else "[extensions]\nobjectFormat = sha256\n"
        (ours / "config").write_text(f"[core]\n{version}bare = false\nfsmonitor = false\n{kind}", encoding="utf-8")
        shutil.copyfile(index, ours / "index")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1"}
        environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
        command = [program, f"--git-dir={ours}", f"--work-tree={found.top}", "--no-pager", "status", "--porcelain"]
        try:
            done = subprocess.run(
                [*command, "--untracked-files=no", "--ignore-submodules=all"],
                capture_output=True,
                timeout=10,
                check=True,
                env=environment,
                cwd=found.top,
            )
        except (OSError, subprocess.SubprocessError):
            return None
    return bool(done.stdout.strip())


def _line(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(4096).decode("utf-8", errors="replace").strip()
