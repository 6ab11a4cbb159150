"""CrossFit's tasks from the hub: its lines letter for letter, and its draws against its own procedure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from abmll.cli import app
from abmll.core.errors import AbmllError
from abmll.data.formats.crossfit import SEEDS, marked_choices
from abmll.data.hub.crossfit import PREFIX, crossfit_rows, crossfit_spec, few_shot_task, left_out
from abmll.data.hub.read import read_hub_task
from abmll.data.hub.spec import HubSpec, hub_specs
from abmll.data.suite import load_suite
from tests.data.crossfit_lines import LINES

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

PUBLISHED = json.loads((Path(__file__).parent / "published_lists.json").read_text(encoding="utf-8"))["crossfit-random"]
EVERY = {task for side in PUBLISHED.values() for task in side}
SPECIFIED = {name.removeprefix(PREFIX) for name in hub_specs() if name.startswith(PREFIX)}
DEALT = {name for name in SPECIFIED if name.startswith("blimp-")} | {"crows_pairs", "sciq"}


def spec_of(task: str) -> HubSpec:
    found = crossfit_spec(task)
    assert found is not None
    return found


def test_every_task_has_a_spec_or_a_reason():
    assert len(EVERY) == 160
    assert SPECIFIED | set(left_out()) == EVERY
    assert not SPECIFIED & set(left_out())
    assert set(LINES) | DEALT == SPECIFIED


@pytest.mark.parametrize("task", sorted(LINES))
def test_a_line_is_crossfits_letter_for_letter(task):
    row, text, output = LINES[task]
    form = spec_of(task).crossfit
    line = form.line({name: row[name] for name in spec_of(task).columns})
    assert (line.text, line.output) == (text, output)
    if form.choices:  # read back from the line, as from the files of CrossFit's scripts, it says the same
        prompt, choices = marked_choices(text)
        if task == "quarel":
            choices = tuple(choice.removesuffix(" or") for choice in choices)
        assert (line.prompt, line.choices) == (prompt, choices)
        assert output.strip() in choices


def test_rows_that_crossfit_leaves_out():
    def line(task: str, row: dict):
        return spec_of(task).crossfit.line(row)

    assert line("circa", LINES["circa"][0] | {"goldstandard2": -1}) is None
    assert line("hate_speech18", {"text": "t", "label": 2}) is None
    assert line("health_fact", {"claim": "c", "label": -1}) is None
    assert line("hatexplain", {"post_tokens": ["a"], "annotators": {"label": [0, 1, 2]}}) is None
    assert line("google_wellformed_query", {"content": "c", "rating": 0.4}) is None
    assert line("tweet_eval-hate", {"text": " \n", "label": 0}) is None
    with pytest.raises(AbmllError, match="the column 'label' holds '7'; its spec knows '0', '1'"):
        line("imdb", {"text": "t", "label": 7})


def put(cache: Path, task: str, rows: dict[str, list[dict]], pieces: int = 1) -> HubSpec:
    """Rows of some splits as the hub's cache holds them, in files of some pieces."""
    spec = spec_of(task)
    folder = cache / f"datasets--{spec.repo.replace('/', '--')}"
    commit = "c" * 40
    (folder / "refs" / "refs" / "convert").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / spec.revision).write_text(commit)
    for split, listed in rows.items():
        size = -(-len(listed) // pieces)
        for piece in range(pieces):
            path = folder / "snapshots" / commit / spec.splits[split].files.replace("*", f"{piece:04}")
            path.parent.mkdir(parents=True, exist_ok=True)
            table = arrow.Table.from_pylist(listed[piece * size : (piece + 1) * size])
            parquet.write_table(table, path, row_group_size=50)
    return spec


Written = list[tuple[str, str]]
Draws = dict[int, tuple[Written, Written]]


def as_published(lines: Written, test: Written, by_class: bool) -> tuple[Draws, Written]:
    """CrossFit's draws of training and development lines by seed: the global generator, on the lines themselves."""
    draws = {}
    for seed in (100, 13, 21, 42, 87):
        pool = list(lines)
        np.random.seed(seed)
        np.random.shuffle(pool)
        if by_class:
            labels: dict[str, Written] = {}
            for line in pool:
                labels.setdefault(line[-1], []).append(line)
            draws[seed] = (
                [line for found in labels.values() for line in found[:16]],
                [line for found in labels.values() for line in found[16:32]],
            )
        else:
            draws[seed] = (pool[:32], pool[32:64])
    return draws, test


def shuffled(lines: Written) -> Written:
    np.random.seed(42)
    lines = list(lines)
    np.random.shuffle(lines)
    return lines


def same(spec: HubSpec, cache: Path, expected: tuple[Draws, Written]) -> None:
    found = few_shot_task(spec, cache)
    draws, test = expected
    written = {seed: [[line[:2] for line in part] for part in draw] for seed, draw in found.draws.items()}
    assert written == {seed: [list(part) for part in parts] for seed, parts in draws.items()}
    assert [line[:2] for line in found.test] == test


def numbered(count: int, make: Callable[[int], dict], start: int = 0) -> list[dict]:
    return [make(number) for number in range(start, start + count)]


def test_draws_by_class_with_a_split_to_judge_on(tmp_path):
    def row(number: int) -> dict:
        return {"sentence": f"text {number}", "label": number % 7 % 2}

    rows = {"train": numbered(333, row), "validation": numbered(20, row, 1000)}
    spec = put(tmp_path, "glue-sst2", rows, pieces=3)
    written = {
        split: [(f"sentence: {one['sentence']}", ("negative", "positive")[one["label"]]) for one in listed]
        for split, listed in rows.items()
    }
    same(spec, tmp_path, as_published(written["train"], written["validation"], by_class=True))


def test_draws_in_all_with_choices(tmp_path):
    def row(number: int) -> dict:
        choices = {"text": [f"a{number}", f"b{number}"], "label": ["A", "B"]}
        return {"question": f"q{number}", "choices": choices, "answerKey": "AB"[number % 2]}

    rows = {"train": numbered(200, row), "validation": numbered(9, row, 500)}
    spec = put(tmp_path, "qasc", rows)

    def written(listed: list[dict]) -> Written:
        return [
            (f"{one['question']} (A) {one['choices']['text'][0]} (B) {one['choices']['text'][1]}", right)
            for one in listed
            for right in [one["choices"]["text"]["AB".index(one["answerKey"])]]
        ]

    same(spec, tmp_path, as_published(written(rows["train"]), written(rows["validation"]), by_class=False))


def test_a_set_of_one_split_is_parted_after_rows_are_left_out(tmp_path):
    rows = numbered(301, lambda number: {"text": f"t{number}", "label": number % 4})
    spec = put(tmp_path, "hate_speech18", {"train": rows}, pieces=2)
    written = shuffled([(one["text"], ("noHate", "hate")[one["label"]]) for one in rows if one["label"] < 2])
    cut = int(0.8 * len(written))
    same(spec, tmp_path, as_published(written[:cut], written[cut:], by_class=True))


def test_a_share_of_the_test_rows(tmp_path):
    def row(number: int) -> dict:
        return {"text": f"a\\nb {number}", "label": number % 2}

    rows = {"train": numbered(120, row), "test": numbered(57, row, 200)}
    spec = put(tmp_path, "yelp_polarity", rows)
    written = {
        split: [(one["text"].replace("\\n", " "), ("negative", "positive")[one["label"]]) for one in listed]
        for split, listed in rows.items()
    }
    test = shuffled(written["test"])[: int(0.2 * 57)]
    same(spec, tmp_path, as_published(written["train"], test, by_class=True))


def test_so_many_rows_of_a_large_set(tmp_path):
    rows = numbered(11_500, lambda number: {"title": "t", "content": f"c{number}", "label": number % 2})
    spec = put(tmp_path, "amazon_polarity", {"train": rows})
    written = shuffled(
        [(f"title: t [SEP] content: {o['content']}", ("negative", "positive")[o["label"]]) for o in rows]
    )
    same(spec, tmp_path, as_published(written[:10_000], written[10_000:11_000], by_class=True))


def test_the_good_sentence_stands_where_the_generator_puts_it(tmp_path):
    rows = numbered(250, lambda number: {"sentence_bad": f"b{number}", "sentence_good": f"g{number}"})
    spec = put(tmp_path, "blimp-ellipsis_n_bar_1", {"train": rows})
    written = []
    np.random.seed(42)
    for one in rows:
        if np.random.random() > 0.5:
            written.append(
                (f"sentence 1: {one['sentence_good']} [SEP] sentence 2: {one['sentence_bad']}", "sentence 1")
            )
        else:
            written.append(
                (f"sentence 1: {one['sentence_bad']} [SEP] sentence 2: {one['sentence_good']}", "sentence 2")
            )
    written = shuffled(written)
    same(spec, tmp_path, as_published(written[:200], written[200:], by_class=True))


def test_choices_in_the_order_that_the_generator_deals(tmp_path):
    def row(number: int) -> dict:
        made = {name: f"{name} {number}" for name in ("distractor1", "distractor2", "distractor3", "correct_answer")}
        return {"question": f"q{number}", **made, "support": "" if number % 5 == 0 else f"s\n{number}"}

    rows = {"train": numbered(130, row), "validation": numbered(12, row, 300)}
    spec = put(tmp_path, "sciq", rows)

    def written(listed: list[dict]) -> Written:
        np.random.seed(42)
        lines = []
        for one in listed:
            if len(one["support"]) == 0:
                continue
            choices = [one["distractor1"], one["distractor2"], one["distractor3"], one["correct_answer"]]
            np.random.shuffle(choices)
            shown = "".join(f" ({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True))
            lines.append((f"{one['question']}{shown} [SEP] {one['support']}".replace("\n", " "), one["correct_answer"]))
        return lines

    same(spec, tmp_path, as_published(written(rows["train"]), written(rows["validation"]), by_class=False))


def test_rows_without_a_majority_are_left_out_before_the_draw(tmp_path):
    def row(number: int) -> dict:
        said = [[0, 0, 1], [1, 1, 1], [2, 0, 2], [0, 1, 2]][number % 4]
        return {"post_tokens": ["w", str(number)], "annotators": [{"label": label} for label in said]}

    rows = {"train": numbered(200, row), "validation": numbered(8, row, 400)}
    spec = put(tmp_path, "hatexplain", rows)
    words = ("hatespeech", "normal", "offensive")
    written = {
        split: [(" ".join(one["post_tokens"]), words[n % 4]) for n, one in enumerate(listed) if n % 4 < 3]
        for split, listed in rows.items()
    }
    same(spec, tmp_path, as_published(written["train"], written["validation"], by_class=True))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def race(number: int) -> dict:
    return {
        "question": f"q{number}",
        "options": [f"a{number}", f"b{number}"],
        "article": "d",
        "answer": "AB"[number % 2],
    }


def test_a_suite_from_the_cache_equals_one_from_the_files_of_the_scripts(cache, tmp_path):
    moods = {
        "train": numbered(90, lambda n: {"text": f"then {n}", "label": n % 6}),
        "validation": numbered(90, lambda n: {"text": f"now {n}", "label": n % 6}),
    }
    reading = {"train": numbered(90, race), "validation": numbered(30, race, 200)}
    (tmp_path / "s.toml").write_text(
        'format = "crossfit"\nfolder = "gym"\ntrain = ["emotion", "xsum"]\ntest = ["race-high"]\n'
    )
    with pytest.raises(AbmllError, match=r"lacks the files of 2 tasks: emotion, race-high.*abmll tasks fetch SUITE"):
        load_suite(tmp_path / "s.toml")
    for task, rows in (("emotion", moods), ("race-high", reading)):
        put(cache, task, rows)
    hub = load_suite(tmp_path / "s.toml")
    assert hub.notes == ("left out, since they ask for free text: xsum",)
    assert [(task.name, task.family) for task in hub.tasks] == [("emotion", "emotion"), ("race-high", "reading")]
    for task in ("emotion", "race-high"):
        spec = spec_of(task)
        found, k = few_shot_task(spec, cache), 16 if spec.crossfit.per_class else 32
        for seed in SEEDS:
            for part, lines in (
                ("train", found.draws[seed].train),
                ("dev", found.draws[seed].dev),
                ("test", found.test),
            ):
                path = tmp_path / "gym" / task / f"{task}_{k}_{seed}_{part}.tsv"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(f"{line.text}\t{line.output}\n" for line in lines))
    # All that is asked of the files is there now, and they come first.
    gym = load_suite(tmp_path / "s.toml")

    def content(rows):
        return [(row.prompt, set(row.choices), row.choices[row.target]) for row in rows]

    for ours, theirs in zip(hub.tasks, gym.tasks, strict=True):
        assert "gym" in theirs.source
        assert content(ours.examples) == content(theirs.examples)
        assert content(ours.support_pool) == content(theirs.support_pool)
    one = hub.test[0]
    assert (len(one), one.examples[0].prompt, one.examples[0].choices) == (30, "q200 [SEP] d", ("a200", "b200"))
    assert {row.choices[row.target] for row in one.examples} == {f"{'ab'[n % 2]}{n}" for n in range(200, 230)}


def test_a_shipped_list_needs_no_folder_and_one_task_serves_other_suites(cache, tmp_path):
    with pytest.raises(AbmllError, match="lacks the files of"):
        load_suite("crossfit-para")
    put(cache, "race-high", {"train": numbered(90, race), "validation": numbered(30, race, 200)})
    task = read_hub_task("crossfit-race-high")
    assert (len(task), len(task.support_pool)) == (30, len(drawn_numbers(task)))
    assert drawn_numbers(task) <= set(range(90))
    rows = crossfit_rows(spec_of("race-high"), held_out=False)
    assert not rows.support
    assert len(rows.evaluated) == 5 * 64


def drawn_numbers(task) -> set[int]:
    return {int(row.prompt.partition(" ")[0].removeprefix("q")) for row in task.support_pool}


def test_fetching_a_partition_asks_for_its_specs(monkeypatch):
    asked: list[str] = []

    def fetched(names, **_):
        asked.extend(names)
        return [], []

    monkeypatch.setattr("abmll.data.hub.fetch.fetch_tasks", fetched)
    result = CliRunner().invoke(app, ["tasks", "fetch", "crossfit-mrc"])
    assert result.exit_code == 0, result.output
    assert "crossfit-race-high" in asked
    assert "not to be had from the hub: 25 tasks, since they ask for free text: eli5-askh, " in result.output


def test_damaged_and_changed_sets_are_told(cache):
    put(
        cache,
        "emotion",
        {"train": numbered(50, lambda n: {"text": "t", "label": n % 9}), "validation": [{"text": "t", "label": 0}]},
    )
    with pytest.raises(AbmllError, match=r"crossfit-emotion:train, row 7: the column 'label' holds '6'"):
        few_shot_task(spec_of("emotion"))
    path = next(cache.rglob("split/train/*.parquet"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(AbmllError, match=r"0000.parquet is damaged .*Delete it and fetch it again"):
        few_shot_task(spec_of("emotion"))
