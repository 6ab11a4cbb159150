"""The two kernels of `gaussian.triton_layer`. Importing this module imports triton.

A program computes a tile of the output: BLOCK_ROWS rows and BLOCK_COLUMNS units. The formulas are those of
`gaussian.tile`, line by line. Sums that several programs add to (the divergence, the gradients) leave a kernel as one
part for each program and are added up afterwards, so that a result does not depend on which program comes first.

Arithmetic is in WIDE, products in full float32 precision: with TF32's 10 bits a difference between posterior and prior
of 1e-4 would be lost, and at the published offset it counts e^10 times.
"""

from __future__ import annotations

import math
from typing import no_type_check  # the shape checks that tests switch on would wrap what triton is to compile

import triton
import triton.language as tl

from abmll.gaussian.moments import GAMMA_RATE, GAMMA_SHAPE

_HYPER_CONSTANT = 0.5 * math.log(2 * math.pi) - GAMMA_SHAPE * math.log(GAMMA_RATE) + math.lgamma(GAMMA_SHAPE)
HYPER_CONSTANT = tl.constexpr(_HYPER_CONSTANT)
RATE = tl.constexpr(GAMMA_RATE)
SHAPE_LESS_ONE = tl.constexpr(GAMMA_SHAPE - 1)
TWO_PI = tl.constexpr(2 * math.pi)
SERIES_BELOW = tl.constexpr(0.5)


@triton.jit
@no_type_check
def _excess(x):
    """e^x - 1 - x; near 0 by its series, which keeps its digits (0.5^17/17! is below float64's rounding)."""
    series = 1.0 + x * 0.0
    for k in tl.static_range(17, 2, -1):
        series = 1.0 + x / k * series
    return tl.where(tl.abs(x) < SERIES_BELOW, 0.5 * x * x * series, tl.exp(x) - 1.0 - x)


@triton.jit
@no_type_check
def _tanh(x):
    twice = -2.0 * tl.abs(x)
    less_one = twice + _excess(twice)  # e^-2|x| - 1
    tanh = -less_one / (2.0 + less_one)
    return tl.where(x < 0, -tanh, tanh)


@triton.jit
@no_type_check
def _box_muller(first, second, WIDE: tl.constexpr):
    """Two standard normals from two 32-bit integers."""
    radius = tl.sqrt(-2.0 * tl.log((first.to(WIDE) + 0.5) * (1.0 / 4294967296.0)))
    angle = second.to(WIDE) * (TWO_PI / 4294967296.0)
    return radius * tl.cos(angle), radius * tl.sin(angle)


@triton.jit
@no_type_check
def _standard_normal(seed, row, first_column, BLOCK_COLUMNS: tl.constexpr, WIDE: tl.constexpr):
    """The noise of these rows: four columns share a Philox counter, (column // 4, row), whatever the tile."""
    group = first_column // 4 + tl.arange(0, BLOCK_COLUMNS // 4)
    columns, rows = tl.broadcast(group[None, :], row[:, None])
    zero = columns * 0
    i, j, k, l = tl.philox(seed, columns.to(tl.uint32), rows.to(tl.uint32), zero.to(tl.uint32), zero.to(tl.uint32))  # noqa: E741
    n0, n1 = _box_muller(i, j, WIDE)
    n2, n3 = _box_muller(k, l, WIDE)
    interleaved = tl.join(tl.join(n0, n2), tl.join(n1, n3))
    return tl.reshape(interleaved, (row.shape[0], BLOCK_COLUMNS))


@triton.jit
@no_type_check
def _inner(inner, row, rows, part, PARTS: tl.constexpr, RANK: tl.constexpr, PADDED: tl.constexpr):
    """(rows, rank) of one of the inner products, zero beyond the end."""
    k = tl.arange(0, PADDED)
    place = row.to(tl.int64)[:, None] * (PARTS * RANK) + part * RANK + k[None, :]
    return tl.load(inner + place, mask=(row < rows)[:, None] & (k < RANK)[None, :], other=0.0)


@triton.jit
@no_type_check
def _factor(B, column, columns, RANK: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr):
    """(units, rank) of B, zero beyond the end."""
    k = tl.arange(0, PADDED)
    inside = (column < columns)[:, None] & (k < RANK)[None, :]
    return tl.load(B + column[:, None] * RANK + k[None, :], mask=inside, other=0.0).to(WIDE)


@triton.jit
@no_type_check
def _dot(a, b, WIDE: tl.constexpr):
    return tl.dot(a, b, input_precision="ieee", out_dtype=WIDE)


@triton.jit
@no_type_check
def _log_variances(
    z,
    dz,
    B,
    p_B,
    HAS_PRIOR: tl.constexpr,
    OFFSET: tl.constexpr,
    OFFSET_DIFFERENCE: tl.constexpr,
    BOUND: tl.constexpr,
    WIDE: tl.constexpr,
):
    """log_var, d = log_var - prior's log_var, and the slopes of the bound at both (1 without one)."""
    log_var = _dot(z, tl.trans(B), WIDE)
    d = log_var * 0.0
    if HAS_PRIOR:
        d = _dot(z, tl.trans(B - p_B), WIDE) + _dot(dz, tl.trans(p_B), WIDE)
    slope = 1.0
    prior_slope = 1.0
    if BOUND is not None:
        own = _tanh(log_var / BOUND)
        prior = _tanh((log_var - d) / BOUND)
        slope = 1.0 - own * own
        prior_slope = 1.0 - prior * prior
        d = BOUND * _tanh(d / BOUND) * (1.0 - own * prior)
        log_var = BOUND * own
    return log_var + OFFSET, d + OFFSET_DIFFERENCE, slope, prior_slope


@triton.jit(do_not_specialize=["seed"])
@no_type_check
def forward(
    inner,
    mean_B,
    log_var_B,
    p_mean_B,
    p_log_var_B,
    base,
    counted,
    value,
    kl,
    hyper,
    seed,
    rows,
    columns,
    RANK: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    OFFSET: tl.constexpr,
    OFFSET_DIFFERENCE: tl.constexpr,
    BOUND: tl.constexpr,
    HAS_PRIOR: tl.constexpr,
    HAS_COUNTED: tl.constexpr,
    SAMPLE: tl.constexpr,
    ONE_SAMPLE: tl.constexpr,
    HYPER_PRIOR: tl.constexpr,
):
    """value, and for each program its part of kl and hyper (row tiles, column tiles)."""
    PARTS: tl.constexpr = 4 if HAS_PRIOR else 2
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = row.to(tl.int64)[:, None] * columns + column[None, :]

    z = _inner(inner, row, rows, 0, PARTS, RANK, PADDED)
    z_v = _inner(inner, row, rows, PARTS // 2, PARTS, RANK, PADDED)
    B = _factor(mean_B, column, columns, RANK, PADDED, WIDE)
    B_v = _factor(log_var_B, column, columns, RANK, PADDED, WIDE)
    dz, dz_v, p_B, p_B_v = z, z_v, B, B_v
    if HAS_PRIOR:
        dz = _inner(inner, row, rows, 1, PARTS, RANK, PADDED)
        dz_v = _inner(inner, row, rows, 3, PARTS, RANK, PADDED)
        p_B = _factor(p_mean_B, column, columns, RANK, PADDED, WIDE)
        p_B_v = _factor(p_log_var_B, column, columns, RANK, PADDED, WIDE)

    mean = _dot(z, tl.trans(B), WIDE)
    out = mean + tl.load(base + place, mask=inside, other=0.0).to(WIDE)
    if SAMPLE or HAS_PRIOR:
        log_var, d, _, _ = _log_variances(z_v, dz_v, B_v, p_B_v, HAS_PRIOR, OFFSET, OFFSET_DIFFERENCE, BOUND, WIDE)
    if SAMPLE:
        epsilon = _standard_normal(seed, row, tl.program_id(1) * BLOCK_COLUMNS, BLOCK_COLUMNS, WIDE)
        noise = tl.exp(0.5 * log_var) * epsilon
        out += noise
    tl.store(value + place, out.to(value.dtype.element_ty), mask=inside)

    if HAS_PRIOR:
        if HAS_COUNTED:
            inside = inside & (tl.load(counted + row, mask=row < rows, other=0) != 0)[:, None]
        part = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        delta = _dot(z, tl.trans(B - p_B), WIDE) + _dot(dz, tl.trans(p_B), WIDE)
        if ONE_SAMPLE:
            t = (delta + noise) * tl.exp(0.5 * (d - log_var))
            terms = 0.5 * (t * t - epsilon * epsilon - d)
        else:
            scaled = delta * tl.exp(0.5 * (d - log_var))  # squared last: see gaussian.moments
            terms = 0.5 * (_excess(d) + scaled * scaled)
        tl.store(kl + part, tl.sum(tl.where(inside, terms, 0.0)))
        if HYPER_PRIOR:
            p_mean = mean - delta
            p_log_var = log_var - d
            terms = HYPER_CONSTANT + 0.5 * p_mean * p_mean + SHAPE_LESS_ONE * p_log_var + RATE * tl.exp(-p_log_var)
            tl.store(hyper + part, tl.sum(tl.where(inside, terms, 0.0)))


@triton.jit
@no_type_check
def _store_inner(d_inner, gradient, row, rows, part, PARTS: tl.constexpr, RANK: tl.constexpr, PADDED: tl.constexpr):
    k = tl.arange(0, PADDED)
    place = row.to(tl.int64)[:, None] * (PARTS * RANK) + part * RANK + k[None, :]
    tl.store(d_inner + place, gradient, mask=(row < rows)[:, None] & (k < RANK)[None, :])


@triton.jit
@no_type_check
def _store_factor(d_B, gradient, column, columns, part, RANK: tl.constexpr, PADDED: tl.constexpr):
    k = tl.arange(0, PADDED)
    place = (part.to(tl.int64) * columns + column[:, None]) * RANK + k[None, :]
    tl.store(d_B + place, gradient, mask=(column < columns)[:, None] & (k < RANK)[None, :])


@triton.jit(do_not_specialize=["seed"])
@no_type_check
def backward(
    inner,
    mean_B,
    log_var_B,
    p_mean_B,
    p_log_var_B,
    counted,
    d_value,
    d_kl,
    d_hyper,
    d_inner,
    d_B,
    seed,
    rows,
    columns,
    tiles,
    RANK: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    OFFSET: tl.constexpr,
    OFFSET_DIFFERENCE: tl.constexpr,
    BOUND: tl.constexpr,
    HAS_PRIOR: tl.constexpr,
    HAS_COUNTED: tl.constexpr,
    SAMPLE: tl.constexpr,
    ONE_SAMPLE: tl.constexpr,
    HAS_VALUE: tl.constexpr,
    HAS_KL: tl.constexpr,
    HAS_HYPER: tl.constexpr,
    PRIOR_ONLY: tl.constexpr,
):
    """The parts of the gradients of the inner products and of every B.

    A program goes down `tiles` tiles of rows. d_inner: (column tiles, rows, inner). d_B: (groups of row tiles, factors,
    columns, rank), the factors mean_B, log_var_B and, with a prior, its.
    """
    PARTS: tl.constexpr = 4 if HAS_PRIOR else 2
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    B = _factor(mean_B, column, columns, RANK, PADDED, WIDE)
    B_v = _factor(log_var_B, column, columns, RANK, PADDED, WIDE)
    p_B, p_B_v = B, B_v
    if HAS_PRIOR:
        p_B = _factor(p_mean_B, column, columns, RANK, PADDED, WIDE)
        p_B_v = _factor(p_log_var_B, column, columns, RANK, PADDED, WIDE)
    of_B = tl.zeros((BLOCK_COLUMNS, PADDED), WIDE)
    of_B_v = tl.zeros((BLOCK_COLUMNS, PADDED), WIDE)
    of_p_B = tl.zeros((BLOCK_COLUMNS, PADDED), WIDE)
    of_p_B_v = tl.zeros((BLOCK_COLUMNS, PADDED), WIDE)
    own_inner = d_inner + tl.program_id(1).to(tl.int64) * rows * (PARTS * RANK)

    for tile in range(tl.program_id(0) * tiles, (tl.program_id(0) + 1) * tiles):
        row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        z = _inner(inner, row, rows, 0, PARTS, RANK, PADDED)
        z_v = _inner(inner, row, rows, PARTS // 2, PARTS, RANK, PADDED)
        dz, dz_v = z, z_v
        if HAS_PRIOR:
            dz = _inner(inner, row, rows, 1, PARTS, RANK, PADDED)
            dz_v = _inner(inner, row, rows, 3, PARTS, RANK, PADDED)
        log_var, d, slope, prior_slope = _log_variances(
            z_v, dz_v, B_v, p_B_v, HAS_PRIOR, OFFSET, OFFSET_DIFFERENCE, BOUND, WIDE
        )
        d_mean = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), WIDE)
        d_log_var = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), WIDE)
        if SAMPLE:
            epsilon = _standard_normal(seed, row, tl.program_id(1) * BLOCK_COLUMNS, BLOCK_COLUMNS, WIDE)
            noise = tl.exp(0.5 * log_var) * epsilon
        if HAS_VALUE:
            place = row.to(tl.int64)[:, None] * columns + column[None, :]
            d_mean = tl.load(d_value + place, mask=inside, other=0.0).to(WIDE)
            if SAMPLE:
                d_log_var = 0.5 * d_mean * noise
        if HAS_PRIOR:
            if HAS_COUNTED:
                inside = inside & (tl.load(counted + row, mask=row < rows, other=0) != 0)[:, None]
            delta = _dot(z, tl.trans(B - p_B), WIDE) + _dot(dz, tl.trans(p_B), WIDE)
            d_delta = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), WIDE)
            d_d = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), WIDE)
            w = tl.exp(d - log_var)
            if HAS_KL:
                scale = tl.load(d_kl)
                if ONE_SAMPLE:
                    t = delta + noise
                    d_delta = w * t
                    half = 0.5 * d_delta * t
                    d_v = 0.5 * d_delta * noise - half
                    d_d = half - 0.5
                else:
                    d_delta = w * delta
                    half = 0.5 * d_delta * delta
                    d_d = 0.5 * (d + _excess(d)) + half
                    d_v = -half
                d_delta = tl.where(inside, scale * d_delta, 0.0)
                d_d = tl.where(inside, scale * d_d, 0.0)
                if not PRIOR_ONLY:
                    d_log_var += tl.where(inside, scale * d_v, 0.0)
            # through the bound, from log_var and d to what is linear in the inner products
            d_log_var = d_log_var * slope
            if not PRIOR_ONLY:
                d_log_var += d_d * (slope - prior_slope)
            d_d = d_d * prior_slope
            # of the prior's own mean and log-variance
            d_p_mean = -d_delta
            d_p_log_var = -d_d
            of_z = _dot(d_mean, B, WIDE)
            of_z_v = _dot(d_log_var, B_v, WIDE)
            of_dz = _dot(d_delta, p_B, WIDE)
            of_dz_v = _dot(d_d, p_B_v, WIDE)
            if PRIOR_ONLY:  # posterior and input are constants: see gaussian.tile
                d_delta = tl.zeros_like(d_delta)
                d_d = tl.zeros_like(d_d)
                of_dz = -of_dz
                of_dz_v = -of_dz_v
            else:
                of_z += _dot(d_delta, B - p_B, WIDE)
                of_z_v += _dot(d_d, B_v - p_B_v, WIDE)
            if HAS_HYPER:
                scale = tl.load(d_hyper)
                p_mean = _dot(z, tl.trans(B), WIDE) - delta
                by_mean = tl.where(inside, scale * p_mean, 0.0)
                by_log_var = tl.where(inside, scale * (SHAPE_LESS_ONE - RATE * w), 0.0) * prior_slope
                through = _dot(by_mean, p_B, WIDE)
                through_v = _dot(by_log_var, p_B_v, WIDE)
                if PRIOR_ONLY:
                    of_dz += through
                    of_dz_v += through_v
                else:
                    of_z += through
                    of_dz -= through
                    of_z_v += through_v
                    of_dz_v -= through_v
                d_p_mean += by_mean
                d_p_log_var += by_log_var
            _store_inner(own_inner, of_z, row, rows, 0, PARTS, RANK, PADDED)
            _store_inner(own_inner, of_dz, row, rows, 1, PARTS, RANK, PADDED)
            _store_inner(own_inner, of_z_v, row, rows, 2, PARTS, RANK, PADDED)
            _store_inner(own_inner, of_dz_v, row, rows, 3, PARTS, RANK, PADDED)
            of_B += _dot(tl.trans(d_mean + d_delta), z, WIDE)
            of_B_v += _dot(tl.trans(d_log_var + d_d), z_v, WIDE)
            of_p_B += _dot(tl.trans(d_p_mean), z - dz, WIDE)
            of_p_B_v += _dot(tl.trans(d_p_log_var), z_v - dz_v, WIDE)
        else:
            d_log_var = d_log_var * slope
            _store_inner(own_inner, _dot(d_mean, B, WIDE), row, rows, 0, PARTS, RANK, PADDED)
            _store_inner(own_inner, _dot(d_log_var, B_v, WIDE), row, rows, 1, PARTS, RANK, PADDED)
            of_B += _dot(tl.trans(d_mean), z, WIDE)
            of_B_v += _dot(tl.trans(d_log_var), z_v, WIDE)

    first = tl.program_id(0) * PARTS
    _store_factor(d_B, of_B, column, columns, first, RANK, PADDED)
    _store_factor(d_B, of_B_v, column, columns, first + 1, RANK, PADDED)
    if HAS_PRIOR:
        _store_factor(d_B, of_p_B, column, columns, first + 2, RANK, PADDED)
        _store_factor(d_B, of_p_B_v, column, columns, first + 3, RANK, PADDED)
