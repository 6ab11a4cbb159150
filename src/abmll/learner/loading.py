"""What was saved, back in one call."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from abmll.card import read_card
from abmll.core.types import META, Method
from abmll.learner.learner import Learner
from abmll.learner.posterior import TaskPosterior


def load(
    directory: str | PathLike[str],
    model: Any = None,
    tokenizer: Any = None,
    *,
    method: str | Method | Callable[..., Method] | None = None,
    prediction_batch_size: int = 32,
    dtype: str | None = None,
    device: str | None = None,
) -> Any:
    """What an adapter folder holds: a task's posterior, or the learner that was meta-trained.

    It knows its base model, method, prompt, question and classes: `abmll.load("adapters/new_task").predict(texts)`.
    Several tasks on one model: `Learner.load_posterior`.

    Args:
        directory: the folder that `save`, `abmll train` or `abmll adapt` wrote.
        model: its base model, or a name for it; None loads what the folder names.
        tokenizer: of a model that is given as an object.
        method: as for `Learner.load`: needed if the method is from outside this package.
        prediction_batch_size: how many questions a prediction pass takes.
        dtype: of the weights of a model loaded by name; by default what the adapter was made with.
        device: where a model loaded by name computes.

    Returns:
        A `TaskPosterior` for the folder of an adapted task, a `Learner` for that of a meta-trained one.

    Raises:
        AbmllError: If a file of the folder is missing, damaged, of another folder or made for another base model.
    """
    directory = Path(directory)
    learner = Learner.load(
        directory,
        model,
        tokenizer,
        method=method,
        prediction_batch_size=prediction_batch_size,
        dtype=dtype,
        device=device,
    )
    found: Learner | TaskPosterior = learner if read_card(directory).role == META else learner.posterior()
    return found
