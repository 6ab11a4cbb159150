"""evaluate_run on several ranks: the same predictions in one file, one writer, one error for all."""

from __future__ import annotations

import pytest

from abmll.config import dump_toml
from abmll.core.errors import AbmllError
from abmll.pipeline import evaluate_run, train_run
from tests.pipeline.rank_jobs import job
from tests.pipeline.stages import cells_of, run_config
from tests.tiny import tiny_llama, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("forkserver")
SIZES = {"support_sizes": [0, 4], "seeds": [0, 1, 2]}  # 2 tasks x 2 sizes x 3 seeds = 12 cells


@pytest.fixture(scope="module")
def adapter(base, suite, tmp_path_factory):
    return train_run(run_config(base, suite, tmp_path_factory.mktemp("shared") / "run"), progress=False)


@pytest.fixture(scope="module")
def run_file(base, suite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run-file")
    (folder / "run.toml").write_text(dump_toml(run_config(base, suite, folder / "run", evaluation=SIZES)))
    return folder / "run.toml"


@pytest.fixture(scope="module")
def alone(base, suite, adapter, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    return cells_of(evaluate_run(run_config(base, suite, out, evaluation=SIZES), adapter, out, progress=False))


def assert_same_cells(path, expected):
    cells = cells_of(path)
    assert len(path.read_text().splitlines()) == len(expected), "each cell once"
    assert list(cells) == list(expected), "in the same order"
    assert all(cells[key].same_predictions(cell) for key, cell in expected.items())


@pytest.mark.parametrize("size", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_ranks_share_the_cells_and_predict_the_same_bit_for_bit(size, run_file, adapter, alone, tmp_path):
    """Five ranks do not divide twelve cells."""
    assert job(size, "evaluate", run_file, tmp_path / "out", adapter) == [""] * size
    assert_same_cells(tmp_path / "out" / "predictions.jsonl", alone)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "predictions.jsonl",
        "queries.jsonl",
        "adapters.json",
        "run.toml",
        "provenance.json",
    }


def test_an_error_of_one_rank_is_told_by_all_and_the_rest_is_kept(run_file, adapter, alone, tmp_path):
    out = tmp_path / "out"
    told = job(2, "evaluate", run_file, out, adapter, rank=1, cell=1, how="error")
    assert told == ["rank 1 stopped: this cell went wrong", "this cell went wrong"]
    kept = cells_of(out / "predictions.jsonl")
    assert 0 < len(kept) < len(alone)
    assert job(2, "evaluate", run_file, out, adapter) == ["", ""]
    assert_same_cells(out / "predictions.jsonl", alone)


@pytest.mark.slow
def test_a_killed_rank_ends_the_evaluation_with_a_message_and_it_goes_on(run_file, adapter, alone, tmp_path):
    out = tmp_path / "out"
    told = job(2, "evaluate", run_file, out, adapter, rank=1, cell=1, how="death")
    assert told[1] == "killed"
    assert told[0].startswith("lost contact with another rank: it was killed")
    assert job(1, "evaluate", run_file, out, adapter) == [""]
    cells = cells_of(out / "predictions.jsonl")
    assert cells.keys() == alone.keys()
    assert all(cells[key].same_predictions(cell) for key, cell in alone.items())


@pytest.mark.slow
def test_methods_that_the_evaluation_trains_are_trained_by_all_ranks(base, suite, tmp_path):
    methods = {"name": ["pretrained", "multitask"], "options": {"num_steps": 2}}
    sections = {"method": methods, "training": {"num_steps": 2, "episodes_per_step": 2}}
    config = run_config(base, suite, tmp_path / "run", evaluation=SIZES, **sections)
    (tmp_path / "run.toml").write_text(dump_toml(config))
    assert job(2, "evaluate", tmp_path / "run.toml", tmp_path / "ranks") == ["", ""]
    alone = cells_of(evaluate_run(config, None, tmp_path / "alone", progress=False))
    cells = cells_of(tmp_path / "ranks" / "predictions.jsonl")
    assert cells.keys() == alone.keys()
    for key, cell in alone.items():
        assert (cells[key].log_probs - cell.log_probs).abs().max() < 1e-6
    assert len(list((tmp_path / "ranks").rglob("training.jsonl"))) == 3, "one log a seed"


def test_settings_of_other_cells_are_refused_on_every_rank(base, suite, run_file, adapter, tmp_path):
    out = tmp_path / "out"
    few = {"support_sizes": [0], "seeds": [0], "num_samples": 3}
    evaluate_run(run_config(base, suite, tmp_path / "run", evaluation=few), adapter, out, progress=False)
    told = job(2, "evaluate", run_file, out, adapter)
    assert told[0].startswith(f"{out} holds results of other settings: evaluation.num_samples was 3 and is now 2")
    assert told[1] == f"rank 0 stopped: {told[0]}"


def test_a_budget_of_seconds_is_refused_where_ranks_share_a_model(base, suite, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("abmll.pipeline.build.sharing_ranks", lambda *_: None)
    evaluation = SIZES | {"adaptation_seconds": [1.0]}
    config = run_config(base, suite, tmp_path / "run", evaluation=evaluation)
    config = config.model_copy(update={"model": config.model.model_copy(update={"shard": 2})})
    with pytest.raises(AbmllError, match=r"gives every rank its own number of steps.*set model.shard=1"):
        evaluate_run(config, adapter, tmp_path / "out", progress=False)


@pytest.mark.slow
def test_ranks_that_share_a_model_train_and_evaluate_as_one_process_does(suite, tmp_path):
    """The run file's model.shard, from loading in turns to the adapter folder; two copies of two ranks evaluate."""
    tiny_llama(hidden=256, layers=1).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    sections = {"method": {"name": "reptile"}, "training": {"num_steps": 2, "episodes_per_step": 2}}
    whole = run_config(tmp_path / "base", suite, tmp_path / "whole", evaluation=SIZES, **sections)
    evaluate_run(whole, train_run(whole, progress=False), tmp_path / "out-whole", progress=False)

    model = whole.model.model_copy(update={"shard": 2})
    shared = whole.model_copy(update={"model": model, "output": tmp_path / "shared"})
    (tmp_path / "run.toml").write_text(dump_toml(shared))
    assert job(2, "train", tmp_path / "run.toml", tmp_path) == ["", ""]
    assert job(4, "evaluate", tmp_path / "run.toml", tmp_path / "out-shared", shared.output / "adapter") == [""] * 4
    alone, cells = (cells_of(tmp_path / name / "predictions.jsonl") for name in ("out-whole", "out-shared"))
    assert list(cells) == list(alone)
    assert max(float((cells[key].log_probs - cell.log_probs).abs().max()) for key, cell in alone.items()) < 1e-6


def test_a_shared_model_needs_its_processes(base, suite, adapter, tmp_path):
    config = run_config(base, suite, tmp_path / "run")
    config = config.model_copy(update={"model": config.model.model_copy(update={"shard": 8})})
    for start in (
        lambda: evaluate_run(config, adapter, tmp_path / "out", progress=False),
        lambda: train_run(config, progress=False),
    ):
        with pytest.raises(AbmllError, match=r"model\.shard is 8, .* has 1\. Start a multiple of 8 \(torchrun --nproc"):
            start()
    assert not (tmp_path / "out").exists()
