"""The texts of the query examples, in a file beside the predictions: for people who want to see what went wrong.

No metric needs them, and they may be somebody's private texts, so predictions do without: delete `queries.jsonl` and a
report has no examples. One JSON object a line, one line a row:

    {"task": "t", "id": "t/3", "question": "...", "text": "...", "choices": ["no", "yes"]}

A row without an id of its own has the number that the cells of one seed give it; its line then also has "seed".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from abmll.core.documents import parse_json
from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.core.notices import tell
from abmll.data.episodes import evaluation_episode
from abmll.data.task import Task
from abmll.evaluation.predictions import Cell

QUERIES = "queries.jsonl"
"""Name of the file, beside `predictions.jsonl`."""
LONGEST = 400
"""Characters of a text that are kept: its beginning and its end."""


class Query(NamedTuple):
    """What was asked, and its choices."""

    question: str
    text: str
    choices: tuple[str, ...]


Queries = Mapping[tuple[str, int | None, str], Query]
"""(task, seed or None, id) -> the query."""


def find_query(queries: Queries, cell: Cell, index: int) -> Query | None:
    """What the example at a place of a cell asked, if the file says it."""
    key = cell.ids[index]
    return queries.get((cell.task, None, key)) or queries.get((cell.task, cell.seed, key))


def queries_of(
    tasks: Iterable[Task], seeds: Iterable[int], num_query: int | None, max_support: int
) -> dict[tuple[str, int | None, str], Query]:
    """The texts of all rows that `evaluation_episode` asks of these tasks."""
    found: dict[tuple[str, int | None, str], Query] = {}
    for task in tasks:
        for seed in seeds:
            episode = evaluation_episode(task, seed, 0, num_query, max_support=max_support)
            for index, row in enumerate(episode.query):
                key = (task.name, None, row.id) if row.id else (task.name, seed, str(index))
                if key not in found:
                    choices = tuple(map(shortened, row.choices))
                    found[key] = Query(shortened(row.question), shortened(row.prompt), choices)
    return found


def write_queries(path: Path, queries: Queries) -> Path:
    """Writes the texts, whole or not at all."""
    lines = []
    for (task, seed, key), query in queries.items():
        record = {"task": task, "id": key, **query._asdict(), **({} if seed is None else {"seed": seed})}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return write_whole(path, "".join(lines))


def read_queries(path: Path) -> Queries:
    """The texts in a file; none if there is no file. A damaged one is told, and left out as a whole."""
    if not path.is_file():
        return {}
    found = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = parse_json(line)
            key = str(record["task"]), record.get("seed"), str(record["id"])
            found[key] = Query(str(record["question"]), str(record["text"]), tuple(map(str, record["choices"])))
        except (AbmllError, ValueError, KeyError, TypeError, AttributeError) as error:
            tell(f"Warning: no examples are shown, because {path} is damaged in line {number}: {error!r}")
            return {}
    return found


def shortened(text: str) -> str:
    """At most `LONGEST` characters, with the middle left out."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half].rstrip()} … {text[-half:].lstrip()}"
