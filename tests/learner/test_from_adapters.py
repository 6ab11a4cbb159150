"""θ from LoRAs that PEFT has trained: the mean of what they change and their spread, or a reason why not."""

from __future__ import annotations

import json
import math
import shutil
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import abmll
from abmll.adapters.lora_folders import read_lora_folders
from abmll.card import read_card
from abmll.cli import app
from abmll.core.types import META
from abmll.gaussian.lora_prior import lora_prior
from abmll.methods.parts.prior_steps import variances
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task

MODULES = ["q_proj", "down_proj"]
LAYERS = 2


def write_lora(folder, seed, **fields):
    """A LoRA as a user has it: of its own random start, trained by PEFT's rules, saved by PEFT."""
    base = tiny_llama(layers=1)
    torch.manual_seed(seed)
    given: dict[str, Any] = {"r": 2, "lora_alpha": 6, "target_modules": MODULES, "task_type": "CAUSAL_LM"}
    config = LoraConfig(**(given | fields))
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    """A folder with three LoRAs' folders."""
    home = tmp_path_factory.mktemp("loras")
    for seed in range(3):
        write_lora(home / f"task-{seed}", seed)
    return home


def learner(method="abmll-adam", **fields):
    given: dict[str, Any] = {"r": 2, "target_modules": MODULES}
    return abmll.Learner(tiny_llama(layers=1), tiny_tokenizer(), method, **(given | fields))


def changes(folder):
    """The change of weight of every layer, as PEFT itself merges it."""
    base = dict(tiny_llama(layers=1).named_parameters())
    merged = PeftModel.from_pretrained(tiny_llama(layers=1), folder).merge_and_unload()
    found = {name: (weight - base[name]).detach().double() for name, weight in merged.named_parameters()}
    return {name: change for name, change in found.items() if change.any()}


def test_the_mean_is_that_of_the_changes_that_peft_makes(loras, tmp_path):
    own = learner()
    result = own.meta_train(from_adapters=[loras])
    assert result.num_steps == 0
    assert result.message.startswith("θ from 3 LoRAs on 2 layers: rank 2 keeps ")
    saved = own.save(tmp_path / "theta")
    each = [changes(folder) for folder in sorted(loras.iterdir())]
    ours = changes(saved / "lora")
    assert len(ours) == LAYERS
    for name, change in ours.items():
        U, S, Vh = torch.linalg.svd(torch.stack([one[name] for one in each]).mean(0))
        torch.testing.assert_close(change, (U[:, :2] * S[:2]) @ Vh[:2], rtol=1e-3, atol=1e-6)


def test_the_variances_size_the_steps_of_adapting(loras):
    own = learner(learning_rate=0.03)
    own.meta_train(from_adapters=sorted(loras.iterdir()))
    variance = variances(own.likelihood, own.method.adaptation.adaptation.inner.log_var_offset)
    assert len(variance) == 2 * LAYERS
    logs = {name: math.log(value) for name, value in variance.items()}
    mean = sum(logs.values()) / len(logs)
    assert mean == pytest.approx(2 * math.log(0.03), abs=1e-5), "all together as wide as the method says"
    read = read_lora_folders([loras])
    layer = next(iter(read.layers))
    prior = lora_prior(read.layers[layer], own.model.peft_config[META].scaling)
    apart = logs[f"{layer}.abmll_mean_A"] - logs[f"{layer}.abmll_mean_B"]
    assert apart == pytest.approx(math.log(prior.variance_A / prior.variance_B), rel=1e-4)
    theta = own.likelihood.parameters(META)
    assert all(theta[name.replace("mean", "log_var")].unique().numel() == 1 for name in logs), "one variance a tensor"
    before = {name: theta[name].clone() for name in variance}
    posterior = own.adapt(tiny_task("new", 8))
    assert len(posterior.predict(tiny_task("new", 8))) == 8
    assert all(torch.equal(theta[name], value) for name, value in before.items())
    moved = {name: (posterior.mean()[name] - value).norm() for name, value in before.items()}
    assert all(distance > 0 for distance in moved.values())


def test_a_method_with_a_lora_takes_the_mean_and_training_goes_on_from_there(loras):
    own = learner("multitask")
    own.meta_train(from_adapters=[loras])
    theta = own.likelihood.parameters(META)
    assert any(tensor.any() for name, tensor in theta.items() if "lora_B" in name)
    start = {name: tensor.clone() for name, tensor in theta.items()}
    result = own.meta_train(
        [tiny_task("one", 16)], from_adapters=[loras], num_steps=1, support_size=4, query_size=4, progress=False
    )
    assert result.num_steps == 1
    assert 0 < max(float((theta[name] - start[name]).abs().max()) for name in theta) < 0.1


def test_an_adapter_that_abmll_wrote_counts_as_its_mean(loras, tmp_path):
    rows = tiny_task("new", 8)
    for seed in range(2):
        posterior = learner(seed=seed).adapt(rows)
        posterior.save(tmp_path / f"task-{seed}")
    own = learner()
    assert own.meta_train(from_adapters=tmp_path).message.startswith("θ from 2 LoRAs")


def test_the_command_line(loras, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_llama(layers=1).save_pretrained("base")
    tiny_tokenizer().save_pretrained("base")
    run = 'output = "run"\n[model]\nname = "base"\n[prompt]\nanswer = "text"\n'
    (tmp_path / "run.toml").write_text(run)
    (tmp_path / "new.csv").write_text("text,label\n" + "a good film,yes\na bad film,no\n" * 4)
    told = []
    for words in (
        ["train", "run.toml", "--from-adapters", str(loras)],
        ["adapt", "run/adapter", "new.csv", "-o", "adapters/new"],
        ["predict", "adapters/new", "new.csv", "-o", "answers.csv"],
        ["train", "run.toml", "--from-adapters", str(loras)],
        ["train", "run.toml", "output=other", "--from-adapters", str(loras), "adapter.r=4"],
    ):
        told.append(CliRunner().invoke(app, words))
    assert [result.exit_code for result in told] == [0, 0, 0, 2, 2], [result.output for result in told]
    assert "θ from 3 LoRAs on 2 layers" in told[0].output
    assert "already" in told[3].output
    assert "the LoRAs have rank 2, the learner's adapter 4: set r=2" in " ".join(told[4].output.split())
    card = read_card(tmp_path / "run" / "adapter")
    assert (card.method, card.adapter.r, sorted(card.adapter.target_modules)) == ("abmll", 2, sorted(MODULES))
    assert not (tmp_path / "other" / "adapter").exists()


# Why not


def edited(source, folder, **fields):
    shutil.copytree(source, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


MISTAKES = {
    "rank": (lambda folder: write_lora(folder, 5, r=3), "has rank 3, .*task-0 has 2"),
    "layers": (
        lambda folder: write_lora(folder, 5, target_modules=["q_proj"]),
        r"adapt different layers: 1 are in one alone, the first of them '.*down_proj'",
    ),
    "dora": (
        lambda folder: write_lora(folder, 5, use_dora=True),
        r"no plain LoRA of linear layers \(use_dora = True\)",
    ),
    "bias": (lambda folder: write_lora(folder, 5, bias="all"), r"no plain LoRA .*\(bias = 'all'\)"),
    "ranks in one": (
        lambda folder: write_lora(folder, 5, rank_pattern={"q_proj": 1}),
        "has rank 1|different ranks|has ranks",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_loras_that_do_not_agree_say_why_not(loras, tmp_path, name):
    write, message = MISTAKES[name]
    other = write(tmp_path / "other")
    own = learner()
    before = {key: tensor.clone() for key, tensor in own.likelihood.parameters(META).items()}
    with pytest.raises(abmll.AbmllError, match=message):
        own.meta_train(from_adapters=[loras / "task-0", other])
    assert all(torch.equal(tensor, before[key]) for key, tensor in own.likelihood.parameters(META).items())


def test_folders_that_are_no_plain_loras_are_told_all_at_once(loras, tmp_path):
    source = loras / "task-0"
    edited(source, tmp_path / "a-pissa", init_lora_weights="pissa")
    edited(source, tmp_path / "b-other", peft_type="IA3")
    edited(source, tmp_path / "c-alpha", lora_alpha="many")
    broken = edited(source, tmp_path / "d-nan") / "adapter_model.safetensors"
    save_file({key: tensor * torch.nan for key, tensor in load_file(broken).items()}, broken)
    (edited(source, tmp_path / "e-missing") / "adapter_model.safetensors").unlink()
    with pytest.raises(abmll.AbmllError) as told:
        learner().meta_train(from_adapters=[tmp_path])
    text = str(told.value)
    for words in (
        "init_lora_weights = 'pissa', which changes the base weights",
        "is of PEFT's type 'IA3': only LoRAs are read",
        "lora_alpha = 'many' is no number",
        "holds nan or infinity",
        "adapter_model.safetensors is missing",
    ):
        assert words in text


def test_too_few_and_none(loras, tmp_path):
    with pytest.raises(abmll.AbmllError, match="1 LoRA found: a prior over tasks needs those of two at least"):
        learner().meta_train(from_adapters=[loras / "task-0"])
    with pytest.raises(abmll.AbmllError, match=r"no adapter in .*: it holds no adapter_config.json"):
        learner().meta_train(from_adapters=[tmp_path])
    with pytest.raises(abmll.AbmllError, match="no such folder"):
        learner().meta_train(from_adapters=[tmp_path / "absent"])
    with pytest.raises(abmll.AbmllError, match="needs tasks to train on, or from_adapters"):
        learner().meta_train()
    with pytest.raises(abmll.AbmllError, match="a Gaussian over outputs, of which LoRAs say nothing"):
        learner("abmll-output").meta_train(from_adapters=[loras])


def test_a_learner_of_another_shape_says_what_to_set(loras):
    with pytest.raises(abmll.AbmllError, match=r"rank 2, the learner's adapter 4: set r=2; .*different layers.*"):
        learner(r=4, target_modules=["q_proj"]).meta_train(from_adapters=[loras])
    wide = abmll.Learner(tiny_llama(layers=1, hidden=64), tiny_tokenizer(), r=2, target_modules=MODULES)
    with pytest.raises(abmll.AbmllError, match=r"of another base model: .* maps .* there"):
        wide.meta_train(from_adapters=[loras])
