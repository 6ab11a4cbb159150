"""The embedded default: a small pretrained language model and a suite of generated tasks, both usable offline.

`model()` loads the model that `python -m abmll.default.pretrain` made; `suite()` generates the tasks of
`abmll.default.tasks`. Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from abmll.data.suite import Suite

NAME = "abmll/default"
"""What adapters record as their base model: a name instead of the path of an installation."""

MODEL_DIRECTORY = Path(__file__).parent / "model"
"""Where weights, tokenizer and `training.json` lie; also a valid argument of `AutoModelForCausalLM.from_pretrained`."""


def model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The embedded causal language model in float32 and evaluation mode, and its tokenizer.

    Every call returns new objects, so that adapters attached to one do not reach another.

    Raises: AbmllError if the files are missing from the installation.
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

    seed: other seeds give other rules and rows (the embedded numbers in the documentation are for seed 0).
    num_rows: rows of each task.
    """
    from abmll.core.types import Example
    from abmll.data.suite import Suite
    from abmll.data.task import Task
    from abmll.default.tasks import ruled_tasks

    splits = {
        split: tuple(
            Task(
                name=task.name,
                examples=tuple(
                    Example(row.prompt, task.choices, row.target, task.question, f"{task.name}/{index}")
                    for index, row in enumerate(task.rows)
                ),
                question=task.question,
                family=task.family,
                source=f"abmll.default, seed {seed}",
            )
            for task in tasks
        )
        for split, tasks in ruled_tasks(seed, num_rows).items()
    }
    return Suite("default", splits["train"], splits["validation"], splits["test"])
