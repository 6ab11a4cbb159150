"""Files of hub tasks that lie in the Hugging Face cache."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from abmll.core.errors import AbmllError
from abmll.data.hub.spec import HUB, HubSpec


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


def require_files(spec: HubSpec, split: str, cache: Path | None = None) -> list[Path]:
    """The files of a split in the cache. Raises AbmllError, with how to fetch them, if there are none."""
    files = cached_files(spec, split, cache)
    if not files:
        raise AbmllError(
            f"the task {spec.name!r} is not on this machine: {spec.repo} has no split {split!r} in the Hugging Face "
            f"cache. Fetch it once, with a network: abmll tasks fetch {HUB}{spec.name}"
        )
    return files
