"""The published task lists, and MetaICL's file layout on a small made folder."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from abmll.core.errors import AbmllError
from abmll.data.episodes import EpisodeSampler, evaluation_episode
from abmll.data.formats.metaicl import MetaICLFormat, published_prompt
from abmll.data.suite import SuiteSpec, load_suite, shipped_suites
from abmll.data.toml_file import read_toml


@pytest.mark.parametrize(
    ("name", "num_train", "num_test", "both", "some"),
    [
        ("cls-45", 34, 15, set(), {"kilt_fever", "glue-sst2"}),
        ("cls-23", 28, 15, set(), {"blimp-ellipsis_n_bar_2", "quartz-no_knowledge"}),
        ("nli", 42, 8, {"sick"}, {"tab_fact", "ag_news"}),
        ("para", 46, 4, set(), {"superglue-cb", "anli"}),
        ("mcqa", 18, 12, set(), {"art", "google_wellformed_query"}),
    ],
)
def test_published_lists(name, num_train, num_test, both, some):
    spec, problems = read_toml(shipped_suites()[name], SuiteSpec)
    assert not problems
    assert (len(set(spec.train)), len(set(spec.test))) == (len(spec.train), len(spec.test)) == (num_train, num_test)
    assert set(spec.train) & set(spec.test) == both
    assert some < set(spec.train)
    # The options written out in the TOML are the defaults, so that a user's own suite needs none of them.
    assert spec.metaicl == MetaICLFormat()
    assert set(tomllib.loads(shipped_suites()[name].read_text())["metaicl"]) == set(MetaICLFormat.model_fields) - {
        "max_train_rows"
    }


def rows(task: str, start: int, count: int, **fields: object) -> list[dict]:
    return [
        {"task": task, "input": f"{task} text {n}", "output": ("no", "yes")[n % 2], "options": ["no", "yes"]} | fields
        for n in range(start, start + count)
    ]


def write(folder: Path, task: str, k: int, seed: int, split: str, content: list[dict]) -> None:
    (folder / task).mkdir(parents=True, exist_ok=True)
    path = folder / task / f"{task}_{k}_{seed}_{split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content))


@pytest.fixture
def made(tmp_path) -> Path:
    """A folder with one training and one held-out task, and a suite TOML for them."""
    data = tmp_path / "data"
    write(data, "learn", 16384, 100, "train", rows("learn", 0, 20))
    for seed in (100, 13):
        write(data, "hold", 16, seed, "dev", rows("hold", seed, 4))
        write(data, "hold", 16, seed, "train", rows("hold", 1000 + seed, 4))
        write(data, "hold", 16, seed, "test", rows("hold", 500, 10))
    (tmp_path / "suite.toml").write_text('format = "metaicl"\nfolder = "data"\ntrain = ["learn"]\ntest = ["hold"]\n')
    return tmp_path


def test_training_rows_support_pool_and_test_rows(made):
    suite = load_suite(made / "suite.toml")
    (learn,), (hold,) = suite.train, suite.test
    assert (len(learn), learn.examples[1].prompt, learn.examples[1].target) == (20, "learn: learn text 1", 1)
    assert [row.prompt for row in hold.support_pool] == [
        f"hold: hold text {n}" for n in (100, 101, 102, 103, 13, 14, 15, 16)
    ]
    assert len(hold) == 10, "the same test rows stand in the files of both seeds"
    assert len({row.id for row in (*hold.examples, *hold.support_pool)}) == 18
    episode = evaluation_episode(hold, 0, 8, max_support=8)
    assert {row.prompt for row in episode.support} == {row.prompt for row in hold.support_pool}
    assert EpisodeSampler(suite.train, 0, 10, 0, "sequential")[0].task == "learn"


def test_support_rows_that_are_test_rows_are_left_out(made):
    write(made / "data", "hold", 16, 100, "dev", rows("hold", 498, 4))
    (hold,) = load_suite(made / "suite.toml").test
    assert [row.prompt for row in hold.support_pool][:2] == ["hold: hold text 498", "hold: hold text 499"]
    assert len(hold.support_pool) == 6


def test_options_of_the_format(made):
    toml = (made / "suite.toml").read_text()
    (made / "suite.toml").write_text(
        toml + '[metaicl]\nsupport_split = "train"\nname_in_input = false\ntarget_seeds = [13]\n'
    )
    (hold,) = load_suite(made / "suite.toml").test
    assert [row.prompt for row in hold.support_pool] == [f"hold text {n}" for n in range(1013, 1017)]


def test_filters_on_prompt_length_and_number_of_options(made):
    form = MetaICLFormat()
    frame = len(published_prompt("learn", "", ["no", "yes"], form))
    content = [
        *rows("learn", 0, 2),
        *rows("learn", 2, 1, input="x" * (500 - frame)),
        *rows("learn", 3, 1, input="y" * (501 - frame)),
        *rows("learn", 4, 1, options=["no", "yes", "a", "b"]),
        *rows("learn", 5, 1, options=["no", "yes", "a", "b", "c"]),
    ]
    write(made / "data", "learn", 16384, 100, "train", content)
    (learn,) = load_suite(made / "suite.toml").train
    kept = [row.id.partition(":")[2] for row in learn.examples]
    assert kept == ["1", "2", "3", "5"]


def test_the_published_prompt_as_shipped():
    assert published_prompt("yelp_polarity", "Nice.", ["negative", "positive"], MetaICLFormat()) == (
        "Return only the label of the correct answer for the question below.\n\nyelp_polarity: Nice.\nChoices:\n"
        "A) negative\nB) positive\nAnswer:"
    )


def test_options_that_stand_in_the_input_only(made):
    content = [
        {"task": "learn", "input": f"which {n}? (A) x (B) y", "output": "xy"[n % 2], "options": []} for n in range(4)
    ]
    write(made / "data", "learn", 16384, 100, "train", content)
    (learn,) = load_suite(made / "suite.toml").train
    assert learn.examples[1][:3] == ("learn: which 1?", ("x", "y"), 1)


def test_missing_tasks_are_listed_with_how_to_get_them(made):
    with pytest.raises(AbmllError) as raised:
        load_suite("cls-45", folder=made / "data")
    text = str(raised.value)
    assert "lacks 49 of the suite's 49 tasks:" in text
    assert "\n  kilt_fever: no kilt_fever/kilt_fever_16384_100_train.jsonl" in text
    assert "\n  superglue-cb: no superglue-cb/superglue-cb_16_100_test.jsonl" in text
    assert "python _build_gym.py --build --n_proc=40 --do_test` and the same with --do_train" in text


def test_no_row_within_the_filters(made):
    write(made / "data", "learn", 16384, 100, "train", rows("learn", 0, 3, input="x" * 600))
    with pytest.raises(AbmllError, match=r"no row of task 'learn' in .* passes the filters: raise max_prompt_chars"):
        load_suite(made / "suite.toml")


def test_a_broken_row_is_named(made):
    write(made / "data", "hold", 16, 13, "test", [*rows("hold", 0, 1), *rows("hold", 1, 1, output="perhaps")])
    with pytest.raises(AbmllError, match=r"hold_16_13_test.jsonl:2 \[output\]: the label 'perhaps' is not among"):
        load_suite(made / "suite.toml")


def test_a_task_on_both_published_sides_is_kept_with_a_note(made):
    write(made / "data", "hold", 16384, 100, "train", rows("hold", 500, 3))
    lists = 'format = "metaicl"\nfolder = "data"\ntrain = ["learn", "hold"]\ntest = ["hold"]\n'
    (made / "suite.toml").write_text(lists)
    with pytest.raises(AbmllError, match=r"'hold' \(train\) and 'hold' \(test\) share 3 inputs"):
        load_suite(made / "suite.toml")
    (made / "suite.toml").write_text(lists + 'overlap = "keep"\n')
    suite = load_suite(made / "suite.toml")
    assert suite.notes == ("kept on two sides: 'hold' (train) and 'hold' (test) share 3 inputs",)


def test_metaicl_needs_lists(made):
    (made / "suite.toml").write_text('format = "metaicl"\nfolder = "data"\n')
    with pytest.raises(AbmllError, match='format = "metaicl" needs the lists train and test'):
        load_suite(made / "suite.toml")
