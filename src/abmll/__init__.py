"""Meta-learned, uncertainty-aware fine-tuning of language models.

    learner = abmll.Learner("smollm2")                # or a folder, a Hugging Face name, or (model, tokenizer)
    learner.meta_train("my_tasks/")
    posterior = learner.adapt(texts, labels)          # a handful of labelled rows of a new task
    prediction = posterior.predict(new_texts)         # .labels, .probabilities, .entropy, ...
    posterior.save("adapters/new_task")
    abmll.load("adapters/new_task").predict(new_texts)

Names are loaded when they are first used: importing the package loads neither torch, transformers nor PEFT. What is
public, and for how long, is told in docs/api.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from abmll.version import __version__

if TYPE_CHECKING:
    from abmll import models
    from abmll.adapters import AbmllConfig
    from abmll.core.errors import AbmllError
    from abmll.core.example import Episode, Example
    from abmll.core.types import META, TASK, Method
    from abmll.data.readers import read_task
    from abmll.data.suite import Suite, load_suite
    from abmll.data.task import Task
    from abmll.language import PromptFormat
    from abmll.learner import Evaluation, Learner, Prediction, TaskPosterior, load
    from abmll.methods import METHODS, build_method
    from abmll.training.settings import Training

_HOME = {
    "AbmllConfig": "abmll.adapters",
    "AbmllError": "abmll.core.errors",
    "Episode": "abmll.core.example",
    "Evaluation": "abmll.learner",
    "Example": "abmll.core.example",
    "Learner": "abmll.learner",
    "META": "abmll.core.types",
    "METHODS": "abmll.methods",
    "Method": "abmll.core.types",
    "Prediction": "abmll.learner",
    "PromptFormat": "abmll.language",
    "Suite": "abmll.data.suite",
    "TASK": "abmll.core.types",
    "Task": "abmll.data.task",
    "TaskPosterior": "abmll.learner",
    "Training": "abmll.training.settings",
    "build_method": "abmll.methods",
    "load": "abmll.learner",
    "load_suite": "abmll.data.suite",
    "read_task": "abmll.data.readers",
}

__all__ = [
    "META",
    "METHODS",
    "TASK",
    "AbmllConfig",
    "AbmllError",
    "Episode",
    "Evaluation",
    "Example",
    "Learner",
    "Method",
    "Prediction",
    "PromptFormat",
    "Suite",
    "Task",
    "TaskPosterior",
    "Training",
    "__version__",
    "build_method",
    "load",
    "load_suite",
    "models",
    "read_task",
]


def __getattr__(name: str) -> Any:
    if name == "models":
        return importlib.import_module("abmll.models")  # which binds the name, so this is called once
    if name not in _HOME:
        near = [known for known in _HOME if known.casefold() == name.casefold()]
        raise AttributeError(
            f"module 'abmll' has no attribute {name!r}" + (f": did you mean {near[0]!r}?" if near else "")
        )
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
