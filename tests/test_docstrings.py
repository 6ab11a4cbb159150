"""Docstrings of more than a line tell arguments, results and errors in Google's form, so that every tool reads them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "src" / "abmll"
SHOWN = ("cli/", "config/schema.py")
"""Their docstrings are printed as they stand, as help."""
SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")


def documented(path: Path) -> Iterator[tuple[Any, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        text = ast.get_docstring(node) if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and public else None
        if text and "\n" in text:
            yield node, text


def names_of(node: Any) -> set[str]:
    """The arguments of a function, or of what makes an instance; the fields of a class."""
    if isinstance(node, ast.FunctionDef):
        arguments = node.args
        return {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)} - {"self", "cls"}
    made = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    fields = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}
    return fields.union(*map(names_of, made))


def loose(node: Any, text: str) -> Iterator[str]:
    """Lines that tell an argument, a result or an error and stand in no section."""
    for line in text.splitlines():
        found = re.match(r"(\w+(?:, \w+)*): \S", line)
        if found is None or SECTION.match(line):
            continue
        words = set(found[1].split(", "))
        if words <= names_of(node) or words <= {"Returns", "Raises"}:
            yield line


def test_arguments_results_and_errors_stand_in_sections():
    told, sections = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(SHOWN):
            continue
        for node, text in documented(path):
            sections += any(SECTION.match(line) for line in text.splitlines())
            told += [f"{name}, {node.name}: {line}" for line in loose(node, text)]
    assert sections > 200
    assert not told, "\n".join(told)
