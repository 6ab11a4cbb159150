"""The fused Gaussian layer against the naive one, and the naive one against torch.distributions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.utils.checkpoint import checkpoint

from abmll.core.errors import AbmllError
from abmll.core.types import PassRequest
from abmll.gaussian import fused, layer_output, moments, noise
from abmll.gaussian.layer_output import LayerOutput, gaussian_output, implementation
from abmll.gaussian.stochastic_pass import stochastic_pass
from tests.gaussian.asked import ASKED, requested, with_tensors
from tests.parameters import few_of

ROWS, IN, OUT, RANK = 70, 5, 1030, 2  # more than one block of noise either way


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (0.4 * torch.randn(*shape, dtype=torch.float64)).to(dtype).requires_grad_()


def factors(
    out: int = OUT,
    rank: int = RANK,
    scaling: float = 1.5,
    offset: float = -2.0,
    bound: float | None = None,
    **kind: Any,
) -> Any:
    return moments.Factors(
        leaf(rank, IN, **kind),
        leaf(out, rank, **kind),
        leaf(rank, IN, **kind),
        leaf(out, rank, **kind),
        scaling,
        offset,
        bound,
    )


def inputs(rows: int = ROWS, out: int = OUT, bound: float | None = None) -> tuple[Tensor, Tensor, Any, Any]:
    q, p = factors(out, bound=bound), factors(out, scaling=0.7, offset=-1.2, bound=bound)
    return leaf(rows, IN), leaf(rows, out), q, p


def run(name: Any, x: Tensor, base: Tensor, q: Any, p: Any = None, **asked: Any) -> LayerOutput:
    torch.manual_seed(3)
    with implementation(name):
        return gaussian_output(x, base, q, p, **requested(asked))


def leaves(x: Tensor, base: Tensor, *gaussians: Any) -> list[Tensor]:
    return [x, base, *(tensor for g in gaussians for tensor in g[:4])]


def objective(output: LayerOutput) -> Tensor:
    weights = torch.randn(output.value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    total = (output.value.double() * weights).sum()
    for weight, term in ((0.7, output.kl), (0.3, output.hyper)):
        total = total if term is None else total + weight * term
    return total


def assert_same(fused_output: LayerOutput, naive: LayerOutput, tensors: list[Tensor]) -> None:
    torch.testing.assert_close(fused_output.value, naive.value, rtol=1e-9, atol=1e-9)
    for ours, theirs in ((fused_output.kl, naive.kl), (fused_output.hyper, naive.hyper)):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    gradients = (
        torch.autograd.grad(objective(o), wanted, allow_unused=True, materialize_grads=True)
        for o in (fused_output, naive)
    )
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))


WAYS = [(masked, blocks, bound) for masked in (False, True) for blocks in (1, 2) for bound in (None, 0.5)]


@pytest.mark.parametrize(
    ("asked", "masked", "blocks", "bound"),
    few_of(  # of each that can be asked a way and its opposite: two of all four in all ways
        [(asked, *way) for asked in ASKED for way in WAYS],
        [(asked, *WAYS[end]) for n, asked in enumerate(ASKED) for end in (n % 4, 7 - n % 4)],
    ),
    ids=str,
)
def test_values_noise_and_every_gradient_are_those_of_the_naive_one(
    asked: dict[str, Any], masked: bool, blocks: int, bound: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "BLOCKS_PER_TILE", blocks)
    x, base, q, p = inputs(bound=bound)
    counted = torch.rand(ROWS) < 0.6 if masked else None
    outputs = [run(name, x, base, q, p, counted=counted, **asked) for name in ("fused", "naive")]
    assert_same(outputs[0], outputs[1], leaves(x, base, q, p))


@pytest.mark.parametrize("bound", [None, 0.5])
def test_without_a_prior_there_is_nothing_but_the_value(bound: float | None) -> None:
    x, base, q, _ = inputs(bound=bound)
    outputs = [run(name, x, base, q, sample=True) for name in ("fused", "naive")]
    assert outputs[0].kl is None
    assert_same(outputs[0], outputs[1], leaves(x, base, q))


@pytest.mark.parametrize("far", [30.0, 3000.0])
def test_a_bound_holds_however_far_the_two_gaussians_are_from_it_and_from_each_other(far: float) -> None:
    x, base, q, p = inputs(rows=9, out=70, bound=0.5)
    q, p = (g._replace(log_var_B=(s * g.log_var_B).detach().requires_grad_()) for g, s in ((q, far), (p, -far / 2)))
    outputs = [run(name, x, base, q, p, sample=True, hyper_prior=True) for name in ("fused", "naive")]
    assert_same(outputs[0], outputs[1], leaves(x, base, q, p))


def test_bounds_that_differ_are_left_to_the_naive_one() -> None:
    x, base, q, p = inputs(rows=9, out=7, bound=0.5)
    outputs = [run(name, x, base, q, p._replace(bound=None), sample=True) for name in ("fused", "naive")]
    assert torch.equal(outputs[0].kl, outputs[1].kl)
    assert_same(outputs[0], outputs[1], leaves(x, base, q, p))


@pytest.mark.parametrize("bound", [None, 0.5])
@pytest.mark.parametrize("trained", ["posterior", "prior", "input", "base"])
def test_gradients_go_only_where_they_are_asked_for(trained: str, bound: float | None) -> None:
    x, base, q, p = inputs(bound=bound)
    groups = {"posterior": q[:4], "prior": p[:4], "input": [x], "base": [base]}
    for name, tensors in groups.items():
        for tensor in tensors:
            tensor.requires_grad_(name == trained)
    outputs = [run(name, x, base, q, p, sample=True, hyper_prior=True) for name in ("fused", "naive")]
    assert_same(outputs[0], outputs[1], leaves(x, base, q, p))


@pytest.mark.parametrize("bound", [None, 0.5])
@pytest.mark.parametrize("estimator", ["closed_form", "sample"])
@pytest.mark.parametrize("name", ["fused", "naive"])
def test_for_the_prior_alone_the_sums_have_the_priors_gradient_and_no_other(
    name: str, estimator: str, bound: float | None
) -> None:
    """Against two backward passes through the ordinary output: the value's to all but the prior, the sums' to it."""
    x, base, q, p = inputs(bound=bound)
    asked = {"sample": True, "kl": estimator, "hyper_prior": True, "counted": torch.rand(ROWS) < 0.6}
    others, priors = leaves(x, base, q), list(p[:4])
    ordinary = run("naive", x, base, q, p, **asked)
    expected = [
        *torch.autograd.grad(objective(ordinary._replace(kl=None, hyper=None)), others, retain_graph=True),
        *torch.autograd.grad(objective(ordinary._replace(value=ordinary.value.detach())), priors),
    ]
    output = run(name, x, base, q, p, prior_only=True, **asked)
    for ours, theirs in zip(output, ordinary, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for actual, wanted in zip(torch.autograd.grad(objective(output), others + priors), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))


def test_where_the_prior_alone_is_trained_the_value_has_no_gradient() -> None:
    """So that an outer loop without a gradient of the likelihood does not walk back through the network."""
    x, base, q, p = inputs(rows=9, out=7)
    for tensor in leaves(x, base, q):
        tensor.requires_grad_(False)
    for name in ("fused", "naive"):
        output = run(name, x, base, q, p, sample=True, prior_only=True)
        assert not output.value.requires_grad
        assert output.kl.requires_grad


@pytest.mark.parametrize("part", ["value", "kl", "hyper"])
def test_each_output_has_its_own_gradient(part: str) -> None:
    x, base, q, p = inputs(rows=9, out=7)
    tensors = leaves(x, base, q, p)
    ours, theirs = (
        torch.autograd.grad(
            getattr(run(name, x, base, q, p, sample=True, hyper_prior=True), part).square().sum(),
            tensors,
            allow_unused=True,
            materialize_grads=True,
        )
        for name in ("fused", "naive")
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


# for the prior alone some inputs are constants, and differences of the value are not the derivative that is meant
@pytest.mark.parametrize("asked", [asked for asked in ASKED if "prior_only" not in asked], ids=str)
@pytest.mark.parametrize("fast", few_of([True, False], [True]))  # along random directions, or each by itself
def test_fused_gradients_equal_finite_differences(asked: dict[str, Any], fast: bool) -> None:
    x, base, q, p = inputs(rows=3, out=4)

    def values(x: Tensor, base: Tensor, *tensors: Tensor) -> list[Tensor]:
        q_, p_ = with_tensors(q, tensors[:4]), with_tensors(p, tensors[4:])
        counted = torch.tensor([True, False, True])
        return [part for part in run("fused", x, base, q_, p_, counted=counted, **asked) if part is not None]

    assert torch.autograd.gradcheck(values, leaves(x, base, q, p), fast_mode=fast)


@pytest.mark.parametrize("name", ["fused", "naive"])
def test_both_agree_with_torch_distributions(name: str) -> None:
    x, base, q, p = inputs(rows=9, out=7)

    def normal(g: Any) -> Normal:
        mean, log_var = moments.conditional(x, *g)
        return Normal(mean, torch.exp(0.5 * log_var))

    counted = torch.arange(9) % 3 != 0
    output = run(name, x, base, q, p, sample=True, counted=counted)
    torch.manual_seed(3)
    epsilon = noise.whole(noise.draw_seed(), 9, 7, torch.float64, x.device)
    expected = base + normal(q).mean + normal(q).stddev * epsilon
    torch.testing.assert_close(output.value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.kl, kl_divergence(normal(q), normal(p))[counted].sum(), rtol=1e-9, atol=0)
    estimate = run(name, x, base, q, p, sample=True, kl="sample", counted=counted)
    added = output.value - base
    ratio = (normal(q).log_prob(added) - normal(p).log_prob(added))[counted].sum()
    torch.testing.assert_close(estimate.kl, ratio, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bound", [None, 0.5])
def test_equals_have_a_divergence_of_exactly_zero_with_gradient_exactly_zero(bound: float | None) -> None:
    """In float32 and at the published offset, where Δ of 1e-7 would count e^20 times."""
    single: dict[str, Any] = {"dtype": torch.float32}
    q = factors(offset=-20.0, bound=bound, **single)
    p = with_tensors(q, (tensor.detach().clone().requires_grad_() for tensor in q[:4]))
    x = leaf(ROWS, IN, **single)
    output = run("fused", x, torch.zeros(ROWS, OUT), q, p, sample=True)
    assert output.kl is not None
    assert output.kl.item() == 0.0
    for gradient in torch.autograd.grad(output.kl, [x, *q[:4], *p[:4]]):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_small_step_is_told_more_exactly_than_by_subtracting_moments() -> None:
    q = factors(offset=-20.0)
    p = moments.Factors(*(tensor.detach() + 1e-6 * torch.randn_like(tensor) for tensor in q[:4]), *q[4:])
    x, base = leaf(ROWS, IN), torch.zeros(ROWS, OUT, dtype=torch.float64)
    x, base, q, p = x.float(), base.float(), *(with_tensors(g, (t.float() for t in g[:4])) for g in (q, p))
    stored = run("naive", x.double(), base.double(), *(with_tensors(g, (t.double() for t in g[:4])) for g in (q, p))).kl
    errors = [abs(run(name, x, base, q, p).kl.double() / stored - 1).item() for name in ("fused", "naive")]
    assert errors[0] < 1e-4
    assert errors[0] < errors[1]


def test_padding_that_is_not_finite_stays_out_of_the_sums() -> None:
    x, base, q, p = inputs(rows=6, out=7)
    counted = torch.arange(6) < 4
    clean = run("fused", x[:4], base[:4], q, p, hyper_prior=True)
    x = torch.cat([x[:4], torch.full((2, IN), float("inf"), dtype=torch.float64)])
    output = run("fused", x, base, q, p, hyper_prior=True, counted=counted)
    for ours, theirs in ((output.kl, clean.kl), (output.hyper, clean.hyper)):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    single: dict[str, Any] = {"dtype": torch.float32}
    x, base = leaf(300, IN, dtype=dtype), leaf(300, OUT, dtype=dtype)
    q, p = factors(**single), factors(**single)
    asked = {"sample": True, "hyper_prior": True}
    output = run("fused", x, base, q, p, dtype=dtype, **asked)
    assert (output.value.dtype, output.kl.dtype, output.hyper.dtype) == (dtype, torch.float32, torch.float32)
    wide = run("fused", x.float(), base.float(), q, p, **asked)
    torch.testing.assert_close(output.kl, wide.kl, rtol=1e-6, atol=0)
    assert (output.value == wide.value.to(dtype)).float().mean() > 0.999
    tensors = leaves(x, base, q, p)
    ours = torch.autograd.grad((output.value.float() ** 2).sum() + output.kl, tensors)
    naive = run("naive", x, base, q, p, dtype=dtype, **asked)
    theirs = torch.autograd.grad((naive.value.float() ** 2).sum() + naive.kl, tensors)
    for a, b, tensor in zip(ours, theirs, tensors, strict=True):
        assert a.dtype == tensor.dtype
        torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=2e-3 * float(b.float().abs().max()))


class Saved:
    """Counts the bytes autograd keeps, each storage once, without those given."""

    def __init__(self, *known: Tensor) -> None:
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.sizes: dict[int, int] = {}

    def __enter__(self) -> Saved:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.sizes[storage.data_ptr()] = storage.nbytes()
        return tensor


def test_only_the_inner_products_are_kept_for_the_backward_pass() -> None:
    x, base, q, p = inputs()
    counted = torch.ones(ROWS, dtype=torch.bool)
    kept = {}
    for name in ("fused", "naive"):
        with Saved(*leaves(x, base, q, p), counted) as saved:
            output = run(name, x, base, q, p, sample=True, hyper_prior=True, counted=counted)
        kept[name] = sum(saved.sizes.values())
        assert output.value.grad_fn is not None
    assert kept["fused"] == ROWS * 4 * RANK * 8
    assert kept["naive"] > 5 * ROWS * OUT * 8


def test_checkpointing_draws_the_same_noise_again() -> None:
    x, base, q, p = inputs(rows=9, out=7)
    tensors = leaves(x, base, q, p)

    def layer(x: Tensor) -> Tensor:
        output = gaussian_output(x, base, q, p, request=PassRequest(sample=True))
        record.report_counted("layer", output.kl)
        return output.value

    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(8)
        with stochastic_pass(sample=True, prior="meta") as record:
            value = checkpoint(layer, x, use_reentrant=False) if checkpointed else layer(x)
            gradients.append(torch.autograd.grad(value.square().sum() + record.kl(), tensors))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_only_the_naive_one_is_differentiated_twice() -> None:
    x, base, q, p = inputs(rows=3, out=4)

    def second(name: str) -> Tensor:
        (gradient,) = torch.autograd.grad(
            run(name, x, base, q, p, sample=True).value.square().sum(), x, create_graph=True
        )
        gradient.square().sum().backward()
        return q.mean_B.grad

    assert second("naive").abs().max() > 0
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second("fused")


def test_large_outputs_are_fused_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    x, base, q, _ = inputs(rows=8, out=16)

    def kept() -> int:
        with Saved(*leaves(x, base, q)) as saved:
            output = run("auto", x, base, q, sample=True)
        assert output.value.requires_grad
        return sum(saved.sizes.values())

    assert kept() > 8 * 16 * 8
    monkeypatch.setattr(layer_output, "FUSED_FROM", 8 * 16)
    assert kept() == 8 * 2 * RANK * 8


def test_unequal_ranks_are_computed_all_the_same() -> None:
    x, base = leaf(9, IN), leaf(9, 7)
    q, p = factors(7, rank=2), factors(7, rank=3)
    ours, theirs = (run(name, x, base, q, p, sample=True) for name in ("fused", "naive"))
    assert torch.equal(ours.value, theirs.value)
    assert torch.equal(ours.kl, theirs.kl)


def test_an_unknown_implementation_is_refused() -> None:
    with pytest.raises(AbmllError, match="Did you mean 'fused'"), implementation("fuse"):  # type: ignore[arg-type]
        pass
