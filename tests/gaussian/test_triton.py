"""The Triton kernels against the naive formulas fed with the same noise, computed here by PyTorch.

Without a GPU they run in triton's interpreter, in float64 like the other tests, and are compiled for GPUs that are not
there: `make test-triton`.
"""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.types import PassRequest
from abmll.gaussian import layer_output, moments, noise, plan, triton_layer
from abmll.gaussian.layer_output import LayerOutput, gaussian_output, implementation
from tests.gaussian.asked import ASKED, requested, with_tensors

INTERPRETED = triton_layer.installed() and os.environ.get("TRITON_INTERPRET") == "1"
HOW = "runs by `make test-triton`, which installs triton into build/ and interprets the kernels on the processor"
interpreted = pytest.mark.skipif(not INTERPRETED, reason=HOW)
on_gpu = pytest.mark.skipif(
    INTERPRETED or not triton_layer.installed() or not torch.cuda.is_available(), reason="needs a CUDA GPU and triton"
)
DEVICES = [
    pytest.param("cpu", marks=interpreted),
    pytest.param("cuda", marks=[pytest.mark.gpu, on_gpu]),
]
ROWS, IN, OUT, RANK = 37, 5, 50, 3  # ragged: no multiple of a tile, of four columns or of sixteen


def philox(counter: tuple[Tensor, Tensor, int, int], key: tuple[int, int]) -> list[Tensor]:
    """Philox-4x32 of ten rounds on 32-bit words in int64 tensors. Source: Salmon et al. 2011, Random123."""
    c0, c1, c2, c3 = counter[0], counter[1], torch.tensor(counter[2]), torch.tensor(counter[3])
    k0, k1 = key
    low = 0xFFFFFFFF
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # the low 64 bits of a product are the same with and without sign
        c0, c1, c2, c3 = (b >> 32 & low) ^ c1 ^ k0, b & low, (a >> 32 & low) ^ c3 ^ k1, a & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return [torch.as_tensor(c) for c in (c0, c1, c2, c3)]


def noise_of_the_kernels(seed: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Four neighbours in a row share the counter (column // 4, row); two of its words make two normals."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(-(-columns // 4)), indexing="ij")
    words = [
        w.to(torch.float32).double() if dtype == torch.float32 else w.double()
        for w in philox((column, row, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
    ]
    normals = []
    for first, second in (words[:2], words[2:]):
        radius = (-2 * torch.log((first + 0.5) / 2**32)).sqrt()
        angle = 2 * math.pi * second / 2**32
        normals += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(normals, -1).flatten(1)[:, :columns].to(device, dtype)


@pytest.fixture(autouse=True)
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive implementation draws the kernels' noise."""
    torch.manual_seed(0)
    monkeypatch.setattr(noise, "whole", noise_of_the_kernels)


def dtype_on(device: str) -> torch.dtype:
    return torch.float64 if device == "cpu" else torch.float32


class Case:
    """Inputs of one layer and what is computed from them."""

    def __init__(
        self,
        device: str,
        rows: int = ROWS,
        out: int = OUT,
        rank: int = RANK,
        bound: float | None = None,
        prior: bool = True,
        offsets: tuple[float, float] = (-2.0, -1.2),
        dtype: torch.dtype | None = None,
    ) -> None:
        self.device, self.dtype = device, dtype or dtype_on(device)
        self.x, self.base = self.leaf(rows, IN), self.leaf(rows, out)
        self.weights = torch.randn(rows, out, device=device, dtype=torch.float64)
        scalings = (1.5, 0.7)
        self.gaussians = [
            moments.Factors(
                self.leaf(rank, IN),
                self.leaf(out, rank),
                self.leaf(rank, IN),
                self.leaf(out, rank),
                scalings[i],
                offsets[i],
                bound,
            )
            for i in range(2 if prior else 1)
        ]

    def leaf(self, *shape: int) -> Tensor:
        return (0.4 * torch.randn(*shape, dtype=torch.float64)).to(self.device, self.dtype).requires_grad_()

    @property
    def leaves(self) -> list[Tensor]:
        return [self.x, self.base, *(tensor for g in self.gaussians for tensor in g[:4])]

    def run(self, name: str, **asked: Any) -> LayerOutput:
        torch.manual_seed(3)
        with implementation(name):
            return gaussian_output(self.x, self.base, *self.gaussians, **requested(asked))

    def gradients(self, output: LayerOutput) -> tuple[Tensor, ...]:
        total = (output.value.double() * self.weights).sum()
        for weight, term in ((0.7, output.kl), (0.3, output.hyper)):
            total = total if term is None else total + weight * term
        wanted = [tensor for tensor in self.leaves if tensor.requires_grad]
        return torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)

    def check(self, **asked: Any) -> None:
        """Value, sums and every gradient are those of the naive implementation."""
        ours, theirs = (self.run(name, **asked) for name in ("triton", "naive"))
        tolerance = 1e-9 if self.dtype == torch.float64 else 1e-4
        pairs = [*zip(ours, theirs, strict=True), *zip(self.gradients(ours), self.gradients(theirs), strict=True)]
        for a, b in pairs:
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.detach().abs().max()))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bound", [None, 0.5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_values_sums_and_every_gradient_are_those_of_the_naive_one(
    asked: dict[str, Any], masked: bool, bound: float | None, device: str
) -> None:
    counted = (torch.rand(ROWS) < 0.6).to(device) if masked else None
    Case(device, bound=bound).check(counted=counted, **asked)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("block_rows", "block_columns"), [(16, 16), (64, 32), (16, 128)])
@pytest.mark.parametrize(("rows", "out", "rank"), [(1, 1, 1), (33, 130, 17), (70, 6, 2), (64, 64, 16)])
def test_no_result_depends_on_the_size_of_a_tile(
    rows: int, out: int, rank: int, block_rows: int, block_columns: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_layer, "BLOCK_ROWS", block_rows)
    monkeypatch.setattr(triton_layer, "BLOCK_COLUMNS", block_columns)
    monkeypatch.setattr(triton_layer, "PROGRAMS", 2)  # so that a program of the backward pass has several tiles
    Case(device, rows, out, rank).check(sample=True, hyper_prior=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bound", [None, 0.5])
@pytest.mark.parametrize("sample", [True, False])
def test_without_a_prior_there_is_nothing_but_the_value(sample: bool, bound: float | None, device: str) -> None:
    case = Case(device, bound=bound, prior=False)
    # by name, without a sample: a layer would take its mean alone
    case.check(sample=sample)
    assert case.run("triton", sample=sample).kl is None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("trained", ["posterior", "prior", "input", "base"])
def test_gradients_go_only_where_they_are_asked_for(trained: str, device: str) -> None:
    case = Case(device)
    q, p = case.gaussians
    for name, tensors in {"posterior": q[:4], "prior": p[:4], "input": [case.x], "base": [case.base]}.items():
        for tensor in tensors:
            tensor.requires_grad_(name == trained)
    case.check(sample=True, hyper_prior=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("part", ["value", "kl", "hyper"])
def test_each_output_has_its_own_gradient(part: str, device: str) -> None:
    case = Case(device)
    ours, theirs = (
        torch.autograd.grad(
            getattr(case.run(name, sample=True, hyper_prior=True), part).square().sum(),
            case.leaves,
            allow_unused=True,
            materialize_grads=True,
        )
        for name in ("triton", "naive")
    )
    tolerance = 1e-9 if case.dtype == torch.float64 else 1e-4
    largest = max(float(b.abs().max()) for b in theirs)  # the hyper-prior's by the posterior is 0 but for rounding
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bound", [None, 0.5])
def test_equals_have_a_divergence_and_gradient_of_exactly_zero(bound: float | None, device: str) -> None:
    """In float32 and at the published offset, where Δ of 1e-7 would count e^20 times."""
    case = Case(device, bound=bound, offsets=(-20.0, -20.0), dtype=torch.float32)
    q = case.gaussians[0]
    copies = [tensor.detach().clone().requires_grad_() for tensor in q[:4]]
    case.gaussians[1] = with_tensors(q, copies)
    output = case.run("triton", sample=True)
    assert output.kl.item() == 0.0
    for gradient in torch.autograd.grad(output.kl, [case.x, *q[:4], *copies]):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("device", DEVICES)
def test_a_small_step_keeps_its_digits_under_the_bound(device: str) -> None:
    """tanh and expm1 are the kernels' own: near zero both must be as exact as elsewhere."""
    case = Case(device, bound=0.5, offsets=(-20.0, -20.0), dtype=torch.float32)
    q = case.gaussians[0]
    moved = [(tensor.detach() + 1e-6 * torch.randn_like(tensor)).requires_grad_() for tensor in q[:4]]
    case.gaussians[1] = with_tensors(q, moved)
    single = case.run("triton").kl
    wide = Case(device, bound=0.5, dtype=torch.float64)
    wide.x, wide.base = case.x.double(), case.base.double()
    wide.gaussians = [with_tensors(g, (t.double() for t in g[:4])) for g in case.gaussians]
    assert abs(single.double() / wide.run("naive").kl - 1) < 1e-4


@pytest.mark.parametrize("device", DEVICES)
def test_padding_that_is_not_finite_stays_out_of_sums_and_of_gradients(device: str) -> None:
    case, clean = Case(device, rows=6), Case(device, rows=4)
    case.x = torch.cat([case.x[:4].detach(), torch.full((2, IN), float("inf"), device=device, dtype=case.dtype)])
    clean.x, clean.base, clean.gaussians = case.x[:4], case.base[:4].detach(), case.gaussians
    counted = torch.arange(6, device=device) < 4
    ours, theirs = case.run("triton", hyper_prior=True, counted=counted), clean.run("triton", hyper_prior=True)
    torch.testing.assert_close(ours.kl, theirs.kl)
    torch.testing.assert_close(ours.hyper, theirs.hyper)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_rounded_once(half: torch.dtype, device: str) -> None:
    case = Case(device, dtype=torch.float32)
    case.x, case.base = (tensor.detach().to(half).requires_grad_() for tensor in (case.x, case.base))
    asked = {"sample": True, "hyper_prior": True}
    ours, theirs = (case.run(name, dtype=half, **asked) for name in ("triton", "naive"))
    assert (ours.value.dtype, ours.kl.dtype) == (half, torch.float32)
    torch.testing.assert_close(ours.kl, theirs.kl, rtol=1e-4, atol=0)
    if INTERPRETED and half == torch.bfloat16:  # the interpreter cuts a bfloat16 off, where a GPU rounds it
        torch.testing.assert_close(ours.value, theirs.value, rtol=2**-7, atol=1e-6)
    else:
        assert (ours.value == theirs.value).float().mean() > 0.99
    for a, b, tensor in zip(case.gradients(ours), case.gradients(theirs), case.leaves, strict=True):
        assert a.dtype == tensor.dtype
        torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=2e-3 * float(b.float().abs().max()))


@pytest.mark.parametrize("device", DEVICES)
def test_two_runs_from_one_seed_are_equal_bit_for_bit(device: str) -> None:
    case = Case(device, rows=70, out=130)
    first, second = (case.run("triton", sample=True, hyper_prior=True) for _ in range(2))
    assert torch.equal(first.value, second.value)
    assert torch.equal(first.kl, second.kl)
    for a, b in zip(case.gradients(first), case.gradients(second), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("device", DEVICES)
def test_only_the_inner_products_are_kept_for_the_backward_pass(device: str) -> None:
    case = Case(device)
    known = {tensor.untyped_storage().data_ptr() for tensor in case.leaves}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = case.run("triton", sample=True, hyper_prior=True)
    assert output.value.grad_fn is not None
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) == (ROWS * 4 * RANK * case.dtype.itemsize)


@pytest.mark.parametrize("device", DEVICES)
def test_no_rows_are_no_work(device: str) -> None:
    case = Case(device, rows=0)
    output = case.run("triton", sample=True)
    assert output.value.shape == (0, OUT)
    assert output.kl.item() == 0


@pytest.mark.gpu
@on_gpu
def test_float64_on_a_gpu_is_refused_by_name_and_fused_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("cuda", dtype=torch.float64)
    with pytest.raises(AbmllError, match="computes in float32"):
        case.run("triton", sample=True)
    assert not triton_layer.suits(case.base, torch.float64)


@pytest.mark.skipif(INTERPRETED or not triton_layer.installed(), reason=HOW)
@pytest.mark.parametrize("architecture", [80, 90])
def test_the_kernels_compile_for_gpus_that_are_not_here(architecture: int) -> None:
    """To PTX, with no more shared memory than the GPU with the least of its generation has (99 KB)."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from abmll.gaussian import triton_kernels

    half, byte, integer = {"base", "value", "d_value"}, {"counted"}, {"rows", "columns", "tiles"}
    constants = {
        **dict.fromkeys(
            ("HAS_PRIOR", "HAS_COUNTED", "SAMPLE", "HYPER_PRIOR", "HAS_VALUE", "HAS_KL", "HAS_HYPER"), True
        ),
        **{"RANK": 8, "PADDED": 16, "WIDE": tl.float32, "OFFSET": -20.0, "OFFSET_DIFFERENCE": 0.0, "BOUND": 10.0},
        **{"BLOCK_ROWS": triton_layer.BLOCK_ROWS, "BLOCK_COLUMNS": triton_layer.BLOCK_COLUMNS, "ONE_SAMPLE": False},
    }

    def type_of(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name == "seed" or name in integer:
            return "i64" if name == "seed" else "i32"
        return "*bf16" if name in half else "*u8" if name in byte else "*fp32"

    for kernel in (triton_kernels.forward, triton_kernels.backward):
        names = kernel.arg_names
        compiled = triton.compile(
            ASTSource(
                kernel,
                signature={name: type_of(name) for name in names},
                constexprs={(names.index(name),): value for name, value in constants.items() if name in names},
            ),
            target=GPUTarget("cuda", architecture, 32),
            options={"num_warps": triton_layer.NUM_WARPS},
        )
        assert ".entry" in compiled.asm["ptx"]
        assert compiled.metadata.shared < 99 * 1024


@interpreted
def test_the_kernels_are_chosen_where_they_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_output, "FUSED_FROM", ROWS * OUT)
    case, wide = Case("cpu"), Case("cpu", rows=ROWS - 1)
    monkeypatch.setattr(triton_layer, "suits", lambda base, dtype: True)
    assert "TritonOutput" in type(case.run("auto", sample=True).value.grad_fn.next_functions[0][0]).__name__
    assert "Triton" not in str(wide.run("auto", sample=True).value.grad_fn.next_functions)


def test_a_processor_takes_the_fused_implementation_by_itself() -> None:
    assert not triton_layer.suits(torch.zeros(2, 2), torch.float32)


def test_without_triton_the_name_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_layer, "installed", lambda: False)
    with pytest.raises(AbmllError, match=r"triton is not installed.*fused"):
        Case("cpu").run("triton", sample=True)


@pytest.mark.skipif(INTERPRETED or not triton_layer.installed(), reason="needs triton, not interpreted")
def test_a_processor_is_refused_by_name_with_what_to_do() -> None:
    with pytest.raises(AbmllError, match=r"on the device 'cpu'.*fused"):
        Case("cpu").run("triton", sample=True)


def test_the_reference_is_philox() -> None:
    """The known answers of Random123's kat_vectors, philox4x32 with ten rounds."""
    for counter, key, answer in (
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ):
        words = philox((torch.tensor(counter[0]), torch.tensor(counter[1]), *counter[2:]), key)
        assert tuple(int(word) for word in words) == answer


def test_the_noise_is_standard_normal_and_its_neighbours_are_independent() -> None:
    drawn = noise_of_the_kernels(2**61 + 12345, 500, 400, torch.float64, torch.device("cpu"))
    n = drawn.numel()
    assert abs(drawn.mean()) < 4 / math.sqrt(n)
    assert abs(drawn.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(drawn.pow(4).mean() - 3) < 4 * math.sqrt(96 / n)
    for other in (drawn.roll(1, 0), drawn.roll(1, 1), drawn.roll(2, 1)):
        assert abs((drawn * other).mean()) < 4 / math.sqrt(n)


def test_the_plan_draws_one_seed_for_a_sample_and_none_without() -> None:
    """So that a layer without a sample leaves the global generator alone, whichever implementation computes it."""
    case = Case("cpu")
    for sample in (True, False):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        plan.plan_of(case.x, case.base, case.gaussians[0], case.gaussians[1], torch.float64, PassRequest(sample))
        assert torch.equal(before, torch.get_rng_state()) == (not sample)
