"""A learner or a posterior as a folder of files, and back; none of them is a pickle."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from abmll.adapters import load_adapter, save_adapter
from abmll.adapters.posterior import POSTERIOR, load_posterior, packed_posterior
from abmll.card import CARD, Card, CardPosterior, CardTask, card_file
from abmll.config.schema import AdapterConfig, PromptConfig
from abmll.core.errors import AbmllError
from abmll.core.params import assign
from abmll.core.types import META, TASK, Posterior, Role
from abmll.data.task import Task
from abmll.learner.given import TaskRows, labelled_rows
from abmll.learner.labels import Labels
from abmll.learner.posterior import TaskPosterior, inner_of
from abmll.methods.parts.posterior import AdapterPosterior
from abmll.model_card import model_card, readme_to_write
from abmll.version import __version__

if TYPE_CHECKING:
    from abmll.learner.learner import Learner


def write_folder(
    learner: Learner, directory: Path, role: Role, posterior: Posterior | TaskPosterior | None, task: Task | None
) -> Path:
    """What `Learner.save` does, without its lock."""
    state: dict[str, Tensor] = {}
    adapted = True
    if posterior is not None:
        inner = inner_of(posterior, learner)
        role, state, mean = TASK, inner.state_dict(), inner.mean()
        adapted = mean is not None
        assign(learner.likelihood.parameters(TASK), learner.likelihood.parameters(META) if mean is None else mean)
    config = learner.model.peft_config[role]
    options = learner._chosen.resolved()
    sidecars: dict[str, bytes | None] = {POSTERIOR: None}
    kept = None
    if state and state.keys() != learner.likelihood.parameters(TASK).keys():
        metadata = {"method": learner.name, "options": json.dumps(options, sort_keys=True)}
        sidecars[POSTERIOR], digest = packed_posterior(state, metadata)
        kept = CardPosterior(file=POSTERIOR, sha256=digest)
    modules, count = config.target_modules, learner.method.adapter.num_loras
    card = Card(
        version=__version__,
        role=role,
        method=learner.name,
        options=options,
        base_model=learner.base_name,
        dtype=str(learner.model.get_base_model().dtype).removeprefix("torch."),
        prompt=PromptConfig(**asdict(learner.prompt)),
        adapter=AdapterConfig(
            r=config.r // count,
            lora_alpha=config.lora_alpha // count,
            target_modules=modules if isinstance(modules, str) else tuple(sorted(modules)),
            upper_layers=learner.upper_layers,
        ),
        task=card_task(task if task is not None else getattr(posterior, "task", None)),
        posterior=kept,
    )
    sidecars[CARD] = card_file(card)
    readme = model_card(card, gaussian=learner.method.adapter.kind == "abmll", num_loras=count, adapted=adapted)
    save_adapter(learner.model, role, directory, sidecars={**sidecars, **readme_to_write(directory, readme)})
    return directory


def require_same(learner: Learner, directory: Path, card: Card) -> None:
    """Raises AbmllError if the folder's posterior is not of this learner's model, method, options and prompt."""
    differences = [
        f"{what} is {theirs!r} there and {ours!r} here"
        for what, theirs, ours in (
            ("the base model", card.base_model, learner.base_name),
            ("the method", card.method, learner.name),
            *((f"option {key}", card.options.get(key), value) for key, value in learner._chosen.resolved().items()),
            ("the prompt", card.prompt_format, learner.prompt),
        )
        if theirs != ours
    ]
    if differences:
        raise AbmllError(f"{directory} is of another learner: {'; '.join(differences)}. Load it with abmll.load().")


def read_posterior(learner: Learner, directory: Path, card: Card) -> TaskPosterior:
    """The posterior in an adapter folder; TASK holds its adapter afterwards."""
    load_adapter(learner.model, TASK, directory)
    if card.posterior is not None:
        inner: Posterior = _restored(learner, directory, card.posterior.sha256)
    else:
        inner = adapter_as_it_stands(learner)
    return TaskPosterior(learner, inner, task_of(card.task))


def adapter_as_it_stands(learner: Learner) -> AdapterPosterior:
    """The task adapter's present setting as a posterior."""
    sample = bool(getattr(learner.method.adaptation, "sample", False))
    return AdapterPosterior(learner.likelihood, learner.likelihood.parameters(TASK), sample=sample)


def _restored(learner: Learner, directory: Path, digest: str) -> Posterior:
    state = load_posterior(directory, digest)
    try:
        posterior = learner.method.adaptation.restore(learner.likelihood, state)
        mean = posterior.mean()
        if mean is not None and mean.keys() != learner.likelihood.parameters(TASK).keys():
            raise ValueError("its tensors are not those of the adapter")
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise AbmllError(
            f"{directory / POSTERIOR} is no posterior of method {learner.name!r} with the options in "
            f"{directory / CARD} ({error}). Adapt to the task again."
        ) from error
    return posterior


def card_task(task: Task | TaskRows | None) -> CardTask:
    if task is None:
        return CardTask()
    if isinstance(task, Task):
        task = labelled_rows(task)
    if task.labels is None:
        return CardTask(name=task.name, question=task.question)
    names, words = task.labels.names, task.labels.words
    return CardTask(name=task.name, question=task.question, choices=words, labels=names if names != words else ())


def task_of(card: CardTask) -> TaskRows | None:
    """The task that a card tells of, without its rows; None if it tells of none."""
    if card == CardTask():
        return None
    names = card.labels if len(card.labels) == len(card.choices) and card.labels else card.choices
    labels = Labels(tuple(names), card.choices) if card.choices else None
    return TaskRows(card.name, card.question, (), labels)
