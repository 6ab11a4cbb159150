"""A hub task from the cache, without a network."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.data.hub.spec import HUB, HubSpec, hub_spec
from abmll.data.overlap import normalised
from abmll.data.problems import errors, raise_errors
from abmll.data.readers import parse_spec
from abmll.data.task import Task


def read_hub_task(name: str, cache: Path | None = None) -> Task:
    """The task of a shipped spec, from files that `abmll tasks fetch` has brought into the cache.

    Its evaluated rows are the spec's `judge` split; support sets are drawn from `support`, without inputs that are
    evaluated on.
    Raises AbmllError if a file is not in the cache, or does not hold what the spec says.
    """
    spec = hub_spec(name)
    evaluated = _examples(spec, spec.judge, cache)
    pool = [] if spec.support is None else _examples(spec, spec.support, cache)
    tested = {normalised(row.prompt) for row in evaluated}
    support = tuple(row for row in pool if normalised(row.prompt) not in tested)
    return Task(spec.name, tuple(evaluated), spec.question, spec.family, f"{spec.repo} ({spec.revision})", support)


def cached_files(spec: HubSpec, split: str, cache: Path | None = None) -> list[Path]:
    """The files of a split in the cache, sorted; empty if it has not been fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    pattern = spec.splits[split].files
    try:
        root = Path(
            snapshot_download(
                spec.repo,
                repo_type="dataset",
                revision=spec.revision,
                cache_dir=cache,
                allow_patterns=[pattern],
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        return []
    files = [path for path in root.rglob("*") if path.is_file()]
    return sorted(path for path in files if fnmatch.fnmatchcase(path.relative_to(root).as_posix(), pattern))


def _examples(spec: HubSpec, split: str, cache: Path | None) -> list[Example]:
    files = cached_files(spec, split, cache)
    if not files:
        raise AbmllError(
            f"the task {spec.name!r} is not on this machine: {spec.repo} has no split {split!r} in the Hugging Face "
            f"cache. Fetch it once, with a network: abmll tasks fetch {HUB}{spec.name}"
        )
    rows: list[Example] = []
    for number, file in enumerate(files):
        label = f"{spec.name}:{split}" + (f":{number}" if len(files) > 1 else "")
        parsed = parse_spec(file, spec.task_spec(str(file)), [file], name=label)
        raise_errors(file, errors(parsed.problems))
        rows += [row.example for row in parsed.placed]
    return rows
