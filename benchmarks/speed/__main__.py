"""Measures, prints the ratios, and writes benchmarks/results/speed.json and the plots of docs/performance.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import beside, cases, compiled, gpu, head, measure, padding, plots, tasks

RESULTS = Path(__file__).parents[1] / "results" / "speed.json"
FIGURES = Path(__file__).parents[2] / "docs" / "figures"


def layers(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    sizes, batch, tokens = ([32], 2, 8) if options.small else ([256, 512, 1024, 2048, 4096], 4, 128)
    for size in options.sizes or sizes:
        yield {
            "size": size,
            "batch": batch,
            "tokens": tokens,
            "cases": _all(partial(_layer_case, size, batch, tokens), options),
        }


def models(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    depths, batch, tokens = ({32: 1}, 2, 8) if options.small else ({256: 4, 1024: 2, 4096: 1}, 4, 128)
    for hidden in options.sizes or depths:
        config = cases.llama_config(hidden, depths.get(hidden, 2))
        yield {
            "size": hidden,
            "layers": config.num_hidden_layers,
            "batch": batch,
            "tokens": tokens,
            "cases": _all(partial(_model_case, config, batch, tokens), options),
        }


def number_of_tasks(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    counts = options.sizes or ([2, 4] if options.small else [10, 100, 1000])
    yield from (
        {"size": row["tasks"], **row}
        for row in tasks.number_of_tasks(counts, max(2, options.repeats), measure.CLOCKS[options.clock])
    )


def adaptation(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    yield {"size": 16, **tasks.adaptation(options.repeats, measure.CLOCKS[options.clock])}


def mixed_lengths(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for count in options.sizes or [40 if options.small else 320]:
        yield {"size": count, **padding.padding(count, options.repeats, measure.CLOCKS[options.clock])}


def side_by_side(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for count in options.sizes or ([2] if options.small else [1, 4, 16]):
        row = tasks.side_by_side(count, options.repeats, measure.CLOCKS[options.clock])
        yield {"size": count, "examples": 16, "cases": row}


def compiling(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    depths, batch, tokens = ({32: 1}, 2, 8) if options.small else ({128: 4, 1024: 2}, 4, 128)
    for hidden in options.sizes or depths:
        arguments = (depths.get(hidden, 2), batch, tokens, options.repeats, measure.CLOCKS[options.clock])
        yield {"size": hidden, **compiled.compiled(hidden, *arguments)}


def vocabulary(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    small = cases.llama_config(32, 1)
    for config in [small] if options.small else [cases.llama_config(64, 4, 49_152), cases.smollm2_config()]:
        if options.sizes is None or config.hidden_size in options.sizes:
            row = head.head(config, 8, 50, options.repeats, measure.CLOCKS[options.clock])
            yield {"size": config.hidden_size, "vocabulary": config.vocab_size, **row}


def whole_models(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    shapes = {576: cases.smollm2_config, 1024: lambda **given: cases.llama_config(1024, 32, 49_152, **given)}
    if options.small:
        shapes = {32: lambda **given: cases.llama_config(32, 2, **given)}
    for size, shape in shapes.items():
        if options.sizes is None or size in options.sizes:
            config = shape()
            config.num_hidden_layers = options.layers or config.num_hidden_layers
            upper = max(1, config.num_hidden_layers // 5)
            clock = measure.CLOCKS[options.clock]
            dtype = getattr(torch, options.dtype)
            yield {
                "size": size,
                **beside.beside(config, options.rows, options.repeats, clock, upper=upper, dtype=dtype),
            }


def llama_8b(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    shape, device, batch, tokens = (gpu.TINY, "cpu", 2, 16) if options.small else (gpu.LLAMA_3_8B, "cuda", 8, 512)
    yield {"size": shape["hidden_size"], **gpu.train(shape, device, batch, tokens, options.repeats)}


def _layer_case(size: int, batch: int, tokens: int, variant: str) -> measure.Case:
    return cases.layer_case(variant, size, batch, tokens)


def _model_case(config: Any, batch: int, tokens: int, variant: str) -> measure.Case:
    return cases.model_case(variant, config, batch, tokens)


def _all(make: Callable[[str], measure.Case], options: argparse.Namespace) -> dict[str, Any]:
    made = {variant: make(variant) for variant in cases.VARIANTS}
    return measure.compare(made, options.repeats, cases.BASELINE, measure.CLOCKS[options.clock])


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "layers": layers,
    "models": models,
    "adaptation": adaptation,
    "tasks": number_of_tasks,
    "padding": mixed_lengths,
    "side-by-side": side_by_side,
    "compile": compiling,
    "head": vocabulary,
    "beside": whole_models,
    "gpu": llama_8b,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.speed", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all but gpu if none is named")
    parser.add_argument("--repeats", type=int, default=5, help="turns that every case takes (default 5)")
    parser.add_argument("--clock", choices=measure.CLOCKS, default="wall", help="cpu: on a machine that others use too")
    parser.add_argument("--sizes", type=int, nargs="+", help="widths (or numbers of tasks); rows of others are kept")
    parser.add_argument("--layers", type=int, help="beside: so many blocks instead of the shape's own")
    parser.add_argument("--rows", type=int, default=8, help="beside: texts in a step (default 8)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="beside: of the weights")
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that it runs, and measures nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file; what is not run again is kept")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder for the plots")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}: choose of {', '.join(PARTS)}")
    parts = options.parts or [part for part in PARTS if part != "gpu"]
    if "gpu" in parts and not options.small and not torch.cuda.is_available():
        print(gpu.NEEDS, file=sys.stderr)
        return 2
    results = json.loads(options.output.read_text()) if options.output.is_file() else {}
    for part in parts:
        for row in PARTS[part](options):
            row |= {"environment": measure.environment(), "repeats": options.repeats, "clock": options.clock}
            print(part, json.dumps(row, indent=1), flush=True)
            others = [kept for kept in results.get(part, []) if kept["size"] != row["size"]]
            results[part] = sorted([*others, row], key=lambda kept: kept["size"])
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    plots.draw(results, options.figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
