"""The demonstration with another model and a user's own tasks: fewer rows, and the upper layers only."""

from __future__ import annotations

from typing import Any

import pytest

import abmll.pipeline.demo
from abmll import models
from abmll.config import load_config, parse_config
from abmll.core.errors import AbmllError
from abmll.evaluation.predictions import read_cells
from abmll.pipeline import demo_run
from abmll.pipeline.demo import HELD_OUT, demo_config
from tests.pipeline.stages import write_tasks
from tests.tiny import tiny_llama, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    """A folder with a model of more blocks than are adapted."""
    folder = tmp_path_factory.mktemp("layered")
    tiny_llama(layers=5).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def with_fewer_steps(*arguments, **named):
    """The demo's own settings, but for the numbers of steps, queries and samples, and two layers a block."""
    fields = demo_config(*arguments, **named).model_dump(mode="json", exclude_none=True)
    fields["training"]["num_steps"] = 1
    fields["method"]["options"]["num_steps"] = 2
    fields["adapter"]["target_modules"] = ["q_proj", "down_proj"]
    fields["evaluation"] |= {"num_query": 3, "num_samples": 2}
    return parse_config(fields)


def test_a_folder_without_a_split_has_some_tasks_held_out(tmp_path, suite):
    assert demo_config(tmp_path, suite=str(suite)).data.held_out is None, "its suite.toml says it"
    (tmp_path / "bare").mkdir()
    assert demo_config(tmp_path, suite=str(tmp_path / "bare")).data.held_out == HELD_OUT
    assert demo_config(tmp_path).data.held_out is None


def test_a_real_model_gets_upper_layers_and_settles_its_answers(tmp_path):
    config = demo_config(tmp_path, model="smollm2")
    assert config.model.name == "smollm2"
    assert config.model.dtype == "auto"
    assert config.prompt.answer == "auto"
    assert config.adapter.upper_layers
    assert {"abmll", "pretrained+scale", "lora+scale", "multitask+scale"} == set(config.method.names)
    assert config.data.suite == "concepts"
    assert demo_config(tmp_path).data.suite == "default"
    assert demo_config(tmp_path).adapter.upper_layers is None


def test_it_runs_on_a_model_and_tasks_of_the_users_and_goes_on_where_it_stopped(layered, tmp_path, monkeypatch):
    tasks = write_tasks(tmp_path, rows=40) / ""
    (tasks / "suite.toml").unlink()
    out = tmp_path / "out"
    monkeypatch.setattr(abmll.pipeline.demo, "demo_config", with_fewer_steps)
    asked: dict[str, Any] = {"model": str(layered), "suite": str(tasks), "seeds": 1, "quick": True, "progress": False}
    comparison = demo_run(out, **asked)
    assert not comparison.failures
    run = load_config(out / "run.toml")
    assert run.prompt.answer == "text", "settled: a model of random weights knows no letters"
    cells = list(read_cells(out / "predictions.jsonl"))
    methods = {"abmll", "pretrained", "lora+scale", "multitask+scale", "uniform", "label-frequency"}
    assert {cell.method for cell in cells} >= methods
    assert "html" in comparison.report.read_text(encoding="utf-8")[:200]
    monkeypatch.setattr("abmll.pipeline.build.load_model", lambda *_: pytest.fail("a finished demo loads nothing"))
    again = demo_run(out, **asked)
    assert len(list(read_cells(out / "predictions.jsonl"))) == len(cells)
    assert again.report.is_file()


def test_a_model_that_is_none_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(AbmllError, match=r"cannot load model .*no-such"):
        demo_run(tmp_path / "out", model=str(tmp_path / "no-such"), seeds=1, quick=True, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_real_model_tells_its_own_story(tmp_path):
    """SmolLM2 itself: it answers by text, and predicts better than a coin after adaptation. Needs it in the cache."""
    smollm2 = models.find("smollm2")
    if smollm2 is None or not models.is_cached(smollm2):
        pytest.skip("SmolLM2 is not in the cache: `abmll models get smollm2` fetches it")
    comparison = abmll.pipeline.demo.demo_run(tmp_path, model="smollm2", seeds=1, quick=True, progress=False)
    assert not comparison.failures
    assert load_config(tmp_path / "run.toml").prompt.answer == "text"
