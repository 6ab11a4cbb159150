"""How numbers are written in tables and sentences."""

from __future__ import annotations

import math

from abmll.evaluation.statistics import Interval

MINUS = "−"


def number(value: float, digits: int = 3) -> str:
    """0.123, −0.123 with a real minus sign, a dash for NaN; never a negative zero."""
    if math.isnan(value):
        return "–"
    text = f"{value:.{digits}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", MINUS)


def amount(value: float) -> str:
    """Seconds, MiB and the like: three digits, whole from 1000 on, and no more than that of very small ones."""
    if 0 < abs(value) < 0.001:
        return "< 0.001"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def signed(value: float, digits: int = 3) -> str:
    """As `number`, with a plus sign before positive numbers."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and float(f"{value:.{digits}f}") != 0 else text


def p_value(value: float) -> str:
    """p = 0.012, p < 0.001, or nothing if there is none."""
    if math.isnan(value):
        return ""
    return "p < 0.001" if value < 0.0005 else f"p = {value:.3f}"


def mean_and_half_width(interval: Interval) -> str:
    """0.712 ± 0.031: the mean and half the width of the 95 % interval."""
    return number(interval.mean) + ("" if math.isnan(interval.low) else f" ± {number(interval.half_width)}")


def mean_and_bounds(interval: Interval) -> str:
    """−0.021 [−0.044, +0.001]"""
    if math.isnan(interval.low):
        return signed(interval.mean)
    return f"{signed(interval.mean)} [{signed(interval.low)}, {signed(interval.high)}]"
