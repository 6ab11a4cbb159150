"""The Gaussian over the factors of a LoRA: what a pass computes, reports and saves."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Gamma, Normal, kl_divergence

from abmll.adapters import AbmllConfig, adapter_parameters, attach_roles, load_adapter, save_adapter
from abmll.adapters.abmll import Linear
from abmll.gaussian.stochastic_pass import stochastic_pass
from tests.adapters.adapter_models import adapter_config, base_model, randomise

OFFSET, SCALING = -1.5, 1.5


@pytest.fixture
def layer() -> Linear:
    """One float64 layer with adapters "task" (active) and "meta"."""
    torch.manual_seed(0)
    config = AbmllConfig(r=2, lora_alpha=3, log_var_offset=OFFSET, space="factors")
    layer = Linear(torch.nn.Linear(5, 4, dtype=torch.float64), "task", config)
    layer.update_layer("meta", config)
    return randomise(layer, std=0.5)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(layer: Linear, name: str) -> list[Normal]:
    """The Gaussians of A and of B, written out without the library."""
    pairs = [(layer.abmll_mean_A, layer.abmll_log_var_A), (layer.abmll_mean_B, layer.abmll_log_var_B)]
    return [Normal(mean[name], torch.exp((log_var[name] + OFFSET) / 2)) for mean, log_var in pairs]


def test_at_first_every_element_has_the_offset_as_its_log_variance():
    layer = Linear(torch.nn.Linear(5, 4), "task", AbmllConfig(r=2, space="factors", log_var_offset=-7.0))
    for normal in by_hand(layer, "task"):
        assert torch.equal(normal.stddev, torch.full_like(normal.mean, math.exp(OFFSET / 2)))
    assert layer.abmll_mean_A["task"].any()
    assert layer.log_var_offset["task"] == -7.0


def test_the_mean_is_the_loras(layer, x):
    A, B = (normal.mean for normal in by_hand(layer, "task"))
    expected = layer.base_layer(x) + SCALING * x @ A.T @ B.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    with stochastic_pass(prior="meta"):
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.get_delta_weight("task"), SCALING * B @ A, rtol=1e-12, atol=1e-12)


def test_samples_have_the_moments_of_independent_factors(layer):
    """mean s·E[B]E[A]x; variance s²Σ_r (E[b²]E[z²] - E[b]²E[z]²) + cross terms, with z = Ax shared by all outputs."""
    x, draws = torch.tensor([0.5, -1.0, 2.0, 0.3, 1.1], dtype=torch.float64), 200_000
    qA, qB = by_hand(layer, "task")
    torch.manual_seed(2)
    with torch.no_grad(), stochastic_pass(sample=True):
        out = layer(x.expand(draws, 1, 5))[:, 0] - layer.base_layer(x)
    z_mean, z_var = qA.mean @ x, qA.variance @ x.square()
    expected = SCALING * qB.mean @ z_mean
    variance = SCALING**2 * (qB.variance @ (z_var + z_mean.square()) + qB.mean.square() @ z_var)
    assert (out.mean(0) - expected).abs().max() < 5 * (variance.max() / draws).sqrt()
    torch.testing.assert_close(out.var(0), variance.detach(), rtol=0.03, atol=0)


def test_a_rows_tokens_share_a_draw_and_rows_do_not(layer):
    x = torch.ones(3, 4, 5, dtype=torch.float64)
    with stochastic_pass(sample=True):
        out = layer(x)
    assert torch.allclose(out, out[:, :1].expand_as(out), rtol=1e-12)
    assert not torch.allclose(out[0], out[1])
    with stochastic_pass(sample=True, mask=torch.ones(3, 4, dtype=torch.bool)):
        flat = layer(x.flatten(0, 1))  # as OPT's feed-forward block sees it
    assert torch.allclose(flat.view(3, 4, -1), flat.view(3, 4, -1)[:, :1], rtol=1e-12)
    assert not torch.allclose(flat[0], flat[4])


@pytest.mark.parametrize("batch", [1, 6])
def test_the_kl_and_the_prior_are_those_of_the_weights_whatever_the_batch(layer, x, batch):
    mask = torch.zeros(batch, 3, dtype=torch.bool)
    mask[:, 0] = True
    with stochastic_pass(prior="meta", hyper_prior=True, mask=mask) as record:
        layer(x[:1].expand(batch, 3, 5))
        layer(x[:1].expand(batch, 3, 5))  # a second run of the same weights has no second KL
    q, p = by_hand(layer, "task"), by_hand(layer, "meta")
    expected = torch.stack([kl_divergence(a, b).sum() for a, b in zip(q, p, strict=True)]).sum()
    torch.testing.assert_close(record.kl(), expected, rtol=1e-12, atol=0)
    reverse = torch.stack([kl_divergence(b, a).sum() for a, b in zip(q, p, strict=True)]).sum()
    assert not torch.allclose(expected, reverse)
    gamma = Gamma(*torch.tensor([1.0, 0.01], dtype=torch.float64))
    hyper = -sum((Normal(0.0, 1.0).log_prob(n.mean) + gamma.log_prob(1 / n.variance)).sum() for n in p)
    torch.testing.assert_close(record.hyper(), hyper, rtol=1e-12, atol=0)


def test_the_one_sample_estimate_has_the_kl_as_its_mean(layer, x):
    torch.manual_seed(4)
    with torch.no_grad(), stochastic_pass(sample=True, prior="meta", kl="sample") as record:
        layer(x[:1].expand(40_000, 3, 5))
    q, p = by_hand(layer, "task"), by_hand(layer, "meta")
    expected = sum(kl_divergence(a, b).sum().item() for a, b in zip(q, p, strict=True))
    assert record.kl().item() == pytest.approx(expected, rel=0.02)


def test_two_layers_draw_noise_of_their_own():
    model = attach_roles(base_model(), adapter_config(space="factors", log_var_offset=0.0))
    layers = [module for module in model.modules() if isinstance(module, Linear)][::2][:2]
    assert layers[0].in_features == layers[1].in_features
    x = torch.ones(1, 1, layers[0].in_features)
    outputs = []
    with torch.no_grad(), stochastic_pass(sample=True):
        for layer in layers:
            for name in ("mean", "log_var"):
                for part in "AB":
                    getattr(layer, f"abmll_{name}_{part}")["task"].zero_()
            outputs.append(layer(x) - layer.base_layer(x))
    assert not torch.allclose(*outputs)


def test_both_tensors_of_every_factor_survive_a_folder(tmp_path):
    config = adapter_config(space="factors", log_var_offset=-7.0)
    model = randomise(attach_roles(base_model(), config))
    save_adapter(model, "meta", tmp_path / "saved")
    other = attach_roles(base_model(), adapter_config(space="factors", log_var_offset=-7.0))
    load_adapter(other, "task", tmp_path / "saved")
    saved, loaded = adapter_parameters(model, "meta"), adapter_parameters(other, "task")
    assert any("log_var_A" in name for name in saved)
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)

    from peft import PeftModel

    plain = PeftModel.from_pretrained(base_model(), str(tmp_path / "saved" / "lora")).eval()
    ids = torch.arange(6)[None]
    torch.testing.assert_close(plain(ids).logits, other.eval()(ids).logits, rtol=1e-4, atol=1e-5)
