"""Fetching tasks from a hub: a small one on this machine, through the real client, with every failure."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from abmll.cli import app
from abmll.core.errors import AbmllError
from abmll.data.hub import fetch as fetching
from abmll.data.hub.fetch import fetch_tasks
from abmll.data.hub.read import read_hub_task
from abmll.data.hub.spec import HubSpec, hub_spec
from abmll.data.suite import load_suite
from tests.hub_server import Hub, serve

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(root: Path, name: str, *, rows: dict[str, int] | None = None, rename: str | None = None) -> Path:
    """The files of a hub task, with its real columns and types and as many rows as its spec says."""
    spec = hub_spec(name)
    folder = root / spec.repo
    for split, described in spec.used.items():
        count = (rows or {}).get(split, described.rows or 100)
        made = [row_of(name, f"{split} {number}", number) for number in range(count)]
        if rename:
            made = [{("renamed" if key == rename else key): value for key, value in row.items()} for row in made]
        path = folder / described.files.replace("*", "00000-of-00001" if "-*" in described.files else "0000")
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(arrow.Table.from_pylist(made), path)
    return folder


def row_of(name: str, text: str, number: int) -> dict:
    two = [f"first {number}", f"second {number}"]
    if name.startswith("winogrande"):
        option1, option2 = two
        return {"sentence": f"The _ is {text}.", "option1": option1, "option2": option2, "answer": "12"[number % 2]}
    if name.startswith("sib200"):
        return {"index_id": number, "category": ("travel", "science/technology")[number % 2], "text": text}
    if name == "boolq":
        return {"question": text, "passage": f"About {text}.", "answer": bool(number % 2)}
    if name.startswith("chembench"):
        scores = dict.fromkeys(two, 0.0) | {two[number % 2]: 1.0}
        several = dict.fromkeys(two, 1.0)
        example = {"input": text, "target": None, "target_scores": json.dumps(several if number == 7 else scores)}
        asked = example | {"target": "3.1", "target_scores": None} if number == 8 else example
        return {"examples": [asked], "metrics": ["multiple_choice_grade"], "name": text, "relevance": None}
    if name.startswith("mmlu"):
        return {"question": text, "subject": "s", "choices": [*two, "c", "d"], "answer": number % 4}
    question = "question_stem" if name.startswith("openbookqa") else "question"
    choices = {"text": two, "label": ["A", "B"]}
    return {"id": text, question: text, "choices": choices, "answerKey": "AB"[number % 2]}


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # other tests of the process keep it offline
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.4)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.4)
    real = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: real(min(seconds, 0.5)))
    with serve(tmp_path / "hub") as served:
        yield served


def why(hub: Hub, cache: Path, name: str = "arc-challenge") -> str:
    _, failed = fetch_tasks([name], cache=cache, endpoint=hub.url)
    assert [failure.task for failure in failed] == [name]
    return failed[0].error


def test_fetched_once_then_read_without_a_network(hub, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    names = ["arc-challenge", "winogrande-s", "boolq", "openbookqa"]
    for name in names:
        write(hub.root, name)
    told: list[str] = []
    done, failed = fetch_tasks(names, cache=cache, endpoint=hub.url, tell=told.append)
    assert failed == []
    assert told[0] == "arc-challenge: train, 1119 rows, as its spec says"
    assert [(one.task, one.split, one.rows) for one in done][2:4] == [
        ("winogrande-s", "train", 640),
        ("winogrande-s", "validation", 1267),
    ]
    gets = [line for line in hub.asked if line.startswith("GET /datasets/")]
    assert len(gets) == 8
    fetch_tasks(names, cache=cache, endpoint=hub.url)
    assert [line for line in hub.asked if line.startswith("GET /datasets/")] == gets  # nothing comes twice
    asked = len(hub.asked)
    arc, wino, yes_no = (read_hub_task(name, cache) for name in names[:3])
    assert (len(arc), len(arc.support_pool)) == (1172, 1119)
    assert arc.examples[1][:4] == ("test 1", ("first 1", "second 1"), 1, "Answer the question.")
    assert wino.examples[3][:3] == ("The _ is validation 3.", ("first 3", "second 3"), 1)
    assert yes_no.examples[1][:3] == ("About validation 1.\nQuestion: validation 1?", ("yes", "no"), 0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    (tmp_path / "s.toml").write_text('format = "hub"\ntrain = ["boolq"]\ntest = ["arc-challenge"]\n')
    assert len(hub.asked) == asked


def test_chembench_keeps_its_questions_with_one_right_choice(hub, tmp_path):
    write(hub.root, name := "chembench-organic-chemistry")
    told: list[str] = []
    done, failed = fetch_tasks([name], cache=tmp_path / "cache", endpoint=hub.url, tell=told.append)
    assert failed == []
    assert [(one.split, one.rows) for one in done] == [("train", 100)]
    assert told == [f"{name}: train, 100 rows, columns as its spec says; how many there should be is unknown"]
    task = read_hub_task(name, tmp_path / "cache")
    assert len(task) == 98  # without one with two right choices, and one that asks for a number
    assert task.examples[1][:4] == (
        "train 1",
        ("first 1", "second 1"),
        1,
        "Answer the question about chemistry.",
    )


def test_one_spec_for_many_languages(hub, tmp_path):
    names = ["sib200-train-eng_Latn", "sib200-ell_Grek", "sib200-nqo_Nkoo"]
    for name in names:
        write(hub.root, name)
    done, failed = fetch_tasks(names, cache=tmp_path, endpoint=hub.url)
    assert failed == []
    assert [(one.task, one.split, one.rows) for one in done][1:3] == [
        ("sib200-ell_Grek", "train", 701),
        ("sib200-ell_Grek", "test", 204),
    ]
    english, greek = read_hub_task(names[0], tmp_path), read_hub_task(names[1], tmp_path)
    assert (len(english), len(greek), len(greek.support_pool)) == (701, 204, 701)
    assert greek.question == "What is the topic of the sentence?"
    assert greek.examples[1].choices[greek.examples[1].target] == "science/technology"
    assert len(greek.examples[1].choices) == 7
    with pytest.raises(AbmllError, match=r"unknown hub task 'sib200-elo_Grek'. Did you mean 'sib200-ell_Grek'"):
        hub_spec("sib200-elo_Grek")


def test_a_task_that_was_not_fetched_says_how(tmp_path):
    with pytest.raises(AbmllError, match=r"not on this machine.*abmll tasks fetch hub:boolq"):
        read_hub_task("boolq", tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "has no such data set (404): it was moved, renamed or withdrawn"),
        (401, "", "wants to know who asks (401). Log in: hf auth login"),
        (403, "GatedRepo", "accept their terms first. Do so at https://huggingface.co/datasets/allenai/ai2_arc"),
        (404, "RevisionNotFound", "the data set is there, but no such commit"),
        (500, "", "the hub answered 500. Try again later"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_error(hub, tmp_path, status, code, message):
    hub.status, hub.code = status, code
    error = why(hub, tmp_path / "cache")
    assert message in error
    assert "\n" not in error


def test_a_missing_split_a_renamed_column_and_changed_rows(hub, tmp_path):
    folder = write(hub.root, "arc-challenge")
    (folder / "ARC-Challenge" / "test-00000-of-00001.parquet").rename(folder / "ARC-Challenge" / "eval.parquet")
    assert "has no split 'test': no file is named ARC-Challenge/test-*.parquet" in why(hub, tmp_path / "a")
    write(hub.root, "arc-challenge", rename="answerKey")
    assert "the column 'answerKey' is missing; the columns are" in why(hub, tmp_path / "b")
    write(hub.root, "arc-challenge", rows={"test": 7})
    assert "the split 'test' has 7 rows, its spec says 1172" in why(hub, tmp_path / "c")
    write(hub.root, "boolq")
    path = hub.root / "google" / "boolq" / "default" / "train" / "0000.parquet"
    table = parquet.read_table(path)
    text = arrow.array(["yes"] * len(table))
    parquet.write_table(table.set_column(2, "answer", text), path)
    assert "the column 'answer' holds text, its spec says flag" in why(hub, tmp_path / "d", "boolq")


def test_a_broken_connection_is_resumed_and_a_dead_one_told(hub, tmp_path):
    write(hub.root, "arc-challenge")
    hub.cut_after = 500
    done, failed = fetch_tasks(["arc-challenge"], cache=tmp_path / "a", endpoint=hub.url)
    assert ([one.rows for one in done], failed) == ([1119, 1172], [])
    hub.stall = 1.0
    assert "did not answer in time. What has come stays in the cache" in why(hub, tmp_path / "b")


def test_a_file_that_came_damaged(hub, tmp_path):
    folder = write(hub.root, "arc-challenge")
    path = folder / "ARC-Challenge" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    error = why(hub, tmp_path / "cache")
    assert "test-00000-of-00001.parquet came damaged" in error
    assert "Delete it and fetch it again" in error


def test_a_full_disk(hub, tmp_path, monkeypatch):
    write(hub.root, "arc-challenge")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    assert "the disk is full. Free some space, or set HF_HOME to another" in why(hub, tmp_path / "cache")


def test_one_task_that_fails_keeps_no_other_back_and_the_command_says_so(hub, tmp_path, monkeypatch):
    write(hub.root, "boolq")
    real = fetching.fetch_tasks
    monkeypatch.setattr(fetching, "fetch_tasks", lambda names, **keys: real(names, **{**keys, "endpoint": hub.url}))
    result = CliRunner().invoke(
        app, ["tasks", "fetch", "hub:boolq", "hub:arc-easy", "--cache", str(tmp_path / "cache")]
    )
    assert result.exit_code == 1
    assert "boolq: validation, 3270 rows, as its spec says" in result.output
    assert "1 of 2 tasks in the cache, 12697 rows" in result.output
    assert "licence CC-BY-SA-3.0, by the README of its repository: boolq" in result.output
    assert "not pinned to a commit (refs/convert/parquet): boolq" in result.output
    assert "arc-easy: allenai/ai2_arc at 210d026faf9955653af8916fad021475a3f00453: the hub has no such data set" in (
        result.output
    )
    result = CliRunner().invoke(app, ["tasks", "fetch", "nli"])
    assert "the suite 'nli' has no task of the hub" in result.output
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"revision": "main"}, "write a whole commit of 40 digits"),
        ({"judge": "dev"}, "there is no split 'dev'"),
        ({"read": {"formt": "arc"}}, "Extra inputs are not permitted"),
        ({"licence": ""}, "at least 1 character"),
    ],
)
def test_specs_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        HubSpec.model_validate(hub_spec("boolq").model_dump() | change)


def test_a_suite_of_the_hub_loads(hub, tmp_path, monkeypatch):
    for name in ("arc-challenge", "winogrande-s"):
        write(hub.root, name)
    cache = tmp_path / "cache"
    fetch_tasks(["arc-challenge", "winogrande-s"], cache=cache, endpoint=hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    (tmp_path / "s.toml").write_text('name = "s"\nformat = "hub"\ntrain = ["winogrande-s"]\ntest = ["arc-challenge"]\n')
    suite = load_suite(tmp_path / "s.toml")
    assert [(task.name, task.family) for task in suite.tasks] == [
        ("winogrande-s", "coreference"),
        ("arc-challenge", "science questions"),
    ]
