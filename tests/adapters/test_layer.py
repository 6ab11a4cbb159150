"""What one adapted layer computes and reports inside a stochastic pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from abmll.adapters import AbmllConfig, adapter_parameters, attach_roles
from abmll.adapters.abmll import AbmllLayer, Linear
from abmll.core.errors import AbmllError
from abmll.gaussian import noise
from abmll.gaussian.layer_output import implementation
from abmll.gaussian.stochastic_pass import stochastic_pass
from tests.adapters.adapter_models import adapter_config, base_model, randomise
from tests.parameters import few_of


@pytest.fixture(params=["fused", "naive"], autouse=True)
def computed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything in this file holds for both implementations."""
    with implementation(request.param):
        yield


@pytest.fixture
def layer() -> Linear:
    """One float64 layer with adapters "task" (active) and "meta"."""
    torch.manual_seed(0)
    config = AbmllConfig(r=2, lora_alpha=3, log_var_offset=-1.5)
    layer = Linear(torch.nn.Linear(5, 4, dtype=torch.float64), "task", config)
    layer.update_layer("meta", config)
    return randomise(layer, std=0.5)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(layer: Linear, x: torch.Tensor, name: str) -> Normal:
    """The Gaussian of one adapter, written out without the library."""
    mean = 1.5 * torch.einsum("or,ri,bti->bto", layer.abmll_mean_B[name], layer.abmll_mean_A[name], x)
    log_var = 1.5 * torch.einsum("or,ri,bti->bto", layer.abmll_log_var_B[name], layer.abmll_log_var_A[name], x) - 1.5
    return Normal(mean, torch.exp(log_var / 2))


def test_initialisation_is_the_published_one():
    torch.manual_seed(0)
    layer = Linear(torch.nn.Linear(300, 200), "task", AbmllConfig(r=8))
    assert layer.log_var_offset["task"] == -20.0
    for name in ("mean", "log_var"):
        A, B = getattr(layer, f"abmll_{name}_A")["task"], getattr(layer, f"abmll_{name}_B")["task"]
        assert not B.any()
        bound = 1 / math.sqrt(300)  # Kaiming-uniform with a=√5 is U(-1/√fan_in, 1/√fan_in)
        assert A.abs().max() <= bound
        assert A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_outside_a_pass_it_predicts_at_the_mean_in_training_mode_too(layer, x):
    expected = layer.base_layer(x) + by_hand(layer, x, "task").mean
    for training in (True, False):
        layer.train(training)
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
        with stochastic_pass(prior="meta"):
            torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_a_sample_is_mean_plus_standard_deviation_times_noise(layer, x):
    q = by_hand(layer, x, "task")
    for training in (True, False):
        layer.train(training)
        torch.manual_seed(7)
        with stochastic_pass(sample=True):
            sampled = layer(x)
        torch.manual_seed(7)
        epsilon = noise.whole(noise.draw_seed(), 6, 4, torch.float64, x.device).view(2, 3, 4)
        expected = layer.base_layer(x) + q.mean + q.stddev * epsilon
        torch.testing.assert_close(sampled, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sample", [False, True])
def test_closed_form_kl_and_hyper_prior_are_those_of_torch_distributions(layer, x, sample):
    with stochastic_pass(sample=sample, prior="meta", hyper_prior=True) as record:
        layer(x)
    q, p = by_hand(layer, x, "task"), by_hand(layer, x, "meta")
    torch.testing.assert_close(record.kl(), kl_divergence(q, p).sum(), rtol=1e-9, atol=0)
    one, rate = torch.ones(1).double(), torch.tensor([0.01], dtype=torch.float64)
    gamma = torch.distributions.Gamma(one, rate).log_prob(p.variance.reciprocal())
    expected = -(Normal(0 * one, one).log_prob(p.mean) + gamma).sum()
    torch.testing.assert_close(record.hyper(), expected, rtol=1e-9, atol=0)


def test_one_sample_estimate_judges_the_sample_that_was_used(layer, x):
    with stochastic_pass(sample=True, prior="meta", kl="sample") as record:
        value = layer(x) - layer.base_layer(x)
    ratio = by_hand(layer, x, "task").log_prob(value) - by_hand(layer, x, "meta").log_prob(value)
    torch.testing.assert_close(record.kl(), ratio.sum(), rtol=1e-9, atol=0)


def test_kl_ignores_padding(layer, x):
    mask = torch.tensor([[True, True, False], [False, True, True]])
    with stochastic_pass(prior="meta", mask=mask) as record:
        layer(x)
    elementwise = kl_divergence(by_hand(layer, x, "task"), by_hand(layer, x, "meta"))
    torch.testing.assert_close(record.kl(), elementwise[mask].sum(), rtol=1e-9, atol=0)


def test_an_input_that_does_not_fit_the_mask_is_refused(layer, x):
    with (
        stochastic_pass(prior="meta", mask=torch.ones(2, 3).bool()),
        pytest.raises(AbmllError, match="does not fit the mask"),
    ):
        layer(x[:, 0])


def test_a_layer_without_the_prior_samples_but_reports_nothing(layer, x):
    with stochastic_pass(sample=True, prior="absent") as record:
        sampled = layer(x)
    assert record.kl().item() == 0
    assert not torch.equal(sampled, layer(x))


@pytest.mark.parametrize("fast", few_of([True, False], [True]))  # along random directions, or each by itself
def test_gradients_of_a_sampled_pass_equal_finite_differences(layer, x, fast):
    for name in ("task", "meta"):
        layer.set_requires_grad(name, True)
    parameters = [p for n, p in layer.named_parameters() if "abmll_" in n]
    assert len(parameters) == 8

    def objective(*_):
        torch.manual_seed(3)
        with stochastic_pass(sample=True, prior="meta", hyper_prior=True) as record:
            output = layer(x)
            return output.square().sum(), record.kl(), record.hyper()

    assert torch.autograd.gradcheck(objective, parameters, fast_mode=fast)


@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.float64])
def test_autocast_does_not_round_the_gaussian(adapter_dtype):
    torch.manual_seed(0)
    layer = Linear(torch.nn.Linear(5, 4), "task", AbmllConfig(r=2, target_modules=["q"]))
    layer.update_layer("meta", AbmllConfig(r=2))
    randomise(layer, std=0.5)
    for name in layer.adapter_layer_names:
        getattr(layer, name).to(adapter_dtype)
    x = torch.randn(2, 3, 5)
    with stochastic_pass(prior="meta") as plain:
        layer(x)
    with stochastic_pass(prior="meta") as mixed, torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16  # what the base layer returns under autocast
    assert mixed.kl().dtype == adapter_dtype
    torch.testing.assert_close(mixed.kl(), plain.kl(), rtol=1e-6, atol=0)


def test_merged_or_disabled_layers_do_not_pretend_to_sample(layer, x):
    layer.enable_adapters(False)
    with stochastic_pass(sample=True, prior="meta") as record:
        assert torch.equal(layer(x), layer.base_layer(x))
        assert record.kl().item() == 0
    layer.enable_adapters(True)
    layer.merge()
    for asked in ({"sample": True}, {"prior": "meta"}):
        with stochastic_pass(**asked), pytest.raises(AbmllError, match="unmerge_adapter"):
            layer(x)
    layer.unmerge()
    with stochastic_pass(sample=True):
        assert not torch.equal(layer(x), layer(x))


def test_broken_and_quantised_weights_are_not_merged(layer):
    weight = layer.base_layer.weight.detach().clone()
    layer.abmll_mean_B["task"].data.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, weight)
    layer.base_layer.weight.quant_state = "as bitsandbytes has it"
    with pytest.raises(AbmllError, match=r"quantised weight.*full precision"):
        layer.merge()


def test_kl_of_a_padded_batch_is_that_of_its_rows_alone(ids):
    model = attach_roles(base_model(), adapter_config(log_var_offset=-3.0))
    randomise(model)

    def kl(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), stochastic_pass(prior="meta", mask=mask.bool()) as record:
            model(input_ids=ids, attention_mask=mask)
            return record.kl()

    mask = torch.ones_like(ids)
    mask[1, 4:] = mask[2, 2:] = 0
    alone = sum(kl(row[None, :n], torch.ones(1, n).long()) for row, n in zip(ids, (7, 4, 2), strict=True))
    torch.testing.assert_close(kl(ids * mask, mask), alone, rtol=1e-5, atol=0)


def test_only_layers_that_have_the_prior_report(ids):
    model = attach_roles(base_model(), adapter_config(layers_to_transform=[1]))
    model.add_adapter("wide", adapter_config())
    randomise(model)
    model.set_adapter("wide")
    layers = [module for module in model.modules() if isinstance(module, AbmllLayer)]
    assert len(layers) == 4
    with stochastic_pass(prior="meta") as record:
        model(ids)
    assert set(record._kl) == {layer for layer in layers if "meta" in layer.abmll_mean_A}
    assert len(record._kl) == 2


def test_float64_models_are_float64_throughout(ids):
    model = attach_roles(base_model(dtype=torch.float64), adapter_config())
    assert {p.dtype for p in adapter_parameters(model, "task").values()} == {torch.float64}
    with stochastic_pass(prior="meta") as record:
        model(ids)
    assert record.kl().dtype == torch.float64
