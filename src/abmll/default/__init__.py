"""The embedded default: a small pretrained language model and suites of generated tasks, usable offline.

`model()` loads the model that `python -m abmll.default.pretrain` made; `suite()` generates the tasks of
`abmll.default.tasks`, `wide_suite()` the many more of `abmll.default.wide`, and `concepts_suite()` those for a real
model. Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from abmll.data.suite import Suite
    from abmll.default.concepts import Concept, Word
    from abmll.default.tasks import Judgement, Ruled

NAME = "abmll/default"
"""What adapters record as their base model: a name instead of the path of an installation."""

MODEL_DIRECTORY = Path(__file__).parent / "model"
"""Where weights, tokenizer and `training.json` lie; also a valid argument of `AutoModelForCausalLM.from_pretrained`."""


def model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The embedded causal language model in float32 and evaluation mode, and its tokenizer.

    Every call returns new objects, so that adapters attached to one do not reach another.

    Raises:
        AbmllError: If the files are missing from the installation.
    """
    from abmll.core.errors import AbmllError

    if not (MODEL_DIRECTORY / "model.safetensors").is_file():
        raise AbmllError(
            f"the embedded model is missing from {MODEL_DIRECTORY}. Reinstall abmll, or make the model again with "
            f"`python -m abmll.default.pretrain --out {MODEL_DIRECTORY}`."
        )
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    loaded = LlamaForCausalLM.from_pretrained(MODEL_DIRECTORY, dtype=torch.float32, local_files_only=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL_DIRECTORY, local_files_only=True)
    loaded.config._name_or_path = loaded.name_or_path = NAME
    return loaded.eval(), tokenizer


def suite(seed: int = 0, num_rows: int = 300) -> Suite:
    """The generated suite: 24 train, 6 validation and 10 test tasks, of which 5 are of a family of their own.

    Args:
        seed: other seeds give other rules and rows (the embedded numbers in the documentation are for seed 0).
        num_rows: rows of each task.
    """
    return _drawn("default", seed, num_rows)


def wide_suite(seed: int = 0, num_rows: int = 300) -> Suite:
    """The wide generated suite: 60 train, 12 validation and 48 test tasks, of which 24 are of four families of their
    own. The validation side has two families that are on no other side.

    Args:
        seed: As for `suite`.
        num_rows: As for `suite`.
    """
    return _drawn("default-wide", seed, num_rows)


def concepts_suite(seed: int = 0) -> Suite:
    """Which words fall under a concept, for a real language model: 16 train, 5 validation and 12 test tasks of 48 rows.

    The three sides have no family of concepts in common.

    Args:
        seed: Other seeds draw other words that do not fall under a concept.
    """
    from abmll.default.concepts import concept_tasks

    return _suite("concepts", seed, concept_tasks(seed))


SUITES = {"default": suite, "default-wide": wide_suite, "concepts": concepts_suite}
"""The embedded suites by the name that run files and commands give them."""


def find_suite(
    name: str | Path,
    *,
    folder: str | Path | None = None,
    held_out: float | None = None,
    seed: int | None = None,
) -> Suite:
    """An embedded suite by its name, or what `abmll.data.suite.load_suite` finds under it.

    Args:
        name: A key of `SUITES`, a shipped suite, a folder of tasks or a suite TOML.
        folder: As for `load_suite`.
        held_out: As for `load_suite`; embedded suites have a split of their own.
        seed: As for `load_suite`.

    Raises:
        AbmllError: As `load_suite`; for an unknown name with all names that there are.
    """
    from abmll.core.errors import AbmllError
    from abmll.data.suite import load_suite, no_such_suite, shipped_suites

    if name in SUITES:
        if held_out:
            raise AbmllError(f"[data] held_out: the {name} suite has its own split. Remove held_out.")
        return SUITES[str(name)]()
    path, known = Path(name), {**SUITES, **shipped_suites()}
    if not path.exists() and str(name) not in known:
        raise no_such_suite(name, known)
    return load_suite(name, folder=folder, held_out=held_out, seed=seed)


@functools.lru_cache(maxsize=4)
def _drawn(name: str, seed: int, num_rows: int) -> Suite:
    """A generated suite, drawn once for all who ask: nothing in it can be changed."""
    from abmll.default.tasks import ruled_tasks
    from abmll.default.wide import wide_tasks

    draw = {"default": ruled_tasks, "default-wide": wide_tasks}[name]
    return _suite(name, seed, draw(seed, num_rows))


def _suite(name: str, seed: int, drawn: Mapping[str, Sequence[Ruled] | Sequence[Concept]]) -> Suite:
    from abmll.core.example import Example
    from abmll.data.suite import Suite
    from abmll.data.task import Task

    def rows_of(task: Ruled | Concept) -> Sequence[Judgement | Word]:
        return task.rows

    splits = {
        split: tuple(
            Task(
                name=task.name,
                examples=tuple(
                    Example(row.prompt, task.choices, row.target, task.question, f"{task.name}/{index}")
                    for index, row in enumerate(rows_of(task))
                ),
                question=task.question,
                family=task.family,
                source=f"abmll.{name}, seed {seed}",
            )
            for task in tasks
        )
        for split, tasks in drawn.items()
    }
    return Suite(name, splits["train"], splits["validation"], splits["test"])
