"""The record of a stochastic pass: what it sums, what it refuses, and that checkpointing changes nothing."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from abmll.core.errors import AbmllError
from abmll.gaussian import moments
from abmll.gaussian.stochastic_pass import current_pass, stochastic_pass


class ToyLayer(nn.Module):
    """A layer that samples its output and reports a KL, as an adapter does."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        record = current_pass()
        if record is None:
            return x + self.shift
        mean, log_var = x + self.shift, torch.tanh(x)
        record.report(self, moments.kl_divergence(mean, log_var, x, torch.zeros_like(x)))
        return moments.sample(mean, log_var) if record.request.sample else mean


def test_there_is_no_pass_outside_one_even_after_an_error() -> None:
    assert current_pass() is None
    with stochastic_pass() as record:
        assert current_pass() is record
    assert current_pass() is None
    with pytest.raises(ZeroDivisionError), stochastic_pass():
        raise ZeroDivisionError
    assert current_pass() is None


def test_a_pass_in_a_pass_is_refused_and_leaves_the_outer_one_alone() -> None:
    with stochastic_pass() as outer:
        with pytest.raises(AbmllError, match="already active"), stochastic_pass():
            pass
        assert current_pass() is outer


def test_nothing_reported_is_zero() -> None:
    with stochastic_pass(prior="meta") as record:
        assert record.kl().item() == record.hyper().item() == 0.0


def test_reports_are_summed_over_layers_tokens_and_units() -> None:
    first, second = torch.rand(2, 3, 4), torch.rand(2, 3, 5)
    with stochastic_pass(prior="meta") as record:
        record.report("first", first, 2 * first)
        record.report("second", second)
        assert record.kl().item() == pytest.approx((first.sum() + second.sum()).item())
        assert record.hyper().item() == pytest.approx(2 * first.sum().item())


def test_a_layer_that_runs_twice_counts_twice() -> None:
    with stochastic_pass(prior="meta") as record:
        for values in (torch.full((1, 2, 3), 1.0), torch.full((1, 2, 3), 2.0)):
            record.report("shared", values)
        assert record.kl().item() == 18.0


def test_padding_does_not_count_even_where_it_is_not_finite() -> None:
    values = torch.arange(12.0).reshape(2, 3, 2)
    values[1, 2] = float("nan")
    mask = torch.tensor([[True, True, False], [True, True, False]])
    with stochastic_pass(prior="meta", mask=mask) as record:
        record.report("layer", values, values)
        assert record.kl().item() == record.hyper().item() == values[:, :2].sum().item()


def test_gradient_does_not_reach_padding() -> None:
    values = torch.rand(1, 2, 2, requires_grad=True)
    with stochastic_pass(prior="meta", mask=torch.tensor([[True, False]])) as record:
        record.report("layer", values)
        record.kl().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[[1.0, 1.0], [0.0, 0.0]]]


def test_a_shape_that_does_not_fit_the_mask_is_refused() -> None:
    with (
        stochastic_pass(prior="meta", mask=torch.ones(2, 3, dtype=torch.bool)) as record,
        pytest.raises(AbmllError, match=r"shape \(5, 4\).*\(2, 3\).*target_modules"),
    ):
        record.report("routed", torch.rand(5, 4))


def test_flattened_tokens_are_masked_like_a_batch() -> None:
    values, mask = torch.rand(2, 3, 4), torch.tensor([[True, True, False], [True, False, True]])
    with stochastic_pass(prior="meta", mask=mask) as record:
        record.report("flattened", values.flatten(0, 1))
        assert record.kl().item() == pytest.approx(values[mask].sum().item())


def test_axes_of_size_one_are_looked_through() -> None:
    """DeepSeek's latent attention expands keys from (batch, 1, tokens, rank)."""
    values, mask = torch.rand(2, 3, 4), torch.tensor([[True, True, False], [True, False, True]])
    with stochastic_pass(prior="meta", mask=mask) as record:
        record.report("latent", values[:, None])
        record.report("one", values[:1, :, None].expand(1, 3, 1, 4).repeat(2, 1, 1, 1))
        expected = values[mask].sum() + values[:1].repeat(2, 1, 1)[mask].sum()
        assert record.kl().item() == pytest.approx(expected.item())
    with (
        stochastic_pass(prior="meta", mask=mask[:, :1]) as record,
        pytest.raises(AbmllError, match="does not fit"),
    ):
        record.report("another", torch.rand(2, 2, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": "meta", "kl": "closed-form"}, "Did you mean 'closed_form'"),
        ({"prior": "meta", "kl": "sample"}, "pass sample=True"),
        ({"hyper_prior": True}, "prior='meta'"),
        ({"mask": torch.ones(2, 3)}, r"torch.float32 of shape \(2, 3\): pass attention_mask.bool"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, r"shape \(3,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(AbmllError, match=message), stochastic_pass(**arguments):  # type: ignore[arg-type]
        pass
    assert current_pass() is None


def test_another_thread_sees_the_pass() -> None:
    seen = []
    with stochastic_pass() as record:
        thread = threading.Thread(target=lambda: seen.append(current_pass()))
        thread.start()
        thread.join()
    assert seen == [record]


def run_toy(use_checkpoint: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    layers = nn.ModuleList([ToyLayer(), ToyLayer()])
    torch.manual_seed(5)
    x = torch.randn(2, 3, 2, dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    with stochastic_pass(sample=True, prior="meta", mask=mask) as record:
        for layer in layers:
            x = checkpoint(layer, x, use_reentrant=False) if use_checkpoint else layer(x)
        (x.square().sum() + 0.7 * record.kl()).backward()
        return x.detach(), record.kl().detach(), [layer.shift.grad for layer in layers]  # type: ignore[misc]


def test_checkpointing_changes_neither_value_nor_gradient() -> None:
    output, kl, gradients = run_toy(use_checkpoint=False)
    output_c, kl_c, gradients_c = run_toy(use_checkpoint=True)
    assert torch.equal(output, output_c)
    assert torch.equal(kl, kl_c)  # read after backward: the recomputation has not been counted again
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_c, strict=True))


def test_reentrant_checkpointing_is_refused_with_the_remedy() -> None:
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    with stochastic_pass(prior="meta"), pytest.raises(AbmllError, match="'use_reentrant': False"):
        checkpoint(ToyLayer(), x, use_reentrant=True)


def test_a_pass_without_gradients_is_allowed() -> None:
    with torch.no_grad(), stochastic_pass(prior="meta") as record:
        ToyLayer()(torch.randn(2, 3, 2, dtype=torch.float64))
        assert record.kl().item() > 0
