"""tune_run: the same number of trials for all, none twice, and no test task within reach."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields

import pytest

from abmll.config import dump_toml, load_config
from abmll.core.errors import AbmllError
from abmll.learner import Learner
from abmll.methods.table.search import draw_options
from abmll.pipeline import train, tune, tune_run
from abmll.pipeline.build import load_tasks
from abmll.pipeline.tune import TuningTasks, best_trial, read_trials, tuned_toml, tuning_tasks
from tests.pipeline.stages import HELD_OUT, run_config, write_tasks

VALIDATION = "task-3"
METHODS = ["pretrained", "lora", "tfb", "multitask"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = write_tasks(tmp_path_factory.mktemp("tuned tasks"))
    held_out = ", ".join(f'"{name}"' for name in HELD_OUT)
    (folder / "suite.toml").write_text(f'test_tasks = [{held_out}]\nvalidation_tasks = ["{VALIDATION}"]\n')
    return folder


@pytest.fixture
def config(base, tasks, tmp_path):
    def build(methods=METHODS, **tune):
        options = {"lora": {"num_steps": 1}, "multitask": {"num_steps": 1}, "tfb": {"num_steps": 1}}
        options = {name: table for name, table in options.items() if name in methods}
        method = {"name": list(methods), "options": options}
        return run_config(base, tasks, tmp_path / "out", method=method, tune={"trials": 3, "num_steps": 1, **tune})

    return build


@pytest.fixture
def evaluated(monkeypatch):
    """The tasks that a learner is evaluated on."""
    seen = []
    evaluate = Learner.evaluate

    def spy(self, tasks, **options):
        seen.append((self.name, [task.name for task in tasks]))
        return evaluate(self, tasks, **options)

    monkeypatch.setattr(Learner, "evaluate", spy)
    return seen


@pytest.fixture
def trainings(monkeypatch):
    """The methods and numbers of steps that are trained."""
    seen = []
    meta_train = train.meta_train

    def spy(learner, tasks, config, seed, **options):
        seen.append((learner.name, options["num_steps"]))
        return meta_train(learner, tasks, config, seed, **options)

    monkeypatch.setattr(tune, "meta_train", spy)
    return seen


def test_the_tuner_is_handed_no_test_task(config):
    found = tuning_tasks(config())
    assert [field.name for field in fields(TuningTasks)] == ["train", "validation"]
    assert [task.name for task in found.validation] == [VALIDATION]
    assert not {task.name for side in (found.train, found.validation) for task in side} & set(HELD_OUT)


def test_trials_options_and_the_file_that_compare_reads(config, tmp_path, evaluated, trainings):
    out = tmp_path / "out"
    written, failures = tune_run(config(), out, progress=False)
    assert failures == []
    assert {names[0] for _, names in evaluated} == {VALIDATION}
    records = read_trials(out / "trials.jsonl")
    assert [(r["method"], r["trial"]) for r in records] == [("pretrained", 0)] + [
        (name, trial) for name in METHODS[1:] for trial in range(3)
    ]
    assert all(r["options"] == draw_options(r["method"], 0, r["trial"]) for r in records)
    # multi-task LoRA starts `tfb` where its draw says so; equal starts are trained once
    starts = [draw_options("tfb", 0, trial).get("start", "multitask") for trial in range(3)]
    assert len([name for name, _ in trainings if name == "tfb"]) == len(set(starts) - {"none"})
    assert set(trainings) <= {("tfb", 1), ("multitask", 1)}
    tables = tomllib.loads(written.read_text())["method"]["options"]
    for name in METHODS:
        own = [r for r in records if r["method"] == name]
        assert tables[name] == min(own, key=lambda r: r["nll"])["options"]
    # what it wrote is what a run takes
    run = tmp_path / "run.toml"
    run.write_text(dump_toml(config()))
    tuned = load_config(run, [f"method.tuned={written}"])
    assert tuned.method.options_for("lora") == {**tables["lora"], "num_steps": 1}
    assert tuned.method.tuned is None, "the resolved run holds the options, not the path"

    # going on: nothing is done twice, more trials add to those that are there
    del evaluated[:]
    before = (out / "trials.jsonl").read_bytes()
    tune_run(config(), out, progress=False)
    assert evaluated == []
    assert (out / "trials.jsonl").read_bytes() == before
    tune_run(config(trials=4), out, progress=False)
    assert [name for name, _ in evaluated] == METHODS[1:]
    with pytest.raises(AbmllError, match=r"other settings: tune.seed was 0 and is now 1"):
        tune_run(config(seed=1), out, progress=False)


def test_a_line_that_was_cut_off_is_done_again(config, tmp_path, evaluated):
    out = tmp_path / "out"
    tune_run(config(["lora"], trials=2), out, progress=False)
    trials = out / "trials.jsonl"
    whole = read_trials(trials)
    trials.write_bytes(trials.read_bytes()[:-20])
    assert len(read_trials(trials)) == 1
    del evaluated[:]
    tune_run(config(["lora"], trials=2), out, progress=False)
    assert len(evaluated) == 1
    again = read_trials(trials)
    keep = lambda r: {k: v for k, v in r.items() if k != "seconds"}  # noqa: E731
    assert list(map(keep, again)) == list(map(keep, whole)), "a trial is a function of its number"


def test_a_setting_that_diverges_is_a_trial_without_a_number(config, tmp_path, monkeypatch):
    measure = tune._measure

    def diverge(run, name, *rest):
        if "learning_rate" in run.method.options_for(name):
            raise AbmllError("the loss is NaN")
        return measure(run, name, *rest)

    monkeypatch.setattr(tune, "_measure", diverge)
    written, failures = tune_run(config(["lora"]), tmp_path / "out", progress=False)
    assert failures == []
    records = read_lines_without_empty(tmp_path / "out" / "trials.jsonl")
    assert [r.get("failed") for r in records] == [None, "the loss is NaN", "the loss is NaN"]
    assert tomllib.loads(written.read_text())["method"]["options"]["lora"] == {}


def read_lines_without_empty(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_a_suite_without_validation_tasks_gives_a_part_of_its_training_tasks(base, suite, tmp_path):
    """As with data.held_out, which makes a test side and no other."""
    for more, held_out in (({}, 1), ({"tune": {"held_out": 0.5}}, 2)):
        found = tuning_tasks(run_config(base, suite, tmp_path / "out", **more))
        assert (len(found.train), len(found.validation)) == (4 - held_out, held_out)
        assert not {task.name for task in found.train} & {task.name for task in found.validation}
        assert not {task.name for task in (*found.train, *found.validation)} & set(HELD_OUT)
    split = run_config(base, write_tasks_only(tmp_path / "tasks"), tmp_path / "out", data={"held_out": 0.34})
    found, whole = tuning_tasks(split), load_tasks(split)
    assert whole.test
    assert {task.name for task in (*found.train, *found.validation)} == {task.name for task in whole.train}
    assert found.validation


def write_tasks_only(folder):
    folder.mkdir()
    (write_tasks(folder) / "suite.toml").unlink()
    return folder


def test_what_cannot_be_held_out_is_told(base, suite, tmp_path):
    config = run_config(base, suite, tmp_path / "out", data={"max_rows": 24})
    alone = config.model_copy(update={"data": config.data.model_copy(update={"suite": str(one_task(tmp_path))})})
    with pytest.raises(AbmllError, match="nothing can be held out"):
        tune_run(alone, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def one_task(folder):
    tasks = write_tasks_only(folder / "one")
    for path in sorted(tasks.glob("*.csv"))[1:]:
        path.unlink()
    return tasks


def test_the_best_is_the_lowest_or_the_highest_and_the_first_of_equals(config):
    records = [
        {"method": "lora", "trial": n, "options": {"learning_rate": 0.01 * n}, "nll": nll, "accuracy": accuracy}
        for n, (nll, accuracy) in enumerate([(0.7, 0.5), (0.6, 0.8), (0.6, 0.9), (float("inf"), 0.9)])
    ]
    assert best_trial(records, "nll")["trial"] == 1
    assert best_trial(records, "accuracy")["trial"] == 2
    assert best_trial(records[3:], "nll") is None
    text = tuned_toml(config(["lora"]), records)
    assert "# nll 0.6000 in trial 1 of 3, with its defaults 0.7000\n[method.options.lora]\nlearning_rate = 0.01" in text
