"""The ratios as plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.speed.cases import BASELINE, VARIANTS

COLOURS = {"published": "#8c8c8c", "naive": "#e69f00", "fused": "#0072b2", "weight": "#009e73"}
MEASURES = (
    ("seconds_ratio", "time of a training step"),
    ("saved_ratio", "bytes saved for the backward pass"),
    ("peak_ratio", "peak memory of a step"),
)


def draw(results: dict[str, Any], folder: Path) -> None:
    """One figure for the layers and one for the models, as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, label in (("layers", "width of the layer"), ("models", "hidden size of the model")):
        if part in results:
            _ratios(results[part], label, folder / f"speed-{part}.svg")


def _ratios(rows: list[dict[str, Any]], label: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "speed"  # equal results are equal files
    import matplotlib.pyplot as plt

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
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
