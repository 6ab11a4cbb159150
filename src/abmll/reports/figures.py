"""The report's figures as inline SVG: small panels whose colours are CSS variables, so that they follow the page.

Text stays text. The bytes depend on the data alone: no date, fixed identifiers.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from abmll.evaluation import calibration
from abmll.evaluation.metrics import METRICS
from abmll.evaluation.predictions import Cell
from abmll.evaluation.ranking import Ranking
from abmll.evaluation.summary import Summary
from abmll.reports.learning import WORDS, Curve
from abmll.reports.notation import mean_and_half_width

# Matplotlib knows no CSS variables: it draws in these stand-ins, which `_svg` replaces.
INK, FAINT, SURFACE = "#010101", "#020202", "#030303"
_SERIES = [f"#0401{i:02x}" for i in range(8)]
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", SURFACE: "var(--surface)"}
_VARIABLES |= {color: f"var(--s{i})" for i, color in enumerate(_SERIES)}

_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "p"]
_DASHES: list[tuple[float, tuple[float, ...]]] = [
    (0, ()),
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (9, 3)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (1, 3)),
    (0, (9, 2, 3, 2)),
]

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "abmll",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.35,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
}


FEW = 20
"""Bins with fewer predictions are drawn pale and without their gap: it would be noise."""


class Look(NamedTuple):
    """How a method is drawn in every figure: never by colour alone."""

    color: str
    marker: str
    dash: tuple[float, tuple[float, ...]]


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """A look for each method, by its place; they repeat after eight, where marker and dash shift by one."""
    turns = [(i % 8, (i + i // 8) % 8) for i in range(len(methods))]
    return {
        method: Look(_SERIES[color], _MARKERS[other], _DASHES[other])
        for method, (color, other) in zip(methods, turns, strict=True)
    }


@functools.cache
def swatch(look: Look) -> str:
    """A short piece of the method's line with its marker, for the legend."""
    with _figure(0.42, 0.14) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.plot([0, 0.5, 1], [0, 0, 0], color=look.color, linestyle=look.dash, clip_on=False)
        axes.plot([0.5], [0], color=look.color, marker=look.marker, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(-1, 1))
        return _svg(figure, f"swatch-{look.color[1:]}-{look.marker}", "", fixed_size=True)


def peak_share(pooled: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The largest share of predictions in a bin of any method: the one axis of all reliability diagrams."""
    counts = [calibration.reliability_curve(probs, targets).num_examples for probs, targets in pooled.values()]
    return max(float(count.max() / count.sum()) for count in counts)


def reliability(name: str, probs: torch.Tensor, targets: torch.Tensor, look: Look, peak: float) -> str:
    """Accuracy in 15 bins of confidence against the diagonal, with the share of predictions in each bin below.

    Bins of fewer than `FEW` predictions are pale. peak: the largest share on the lower axis (`peak_share`).
    """
    curve = calibration.reliability_curve(probs, targets)
    low, high, accuracy, confidence = (x.numpy() for x in (curve.low, curve.high, curve.accuracy, curve.confidence))
    count = curve.num_examples.numpy()
    share = count / count.sum()
    middle, width = (low + high) / 2, high - low
    with _figure(2.55, 2.85) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1], gridspec_kw={"hspace": 0.1})
        for enough, alpha in ((count >= FEW, 0.8), ((count > 0) & (count < FEW), 0.3)):
            top.bar(middle[enough], accuracy[enough], width[enough] * 0.88, color=look.color, alpha=alpha, linewidth=0)
        seen = count >= FEW
        start, length = np.fmin(accuracy, confidence)[seen], np.abs(accuracy - confidence)[seen]
        gap = {"color": "none", "edgecolor": INK, "linewidth": 0.8, "hatch": "/////"}
        top.bar(middle[seen], length, width[seen] * 0.88, start, **gap)
        top.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", yticks=[0, 0.5, 1])
        bottom.bar(middle, share, width * 0.88, color=look.color, alpha=0.8, linewidth=0)
        tips = Tips()
        for bin_ in np.flatnonzero(count):
            text = (
                f"confidence {low[bin_]:.2f} to {high[bin_]:.2f}, mean {confidence[bin_]:.3f}: accuracy "
                f"{accuracy[bin_]:.3f} of {count[bin_]:.0f} predictions ({share[bin_]:.1%})"
            )
            for axes, top_of in ((top, 1.0), (bottom, peak * 1.08)):
                tips.box(axes, (low[bin_], 0, high[bin_], top_of), text)
        bottom.set(xlabel="confidence", ylabel="share", xticks=[0, 0.25, 0.5, 0.75, 1], ylim=(0, peak * 1.08))
        bottom.set_xticklabels(["0", "0.25", "0.5", "0.75", "1"])
        bottom.set_yticks([0, peak], ["0", f"{peak:.0%}"])
        top.set_yticklabels(["0", "0.5", "1"])
        figure.align_ylabels([top, bottom])
        return _svg(figure, f"reliability-{name}", f"Reliability diagram of {name}", tips)


def risk_coverage(pooled: Mapping[str, tuple[torch.Tensor, torch.Tensor]], look: Mapping[str, Look]) -> str:
    """Error rate among the most confident predictions against their share, one line a method."""
    tips = Tips()
    with _figure(4.4, 3.0) as figure:
        axes = figure.subplots()
        for method, (probs, targets) in pooled.items():
            curve = calibration.risk_coverage(probs, targets)
            # The first few predictions make a jagged start that says nothing: begin at 1 %, draw 200 points.
            kept = np.unique(np.linspace(len(targets) // 100, len(targets) - 1, 200).astype(int))
            style = look[method]
            axes.plot(
                curve.coverage[kept], curve.risk[kept], color=style.color, linestyle=style.dash, marker=style.marker,
                markevery=(len(kept) - 1, 1),
            )  # fmt: skip
            for place in (len(targets) * np.arange(1, 11) // 10 - 1).clip(0):
                share, risk = float(curve.coverage[place]), float(curve.risk[place])
                tips.point(axes, share, risk, f"{method}: error rate {risk:.1%} of the surest {share:.0%}")
        axes.set(xlim=(0, 1.02), xlabel="coverage (most confident first)", ylabel="error rate")
        axes.set_ylim(bottom=0)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.grid(axis="y")
        return _svg(figure, "risk-coverage", "Error rate against coverage", tips)


def support_curve(summary: Summary, metric: str, look: Mapping[str, Look]) -> str:
    """A metric's mean and 95 % interval against the number of support examples, one line a method."""
    sizes = list(summary.support_sizes)
    place = {size: i for i, size in enumerate(sizes)}
    methods = list(summary.methods)
    tips = Tips()
    with _figure(4.2, 2.7) as figure:
        axes = figure.subplots()
        for i, method in enumerate(methods):
            own = [s for s in summary.standings if s.method == method]
            shift = 0.05 * (i - (len(methods) - 1) / 2)  # side by side, so that intervals do not hide each other
            x = [place[s.support_size] + shift for s in own]
            means = np.array([s.estimates[metric].mean for s in own])
            low = np.array([s.estimates[metric].low for s in own])
            high = np.array([s.estimates[metric].high for s in own])
            style = look[method]
            axes.vlines(x, low, high, color=style.color, linewidth=1.1, alpha=0.75)
            axes.plot(x, means, color=style.color, linestyle=style.dash, marker=style.marker)
            for place_, standing in zip(x, own, strict=True):
                text = f"{method}, {standing.support_size} examples: {mean_and_half_width(standing.estimates[metric])}"
                tips.point(axes, place_, standing.estimates[metric].mean, text)
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set(xlabel="support examples", ylabel=_metric_label(metric))
        axes.set_xlim(-0.35, len(sizes) - 0.65)
        axes.grid(axis="y")
        return _svg(figure, f"support-{metric}", f"{METRICS[metric].label} against support size", tips)


def learning_curve(title: str, curves: Sequence[Curve], look: Look, limits: tuple[float, float]) -> str:
    """A quantity against the outer step: every value faintly, and a running mean over 1/20 of the run.

    Args:
        limits: of the vertical axis (`bulk`), the same for all panels of one quantity.
    """
    tips = Tips()
    with _figure(3.1, 2.3) as figure:
        axes = figure.subplots()
        for curve in curves:
            axes.plot(curve.steps, curve.values, color=look.color, linewidth=0.6, alpha=0.22)
        for curve in curves:
            axes.plot(curve.steps, curve.smooth, color=look.color, linewidth=1.6)
            for place in np.unique(np.linspace(0, len(curve.steps) - 1, 11).astype(int)):
                step, value = curve.steps[place], curve.smooth[place]
                tips.point(axes, step, value, f"{curve.run}, step {step:.0f}: {value:.4g}")
        axes.set_ylim(*limits)
        axes.set(xlabel="outer step", ylabel=WORDS.get(curves[0].quantity, curves[0].quantity))
        axes.grid(axis="y")
        return _svg(
            figure, f"learning-{title}-{curves[0].quantity}", f"{curves[0].quantity} of {title} while training", tips
        )


def critical_difference(ranking: Ranking, metric: str) -> str:
    """Mean ranks on a line, 1 (the best) at the left, and bars that join methods which do not differ.

    Source: Demšar 2006, figure 1.
    """
    count, num_bars = len(ranking.methods), len(ranking.groups)
    half = (count + 1) // 2
    # in units of text lines: the ruler, the axis, the bars, then the names of the better and the worse half
    bar_space, height = 0.45 * num_bars + 0.4, 2.2 + 0.45 * num_bars + 0.4 + half
    with _figure(7.2, 0.24 * height) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set(xlim=(1 - 0.32 * (count - 1), count + 0.32 * (count - 1)), ylim=(height, 0))
        axis = 2.0
        axes.plot([1, count], [axis, axis], color=INK, linewidth=1)
        for tick in range(1, count + 1):
            axes.plot([tick, tick], [axis, axis - 0.2], color=INK, linewidth=1)
            axes.text(tick, axis - 0.3, str(tick), ha="center", va="bottom", fontsize=8)
        width = ranking.critical_difference
        shown = min(width, count - 1)
        axes.plot([1, 1 + shown], [0.5, 0.5], color=INK, linewidth=1.6)
        cut = "" if width <= count - 1 else ", wider than this axis"
        axes.text(1 + shown + 0.02 * (count - 1), 0.5, f"critical difference {width:.2f}{cut}", va="center", fontsize=8)
        for place, (name, rank) in enumerate(zip(ranking.methods, ranking.mean_ranks, strict=True)):
            left = place < half
            y = axis + bar_space + 0.5 + (place if left else count - 1 - place)
            end = 1 - 0.04 * (count - 1) if left else count + 0.04 * (count - 1)
            axes.plot([rank, rank, end], [axis, y, y], color=FAINT, linewidth=0.9)
            text = f"{name} {rank:.2f}" if left else f"{rank:.2f} {name}"
            gap = -0.01 * (count - 1) if left else 0.01 * (count - 1)
            axes.text(end + gap, y, text, ha="right" if left else "left", va="center", fontsize=8.5)
        place_of = dict(zip(ranking.methods, ranking.mean_ranks, strict=True))
        for number, group in enumerate(ranking.groups):
            y, margin = axis + 0.4 + 0.45 * number, 0.01 * (count - 1)
            ends = [place_of[group[0]] - margin, place_of[group[-1]] + margin]
            axes.plot(ends, [y, y], color=INK, linewidth=3, solid_capstyle="butt")
        return _svg(figure, f"ranks-{metric}", f"Critical-difference diagram of {METRICS[metric].label}")


def pooled(cells: Sequence[Cell]) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (examples, choices) and targets of all cells together; missing choices get probability 0."""
    log_means = [calibration.mixture(c.log_probs.double().log_softmax(-1)) for c in cells]
    width = max(m.shape[1] for m in log_means)
    padded = [torch.nn.functional.pad(m.exp(), (0, width - m.shape[1])) for m in log_means]
    return torch.cat(padded), torch.cat([c.targets for c in cells])


def bulk(curves: Sequence[Curve]) -> tuple[float, float]:
    """Vertical limits from the running means and 98 % of the values: one spike must not flatten the curves."""
    values = np.concatenate([c.values for c in curves])
    smooth = np.concatenate([c.smooth for c in curves])
    low = min(np.quantile(values, 0.01), smooth.min())
    high = max(np.quantile(values, 0.99), smooth.max())
    margin = 0.06 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


class Tips:
    """Texts that appear over parts of a figure: the <title>s of rectangles that nobody sees, drawn last."""

    def __init__(self) -> None:
        self._places: list[tuple[Axes, tuple[float, float, float, float], float, str]] = []

    def box(self, axes: Axes, corners: tuple[float, float, float, float], text: str) -> None:
        """A text over a box: left, bottom, right and top in the units of the axes."""
        self._places.append((axes, corners, 0.0, text))

    def point(self, axes: Axes, x: float, y: float, text: str) -> None:
        """A text over a point and what is less than a marker's width from it."""
        self._places.append((axes, (x, y, x, y), 5.5, text))

    def svg(self, figure: Figure) -> str:
        """The rectangles, where the figure that was drawn has these places, in points from its upper left corner."""
        width, height = 72 * figure.get_size_inches()
        shapes = []
        for axes, (left, bottom, right, top), margin, text in self._places:
            to_page = axes.transData + figure.transFigure.inverted()
            (x, low), (end, high) = to_page.transform([(left, bottom), (right, top)]) * (width, height)
            place = f'x="{x - margin:.1f}" y="{height - high - margin:.1f}"'
            size = f'width="{end - x + 2 * margin:.1f}" height="{high - low + 2 * margin:.1f}"'
            shapes.append(f"<rect {place} {size}><title>{escape(text)}</title></rect>\n")
        return f'<g fill-opacity="0">\n{"".join(shapes)}</g>\n' if shapes else ""


def _metric_label(metric: str) -> str:
    better = METRICS[metric].better
    return METRICS[metric].label + (f" ({better} is better)" if better else "")


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of this size in inches, in the report's style and apart from pyplot's global state."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained" if width > 1 else None)
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        yield figure


def _svg(figure: Figure, name: str, description: str, tips: Tips | None = None, fixed_size: bool = False) -> str:
    """The figure as an <svg> element that scales with the page, its identifiers made unique by `name`."""
    for axes in figure.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    # Not savefig, which draws twice.
    figure.canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[attr-defined]
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    if tips is not None:
        text = text.replace("</svg>", f"{tips.svg(figure)}</svg>")
    prefix = "f" + format(abs(_stable_hash(name)), "08x")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", text)
    width, height = (72 * side for side in figure.get_size_inches())
    size = f'width="{width:g}" height="{height:g}"' if fixed_size else f'style="max-width: {width * 1.6:g}px"'
    label = f'role="img" aria-label="{escape(description)}"' if description else 'aria-hidden="true"'
    return re.sub(r"<svg [^>]*>", f'<svg {size} viewBox="0 0 {width:g} {height:g}" {label}>', text, count=1)


def _stable_hash(name: str) -> int:
    value = 2166136261
    for byte in name.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return value
