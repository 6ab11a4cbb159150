"""What a user may hand in for a task, and what is said of what nobody can read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.data.suite import Suite
from abmll.data.task import Task
from abmll.learner.given import labelled_rows, names_of, rows_to_predict
from abmll.learner.prediction import Prediction
from tests.tiny_tasks import tiny_task

TEXTS = ["a fine film", "a dull one", "a long one", "a good one"]
LABELS = ["good", "bad", "bad", "good"]


class Frame:
    """What pandas' frames have of the interface that is used."""

    def __init__(self, **columns):
        self.values = columns

    @property
    def columns(self):
        return list(self.values)

    def __getitem__(self, name):
        return np.array(self.values[name], dtype=object)


class ClassLabel:
    names = ("bad", "good")


class DataSet:
    """What the datasets library's data sets have of it."""

    def __init__(self, features=None, **columns):
        self.values, self.features = columns, features or {}
        self.column_names = list(columns)

    def __getitem__(self, name):
        return self.values[name]

    def __len__(self):
        return len(self.values[self.column_names[0]])


@pytest.mark.parametrize(
    "given",
    [
        (TEXTS, LABELS),
        (tuple(TEXTS), tuple(LABELS)),
        (np.array(TEXTS), np.array(LABELS)),
        (iter(TEXTS), iter(LABELS)),
        ({"text": TEXTS, "label": LABELS},),
        ({"Review": TEXTS, "Sentiment": LABELS},),
        ([{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)],),
        (Frame(text=TEXTS, label=LABELS),),
        (Frame(text=TEXTS, stars=LABELS), "stars"),
        (DataSet(text=TEXTS, label=LABELS),),
        (DataSet(text=TEXTS, label=[1, 0, 0, 1], features={"label": ClassLabel()}),),
        ({"text": TEXTS, "options": [["bad", "good"]] * 4, "target": [1, 0, 0, 1]},),
        ({"text": TEXTS, "options": [["bad", "good"]] * 4, "label": LABELS},),
        ([Example(text, ("bad", "good"), (LABELS[i] == "good" and 1) or 0) for i, text in enumerate(TEXTS)],),
    ],
    ids=lambda given: type(given[0]).__name__,
)
def test_every_kind_of_table_is_the_same_task(given):
    task = labelled_rows(*given)
    assert task.labels.names == task.labels.words == ("bad", "good")
    assert [(row.prompt, row.answer) for row in task.rows] == list(zip(TEXTS, LABELS, strict=True))


@pytest.mark.parametrize(
    ("labels", "classes", "names", "words"),
    [
        ([1, 0, 0, 1], None, (0, 1), ("0", "1")),
        (np.array([1, 0, 0, 1]), {0: "bad", 1: "good"}, (0, 1), ("bad", "good")),
        ([True, False, False, True], None, (False, True), ("False", "True")),
        ([1.0, 0.0, 0.0, 1.0], None, (0.0, 1.0), ("0", "1")),
        (LABELS, ["good", "bad", "so-so"], ("good", "bad", "so-so"), ("good", "bad", "so-so")),
        (LABELS, {"good": "yes", "bad": "no"}, ("good", "bad"), ("yes", "no")),
        ([10, 9, 9, 10], None, (9, 10), ("9", "10")),
    ],
)
def test_labels_stay_what_the_user_calls_them(labels, classes, names, words):
    task = labelled_rows(TEXTS, labels, classes=classes)
    assert (task.labels.names, task.labels.words) == (names, words)
    told = names_of(task.rows, task.labels)
    assert [told[i][row.known_target] for i, row in enumerate(task.rows)] == list(labels)
    assert {type(name) for row in told for name in row} == {type(name) for name in names}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((TEXTS, LABELS[:3]), "4 texts and 3 labels: give one label for each text"),
        (([], []), "there are no rows to adapt to"),
        ((TEXTS, ["good"] * 4), r"there is one class only, 'good': add rows of the others, or name them all"),
        ((TEXTS, ["good", None, "bad", "bad"]), r"labels\[1\] is missing\. Leave the row out, or label it"),
        ((TEXTS, [1.0, float("nan"), 0.0, 0.0]), r"labels\[1\] is missing"),
        ((TEXTS, [0.5, 1.0, 2.0, 0.5]), r"labels\[0\] is 0\.5\. Labels are classes: texts or whole numbers"),
        ((TEXTS, [["good"], "bad", "bad", "good"]), r"labels\[0\] is list: labels are texts"),
        ((TEXTS, [1, "1", 1, "1"]), "two classes have the same word '1'"),
        ((TEXTS, [" ", "a", "a", " "]), "a class is an empty text"),
        ((["a", 3, "b", "c"], LABELS), r"texts\[1\] is int, not text"),
        ((["a", None, "b", "c"], LABELS), r"texts\[1\] is missing"),
        (("a fine film", LABELS), "texts is one text where a list is needed"),
        ((TEXTS, "good"), "labels is the text 'good': give one label for each text"),
        ((np.array([TEXTS, TEXTS]), LABELS), r"texts has the shape \(2, 4\): give one column"),
        ((TEXTS,), r"row 0 is str, not an abmll.Example. Give their labels too: adapt\(texts, labels\)"),
        (("no_such_file.csv",), "there is no file 'no_such_file.csv'. If it is a text, put it into a list"),
        ((Example("a", ("x", "y"), 0),), "one example was given where a list of them is needed"),
        (
            ([Example("a", ("x", "y"), 0), Example("b", ("x", "y"))],),
            "1 of 2 rows of task 'task' have no label",
        ),
        ((Suite("s", train=(tiny_task(),)),), r"'s' is a suite of 1 tasks: give one of them, suite.task\(NAME\)"),
        ((3,), "rows is int: give a list of them"),
        (({"txet": TEXTS, "label": LABELS},), "no column holds the texts: .*found txet, label"),
        (({"text": TEXTS, "lable": LABELS},), "no column holds the labels: .*found text, lable"),
        (
            ({"text": TEXTS, "input": TEXTS, "label": LABELS},),
            "' and '(text|input)' could each be meant",
        ),
        (({"text": "a fine film", "label": "good"},), "one row was given where a list of them is needed"),
    ],
)
def test_what_cannot_be_read_is_told(given, message):
    with pytest.raises(AbmllError, match=message):
        labelled_rows(*given)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("good", "classes is the text 'good': give a list of all classes"),
        (["good"], "there is one class only"),
        ([], "there are no classes: name them"),
        (["good", "fine"], r'labels\[1\] is "bad", which is none of the classes: "good", "fine"'),
        ({"good": "yes", "bad": "yes"}, "two classes have the same word 'yes'"),
        ({"good": 1, "bad": 0}, r"classes\['good'\] is 1: the word that the model reads must be text"),
    ],
)
def test_wrong_classes_are_told(classes, message):
    with pytest.raises(AbmllError, match=message):
        labelled_rows(TEXTS, LABELS, classes=classes)


def test_a_column_of_different_texts_is_no_column_of_labels():
    with pytest.raises(AbmllError, match="12 rows have 12 different labels: is this the right column"):
        labelled_rows([f"text {i}" for i in range(12)], [f"note {i}" for i in range(12)])


def test_a_draw_is_balanced_and_depends_on_its_seed_alone():
    task = labelled_rows([f"text {i}" for i in range(40)], ["rare"] * 4 + ["common"] * 36)
    drawn = task.drawn(8, 0)
    assert sorted(row.answer for row in drawn.rows) == ["common"] * 4 + ["rare"] * 4
    assert drawn.rows == task.drawn(8, 0).rows != task.drawn(8, 1).rows
    assert set(drawn.rows) <= set(task.rows)
    assert task.drawn(None, 0) is task
    assert {row.answer for row in task.drawn(4, 0, balanced=False).rows} <= {"rare", "common"}
    with pytest.raises(AbmllError, match="support_size is 41, but task 'task' has 40 labelled rows"):
        task.drawn(41, 0)


def test_rows_that_are_asked_different_things_keep_their_questions():
    """Also none at all: whichever stands first is not asked of the others."""
    rows = [
        Example("a", ("no", "yes"), 1, "Good?"),
        Example("b", ("no", "yes"), 0),
        Example("c", ("no", "yes"), 0, "Bad?"),
    ]
    for given in (rows, rows[::-1], rows[:2]):
        found = labelled_rows(given)
        assert [row.question for row in found.rows] == [row.question for row in given]
        assert found.question == ""
    assert labelled_rows(rows[:1]).question == "Good?"
    assert [row.question for row in labelled_rows(rows, question="Why?").rows] == ["Good?", "Why?", "Bad?"]


def test_new_rows_take_the_tasks_question_and_classes():
    task = labelled_rows(TEXTS, [1, 0, 0, 1], classes={0: "bad", 1: "good"}, question="Good?")
    for data in (["new"], np.array(["new"]), {"text": ["new"]}, [{"text": "new"}], Frame(text=["new"])):
        (row,) = rows_to_predict(data, task)
        assert (row.prompt, row.choices, row.target, row.question) == ("new", ("bad", "good"), None, "Good?")
    (row,) = rows_to_predict([Example("new", ("good", "bad"), 0)], task)
    assert row.choices == ("good", "bad"), "its own"
    assert names_of([row], task.labels) == [(1, 0)]
    (row,) = rows_to_predict({"id": ["r7"], "text": ["new"]}, task)
    assert row.id == "r7"


def test_texts_without_classes_cannot_be_predicted():
    own = Task("t", tuple(Example(f"q{i}", (f"a{i}", f"b{i}"), 0) for i in range(3)))
    with pytest.raises(AbmllError, match=r"texts alone do not say what can be answered.* abmll\.Example"):
        rows_to_predict(["new"], labelled_rows(own))
    with pytest.raises(AbmllError, match="texts alone do not say"):
        rows_to_predict(["new"], None)


# Predictions of whatever log-probabilities a posterior returns


def log_probs(*rows):
    return torch.tensor(rows, dtype=torch.float32).log()


def test_a_prediction_is_the_mixture_of_its_samples():
    found = Prediction(
        log_probs([[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.4, 0.6]]), [("no", "yes")] * 2, targets=[0, 0]
    )
    torch.testing.assert_close(found.probabilities, torch.tensor([[0.7, 0.3], [0.3, 0.7]]))
    assert (found.labels, found.classes) == (["no", "yes"], ("no", "yes"))
    torch.testing.assert_close(found.confidence, torch.tensor([0.7, 0.7]))
    entropy = -sum(p * np.log(p) for p in (0.7, 0.3))
    torch.testing.assert_close(found.entropy, torch.full((2,), float(entropy)), atol=1e-6, rtol=0)
    parts = [-sum(p * np.log(p) for p in q) for q in ((0.9, 0.1), (0.5, 0.5))]
    assert float(found.mutual_information[0]) == pytest.approx(entropy - sum(parts) / 2, abs=1e-6)
    torch.testing.assert_close(found.samples[1, 1], torch.tensor([0.4, 0.6]))
    assert found.accuracy == 0.5
    assert "2 rows, classes ['no', 'yes'], 2 posterior samples" in repr(found)
    first = found.rows()[0]
    assert (first["prediction"], first["probabilities"], first["correct"]) == ("no", {"no": 0.7, "yes": 0.3}, True)


def test_rows_with_choices_of_their_own():
    found = Prediction(log_probs([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]]), [("a", "b"), ("c", "d", "e")])
    assert (found.classes, found.labels) == ((), ["a", "e"])
    assert found.accuracy is None
    assert found.rows()[0]["probabilities"] == {"a": 0.9, "b": 0.1}
    assert "correct" not in found.rows()[0]
    assert "choices of each row's own" in repr(found)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 2), r"log-probabilities \(samples, rows, choices\); found the shape \(2, 2\)"),
        (torch.zeros(1, 3, 2), "a prediction of 2 rows needs"),
        (torch.full((1, 2, 2), float("nan")), "is NaN"),
        (torch.zeros(1, 2, 2), "sums to 2"),
    ],
)
def test_what_is_no_prediction_is_refused(tensor, message):
    with pytest.raises(AbmllError, match=message):
        Prediction(tensor, [("a", "b")] * 2)
