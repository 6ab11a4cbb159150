"""Files that are read within bounds, and files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from abmll.core.errors import AbmllError, Unreadable, printable

_OTHER_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a named pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)


def read_bytes(path: Path, limit: int) -> bytes:
    """All bytes of an ordinary file.

    Args:
        path: of a file or a link to one. Pipes, sockets and devices are not opened: reading them may never end.
        limit: the most bytes that it may have.

    Raises:
        Unreadable: if there is none, it is no ordinary file, it may not be read, or it is larger than `limit`.
    """
    name = printable(str(path))
    try:
        # Without blocking: opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        cure = "Check the path" if not os.path.islink(path) else "It is a link to a file that is gone: restore that"
        raise Unreadable(f"there is no file {name}", cure) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Unreadable(f"{name} cannot be read: {reason}", "Check the path and its rights") from None
    try:
        mode = os.fstat(descriptor)
        other = next((kind for is_kind, kind in _OTHER_KINDS if is_kind(mode.st_mode)), None)
        if other is not None:
            raise Unreadable(f"{name} {other}, not a file", "Give an ordinary file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            # one byte more than there should be shows what has grown since, or says no size; and allocates no more
            data = file.read(min(limit, mode.st_size + 2**24) + 1) if mode.st_size <= limit else b""
    except OSError as error:
        raise Unreadable(f"{name} cannot be read: {error.strerror}", "Check the path and its rights") from None
    finally:
        os.close(descriptor)
    if mode.st_size > limit or len(data) > limit:
        size = max(mode.st_size, len(data))
        raise Unreadable(f"{name} is too large: {size:,} bytes, at most {limit:,} are read", "Give a smaller file")
    return data


def write_whole(path: Path, content: str | bytes) -> Path:
    """Writes a file (text as UTF-8) whole or not at all, makes it durable, and returns its path; makes the folder.

    Devices and pipes (/dev/null, /dev/stdout) are written to as they stand.

    Raises:
        AbmllError: If it cannot be written; what was there before is still there then.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as file:  # no other file may take its place
                file.write(content.encode() if isinstance(content, str) else content)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's files are the owner's alone
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise AbmllError(f"cannot write {path}: {error.strerror}. Choose another place.") from error
    return path


def sync_folder(path: Path) -> None:
    """Makes a folder's entries (names, renames) durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
