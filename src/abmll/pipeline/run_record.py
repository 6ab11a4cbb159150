"""What lies beside every result: the resolved run file, and what it was made with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from abmll.config import RunConfig, dump_toml, load_config, provenance
from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.core.nested import flat

RUN_FILE = "run.toml"
PROVENANCE = "provenance.json"


def write_run_record(directory: Path, config: RunConfig, seeds: Sequence[int]) -> None:
    """Writes run.toml and provenance.json into `directory`, making it. Each appears whole or not at all."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / RUN_FILE, dump_toml(config))
        write_whole(directory / PROVENANCE, json.dumps(provenance(seeds), indent=2) + "\n")
    except OSError as error:
        raise AbmllError(f"cannot write to {directory}: {error.strerror}. Choose another output folder.") from error


def require_same_run(directory: Path, config: RunConfig, *, free: Sequence[str]) -> None:
    """Raises AbmllError if `directory` holds a run with other settings, whose results ours would be mixed with.

    Args:
        free: dotted fields (and whole tables) that may differ. Options of methods that only one of the two has, may
            too.
    """
    path = directory / RUN_FILE
    if not path.is_file():
        return
    earlier = load_config(path)
    before, after = flat(earlier.model_dump(mode="json")), flat(config.model_dump(mode="json"))
    both = set(earlier.method.names) & set(config.method.names)
    free = [*free, *(f"method.options.{name}" for name in {*earlier.method.names, *config.method.names} - both)]
    changed = [
        f"{key} was {before.get(key)!r} and is now {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not any(f"{key}.".startswith(f"{one}.") for one in free)
    ]
    if changed:
        raise AbmllError(
            f"{directory} holds results of other settings: {'; '.join(changed)}. Set them back to go on with it, or "
            "give another folder with -o."
        )
