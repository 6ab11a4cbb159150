"""What a result was made with: versions, commit, machine, seeds and command."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from abmll.config.commit import commit_of

PACKAGES = ("abmll", "torch", "transformers", "peft", "numpy")


def provenance(seeds: Sequence[int] = ()) -> dict[str, Any]:
    """What stands beside every result, ready for JSON. Reads installed metadata and loads no library.

    Paths appear only as the user typed them. The accelerator is told if torch is loaded and has one. `commit` is
    that of the working directory, with "+changes" if tracked files differ from it; None outside a repository.
    Nothing that the repository names is run.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seeds": list(seeds),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "commit": commit_of(Path.cwd()),
        "platform": platform.platform(terse=True),
        "machine": platform.machine(),
        "cpus": _cpus(),
        "accelerator": _accelerator(),
    }


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpus() -> int:
    """How many CPUs this process may use, which is fewer than the machine has in a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _accelerator() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())
