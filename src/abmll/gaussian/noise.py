"""Standard normal noise that can be drawn again: a pure function of a seed and of where an element lies.

The noise of a layer's output (tokens × units) is laid out in blocks of a fixed size, each with a generator of its
own. Whoever draws it, in tiles of whatever size and order, now or in a backward pass, draws the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """How many rows and columns of the noise share a generator."""

    rows: int
    columns: int


class Copies(NamedTuple):
    """A pass that holds rows and tokens of a smaller one several times: all copies of one draw the same noise.

    Attributes:
        row: (rows,) which of the smaller pass's `num_rows` each row is a copy of.
        num_rows: of the smaller pass.
        token: (rows·tokens,) likewise for its `num_tokens` tokens, rows one after the other.
        num_tokens: of the smaller pass.
    """

    row: Tensor
    num_rows: int
    token: Tensor
    num_tokens: int


def block_of(device: torch.device) -> Block:
    """Small enough for a processor's cache; on an accelerator large enough to be worth a kernel."""
    return Block(64, 1024) if device.type == "cpu" else Block(1024, 4096)


def draw_seed() -> int:
    """A seed from the global generator, because that is the one gradient checkpointing replays."""
    return int(torch.randint(2**62, ()))


def standard_normal(seed: int, row: int, column: int, out: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Fills `out` with the part of the noise whose first element is (row, column); returns it.

    Args:
        seed: of the whole noise.
        row: of the first element.
        column: of the first element.
        out: (rows, columns), contiguous; it starts at a block's corner and is one block wide (or ends with the noise).
        width: columns of the whole noise.
        generator: of out's device; its state is lost.
    """
    block = block_of(out.device)
    across = -(-width // block.columns)
    for start in range(0, len(out), block.rows):
        index = (row + start) // block.rows * across + column // block.columns
        generator.manual_seed(seed + index)
        out[start : start + block.rows].normal_(generator=generator)
    return out


def standard_normal_of(
    seed: int, rows: Tensor, total: int, column: int, out: Tensor, width: int, generator: torch.Generator
) -> Tensor:
    """As `standard_normal`, but `out` takes the noise of any rows, in any order and as often as they are named.

    Args:
        seed: of the whole noise.
        rows: (rows,) which of the noise's rows.
        total: how many the noise has.
        column: of the first element.
        out: (rows, columns), as in `standard_normal`.
        width: columns of the whole noise.
        generator: of out's device; its state is lost.
    """
    height = block_of(out.device).rows
    blocks = rows // height
    for block in blocks.unique().tolist():
        start = block * height
        drawn = out.new_empty(min(height, total - start), out.shape[1])
        standard_normal(seed, start, column, drawn, width, generator)
        chosen = blocks == block
        out[chosen] = drawn[rows[chosen] - start]
    return out


def whole(seed: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """All of the noise at once, (rows, columns)."""
    noise = torch.empty(rows, columns, dtype=dtype, device=device)
    generator = torch.Generator(device)
    for column in range(0, columns, block_of(device).columns):
        part = noise[:, column : column + block_of(device).columns]
        part.copy_(standard_normal(seed, 0, column, torch.empty_like(part).contiguous(), columns, generator))
    return noise
