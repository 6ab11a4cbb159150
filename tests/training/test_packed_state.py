"""Packed state comes back exactly: values, types, nesting, integer keys."""

from __future__ import annotations

import math
from typing import Any

import pytest
import safetensors.torch
import torch

from abmll.training.state import pack, unpack


def test_round_trip_is_exact() -> None:
    base = torch.arange(6.0).view(2, 3)
    state: dict[Any, Any] = {
        0: {"exp_avg": torch.randn(3, dtype=torch.float64), "step": torch.tensor(7.0)},
        "betas": (0.9, 0.1 + 0.2),
        "list": [1, True, None, "θ", 2**60, -0.0, math.inf],
        "half": torch.randn(2, 2).bfloat16(),
        "shared": [base, base],
        "transposed": base.T,
        "empty": torch.zeros(0, 2),
        "nothing": {},
    }
    back = unpack(pack(state))
    assert list(back) == list(state)
    assert back["betas"] == (0.9, 0.30000000000000004)
    assert isinstance(back["betas"], tuple)
    assert back["list"] == state["list"]
    assert back["list"][1] is True
    assert math.copysign(1, back["list"][5]) == -1
    assert back["nothing"] == {}
    for one, other in [
        (back[0]["exp_avg"], state[0]["exp_avg"]),
        (back[0]["step"], state[0]["step"]),
        (back["half"], state["half"]),
        (back["shared"][1], base),
        (back["transposed"], base.T),
        (back["empty"], state["empty"]),
    ]:
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_restored_optimizer_continues_bit_identically(name: str) -> None:
    def make() -> tuple[torch.Tensor, torch.optim.Optimizer]:
        torch.manual_seed(0)
        weight = torch.randn(5, requires_grad=True)
        return weight, getattr(torch.optim, name)([weight], lr=0.1)

    def steps(weight: torch.Tensor, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            weight.pow(4).sum().backward()
            optimizer.step()

    weight, optimizer = make()
    steps(weight, optimizer, 3)
    data = pack({"weight": weight, "optimizer": optimizer.state_dict()})
    steps(weight, optimizer, 3)

    other, fresh = make()
    state = unpack(data)
    with torch.no_grad():
        other.copy_(state["weight"])
    fresh.load_state_dict(state["optimizer"])
    steps(other, fresh, 3)
    assert torch.equal(weight, other)


def test_any_safetensors_reader_opens_it() -> None:
    tensors = safetensors.torch.load(pack({"meta": {"layer.A": torch.ones(2)}}))
    assert torch.equal(tensors["/meta/layer.A"], torch.ones(2))


def test_packing_does_not_alias() -> None:
    weight = torch.ones(2)
    data = pack([weight])
    weight.zero_()
    assert torch.equal(unpack(data)[0], torch.ones(2))


def test_other_types_are_refused_by_place() -> None:
    with pytest.raises(TypeError, match=r"state at /a/1 is a set: only tensors and plain data"):
        pack({"a": [1, {2}]})
    with pytest.raises(TypeError, match=r"state key 1\.5 is a float"):
        pack({1.5: 0})
