"""The adapters META and TASK of one model, and their folders."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from abmll.adapters import adapter_parameters, attach_roles, copy_adapter, load_adapter, save_adapter
from abmll.core.errors import AbmllError
from abmll.core.types import META, TASK
from benchmarks.architectures.tiny import tiny_model
from tests.adapters.adapter_models import adapter_config, base_model, randomise
from tests.parameters import few_of

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def lora_config(**arguments):
    given: dict[str, Any] = {"r": 3, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"]}
    return LoraConfig(**(given | arguments))


CONFIGS = pytest.mark.parametrize("config", [adapter_config, lora_config], ids=["abmll", "lora"])


@CONFIGS
def test_both_roles_exist_equal_and_the_task_is_active(config, logits):
    model = attach_roles(base_model(), config())
    assert model.active_adapters == [TASK]
    assert list(model.peft_config) == [META, TASK]
    meta, task = adapter_parameters(model, META), adapter_parameters(model, TASK)
    assert meta.keys() == task.keys()
    assert len(meta) == (16 if config is adapter_config else 8)
    for name in meta:
        assert torch.equal(meta[name], task[name])
        assert meta[name].data_ptr() != task[name].data_ptr()
        assert META not in name.split(".")
        assert TASK not in name.split(".")
    assert torch.equal(logits(model), logits(base_model()))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if f".{TASK}" in name
    }


@CONFIGS
def test_half_precision_base_gets_float32_roles(config):
    model = attach_roles(base_model(dtype=torch.bfloat16), config())
    for role in (META, TASK):
        assert {p.dtype for p in adapter_parameters(model, role).values()} == {torch.float32}


@CONFIGS
def test_the_given_config_is_not_touched(config):
    given = config(target_modules="all-linear")
    attach_roles(base_model(), given)
    assert given.target_modules == "all-linear"


@CONFIGS
def test_copying_moves_one_role_into_the_other(config, logits):
    model = randomise(attach_roles(base_model(), config()))
    model.set_adapter(META)
    expected = logits(model)
    model.set_adapter(TASK)
    assert not torch.equal(logits(model), expected)
    copy_adapter(model, META, TASK)
    assert torch.equal(logits(model), expected)


@CONFIGS
def test_saved_folder_loads_in_peft_and_into_a_role(config, logits, tmp_path):
    model = randomise(attach_roles(base_model(), config()))
    before = logits(model)
    save_adapter(model, TASK, tmp_path / "new" / "folder")
    names = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert names == ({CONFIG, WEIGHTS, "lora"} if config is adapter_config else {CONFIG, WEIGHTS})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"]  # no temporary folder left
    assert load_file(tmp_path / "new" / "folder" / WEIGHTS).keys() == adapter_parameters(model, TASK).keys()
    loaded = PeftModel.from_pretrained(base_model(), tmp_path / "new" / "folder").eval()
    assert torch.equal(logits(loaded), before)

    other = attach_roles(base_model(), config())
    parameters = adapter_parameters(other, TASK)
    load_adapter(other, TASK, tmp_path / "new" / "folder")
    assert torch.equal(logits(other), before)
    assert all(adapter_parameters(other, TASK)[name] is p for name, p in parameters.items())  # in place
    for name, p in adapter_parameters(other, META).items():
        assert not p.any() or not torch.equal(p, adapter_parameters(model, META)[name])  # META is left alone


def test_modules_to_save_belong_to_the_roles(logits, tmp_path):
    model = attach_roles(base_model(), adapter_config(modules_to_save=["lm_head"]))
    head = "base_model.model.lm_head.weight"
    assert head in adapter_parameters(model, META)
    with torch.no_grad():
        adapter_parameters(model, TASK)[head].mul_(2)
    save_adapter(model, TASK, tmp_path / "adapter")
    other = attach_roles(base_model(), adapter_config(modules_to_save=["lm_head"]))
    load_adapter(other, TASK, tmp_path / "adapter")
    assert torch.equal(logits(other), logits(model))
    assert not torch.equal(logits(other), logits(base_model()))


def test_saving_replaces_an_adapter_and_keeps_other_files(tmp_path):
    folder = tmp_path / "run"
    model = randomise(attach_roles(base_model(), adapter_config()))
    save_adapter(model, META, folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "why.txt").write_text("kept")
    with (folder / "log.jsonl").open("a") as log:  # a log that stays open while the adapter is saved beside it
        log.write("before\n")
        save_adapter(model, TASK, folder)
        log.write("after\n")
    assert (folder / "log.jsonl").read_text() == "before\nafter\n"
    assert (folder / "notes" / "why.txt").read_text() == "kept"
    for name, tensor in load_file(folder / WEIGHTS).items():
        assert torch.equal(tensor, adapter_parameters(model, TASK)[name])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("failing", ["write", "flush", "rename"])
def test_a_failed_save_leaves_the_old_folder_whole(failing, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    model = randomise(attach_roles(base_model(), adapter_config()))
    save_adapter(model, META, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    rename = Path.rename
    if failing == "write":
        monkeypatch.setattr("abmll.adapters.lora_copy.save_file", fail)
    elif failing == "flush":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "rename", lambda s, t: fail() if s.name == TASK else rename(s, t))
    with pytest.raises(AbmllError, match=r"disk full\. Free some space"):
        save_adapter(model, TASK, folder)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    load_adapter(model, META, folder)


KINDS = ("int32", "bool", "complex64", "float8_e4m3fn")


def damage(folder: Path, how: str) -> None:
    config, weights = folder / CONFIG, folder / WEIGHTS
    tensors = load_file(weights)
    name = next(iter(tensors))
    if how == "no folder":
        shutil.rmtree(folder)
    elif how == "no config":
        config.unlink()
    elif how == "torn config":
        config.write_text(config.read_text()[:40])
    elif how == "config is a list":
        config.write_text("[]")
    elif how == "no weights":
        weights.unlink()
    elif how == "pickle":
        weights.rename(folder / "adapter_model.bin")
    elif how == "torn weights":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "empty weights":
        weights.write_bytes(b"")
    elif how == "missing tensor":
        save_file({n: t for n, t in tensors.items() if n != name}, weights)
    elif how == "extra tensor":
        save_file({**tensors, "extra": torch.ones(1)}, weights)
    elif how == "shape":
        save_file({**tensors, name: torch.ones(3, 2)}, weights)
    elif how.startswith("of "):
        save_file({**tensors, name: tensors[name].to(getattr(torch, how[3:]))}, weights)
    elif how == "nan":
        save_file({**tensors, name: tensors[name] * float("nan")}, weights)
    else:
        changed = json.loads(config.read_text()) | {how: {"r": 7, "lora_alpha": 99}.get(how, -3.0)}
        config.write_text(json.dumps(changed))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no folder", f"no adapter in .*{CONFIG} is missing"),
        ("no config", f"{CONFIG} is missing. Give the folder that holds it"),
        ("torn config", f"{CONFIG} is damaged"),
        ("config is a list", "not a JSON object"),
        ("no weights", f"{WEIGHTS} is missing"),
        ("pickle", "adapter_model.bin, which can run code when read"),
        ("torn weights", f"{WEIGHTS} is damaged"),
        ("empty weights", f"{WEIGHTS} is damaged"),
        ("missing tensor", "lacks 1 tensors.*q_proj|lacks 1 tensors.*down_proj"),
        ("extra tensor", "has, and the model has not, 1 tensors.*'extra'"),
        ("shape", r"has shape \(3, 2\), the model needs \("),
        ("nan", "holds nan or infinity"),
        *((f"of {kind}", f"holds {kind}, and an adapter is of real numbers") for kind in KINDS),
        ("r", "has r=7, the model's adapter 'task' has 3"),
        ("lora_alpha", "has lora_alpha=99, the model's adapter 'task' has 6"),
        ("log_var_offset", "has log_var_offset=-3.0, the model's adapter 'task' has -20.0"),
        ("log_var_bound", "has log_var_bound=-3.0, the model's adapter 'task' has None"),
    ],
)
def test_damaged_folders_are_named_and_change_nothing(how, message, tmp_path):
    model = randomise(attach_roles(base_model(), adapter_config()))
    save_adapter(model, META, tmp_path / "run")
    before = {name: p.detach().clone() for name, p in adapter_parameters(model, TASK).items()}
    damage(tmp_path / "run", how)
    with pytest.raises(AbmllError, match=message):
        load_adapter(model, TASK, tmp_path / "run")
    for name, p in adapter_parameters(model, TASK).items():
        assert torch.equal(p, before[name])


def test_an_adapter_of_another_kind_is_refused(tmp_path):
    save_adapter(attach_roles(base_model(), lora_config()), META, tmp_path / "run")
    with pytest.raises(AbmllError, match="has peft_type='LORA', the model's adapter 'task' has"):
        load_adapter(attach_roles(base_model(), adapter_config()), TASK, tmp_path / "run")


def test_an_adapter_of_another_base_is_refused(tmp_path):
    save_adapter(attach_roles(base_model("opt"), lora_config(target_modules=["q_proj"])), META, tmp_path / "run")
    with pytest.raises(AbmllError, match="made for another model"):
        load_adapter(attach_roles(base_model(), lora_config(target_modules=["q_proj"])), TASK, tmp_path / "run")


@CONFIGS
def test_models_that_do_not_fit_are_refused_and_left_alone(config):
    model: Any = attach_roles(base_model(), config())
    with pytest.raises(AbmllError, match="already has PEFT adapters"):
        attach_roles(model, config())
    with pytest.raises(AbmllError, match="already has PEFT adapters"):
        attach_roles(model.base_model.model, config())
    with pytest.raises(AbmllError, match="no adapter 'other'"):
        adapter_parameters(model, "other")
    plain = base_model()
    plain.task = torch.nn.Linear(2, 2)
    with pytest.raises(AbmllError, match="'task' is also the name of a module"):
        attach_roles(plain, config())
    with pytest.raises(AbmllError, match="Did you mean 'q_proj'"):
        attach_roles(base_model(), config(target_modules=["q_prj"]))


HEADS = {"modernbert-decoder": "lm_head.dense", "roberta": "lm_head.dense", "electra": "generator_predictions.dense"}


@pytest.mark.parametrize(
    ("config", "kind"),
    few_of(
        itertools.product((adapter_config, lora_config), HEADS),
        [(adapter_config, "modernbert-decoder"), (lora_config, "electra")],
    ),
)
def test_a_head_is_adapted_only_where_it_is_named(config, kind, tmp_path):
    """What PEFT calls all linear layers takes in a dense layer before the output embeddings."""
    exclude = r".*layers?\.0\..*"  # as upper_layers makes them
    for options in ({}, {"exclude_modules": exclude}, {"exclude_modules": ["query"]}):
        model = attach_roles(tiny_model(kind), config(target_modules="all-linear", **options))
        names = list(adapter_parameters(model, META))
        assert names
        assert not any(HEADS[kind] in name for name in names)
        assert any(".0." in name for name in names) == (options.get("exclude_modules") != exclude)
    save_adapter(model, META, tmp_path / "a")
    assert adapter_parameters(attach_roles(tiny_model(kind), config(target_modules=[HEADS[kind]])), META)
    plain = PeftModel.from_pretrained(tiny_model(kind), tmp_path / "a")
    assert {
        name for name in plain.state_dict() if HEADS[kind] in name and ("lora_A" in name or "mean_A" in name)
    } == set()
    again = attach_roles(tiny_model(kind), config(target_modules="all-linear", **options))
    load_adapter(again, META, tmp_path / "a")


@pytest.mark.parametrize("kind", ["llama4_text", "phimoe", "deepseek_v4"])
def test_layers_that_answer_otherwise_than_linear_ones_are_left_out_and_told(kind, capsys):
    model = attach_roles(tiny_model(kind), lora_config(target_modules="all-linear"))
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(r"leaves out 'model\.layers\.\S+' and \d+ more layers of this \w+, which do not answer as", told)
    with torch.no_grad():
        assert model(input_ids=torch.arange(3, 19)[None]).logits.isfinite().all()


def test_equal_adapters_are_equal_files_in_every_process(tmp_path):
    """PEFT keeps target_modules as a set, whose order depends on the process's hash seed."""
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for name, config in (("point", LoraConfig(target_modules=modules)), ("gaussian", adapter_config())):
        save_adapter(attach_roles(base_model(), config), META, tmp_path / name)
        for path in (tmp_path / name).rglob("adapter_config.json"):
            saved = json.loads(path.read_text())["target_modules"]
            assert saved == sorted(saved)
