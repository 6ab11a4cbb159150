"""The progress bar of long work: steps, rate, time left and the last loss; silent where there is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(
    start: int, total: int, *, visible: bool, title: str = "meta-training"
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields a function that takes a step's log record and moves the bar to its step."""
    console = None
    if visible:
        from rich.console import Console

        console = Console(stderr=True)
    if console is None or not console.is_terminal:
        yield lambda record: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        """Steps a second, or seconds a step where they are slow."""

        def __init__(self) -> None:
            super().__init__("")

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            if not speed:
                return Text("")
            return Text(f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step")

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=total, completed=start, loss="")

        def update(record: Mapping[str, Any]) -> None:
            nll = record.get("nll")
            progress.update(bar, completed=record["step"], loss="" if nll is None else f"nll {nll:.4f}")

        yield update
