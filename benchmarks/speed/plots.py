"""The ratios as plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.speed.cases import BASELINE, BOUNDED, VARIANTS

COLOURS = {"published": "#8c8c8c", "naive": "#e69f00", "fused": "#0072b2", BOUNDED: "#cc79a7", "weight": "#009e73"}
MEASURES = (
    ("seconds_ratio", "time of a training step"),
    ("saved_ratio", "bytes saved for the backward pass"),
    ("peak_ratio", "peak memory of a step"),
)


def draw(results: dict[str, Any], folder: Path) -> None:
    """A figure each for the layers, the models, and whole methods, as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, label in (("layers", "width of the layer"), ("models", "hidden size of the model")):
        if part in results:
            _ratios(results[part], label, folder / f"speed-{part}.svg")

    if "adaptation" in results and "tasks" in results:
        _methods(results["adaptation"][0], results["tasks"], folder / "speed-methods.svg")


def _methods(row: dict[str, Any], by_tasks: list[dict[str, Any]], path: Path) -> None:
    """Adapting, an outer step beside MAML's, and an outer step against the number of tasks."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    measures = (("seconds_ratio", "time", "#0072b2"), ("peak_ratio", "peak memory", "#e69f00"))
    parts = (("adapt", "adapting to 16 examples", "LoRA's"), ("meta_step", "an outer step", "MAML's"))
    for axis, (part, title, baseline) in zip(axes, parts, strict=False):
        names = list(row[part])
        for i, (key, label, colour) in enumerate(measures):
            places = [n + 0.38 * (i - 0.5) for n in range(len(names))]
            bars = axis.barh(places, [row[part][name][key] for name in names], 0.36, color=colour, label=label)
            axis.bar_label(bars, fmt="%.2f×", padding=3, fontsize=8)
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.25 * max(row[part][name][key] for name in names for key, _, _ in measures))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(f"ratio to {baseline}")
    sizes = [f"{r['tasks']}" for r in by_tasks]
    for key, label, colour in measures:
        axes[2].plot(sizes, [r[key] for r in by_tasks], "o-", color=colour, label=label, markersize=4)
    low, high = ([r[f"seconds_ratio_{end}"] for r in by_tasks] for end in ("low", "high"))
    axes[2].fill_between(sizes, low, high, color=measures[0][2], alpha=0.15, linewidth=0)
    axes[2].set_ylim(0, 1.6)
    axes[2].set_title("an outer step of ABMLL", fontsize=10)
    axes[2].set_xlabel("tasks in meta-training")
    axes[2].set_ylabel(f"ratio to {sizes[0]} tasks")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "speed"  # equal results are equal files
    import matplotlib.pyplot as plt

    return plt


def _ratios(rows: list[dict[str, Any]], label: str, path: Path) -> None:
    plt = _pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    sizes = [str(row["size"]) for row in rows]
    for axis, (key, title) in zip(axes, MEASURES, strict=True):
        for variant in VARIANTS:
            if variant == BASELINE:
                continue
            values = [row["cases"][variant][key] for row in rows]
            axis.plot(sizes, values, "o-", color=COLOURS[variant], label=variant, markersize=4)
            if key == "seconds_ratio":
                low, high = ([row["cases"][variant][f"{key}_{end}"] for row in rows] for end in ("low", "high"))
                axis.fill_between(sizes, low, high, color=COLOURS[variant], alpha=0.15, linewidth=0)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"ratio to {BASELINE}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
