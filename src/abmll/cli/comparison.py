"""The comparison of methods, and the search for their options that comes before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abmll.cli.arguments import Overrides, Quiet, RunFile, require_one_process
from abmll.cli.group import complain
from abmll.core.errors import AbmllError

if TYPE_CHECKING:
    from abmll.config import RunConfig
    from abmll.pipeline.compare import Comparison
    from abmll.pipeline.pool import Failure

Jobs = Annotated[
    int,
    typer.Option("--jobs", "-j", min=1, metavar="N", help="Processes side by side; GPUs are dealt to them in turn."),
]


def tune(
    run: RunFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Folder for tuned.toml  [default: the run's output]"),
    ] = None,
    jobs: Jobs = 1,
    quiet: Quiet = False,
) -> None:
    """Choose the options of methods on the validation tasks.

    Tries tune.trials settings of every method of the run, its defaults first and then random ones, and never sees a
    test task. Every trial is kept in trials.jsonl; the best options of each method go to tuned.toml.

    \b
    Examples:
      abmll tune run.toml 'method.name=["lora", "reptile", "abmll"]' -o runs/tuned
      abmll tune run.toml tune.trials=32 tune.num_steps=100 --jobs 4
    """
    require_one_process("tune")
    from abmll.config import load_config

    config = load_config(run, overrides or ())
    from abmll import pipeline

    written, failures = pipeline.tune_run(config, out or config.output, jobs=jobs, progress=not quiet)
    typer.echo(f"Tuned: {written}\nNext:  abmll compare {config.data.suite} --run {run} --tuned {written}")
    _tell(failures, len(config.method.names))


def compare(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A shipped suite, a folder of tasks or a suite TOML.")],
    overrides: Overrides = None,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="A,B,…", help="Methods  [default: the run file's]")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, metavar="N", help="Repetitions  [default: the run file's]")
    ] = None,
    support: Annotated[
        str | None, typer.Option("--support", metavar="N,N,…", help="Support sizes  [default: the run file's]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Folder for everything  [default: the run's output]"),
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN.toml", help="Run file with everything else; any field of it.")
    ] = None,
    tuned: Annotated[
        Path | None, typer.Option("--tuned", metavar="FILE", help="Options that `abmll tune` wrote.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="METHOD",
            help="What the paired tests are against  "
            "[default: abmll or a form of it, else the first that is no reference]",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="BUDGET",
            help="steps, steps=20, seconds or seconds=1.5: equal for all; without a number, the baseline's own.",
        ),
    ] = None,
    jobs: Jobs = 1,
    quiet: Quiet = False,
) -> None:
    """Compare methods on held-out tasks.

    Trains every method with every seed, adapts it to every held-out task from every number of support examples, and
    writes one table of accuracy, calibration, out-of-domain detection and cost, and a report. Nothing is computed
    twice: the same command goes on where it stopped, and methods may be added later. Exit status 1 if a part failed.

    \b
    Examples:
      abmll compare default --methods abmll,lora,multitask,reptile --seeds 5 --support 4,16,64 -o runs/compared
      abmll compare my_tasks --run run.toml --tuned runs/tuned/tuned.toml --budget seconds --jobs 4
    """
    require_one_process("compare")
    config = _config(suite, run, list(overrides or ()), methods, seeds, support, out, tuned)
    from abmll import pipeline

    limit = None if budget is None else pipeline.Budget.parse(budget)
    written = pipeline.compare_run(
        config, config.output, baseline=baseline, budget=limit, jobs=jobs, progress=not quiet
    )
    tell_comparison(written)


def _config(
    suite: str,
    run: Path | None,
    overrides: list[str],
    methods: str | None,
    seeds: int | None,
    support: str | None,
    out: Path | None,
    tuned: Path | None,
) -> RunConfig:
    """The run file with what the command line says put in; checked as a whole."""
    from abmll.config import load_config, parse_overrides
    from abmll.core.toml_text import toml_value

    given: list[tuple[str, Any]] = [("data.suite", suite)]
    if methods is not None:
        given.append(("method.name", [name.strip() for name in methods.split(",") if name.strip()]))
    if seeds is not None:
        given.append(("evaluation.seeds", list(range(seeds))))
    if support is not None:
        given.append(("evaluation.support_sizes", _numbers(support)))
    if out is not None:
        given.append(("output", str(out)))
    if tuned is not None:
        given.append(("method.tuned", str(tuned)))
    fields = [*overrides, *(f"{field}={toml_value(value)}" for field, value in given)]
    return parse_overrides(fields) if run is None else load_config(run, fields)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise AbmllError(f"--support {text!r}: give whole numbers with commas between, such as 4,16,64.") from None


def tell_comparison(written: Comparison) -> None:
    """Prints the table and where everything lies; ends with status 1 if a unit failed."""
    typer.echo(written.text.rstrip())
    typer.echo(f"\nTable:  {written.table}\nReport: {written.report}  (open it in a browser)")
    _tell(written.failures, written.num_units)


def _tell(failures: Sequence[Failure], count: int) -> None:
    """Names what failed on standard error, and ends with status 1 if anything did."""
    if not failures:
        return
    lines = [f"{len(failures)} of {count} failed; the others are done. The same command tries these again:"]
    complain("\n".join([*lines, *(f"  {failure.unit}: {failure.error}" for failure in failures)]))
    raise typer.Exit(1)
