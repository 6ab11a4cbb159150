"""The Gaussian over a layer's weights: what a pass computes and reports, and its samples as LoRAs."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.distributions import Normal, kl_divergence

from abmll.adapters import AbmllConfig, adapter_parameters, attach_roles, export_sample, load_adapter, save_adapter
from abmll.adapters.abmll import Linear
from abmll.core.errors import AbmllError
from abmll.gaussian import moments, weight_space
from abmll.gaussian.stochastic_pass import stochastic_pass
from tests.adapters.adapter_models import adapter_config, base_model, randomise

OFFSET, SCALING = -1.5, 1.5


@pytest.fixture
def layer() -> Linear:
    """One float64 layer with adapters "task" (active) and "meta"."""
    torch.manual_seed(0)
    config = AbmllConfig(r=2, lora_alpha=3, log_var_offset=OFFSET, space="weight")
    layer = Linear(torch.nn.Linear(5, 4, dtype=torch.float64), "task", config)
    layer.update_layer("meta", config)
    return randomise(layer, std=0.5)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(layer: Linear, name: str) -> Normal:
    """The Gaussian of every weight, as the paper writes it."""
    std = SCALING * layer.abmll_log_var_B[name] @ layer.abmll_log_var_A[name] + torch.tensor(OFFSET / 2).double().exp()
    return Normal(SCALING * layer.abmll_mean_B[name] @ layer.abmll_mean_A[name], std.abs())


def test_at_first_every_weight_has_the_offset_as_its_log_variance():
    layer = Linear(torch.nn.Linear(5, 4), "task", AbmllConfig(r=2, space="weight", log_var_offset=-7.0))
    mean, log_var = weight_space.dense(layer.factors("task"))
    assert not mean.any()
    torch.testing.assert_close(log_var, torch.full((4, 5), -7.0))


def test_the_mean_is_the_loras(layer, x):
    expected = layer.base_layer(x) + x @ by_hand(layer, "task").mean.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    with stochastic_pass(prior="meta"):
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.get_delta_weight("task"), by_hand(layer, "task").mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 6])
def test_the_kl_is_that_of_the_weights_whatever_the_batch(layer, x, batch):
    mask = torch.zeros(batch, 3, dtype=torch.bool)
    mask[:, 0] = True
    with stochastic_pass(sample=True, prior="meta", hyper_prior=True, mask=mask) as record:
        layer(x[:1].expand(batch, 3, 5))
        layer(x[:1].expand(batch, 3, 5))  # a second run of the same weights has no second KL
    expected = kl_divergence(by_hand(layer, "task"), by_hand(layer, "meta")).sum()
    torch.testing.assert_close(record.kl(), expected, rtol=1e-9, atol=0)
    p = by_hand(layer, "meta")
    hyper = moments.hyper_prior(p.mean, p.variance.log()).sum()
    torch.testing.assert_close(record.hyper(), hyper, rtol=1e-9, atol=0)


def test_a_rows_tokens_share_a_weight_and_rows_do_not(layer):
    x = torch.ones(8, 4, 5, dtype=torch.float64)
    with stochastic_pass(sample=True):
        out = layer(x)
    assert torch.allclose(out, out[:, :1].expand_as(out), rtol=1e-12)
    assert len({round(value.item(), 9) for value in out[:, 0, 0]}) > 1
    torch.manual_seed(5)
    with stochastic_pass(sample=True, mask=torch.ones(8, 4, dtype=torch.bool)):
        flat = layer(x.flatten(0, 1))  # as OPT's feed-forward block sees it
    torch.manual_seed(5)
    with stochastic_pass(sample=True):
        torch.testing.assert_close(flat.view(8, 4, -1), layer(x), rtol=1e-12, atol=0)


def test_the_one_sample_estimate_is_refused_with_the_remedy(layer, x):
    with (
        stochastic_pass(sample=True, prior="meta", kl="sample"),
        pytest.raises(AbmllError, match='estimator = "closed_form"'),
    ):
        layer(x)


def test_some_rows_estimate_the_divergence(layer, x):
    def kl() -> float:
        with torch.no_grad(), stochastic_pass(prior="meta") as record:
            layer(x)
        return record.kl().item()

    exact = kl()
    layer.kl_rows["task"] = 2
    pairs: set[float] = set()
    while len(pairs) < 6:  # every pair of four rows, each as likely
        pairs.add(round(kl(), 9))
    assert sum(pairs) / 6 == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize(
    "arguments", [{"kl_rows": 0, "space": "weight"}, {"kl_rows": 3}, {"kl_rows": 2.5, "space": "weight"}]
)
def test_a_number_of_rows_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(AbmllError, match="kl_rows must be"):
        AbmllConfig(**arguments)


def test_an_adapter_survives_a_folder_and_another_space_is_refused(tmp_path):
    model = randomise(attach_roles(base_model(), adapter_config(space="weight", log_var_offset=-7.0)))
    save_adapter(model, "meta", tmp_path / "saved")
    other = attach_roles(base_model(), adapter_config(space="weight", log_var_offset=-7.0))
    load_adapter(other, "task", tmp_path / "saved")
    saved, loaded = adapter_parameters(model, "meta"), adapter_parameters(other, "task")
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    with pytest.raises(AbmllError, match="space='weight'"):
        load_adapter(attach_roles(base_model(), adapter_config(log_var_offset=-7.0)), "task", tmp_path / "saved")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_sample_is_exported_as_an_ordinary_lora(architecture, logits, tmp_path):
    model = attach_roles(base_model(architecture), adapter_config(architecture, space="weight", log_var_offset=-3.0))
    randomise(model, std=0.05)
    folders = [export_sample(model, "task", tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    config = json.loads((folders[0] / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 7, 7)  # 2·3 + 1
    loras = [PeftModel.from_pretrained(base_model(architecture), folder).eval() for folder in folders]
    first, second = (logits(lora) for lora in loras)
    assert not torch.allclose(first, second, atol=1e-3)
    again = load_file(export_sample(model, "task", tmp_path / "again", seed=0) / "adapter_model.safetensors")
    first = load_file(folders[0] / "adapter_model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    for path, layer in model.named_modules():
        if isinstance(layer, Linear):
            name = f"{path}.lora_{{}}.weight"
            change = first[name.format("B")] @ first[name.format("A")]
            mean, log_var = weight_space.dense(layer.factors("task"))
            torch.testing.assert_close((change - mean).square(), log_var.exp(), rtol=1e-3, atol=1e-6)


def test_only_weights_have_samples_that_are_loras(tmp_path):
    for config, found in ((adapter_config(), "space='output'"), (LoraConfig(target_modules=["q_proj"]), "LoraConfig")):
        model = attach_roles(base_model(), config)
        with pytest.raises(AbmllError, match=found):
            export_sample(model, "task", tmp_path / "sample", seed=0)
    assert not (tmp_path / "sample").exists()
    single = get_peft_model(base_model(), adapter_config(space="weight"))
    with pytest.raises(AbmllError, match="no adapter 'task'"):
        export_sample(single, "task", tmp_path / "sample", seed=0)
