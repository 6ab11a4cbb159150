"""How a model answers: by letters or by text, in a chat turn or without, and how far its letters follow the choices.

    python -m benchmarks.answers smollm2 --data data/realtasks:sst2,copa data/personas:agreeableness --default 2

Every task is asked 16 rows, zero-shot. For each way of asking: accuracy, NLL, and what the answers tell of the question
without looking at labels, the entropy of the mean prediction less the mean entropy of predictions; for letters also the
agreement that answer = "auto" decides by (`abmll.language.letters`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from abmll import default, models
from abmll.core.types import Example
from abmll.data.folder import read_folder
from abmll.data.task import Task
from abmll.evaluation.calibration import entropy
from abmll.language import PromptFormat
from abmll.language.letters import NEEDED, ROWS, letter_agreement, letters_fit
from abmll.learner import Learner


def spread(task: Task) -> list[Example]:
    """Rows from all over the file, which may be sorted by class."""
    rows = [row for row in task.examples if letters_fit([row])]
    return rows[:: max(1, len(rows) // ROWS)][:ROWS]


def measured(log_probs: Tensor, rows: Sequence[Example]) -> str:
    """Accuracy, NLL and what answers tell of their questions, in words."""
    log_probs = log_probs.double()
    targets = torch.tensor([row.target for row in rows])
    accuracy = float((log_probs.argmax(1) == targets).double().mean())
    nll = -float(log_probs.gather(1, targets[:, None]).mean())
    probs = log_probs.exp()
    told = float(entropy(probs.mean(0)) - entropy(probs).mean())
    return f"accuracy {accuracy:.2f}  NLL {nll:.2f}  told {told:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.answers", description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a name of `abmll models list`, a folder or a Hugging Face name")
    parser.add_argument("--data", nargs="*", default=[], metavar="FOLDER:TASK,TASK")
    parser.add_argument("--default", type=int, default=0, metavar="N", help="also N tasks of the embedded suite")
    parser.add_argument("--max-tokens", type=int, default=160)
    asked = parser.parse_args()
    tasks = list(default.suite().train[: asked.default])
    for where in asked.data:
        folder, _, names = where.rpartition(":")
        tasks += [task for task in read_folder(folder).tasks if task.name in names.split(",")]
    model, tokenizer = models.load(asked.model)
    likelihood = Learner(model, tokenizer, "pretrained").likelihood
    for task in tasks:
        rows = spread(task)
        print(f"{task.name}: {len(rows)} rows of up to {task.num_choices} choices", flush=True)
        for chat in (False, True) if getattr(tokenizer, "chat_template", None) else (False,):
            for answer in ("text", "letters"):
                likelihood.prompt = PromptFormat(answer, max_tokens=asked.max_tokens, chat=chat)
                likelihood._encoded.clear()
                line = measured(likelihood.choice_log_probs(rows)[0], rows)
                if answer == "letters":
                    agreement = letter_agreement(lambda some: likelihood.choice_log_probs(some)[0], rows)
                    line += f"  agreement {agreement:+.2f} ({NEEDED} needed)"
                print(f"  {'chat' if chat else 'plain'} {answer:7}  {line}", flush=True)


if __name__ == "__main__":
    main()
