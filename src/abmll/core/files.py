"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from abmll.core.errors import AbmllError


def write_whole(path: Path, content: str | bytes) -> Path:
    """Writes a file (text as UTF-8) whole or not at all, makes it durable, and returns its path; makes the folder.

    Raises: AbmllError if it cannot be written; what was there before is still there then.
    """
    try:
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
