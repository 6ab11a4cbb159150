"""Noise is a function of its seed and place, and standard normal."""

from __future__ import annotations

import math

import pytest
import torch

from abmll.gaussian import noise

CPU = torch.device("cpu")
ROWS, COLUMNS = noise.block_of(CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (ROWS + 7, 40), (2 * ROWS, COLUMNS + 100)])
def test_a_tile_is_that_part_of_the_whole(rows: int, columns: int, dtype: torch.dtype) -> None:
    whole = noise.whole(11, rows, columns, dtype, CPU)
    generator = torch.Generator()
    for height in (ROWS, 2 * ROWS):
        for row in range(0, rows, height):
            for column in range(0, columns, COLUMNS):
                part = whole[row : row + height, column : column + COLUMNS]
                tile = noise.standard_normal(11, row, column, torch.empty(part.shape, dtype=dtype), columns, generator)
                assert torch.equal(tile, part)


def test_more_rows_leave_the_full_blocks_before_them_alone() -> None:
    assert torch.equal(
        noise.whole(1, 3 * ROWS, 20, torch.float32, CPU)[: 2 * ROWS], noise.whole(1, 2 * ROWS, 20, torch.float32, CPU)
    )


def test_seeds_follow_the_global_generator_and_differ() -> None:
    torch.manual_seed(5)
    first = [noise.draw_seed() for _ in range(100)]
    torch.manual_seed(5)
    assert [noise.draw_seed() for _ in range(100)] == first
    assert len(set(first)) == 100


def test_noise_is_standard_normal_and_its_blocks_are_independent() -> None:
    values = noise.whole(3, 8 * ROWS, 2 * COLUMNS, torch.float32, CPU).double()
    n = values.numel()
    assert abs(values.mean()) < 4 / math.sqrt(n)
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(values.pow(3).mean()) < 4 * math.sqrt(15 / n)
    assert abs(values.pow(4).mean() - 3) < 4 * math.sqrt(96 / n)
    blocks = values.view(8, ROWS, 2, COLUMNS).transpose(1, 2).reshape(16, -1)
    correlation = blocks @ blocks.T / blocks.shape[1] - torch.eye(16)
    assert correlation.abs().max() < 5 * math.sqrt(2 / blocks.shape[1])
