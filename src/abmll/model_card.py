"""README.md of an adapter folder: what it holds, for whom, and how to use it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from abmll.adapters.names import LORA_FOLDER
from abmll.adapters.posterior import POSTERIOR
from abmll.card import CARD, Card
from abmll.core.errors import printable
from abmll.core.types import META

README = "README.md"
MARK = "<!-- Written by abmll. Without this line the file is yours, and stays when the adapter is saved again. -->"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_LONGEST_LIST = 20


def model_card(card: Card, *, gaussian: bool, num_loras: int = 1, adapted: bool = True) -> bytes:
    """The README.md that belongs to a card.

    Args:
        gaussian: whether the adapter itself is a Gaussian, so that its mean lies apart.
        num_loras: how many LoRAs stand side by side in it.
        adapted: whether a task's labels have changed the adapter, and are not in its posterior alone.
    """
    base = card.base_model or ""
    front = ["library_name: peft", "tags:", "- abmll", "- lora", "- meta-learning", "- uncertainty"]
    if _HUB_NAME.fullmatch(base):
        front.insert(0, f"base_model: {base}")
    about = [
        f"- base model: {_quoted(base) if base else 'not recorded'} ({card.dtype})",
        f"- method: `{card.method}` of abmll {card.version}, with r = {card.adapter.r} and lora_alpha = "
        f"{card.adapter.lora_alpha}",
        f"- prompts: answers by {card.prompt.answer}" + (", as a chat" if card.prompt.chat else ""),
        *_task_lines(card),
    ]
    title = "A meta-learned adapter" if card.role == META else "An adapter for one task"
    lines = ["---", *front, "---", MARK, "", f"# {title}", "", *about, "", "## Which folder is for whom", ""]
    return "\n".join(
        [*lines, *_folders(card, gaussian, num_loras, adapted), "", *_usage(card, gaussian, adapted), ""]
    ).encode()


def readme_to_write(directory: Path, text: bytes) -> dict[str, bytes]:
    """README.md, unless the folder has one that is not ours."""
    path = directory / README
    if path.is_file() and MARK.encode() not in path.read_bytes()[: 2**16]:
        return {}
    return {README: text}


def _task_lines(card: Card) -> list[str]:
    if card.role == META:
        return ["- tasks: it learned over many, and adapts to a new one from a few examples"]
    task = card.task
    if not task.name:
        return ["- task: not recorded"]
    classes = ", ".join(_quoted(one) for one in task.choices[:_LONGEST_LIST])
    more = ", …" if len(task.choices) > _LONGEST_LIST else ""
    return [
        f"- task: {_quoted(task.name)}",
        *([f"- question: {_quoted(task.question)}"] if task.question else []),
        *([f"- answers: {classes}{more}"] if classes else []),
    ]


def _folders(card: Card, gaussian: bool, num_loras: int, adapted: bool) -> list[str]:
    rows = [f"- this folder, with `{CARD}`: for abmll, which also knows how sure it is."]
    if gaussian:
        rows.append(
            f"- `{LORA_FOLDER}/`: the mean as an ordinary LoRA, for plain PEFT (`PeftModel.from_pretrained`) and for "
            "servers that load LoRA adapters. Plain PEFT does not know the type of the adapter above it (ABMLL)."
        )
    elif num_loras > 1 and (card.role == META or card.posterior is not None):
        rows.append(
            f"- to plain PEFT it is one LoRA of rank {num_loras * card.adapter.r}, in which {num_loras} of rank "
            f"{card.adapter.r} stand side by side, one for each task: PEFT would add all of them up."
        )
    elif not adapted:
        rows.append(
            "- to plain PEFT, and to servers that load LoRA adapters, it is an ordinary LoRA: what all tasks share. "
            f"What this task's labels said is in `{POSTERIOR}` alone. For a LoRA of the task's own take `abmll-adam`."
        )
    else:
        rows.append("- it is also an ordinary LoRA (the mean), for plain PEFT and for servers that load LoRA adapters.")
    if card.posterior is not None:
        rows.append(f"- `{POSTERIOR}`: the rest of the posterior, which abmll alone reads.")
    return rows


def _usage(card: Card, gaussian: bool, adapted: bool) -> list[str]:
    first = (
        "abmll adapt THIS_FOLDER labelled.csv -o new_task"
        if card.role == META
        else "abmll predict THIS_FOLDER rows.csv"
    )
    folder = f"THIS_FOLDER/{LORA_FOLDER}" if gaussian else "THIS_FOLDER"
    what = "the mean alone: no uncertainty" if adapted else "what all tasks share, nothing of this one"
    return [
        "```bash",
        first,
        "```",
        "",
        "```python",
        "from peft import PeftModel",
        "",
        f'model = PeftModel.from_pretrained(base_model, "{folder}")  # {what}',
        "```",
    ]


def _quoted(text: str) -> str:
    """A text of the user's, as inline code on one line: nothing in it is markup."""
    return "`" + printable(json.dumps(text, ensure_ascii=False)[1:-1])[:200].replace("`", "'") + "`"
