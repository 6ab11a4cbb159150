"""The manifest.json of a folder of tasks: names, questions, families and digests of its files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from abmll.core.documents import parse_json
from abmll.core.errors import Unreadable, shown
from abmll.data.contents import read_text
from abmll.data.problems import Problem, raise_errors
from abmll.data.rows import task_name

MANIFEST = "manifest.json"


def described(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of a folder's manifest by file name; empty without a manifest. Raises AbmllError for its mistakes."""
    entries, problems = read_manifest(folder)
    raise_errors(folder / MANIFEST, problems)
    return entries


def read_manifest(folder: Path) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """The entries of a folder's manifest by file name, and all that is wrong with it."""
    path = folder / MANIFEST
    if not path.exists():
        return {}, []
    text, problems = read_text(path)
    if text is None:
        return {}, problems
    try:
        manifest = parse_json(text)
    except Unreadable as error:
        return {}, [
            *problems,
            Problem(MANIFEST, error.line, error.field, error.found, error.cure),
        ]
    entries = manifest.get("tasks") if isinstance(manifest, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        message = 'the manifest needs a list of objects under "tasks"'
        return {}, [*problems, Problem(MANIFEST, 0, "tasks", message, "Write it, or remove the file")]
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        wrong = _mistakes(folder, number, entry)
        problems += wrong
        if not wrong:
            if entry["file"] in found:
                message = f"two tasks name the file {shown(entry['file'])}"
                problems.append(Problem(MANIFEST, 0, "file", message, "Keep one of them"))
            found[entry["file"]] = {"name": task_name(Path(entry["file"]))} | entry
    return found, problems


def _mistakes(folder: Path, number: int, entry: dict[str, Any]) -> list[Problem]:
    problems = []

    def add(key: str, message: str, cure: str) -> None:
        problems.append(Problem(MANIFEST, 0, key, message, cure))

    for key in ("name", "file", "question", "family", "sha256"):
        if not isinstance(entry.get(key, ""), str):
            add(key, f"{key!r} of task {number} is {shown(entry[key])}", "Write a text")
    if isinstance(entry.get("name"), str) and not entry["name"].strip():
        add("name", f"the name of task {number} is empty", "Give it one, or leave the key out")
    partners = entry.get("shares_rows_with", [])
    if not isinstance(partners, list) or not all(isinstance(name, str) for name in partners):
        add("shares_rows_with", f"'shares_rows_with' of task {number} is {shown(partners)}", 'Write ["task", …]')
    file = entry.get("file")
    if problems and not isinstance(file, str):
        return problems
    if not file or Path(file).name != file or "\0" in file:
        add("file", f"task {number} names the file {shown(file)}", "Name a file of this folder")
    elif not os.path.isfile(folder / file):
        add("file", f"the manifest lists {shown(file)}, which is not in the folder", "Restore it, or remove the entry")
    elif isinstance(entry.get("sha256"), str) and _sha256(folder / file) != entry["sha256"]:
        message = f"{shown(file)} is not the file that {MANIFEST} was written for (SHA-256 differs)"
        add("sha256", message, "Restore it, or remove its sha256 there if the change is meant")
    return problems


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()
