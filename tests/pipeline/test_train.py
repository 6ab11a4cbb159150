"""train_run: from a run file to an adapter folder, and what lies beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from abmll.card import read_card
from abmll.cli import app
from abmll.config import dump_toml, load_config
from abmll.core.errors import AbmllError
from abmll.core.types import META
from abmll.learner import Learner
from abmll.pipeline import train_run
from abmll.pipeline.build import build_learner, load_model
from tests.pipeline.stages import HELD_OUT, read_json, read_lines, run_config, write_csv, write_tasks
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task


@pytest.fixture(scope="module")
def trained(base, suite, tmp_path_factory):
    method = {"name": "abmll-adam", "options": {"num_steps": 2}}
    config = run_config(base, suite, tmp_path_factory.mktemp("train") / "run", method=method)
    return config, train_run(config, progress=False)


def test_everything_that_a_run_writes(trained, base):
    config, adapter = trained
    assert adapter == config.output / "adapter"
    assert sorted(path.name for path in config.output.iterdir()) == [
        "adapter",
        "checkpoints",
        "provenance.json",
        "run.toml",
        "training.jsonl",
    ]
    assert load_config(config.output / "run.toml") == config
    card = read_card(adapter)
    assert (card.role, card.method, card.base_model) == ("meta", "abmll-adam", str(base))
    assert (adapter / "lora" / "adapter_model.safetensors").is_file()
    assert Learner.load(adapter, tiny_llama(layers=1), tiny_tokenizer()).name == "abmll-adam"


def test_the_log_has_a_line_a_step(trained):
    config, _ = trained
    lines = read_lines(config.output / "training.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert {"nll", "inner_loss", "grad_norm", "seconds", "tokens_per_second", "peak_memory_bytes"} <= set(line)
        assert not set(line["tasks"]) & set(HELD_OUT), "held-out tasks are never trained on"


def test_provenance_tells_no_path_that_was_not_typed(base, suite, tmp_path, monkeypatch):
    typed = "run.toml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/some/where/bin/abmll", "train", typed, "seed=4"])
    train_run(run_config(base, suite, "run", training={"num_steps": 1}), progress=False)
    text = (tmp_path / "run" / "provenance.json").read_text()
    found = read_json(tmp_path / "run" / "provenance.json")
    assert found["command"] == ["abmll", "train", typed, "seed=4"]
    assert found["seeds"] == [0]
    assert found["versions"]["torch"]
    assert "/some/where" not in text
    assert all(str(place) not in text for place in (tmp_path, Path.home(), sys.prefix, base, suite))


@pytest.mark.parametrize("method", ["abmll", "abmll-paper", "reptile", "multitask", "fomaml"])
def test_other_methods_take_the_same_run_file(method, base, suite, tmp_path):
    episodes = {"support_size": 10} if method == "abmll-paper" else {}
    config = run_config(base, suite, tmp_path / "run", method={"name": method}, episodes=episodes)
    assert read_card(train_run(config, progress=False)).method == method


def test_a_used_folder_is_refused_and_kept(trained):
    config, _ = trained
    before = {path: path.read_bytes() for path in config.output.rglob("*") if path.is_file()}
    with pytest.raises(AbmllError, match=r"already holds a run \(checkpoints up to step 2\)\. Resume it \(--resume"):
        train_run(config, progress=False)
    assert {path: path.read_bytes() for path in config.output.rglob("*") if path.is_file()} == before


def test_a_method_that_learns_nothing_gets_the_fresh_adapter_it_adapts_from(base, suite, tmp_path):
    config = run_config(base, suite, tmp_path / "run", method={"name": "lora"})
    folder = train_run(config, progress=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["adapter", "provenance.json", "run.toml"]
    saved, fresh = Learner.load(folder, *load_model(config.model)), build_learner(config, "lora", seed=config.seed)
    for name, tensor in fresh.likelihood.parameters(META).items():
        assert torch.equal(saved.likelihood.parameters(META)[name], tensor)
    before = (folder / "adapter_model.safetensors").read_bytes()
    with pytest.raises(AbmllError, match=r"already holds a run, and 'lora' learns nothing across tasks"):
        train_run(config, progress=False)
    assert train_run(config, resume=True, progress=False) == folder
    other = run_config(base, suite, tmp_path / "run", method={"name": "ensemble"})
    with pytest.raises(AbmllError, match=r"holds an adapter of 'lora', not of 'ensemble'. Choose another output="):
        train_run(other, resume=True, progress=False)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert not list((tmp_path / "run").glob("checkpoints"))


def test_tasks_smaller_than_an_episode_are_all_named(base, tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    write_tasks(folder)
    for number in (1, 2):
        write_csv(folder / f"task-{number}.csv", tiny_task(f"task-{number}", 6))
    config = run_config(base, folder, tmp_path / "run")
    message = (
        r"2 task\(s\) too small for support_size=4 and query_size=4: 'task-1' has 6 rows, needs at least 8; 'task-2'"
    )
    with pytest.raises(AbmllError, match=message):
        train_run(config, progress=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", r"cannot load model 'no/such/folder' \(\[model\] name\): .*Give a Hugging Face name"),
        ("EMPTY", r"cannot load model .*the path of a folder with config\.json, safetensors weights and a tokenizer"),
    ],
)
def test_a_model_that_is_not_there(name, message, suite, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    config = run_config(name if "/" in name else tmp_path / name, suite, tmp_path / "run")
    with pytest.raises(AbmllError, match=message):
        train_run(config, progress=False)


def test_a_loss_that_is_not_finite_ends_the_command_with_step_task_and_remedy(base, suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(dump_toml(run_config(base, suite, "run", training={"checkpoint_every": 1})))
    # the first step takes θ so far that the second one's loss leaves float32's range
    wild = ["training.learning_rate=1e30", "training.schedule=constant", "training.num_steps=5"]
    result = CliRunner().invoke(app, ["train", "run.toml", "-q", *wild])
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert "Error: outer step 2, task 'task-" in result.stderr
    assert "Lower the learning rate" in result.stderr
    assert "The last checkpoint is untouched." in result.stderr
    (checkpoint,) = Path("run/checkpoints").iterdir()
    assert checkpoint.name.endswith("1")
    assert len(read_lines(Path("run/training.jsonl"))) == 1
    assert not Path("run/adapter").exists(), "nothing is saved as if it were a result"
