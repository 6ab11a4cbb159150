"""What a person looks at first: the surest mistakes, and which class is taken for which."""

from __future__ import annotations

import json
import math

import pytest
import torch

from abmll.core.types import Example
from abmll.data.task import Task
from abmll.evaluation.predictions import Cell
from abmll.evaluation.queries import LONGEST, Query, find_query, queries_of, read_queries, shortened, write_queries
from abmll.reports.mistakes import confident_mistakes, confusions

CLASSES = ("no", "yes")


def cell(probabilities, targets, *, task="t", seed=0, choices=CLASSES, ids=None):
    """probabilities: of "yes", one a row."""
    probs = torch.tensor([[1 - p, p] for p in probabilities])
    ids = ids or [f"{task}/{i}" for i in range(len(targets))]
    extra = {"choices": list(choices)} if choices else {}
    return Cell("abmll", seed, task, "f", 16, ids, torch.tensor(targets), probs.log()[None], 1.0, extra)


def texts(task="t", count=4):
    return {(task, None, f"{task}/{i}"): Query("Good?", f"text {i}", CLASSES) for i in range(count)}


def test_the_surest_mistake_comes_first_with_its_text_and_both_probabilities():
    cells = [cell([0.9, 0.2, 0.97, 0.4], [1, 1, 0, 0])]
    first, second = confident_mistakes(cells, texts())
    assert (first.text, first.predicted, first.right) == ("text 2", "yes", "no")
    assert first.confidence == pytest.approx(0.97)
    assert first.probability == pytest.approx(0.03)
    assert (second.text, second.predicted, second.right) == ("text 1", "no", "yes")


def test_a_row_is_shown_once_at_its_worst_and_seeds_are_counted():
    cells = [cell([0.9], [0]), cell([0.95], [0], seed=1), cell([0.1], [0], seed=2)]
    (mistake,) = confident_mistakes(cells, texts())
    assert mistake.confidence == pytest.approx(0.95)
    assert (mistake.wrong, mistake.asked) == (2, 3)


def test_no_task_fills_the_list_and_rows_without_text_are_left_out():
    many = [cell([0.99] * 4, [0] * 4), cell([0.6], [0], task="other")]
    found = confident_mistakes(many, texts() | texts("other", 1))
    assert [mistake.task for mistake in found] == ["t", "t", "other"]
    assert confident_mistakes(many, {}) == []
    assert len(confident_mistakes(many, texts(), count=1)) == 1


def test_confusion_counts_rows_by_label_and_answer_over_tasks_of_the_same_classes():
    cells = [cell([0.9, 0.2, 0.7], [1, 1, 0]), cell([0.1], [0], task="u"), cell([0.4], [0], task="v", choices=None)]
    (matrix,) = confusions(cells)
    assert matrix["tasks"] == ["t", "u"]
    assert matrix["choices"] == CLASSES
    assert [row["count"] for row in matrix["rows"]] == [2, 2]
    assert [[entry["text"] for entry in row["entries"]] for row in matrix["rows"]] == [["50%", "50%"], ["50%", "50%"]]
    assert matrix["rows"][0]["entries"][1]["title"] == "1 of 2 rows whose label is no were answered yes"
    assert [[entry["right"] for entry in row["entries"]] for row in matrix["rows"]] == [[True, False], [False, True]]


def test_texts_are_written_once_and_found_again(tmp_path):
    named = Task("named", tuple(Example(f"text {i}", CLASSES, i % 2, id=f"n{i}") for i in range(8)), question="Good?")
    bare = Task("bare", tuple(Example(f"bare {i}", CLASSES, i % 2) for i in range(8)))
    path = write_queries(tmp_path / "queries.jsonl", queries_of([named, bare], [0, 1], 3, 4))
    found = read_queries(path)
    from abmll.data.episodes import evaluation_episode

    for task in (named, bare):
        for seed in (0, 1):
            rows = evaluation_episode(task, seed, 4, 3, max_support=4).query
            ids = [row.id or str(i) for i, row in enumerate(rows)]
            own = cell([0.5] * 3, [0] * 3, task=task.name, seed=seed, ids=ids)
            assert [find_query(found, own, i).text for i in range(3)] == [row.prompt for row in rows]
    assert len(path.read_text().splitlines()) == len(found) <= 4 + 2 * 3 + 4
    assert read_queries(tmp_path / "absent.jsonl") == {}


def test_long_texts_lose_their_middle():
    text = "a" * 500 + "b" * 500
    assert len(shortened(text)) <= LONGEST + 3
    assert shortened(text).startswith("aaa")
    assert shortened(text).endswith("bbb")
    assert shortened("short") == "short"


@pytest.mark.parametrize("line", ["not json", '{"task": "t"}', "[1]", json.dumps({"task": "t", "id": "i", "text": 3})])
def test_a_damaged_file_of_texts_is_named_and_stops_no_report(tmp_path, line, capsys):
    path = tmp_path / "queries.jsonl"
    path.write_text(line + "\n")
    assert read_queries(path) == {}
    told = capsys.readouterr()
    assert "queries.jsonl is damaged in line 1" in (told.out + told.err).replace("\n", " ")


def test_absent_choices_do_not_disturb():
    probs = torch.tensor([[0.3, 0.7, 0.0], [0.2, 0.3, 0.5]])
    own = Cell("m", 0, "t", "f", 4, ["t/0", "t/1"], torch.tensor([0, 2]), probs.log()[None])
    assert own.log_probs[0, 0, 2] == -math.inf
    (mistake,) = confident_mistakes([own], texts())
    assert (mistake.predicted, mistake.right) == ("yes", "no")
