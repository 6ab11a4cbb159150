"""promptfoo's tests and evaluations: `vars` and what is expected of the answer.

Read are its exported evaluations (JSON), tests in JSON, JSON Lines or YAML, and its CSV with a column `__expected`. An
assertion that the answer equals, contains or starts with a text gives the label; assertions of other kinds say nothing
about a right choice. The same test under several prompts or models is one row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abmll.data.formats.container import container_format, read_container
from abmll.data.formats.format import INPUT, Format, Misshapen, Options, Reading, answered, reshape
from abmll.data.formats.json import read_document, records
from abmll.data.problems import Problem
from abmll.data.rows import Row, read_text
from abmll.data.template import cell_text

EXPECTED = "__expected"
KINDS = ("equals", "iequals", "contains", "icontains", "starts-with")
USUAL = ("input", "text", "question", "query", "prompt", "message")
CURE = "Add an assertion of the type equals with the right answer"


def _results(document: Any) -> Any:
    """The list of tests inside an export, an evaluation or a configuration; the document itself otherwise."""
    while isinstance(document, Mapping):
        inner = next((document[key] for key in ("results", "tests", "testCases") if key in document), None)
        if inner is None:
            break
        document = inner
    return document


def _test(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The test itself: exported results keep it under testCase."""
    case = fields.get("testCase")
    return case if isinstance(case, Mapping) and isinstance(case.get("vars"), Mapping) else fields


def _fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and (
        all(EXPECTED in row for row in rows)
        or all(isinstance(_test(row).get("vars"), Mapping) and "assert" in _test(row) for row in rows)
    )


def _fits_document(document: Any) -> bool:
    found = _results(document)
    return (
        isinstance(found, list) and bool(found) and all(isinstance(row, Mapping) for row in found) and _fits(found[:20])
    )


def _read(path: Path, options: Options) -> Reading:
    if path.suffix.lower() in (".yaml", ".yml"):
        document, problems = _yaml(path)
    elif container_format(path) == "json":
        document, problems = read_document(path)
    else:
        reading = read_container(path, options)
        return reshape(path, reading, lambda fields: _shape(fields, options))
    if document is None:
        return Reading([], problems)
    rows, found = records(path.name, _results(document))
    return reshape(path, Reading(_distinct(rows), [*problems, *found]), lambda fields: _shape(fields, options))


def _yaml(path: Path) -> tuple[Any, list[Problem]]:
    """A YAML file in which every scalar is text: no, 1.0 and null are answers like any other."""
    import yaml  # comes with transformers

    text, problems = read_text(path)
    if text is None:
        return None, problems
    try:
        return yaml.load(text, Loader=yaml.BaseLoader), problems
    except yaml.YAMLError as error:
        first = " ".join(str(error).split())
        return None, [*problems, Problem(path.name, 0, "", f"broken YAML: {first}", "Correct it")]


def _distinct(rows: list[Row]) -> list[Row]:
    seen: dict[str, Row] = {}
    for row in rows:
        test = _test(row.fields)
        key = json.dumps([test.get("vars"), test.get("assert")], sort_keys=True, default=str)
        seen.setdefault(key, row)
    return list(seen.values())


def _shape(fields: Mapping[str, Any], options: Options) -> dict[str, Any]:
    test = _test(fields)
    if EXPECTED in fields:
        values = {name: value for name, value in fields.items() if not name.startswith("__")}
        label = _expected(fields[EXPECTED])
    else:
        if not isinstance(test.get("vars"), Mapping):
            raise Misshapen("vars", "the test has no vars", "Give promptfoo's tests or an exported evaluation")
        values, label = dict(test["vars"]), _asserted(test.get("assert"))
    texts = {name: cell_text(value) for name, value in values.items() if isinstance(value, (str, int, float))}
    if not texts:
        raise Misshapen("vars", "the test has no variable that is text", "Add one")
    named = next((name for name in USUAL if name in texts), None) if len(texts) > 1 else next(iter(texts))
    text = texts[named] if named else "\n".join(f"{name}: {value}" for name, value in texts.items())
    return texts | {INPUT: text} | answered(label, options, "assert", CURE)


def _expected(cell: Any) -> str | None:
    """The answer in promptfoo's CSV: a bare text, or "equals: text"; None for other assertions."""
    text = cell_text(cell).strip() if isinstance(cell, (str, int, float)) else ""
    kind, colon, rest = text.partition(":")
    if colon and kind.strip() in KINDS:
        return rest.strip() or None
    known = ("javascript", "fn", "eval", "python", "file", "llm-rubric", "grade", "similar", "is-json", "factuality")
    if text.startswith(("similar(", "levenshtein(")) or (colon and kind.strip() in known):
        return None
    return text or None


def _asserted(assertions: Any) -> str | None:
    """The text of the first assertion, in the order of `KINDS`, that says what the answer is."""
    found = [item for item in assertions if isinstance(item, Mapping)] if isinstance(assertions, list) else []
    for kind in KINDS:
        for item in found:
            if item.get("type") == kind and isinstance(item.get("value"), (str, int, float)):
                return cell_text(item["value"]).strip() or None
    return None


FORMAT = Format(
    "promptfoo's tests (JSON, JSON Lines, YAML, CSV with __expected) and evaluations", _read, _fits, _fits_document
)
