"""Before the first step: everything that can be known to be wrong without the model's weights, told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from abmll import models
from abmll.config import ModelConfig, RunConfig
from abmll.core.errors import AbmllError
from abmll.core.folders import hold, require_room, require_writable
from abmll.core.types import Example
from abmll.data.task import Task
from abmll.language import PromptFormat
from abmll.language.context import said_context
from abmll.language.preflight import row_mistakes
from abmll.pipeline.build import device_of
from abmll.rules import raise_all

T = TypeVar("T")
SMALLEST_ROOM = 2**20
"""Bytes without which no output folder is of use."""


class Findings:
    """The mistakes that the checks of a run have found so far."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def of(self, check: Callable[[], T]) -> T | None:
        """What `check` returns; None if it raises AbmllError, which is kept."""
        try:
            return check()
        except AbmllError as error:
            self.mistakes.append(str(error))
            return None

    def of_device(self, model: ModelConfig) -> None:
        """Whether there is the device that the model shall be on."""
        self.of(lambda: device_of(model))

    def of_folder(self, out: Path, *, alone: bool = True) -> None:
        """Whether `out` can be written, has room and (if `alone`) is in nobody's hands."""

        def check() -> None:
            require_room(out, SMALLEST_ROOM, "results")
            require_writable(out)
            if alone:
                with hold(out):
                    pass

        self.of(check)

    def of_rows(
        self, model: ModelConfig, prompt: PromptFormat, places: Iterable[tuple[str, Sequence[Example]]]
    ) -> None:
        """Whether every row can be put to the model. Needs its tokenizer and configuration, not its weights."""
        config: Any = self.of(lambda: models.load_config(model.name, revision=model.revision))
        if config is None:
            return
        tokenizer: Any = self.of(lambda: models.load_tokenizer(model.name, revision=model.revision))
        if tokenizer is None:
            return
        for place, rows in places:
            self.mistakes += row_mistakes(place, rows, tokenizer, prompt, said_context(config))

    def raise_all(self) -> None:
        """Raises one AbmllError for all mistakes; nothing if there is none."""
        raise_all(self.mistakes)


def places_of(tasks: Iterable[Task]) -> Iterable[tuple[str, Sequence[Example]]]:
    """Each task's rows, with the words that say where they are from; a task that comes twice is looked at once."""
    for task in {id(task): task for task in tasks}.values():
        yield task.place, task.all_rows


def require_usable(
    config: RunConfig,
    prompt: PromptFormat,
    places: Iterable[tuple[str, Sequence[Example]]],
    out: Path | None = None,
    *,
    alone: bool = True,
) -> None:
    """Raises AbmllError for all that is wrong with rows, device and output folder, before the model is loaded.

    Args:
        places: rows, with the words that say where they are from.
        out: of a command that writes nothing, None.
        alone: whether the folder must be in nobody's hands.
    """
    findings = Findings()
    findings.of_device(config.model)
    if out is not None:
        findings.of_folder(out, alone=alone)
    findings.of_rows(config.model, prompt, places)
    findings.raise_all()
