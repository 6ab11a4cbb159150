"""compare_run: every cell once, meta-training shared where it is the same, equal budgets, one table."""

from __future__ import annotations

import json

import pytest

from abmll.config import load_config
from abmll.core.errors import AbmllError
from abmll.evaluation.predictions import CellKey
from abmll.pipeline import Budget, compare, compare_run, evaluate
from abmll.pipeline.build import load_tasks
from abmll.pipeline.evaluate import evaluate_method, trainer_of
from abmll.pipeline.worker import Bench
from tests.pipeline.stages import HELD_OUT, cells_of, read_json, run_config

pytestmark = pytest.mark.usefixtures("undrawn")
METHODS = ["abmll-output", "lora", "laplace", "multitask"]
SIZES = {"support_sizes": [2, 4], "seeds": [0, 1], "num_query": 5, "num_samples": 2}


def config_for(base, suite, out, methods=METHODS, evaluation=SIZES, **sections):
    options = {name: {"num_steps": 2} for name in methods if name not in ("pretrained", "abmll")}
    method = {"name": list(methods), "options": options}
    return run_config(base, suite, out, method=method, evaluation=evaluation, **sections)


@pytest.fixture(scope="module")
def compared(base, suite, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, compare_run(config_for(base, suite, out), out, progress=False)


def untouched(monkeypatch):
    monkeypatch.setattr(evaluate, "build_learner", lambda *_, **__: pytest.fail("something is computed again"))


def test_every_cell_once_with_its_cost(compared):
    out, done = compared
    assert done.failures == []
    cells = cells_of(out / "predictions.jsonl")
    assert set(cells) == {
        CellKey(method, seed, task, size)
        for method in METHODS
        for seed in (0, 1)
        for task in HELD_OUT
        for size in (2, 4)
    }
    assert len((out / "predictions.jsonl").read_text().splitlines()) == len(cells)
    for cell in cells.values():
        assert cell.extra["stored_bytes"] > 0
        assert cell.extra["peak_memory_bytes"] > 10 * 2**20
    bytes_of = {m: cells[m, 0, "task-4", 4].extra["stored_bytes"] for m in METHODS}
    assert bytes_of["abmll-output"] == 2 * bytes_of["lora"] == 2 * bytes_of["multitask"], "a mean and a variance"


def test_the_table_is_on_disk_and_in_the_terminal(compared):
    out, done = compared
    record = read_json(out / "comparison.json")
    assert {(row["method"], row["support_size"]) for row in record["rows"]} == {(m, k) for m in METHODS for k in (2, 4)}
    assert record["budget"] == "equal gradient steps (2 in every inner loop)"
    table = done.table.read_text()
    for text in (table, done.text):
        for word in ("Accuracy", "Macro F1", "NLL", "Adaptive ECE", "Brier", "AUROC", "Stored KiB"):
            assert word in text
        assert "OOD AUROC" not in text, "every family was trained on: it would be a column of dashes"
        assert "4 support examples, 2 tasks × 2 seeds" in text
    assert done.report.read_text().startswith("<!doctype html>")


def test_methods_that_differ_in_adaptation_alone_share_their_training(compared, base, suite, tmp_path):
    out, _ = compared
    trained = sorted(path.parent.relative_to(out).as_posix() for path in out.glob("*/*/checkpoints"))
    assert trained == ["abmll-output/seed-0", "abmll-output/seed-1", "laplace/seed-0", "laplace/seed-1"]
    config = config_for(base, suite, out)
    assert [trainer_of(config, name, 0, out) for name in METHODS] == ["abmll-output", "lora", "laplace", "laplace"]
    # alone, multitask trains for itself, to the same predictions bit by bit
    alone = config_for(base, suite, tmp_path, ["multitask"])
    evaluate_method(alone, load_tasks(alone), "multitask", 0, tmp_path, progress=False)
    shared = cells_of(out / "predictions.jsonl")
    for key, cell in cells_of(tmp_path / "predictions.jsonl").items():
        assert cell.same_predictions(shared[key])


def test_equal_outer_rates_share_their_training_and_others_do_not(base, suite, tmp_path):
    names = ["multitask", "laplace", "swag", "tfb"]
    rates = {"multitask": 0.01, "laplace": 0.01, "swag": 0.02}
    options = {name: {"outer_learning_rate": rate} for name, rate in rates.items()}
    config = run_config(base, suite, tmp_path, method={"name": names, "options": options})
    assert [trainer_of(config, name, 0, tmp_path) for name in names] == ["multitask", "multitask", "swag", "tfb"]


def test_the_trainer_goes_first(compared, base, suite):
    out, _ = compared
    config = config_for(base, suite, out.parent / "fresh")
    units = [compare._unit(config, name, 0, None, out.parent / "fresh") for name in METHODS]
    assert [unit.after for unit in units] == [None, None, None, "laplace, seed 0"]


def test_nothing_is_computed_twice_and_methods_seeds_and_sizes_are_added(compared, base, suite, monkeypatch):
    out, _ = compared
    before = (out / "predictions.jsonl").read_bytes()
    with monkeypatch.context() as context:
        untouched(context)
        compare_run(config_for(base, suite, out), out, progress=False)
    assert (out / "predictions.jsonl").read_bytes() == before
    more = config_for(
        base, suite, out, ["pretrained", "abmll-output"], {**SIZES, "support_sizes": [4], "seeds": [0, 2]}
    )
    compare_run(more, out, progress=False)
    after = (out / "predictions.jsonl").read_bytes()
    assert after.startswith(before)
    new = {json.loads(line)["method"]: 0 for line in after[len(before) :].splitlines()}
    assert set(new) == {"pretrained", "abmll-output"}
    assert len(after[len(before) :].splitlines()) == len(HELD_OUT) * (2 + 1)


def test_other_settings_are_refused_by_name(compared, base, suite):
    out, _ = compared
    for changed, told in (
        ({"training": {"num_steps": 3}}, r"training.num_steps was 2 and is now 3"),
        ({"evaluation": {**SIZES, "support_sizes": [2, 8]}}, r"evaluation.support_sizes was"),
        ({"prompt": {"answer": "letters"}}, r"prompt.answer was 'text' and is now 'letters'"),
    ):
        with pytest.raises(AbmllError, match=f"other settings: {told}"):
            compare_run(config_for(base, suite, out, **changed), out, progress=False)
    with pytest.raises(AbmllError, match=r"method.options.abmll-output.num_steps was 2 and is now 3"):
        compare_run(config_for(base, suite, out), out, budget=Budget("steps", 3), progress=False)


def test_a_failed_unit_leaves_the_others(base, suite, tmp_path, monkeypatch):
    fit = Bench.perform

    def perform(self, request):
        if (request["method"], request["seed"]) == ("lora", 1):
            raise ZeroDivisionError("unlucky")
        fit(self, request)

    monkeypatch.setattr(Bench, "perform", perform)
    config = config_for(base, suite, tmp_path, ["pretrained", "lora"], {**SIZES, "support_sizes": [4]})
    done = compare_run(config, tmp_path, progress=False)
    assert [(failure.unit, failure.error) for failure in done.failures] == [
        ("lora, seed 1", "ZeroDivisionError: unlucky")
    ]
    assert "Traceback" in (tmp_path / "errors.log").read_text()
    assert {(key.method, key.seed) for key in cells_of(tmp_path / "predictions.jsonl")} == {
        ("pretrained", 0), ("pretrained", 1), ("lora", 0),
    }  # fmt: skip
    assert "lora lacks 2 of 4" in done.text
    monkeypatch.setattr(Bench, "perform", fit)
    assert compare_run(config, tmp_path, progress=False).failures == []


def test_if_everything_fails_the_reasons_are_the_error(base, suite, tmp_path, monkeypatch):
    def perform(self, request):
        raise AbmllError("no memory for this")

    monkeypatch.setattr(Bench, "perform", perform)
    with pytest.raises(AbmllError, match=r"nothing could be compared:\n  lora, seed 0: no memory for this"):
        compare_run(config_for(base, suite, tmp_path, ["lora"]), tmp_path, progress=False)


def test_equal_steps(base, suite, tmp_path):
    evaluation = {**SIZES, "support_sizes": [4], "seeds": [0]}
    method = {"name": ["pretrained", "lora", "swag"]}
    config = run_config(base, suite, tmp_path, method=method, evaluation=evaluation)
    compare_run(config, tmp_path, budget=Budget("steps", 4), progress=False)
    resolved = load_config(tmp_path / "run.toml").method
    assert [resolved.options_for(name) for name in ("pretrained", "lora", "swag")] == [{}, *[{"num_steps": 4}] * 2]
    assert read_json(tmp_path / "comparison.json")["budget"] == "equal gradient steps (4 in every inner loop)"
    with pytest.raises(AbmllError, match="fewer than two"):
        compare_run(config, tmp_path / "new", budget=Budget("steps", 1), progress=False)
    assert not (tmp_path / "new").exists()


def test_equal_seconds_are_those_of_the_baseline(base, suite, tmp_path, monkeypatch):
    given = []

    def steps_within(adaptation, likelihood, support, seconds):
        given.append((len(support), seconds))
        return 3

    monkeypatch.setattr("abmll.evaluation.evaluate.steps_within", steps_within)
    config = config_for(base, suite, tmp_path, ["lora", "abmll"], {**SIZES, "seeds": [0]})
    compare_run(config, tmp_path, budget=Budget("seconds"), progress=False)
    cells = cells_of(tmp_path / "predictions.jsonl")
    own = {
        size: [c.seconds for c in cells.values() if c.method == "abmll" and c.support_size == size] for size in (2, 4)
    }
    assert set(given) == {(size, sum(values) / 2) for size, values in own.items()}
    assert {c.extra.get("num_steps") for c in cells.values() if c.method == "lora"} == {3}
    assert {c.extra.get("num_steps") for c in cells.values() if c.method == "abmll"} == {None}
    assert "those of abmll" in read_json(tmp_path / "comparison.json")["budget"]
    with pytest.raises(AbmllError, match="same_seconds_as was 'abmll' and is now None"):
        compare_run(config, tmp_path, progress=False)


def test_given_seconds_hold_for_all(base, suite, tmp_path):
    config = config_for(base, suite, tmp_path, ["lora", "pretrained"], {**SIZES, "support_sizes": [4], "seeds": [0]})
    compare_run(config, tmp_path, baseline="lora", budget=Budget("seconds", 0.2), progress=False)
    cells = cells_of(tmp_path / "predictions.jsonl")
    assert all(c.extra["num_steps"] >= 1 for c in cells.values() if c.method == "lora")
    assert all("num_steps" not in c.extra for c in cells.values() if c.method == "pretrained")


@pytest.mark.parametrize("text", ["step", "steps=", "steps=2.5", "seconds=-1", "seconds=fast", "", "steps=0"])
def test_budgets_that_are_none(text):
    with pytest.raises(AbmllError, match="give steps, steps=20, seconds or seconds"):
        Budget.parse(text)


def test_budgets_in_words(base, suite, tmp_path):
    assert Budget.parse("steps=20") == Budget("steps", 20)
    assert Budget.parse("seconds=1.5") == Budget("seconds", 1.5)
    assert Budget.parse("seconds") == Budget("seconds")
    config = config_for(base, suite, tmp_path, ["lora"])
    with pytest.raises(AbmllError, match="seconds of abmll, which is not among the methods"):
        compare_run(config, tmp_path, baseline="abmll", budget=Budget("seconds"), progress=False)
    with pytest.raises(AbmllError, match="steps of pretrained, which has none"):
        compare_run(config, tmp_path, baseline="pretrained", budget=Budget("steps"), progress=False)


@pytest.mark.slow
def test_side_by_side_is_the_same(compared, base, suite, tmp_path):
    out, _ = compared
    config = config_for(base, suite, tmp_path, ["lora", "laplace", "multitask"])
    done = compare_run(config, tmp_path, baseline="lora", jobs=2, progress=False)
    assert done.failures == []
    serial = cells_of(out / "predictions.jsonl")
    parallel = cells_of(tmp_path / "predictions.jsonl")
    assert len(parallel) == 3 * 2 * 2 * 2
    assert all(cell.same_predictions(serial[key]) for key, cell in parallel.items())
