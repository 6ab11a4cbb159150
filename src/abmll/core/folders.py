"""Output folders: each in the hands of one process, and with room for what will be written."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from abmll.core.documents import read_json
from abmll.core.errors import AbmllError, printable
from abmll.core.notices import tell

LOCK, HOLDER = ".abmll.lock", ".abmll.lock.json"
"""While a folder is held: the file that is locked, and who holds it."""
_held: dict[Path, int] = {}


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Until the block ends, no other process writes into `folder`, which is made if absent: so it can be written, too.

    The system lets go of the lock when its process dies, however it dies: nothing stale is left to be removed. Within
    one process a folder may be held several times over.

    Raises:
        AbmllError: If another process holds it (the message says which) or the folder cannot be written.
    """
    place = Path(os.path.realpath(folder))
    if place in _held:
        _held[place] += 1
        try:
            yield
        finally:
            _held[place] -= 1
        return
    made = _make(place, folder)
    lock = FileLock(place / LOCK)
    with contextlib.ExitStack() as undo:
        undo.callback(_remove_empty, made)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise AbmllError(
                f"{folder} is in use by {_holder(place)}. Wait until that ends, end it, or choose another output "
                "folder."
            ) from None
        except (OSError, NotImplementedError) as error:
            if os.path.islink(place / LOCK) or (place / LOCK).is_dir():
                raise AbmllError(f"{place / LOCK} is a link or a folder, not a lock. Remove it.") from error
            require_writable(place)
            tell(f"{folder}: this file system has no locks ({error}); let no other process write there.")
            yield
            return
        _held[place] = 1
        undo.callback(_let_go, place, lock)
        try:
            (place / HOLDER).unlink(missing_ok=True)  # it may be a link to anything, or a pipe, in a stranger's folder
            (place / HOLDER).write_text(json.dumps(_ourselves()), encoding="utf-8")
        except OSError as error:
            raise _cannot_write(folder, error) from error
        yield


def require_writable(folder: Path) -> None:
    """Raises AbmllError if no file can be written into `folder`; leaves nothing there, nor a folder that was not."""
    place = Path(os.path.realpath(folder))
    made = _make(place, folder)
    probe = place / f"{LOCK}-{os.getpid()}"
    try:
        probe.write_bytes(b"abmll")
        probe.unlink()
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        _remove_empty(made)


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raises AbmllError if fewer than `needed` bytes are free where `folder` lies or will lie."""
    place = Path(os.path.realpath(folder))
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return  # a file system that does not tell
    if free < needed:
        raise AbmllError(
            f"{folder}: {free / 2**20:,.0f} MiB are free there, and {what} need about {needed / 2**20:,.0f} MiB. "
            "Free some space, or choose another output folder."
        )


def _make(place: Path, folder: Path) -> list[Path]:
    """Makes the folder; returns those of its path that were not there, the innermost first."""
    absent = [one for one in (place, *place.parents) if not one.exists()]
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    return absent


def _remove_empty(folders: list[Path]) -> None:
    """A run that is refused leaves nothing behind, not even a folder."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _let_go(place: Path, lock: FileLock) -> None:
    del _held[place]
    # Removed while still held: whoever has opened the old file in the meantime sees that it is gone, and begins anew.
    for name in (HOLDER, LOCK):
        with contextlib.suppress(OSError):
            (place / name).unlink(missing_ok=True)
    lock.release()


def _cannot_write(folder: Path, error: BaseException) -> AbmllError:
    reason = getattr(error, "strerror", None) or error
    return AbmllError(
        f"cannot write to {folder}: {reason}. Make it writable, free some space, or choose another output folder."
    )


def _ourselves() -> dict[str, str | int]:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else "python"
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "command": command[:500], "since": since}


def _holder(place: Path) -> str:
    try:
        found = read_json(place / HOLDER)
        told = {key: printable(str(found[key]))[:500] for key in ("pid", "host", "command", "since")}
    except (AbmllError, KeyError, TypeError):
        return "another process"
    return f"process {told['pid']} on {told['host']} ({told['command']}), since {told['since']}"
