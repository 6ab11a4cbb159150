"""Bringing hub tasks into the Hugging Face cache, once, and checking that they are what their specs say."""

from __future__ import annotations

import errno
import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from abmll.core.errors import AbmllError
from abmll.data.hub.spec import CONVERTED, HubSpec, Kind, hub_spec

Tell = Callable[[str], None]
FALSE_START = "What has come stays in the cache; the same command goes on from there"


class Fetched(NamedTuple):
    """One split that is in the cache and as its spec says."""

    task: str
    split: str
    rows: int
    files: tuple[Path, ...]


class Failure(NamedTuple):
    """One task that could not be fetched, and why."""

    task: str
    error: str


def fetch_tasks(
    names: Sequence[str], *, cache: Path | None = None, endpoint: str | None = None, tell: Tell = lambda _: None
) -> tuple[list[Fetched], list[Failure]]:
    """Fetches and checks every split that the tasks use. A task that fails keeps no other from being fetched.

    Args:
        cache: of Hugging Face; by default its own.
        endpoint: of a hub other than huggingface.co.
    """
    done, failed = [], []
    for name in names:
        try:
            spec = hub_spec(name)
            for fetched in _fetch(spec, cache, endpoint):
                done.append(fetched)
                known = spec.splits[fetched.split].rows is not None
                checked = (
                    "as its spec says" if known else "columns as its spec says; how many there should be is unknown"
                )
                tell(f"{fetched.task}: {fetched.split}, {fetched.rows} rows, {checked}")
        except AbmllError as error:
            failed.append(Failure(name, str(error)))
            tell(f"{name}: not fetched")
    return done, failed


def _fetch(spec: HubSpec, cache: Path | None, endpoint: str | None) -> list[Fetched]:
    from huggingface_hub import HfApi, hf_hub_download

    where = f"{spec.repo} at {spec.revision}"
    listed = _asked(
        spec,
        where,
        lambda: HfApi(endpoint=endpoint).list_repo_files(spec.repo, revision=spec.revision, repo_type="dataset"),
    )
    found = []
    for split, described in spec.used.items():
        names = sorted(name for name in listed if fnmatch.fnmatchcase(name, described.files))
        if not names:
            folders = sorted({name.rpartition("/")[0] or name for name in listed})
            shown = ", ".join(folders[:8]) + (", …" if len(folders) > 8 else "")
            raise AbmllError(
                f"{where} has no split {split!r}: no file is named {described.files}. It holds: {shown or 'nothing'}. "
                "The set was rearranged; update abmll, or report it"
            )
        paths = []
        for name in names:

            def download(name: str = name) -> str:
                return hf_hub_download(
                    spec.repo,
                    name,
                    repo_type="dataset",
                    revision=spec.revision,
                    cache_dir=cache,
                    endpoint=endpoint,
                )

            paths.append(Path(_asked(spec, f"{where}, {name}", download)))
        found.append(Fetched(spec.name, split, _check(spec, split, paths), tuple(paths)))
    return found


def _asked(spec: HubSpec, where: str, ask: Callable[[], Any]) -> Any:
    """The hub's answer. Raises AbmllError for whatever kept it from answering."""
    import httpx2
    from huggingface_hub import errors

    try:
        return ask()
    except errors.GatedRepoError as error:
        page = f"https://huggingface.co/datasets/{spec.repo}"
        raise AbmllError(
            f"{where}: its owners ask you to accept their terms first. Do so at {page}, then log in: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        status = getattr(getattr(error, "response", None), "status_code", 404)
        if status == 401:
            message = "the hub wants to know who asks (401). Log in: hf auth login; or the set was withdrawn or renamed"
        else:
            message = (
                "the hub has no such data set (404): it was moved, renamed or withdrawn. Update abmll, or report it"
            )
        raise AbmllError(f"{where}: {message}") from error
    except errors.RevisionNotFoundError as error:
        what = "no conversion to Parquet" if spec.revision == CONVERTED else "no such commit"
        raise AbmllError(f"{where}: the data set is there, but {what}. Update abmll, or report it") from error
    except errors.EntryNotFoundError as error:
        raise AbmllError(f"{where}: the file is gone. {FALSE_START}") from error
    except httpx2.TimeoutException as error:
        raise AbmllError(f"{where}: the hub did not answer in time. {FALSE_START}") from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            raise AbmllError(f"{where}: the hub wants to know who asks (401). Log in: hf auth login") from error
        raise AbmllError(f"{where}: the hub answered {status}. Try again later. {FALSE_START}") from error
    except httpx2.HTTPError as error:
        raise AbmllError(f"{where}: the hub cannot be reached ({error}). {FALSE_START}") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise AbmllError(
                f"{where}: the disk is full. Free some space, or set HF_HOME to another. {FALSE_START}"
            ) from error
        first = str(error).strip().partition("\n")[0]
        raise AbmllError(f"{where}: {first.rstrip('.')}. {FALSE_START}") from error


def _check(spec: HubSpec, split: str, paths: Sequence[Path]) -> int:
    """The number of rows of a split. Raises AbmllError if columns or rows are not those of the spec."""
    rows = 0
    for path in paths:
        count, kinds = _measured(path)
        rows += count
        missing = [name for name in spec.columns if name not in kinds]
        if missing:
            raise AbmllError(
                f"{spec.repo}, {path.name}: the column {missing[0]!r} is missing; the columns are {', '.join(kinds)}. "
                "The set was changed; update abmll, or report it"
            )
        for name, kind in spec.columns.items():
            if kinds[name] != kind:
                raise AbmllError(
                    f"{spec.repo}, {path.name}: the column {name!r} holds {kinds[name]}, its spec says {kind}. The set "
                    "was changed; update abmll, or report it"
                )
    expected = spec.splits[split].rows
    if expected is not None and rows != expected:
        raise AbmllError(
            f"{spec.repo}: the split {split!r} has {rows} rows, its spec says {expected}. The set was changed, so "
            "results would not compare; update abmll, or report it"
        )
    return rows


def _measured(path: Path) -> tuple[int, dict[str, Kind]]:
    """How many rows a file has, and of which kind each column is."""
    if path.suffix != ".parquet":
        from abmll.data.formats.container import read_container
        from abmll.data.formats.format import Options
        from abmll.data.problems import raise_errors

        reading = read_container(path, Options())
        raise_errors(path, reading.problems)
        first = reading.rows[0].fields if reading.rows else {}
        return len(reading.rows), {name: _kind_of(value) for name, value in first.items()}
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise AbmllError("tasks of the hub need the library pyarrow: pip install 'abmll[parquet]'") from None
    try:
        file = parquet.ParquetFile(path)
        return file.metadata.num_rows, {field.name: _arrow_kind(arrow, field.type) for field in file.schema_arrow}
    except (arrow.ArrowException, OSError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise AbmllError(f"{path.name} came damaged ({first_line}). Delete it and fetch it again: {path}") from error


def _arrow_kind(arrow: Any, kind: Any) -> Kind:
    types = arrow.types
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_boolean(kind):
        return "flag"
    if types.is_list(kind) or types.is_large_list(kind):
        return "list"
    return "number" if types.is_integer(kind) or types.is_floating(kind) else "object"


def _kind_of(value: Any) -> Kind:
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "list"
    return "number" if isinstance(value, (int, float)) else "object"
