"""Meta-learned, uncertainty-aware fine-tuning of language models.

    learner = abmll.Learner(model, tokenizer)           # any Hugging Face causal LM
    learner.meta_train(abmll.load_suite("tasks/").train)
    posterior = learner.adapt(support)                  # a handful of labelled examples of a new task
    probabilities = posterior.predict(query, num_samples=16).exp().mean(0)

Names are loaded when they are first used: importing the package loads neither transformers nor PEFT.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abmll.adapters import AbmllConfig
    from abmll.core.errors import AbmllError
    from abmll.core.types import META, TASK, Episode, Example, Method
    from abmll.data.readers import read_task
    from abmll.data.suite import Suite, load_suite
    from abmll.data.task import Task
    from abmll.language import PromptFormat
    from abmll.learner import Learner
    from abmll.methods import METHODS, build_method

_HOME = {
    "AbmllConfig": "abmll.adapters",
    "AbmllError": "abmll.core.errors",
    "Episode": "abmll.core.types",
    "Example": "abmll.core.types",
    "Learner": "abmll.learner",
    "META": "abmll.core.types",
    "METHODS": "abmll.methods",
    "Method": "abmll.core.types",
    "PromptFormat": "abmll.language",
    "Suite": "abmll.data.suite",
    "TASK": "abmll.core.types",
    "Task": "abmll.data.task",
    "build_method": "abmll.methods",
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
    "Example",
    "Learner",
    "Method",
    "PromptFormat",
    "Suite",
    "Task",
    "build_method",
    "load_suite",
    "read_task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'abmll' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
