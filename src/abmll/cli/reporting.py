"""The third stage: a report from predictions, with whatever the runs left beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abmll.cli.arguments import Overwrite, existing_file, free_path
from abmll.core.documents import read_json, read_toml
from abmll.core.errors import AbmllError, unknown_name
from abmll.core.notices import tell

if TYPE_CHECKING:
    from abmll.evaluation.predictions import Cell, CellKey

OURS = ("title", "held_out_families", "setting", "options")
"""What a report reads of its run by these names; no record beside the predictions says it."""
DEPTH = 3
"""How many folders below the predictions training logs are looked for."""


def report(
    predictions: Annotated[
        list[Path], typer.Argument(metavar="PREDICTIONS...", help="predictions.jsonl of one or more evaluations.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The HTML file to write.")] = Path(
        "report.html"
    ),
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="METHOD",
            help="What differences are taken to  [default: abmll or a form of it, else the first that is no reference]",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make an HTML report from predictions.

    It is one self-contained file and needs neither model nor network. Learning curves, run details and the texts of
    examples come from what lies beside the predictions: training.jsonl, run.toml, provenance.json, queries.jsonl.

    \b
    Example:
      abmll report runs/abmll/predictions.jsonl runs/lora/predictions.jsonl -o report.html
    """
    for path in predictions:
        existing_file(path, "predictions file")
    free_path(out, overwrite)
    from abmll.evaluation.domains import ood_intervals
    from abmll.evaluation.queries import QUERIES, read_queries
    from abmll.evaluation.summary import summarise
    from abmll.reports.report import write_report
    from abmll.reports.tables import text_table

    cells = merged(predictions)
    if baseline is not None and baseline not in (methods := {cell.method for cell in cells}):
        raise unknown_name("baseline", baseline, methods)
    summary = summarise(cells, baseline)
    queries = {key: query for path in predictions for key, query in read_queries(path.parent / QUERIES).items()}
    logs, info = training_logs(predictions), run_info(predictions)
    written = write_report(cells, summary, ood_intervals(cells), out, logs, info, queries)
    typer.echo(text_table(summary).rstrip())
    typer.echo(f"\nReport: {written}")


def print_table(predictions: Path) -> None:
    """The table of means and paired differences, on standard output."""
    from abmll.evaluation.predictions import read_cells
    from abmll.evaluation.summary import summarise
    from abmll.reports.tables import text_table

    typer.echo(text_table(summarise(read_cells(predictions))).rstrip())


def merged(predictions: Sequence[Path]) -> list[Cell]:
    """The cells of all files, one that stands in several once. Raises AbmllError if two files disagree on a cell."""
    from abmll.evaluation.predictions import read_cells

    found: dict[CellKey, tuple[Path, Cell]] = {}
    for path in predictions:
        for cell in read_cells(path):
            other, known = found.setdefault(cell.key, (path, cell))
            if known is not cell and not known.same_predictions(cell):
                raise AbmllError(
                    f"{other} and {path} hold different predictions of {cell}. They come from different runs: "
                    "report them apart, or evaluate them with different seeds."
                )
    return [cell for _, cell in found.values()]


def training_logs(predictions: Sequence[Path]) -> dict[str, Path]:
    """Every training.jsonl beside or a little below the predictions, by the path of its folder."""
    patterns = ["*/" * depth + "training.jsonl" for depth in range(DEPTH + 1)]
    found = [log for path in predictions for pattern in patterns for log in sorted(path.parent.glob(pattern))]
    return {str(log.parent): log for log in dict.fromkeys(found)}


def run_info(predictions: Sequence[Path]) -> dict[str, Any]:
    """The provenance.json beside the predictions; of several files, each under its own path."""
    found = {str(path): _read_json(path.parent / "provenance.json") | _about(path.parent) for path in predictions}
    found = {path: info for path, info in found.items() if info}
    return next(iter(found.values())) if len(predictions) == 1 and found else found


def _about(folder: Path) -> dict[str, Any]:
    """What the run file beside the predictions says; nothing without one that this version understands."""
    from abmll.config import about_run, load_config

    path = folder / "run.toml"
    try:
        method = read_toml(path).get("method", {})
        if ":" in str(method.get("name", "") if isinstance(method, dict) else method):
            return {}  # a method from outside: a report is no reason to run its module
        return about_run(load_config(path))
    except AbmllError:
        return {}


def _read_json(path: Path) -> dict[str, Any]:
    """A record beside the predictions; a damaged one is told and left out, since the report can do without."""
    if not path.exists():
        return {}
    try:
        found = read_json(path)
    except AbmllError as error:
        tell(f"Warning: the report is made without {path}, which cannot be read: {error}")
        return {}
    if not isinstance(found, dict):
        tell(f"Warning: the report is made without {path}, which holds no JSON object.")
        return {}
    return {key: value for key, value in found.items() if key not in OURS}
