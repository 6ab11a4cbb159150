"""The library in one object: a language model that learns over many tasks and adapts to new ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from abmll.adapters import attach_roles, load_adapter, save_adapter
from abmll.adapters.blocks import below
from abmll.adapters.posterior import POSTERIOR, load_posterior, save_posterior
from abmll.adapters.spec import peft_config
from abmll.card import (
    CARD,
    Card,
    CardPosterior,
    CardTask,
    read_card,
    write_card,
)
from abmll.config.methods import default_options
from abmll.config.schema import AdapterConfig, PromptConfig
from abmll.core.errors import AbmllError
from abmll.core.params import assign
from abmll.core.seeds import derive_seed, seeded
from abmll.core.types import META, TASK, Example, Method, OuterOptimizer, Posterior, Role
from abmll.data.episodes import EpisodeSampler
from abmll.data.task import Task
from abmll.evaluation.evaluate import evaluate
from abmll.evaluation.predictions import Cell
from abmll.language import CausalLMLikelihood, PromptFormat
from abmll.language.letters import letters_fit, some_of_each
from abmll.methods import build_method
from abmll.methods.posterior import AdapterPosterior
from abmll.methods.side_by_side import adapt_side_by_side
from abmll.rules import plain, require, rules_of
from abmll.training.loop import TrainingResult, train
from abmll.training.settings import Training


class Learner:
    """A causal LM with one method of `METHODS` attached.

    model: any Hugging Face causal LM with linear layers; it is wrapped in place by PEFT and its weights stay frozen.
    tokenizer: its tokenizer.
    method: a name in `abmll.METHODS`; `options` are that method's keyword options.
    prompt: how questions are put and answers scored.
    r, lora_alpha, target_modules: as in LoRA.
    upper_layers: how many blocks are adapted, from the last one down; None adapts all. What the blocks below make of a
        row is computed once and kept (docs/performance.md).
    prediction_batch_size: how many questions a prediction pass takes; a method's own `batch_size` is another thing.
    seed: of the adapter's initialisation.

    Raises AbmllError for an unknown method, option or target module, and for a value of a wrong type or out of range.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        method: str = "abmll",
        *,
        prompt: PromptFormat | None = None,
        r: int = 8,
        lora_alpha: int = 16,
        target_modules: str | Sequence[str] = "all-linear",
        upper_layers: int | None = None,
        prediction_batch_size: int = 32,
        seed: int = 0,
        **options: Any,
    ) -> None:
        require(
            rules_of(AdapterConfig),
            {
                "r": r,
                "lora_alpha": lora_alpha,
                "target_modules": target_modules,
                "upper_layers": upper_layers,
            },
        )
        self.name, self.options, self.method = method, options, build_method(method, **options)
        self.upper_layers = upper_layers
        config = peft_config(
            self.method.adapter,
            r=r,
            lora_alpha=lora_alpha,
            target_modules=target_modules,
            exclude_modules=None if upper_layers is None else below(model, upper_layers),
        )
        with seeded(derive_seed("init", seed)):
            peft_model = attach_roles(model, config)
        self.likelihood = CausalLMLikelihood(peft_model, tokenizer, prompt, batch_size=prediction_batch_size)
        self._loaded: Posterior | None = None

    @property
    def model(self) -> Any:
        """The PEFT model, with the adapters "meta" and "task"."""
        return self.likelihood.model

    def use_outer(self, outer: OuterOptimizer) -> None:
        """Replaces the method's outer optimiser."""
        self.method = self.method._replace(outer=outer)

    def settle(self, tasks: Sequence[Task]) -> PromptFormat:
        """Settles answer = "auto" of the prompt, if it still is, on rows of `tasks`, and returns the prompt.

        Done by whatever is called first: `meta_train`, `adapt` or `evaluate`; a saved adapter keeps it. The labels are
        not looked at.
        """
        rows = some_of_each([task.examples for task in tasks])
        # a task with more choices than there are letters settles it for all
        rows += [row for task in tasks for row in task.examples if not letters_fit([row])][:1]
        if rows:
            self.likelihood.settle(rows)
        return self.likelihood.prompt

    def meta_train(
        self,
        tasks: Sequence[Task],
        *,
        num_steps: int = 500,
        support_size: int = 16,
        query_size: int = 16,
        episodes_per_step: int = 1,
        seed: int = 0,
        directory: str | Path | None = None,
        resume: bool = False,
        progress: bool = True,
    ) -> TrainingResult:
        """Learns θ over `tasks`. For more control use `abmll.training.train` with `learner.likelihood`."""
        self.settle(tasks)
        return train(
            self.likelihood,
            self.method,
            EpisodeSampler(tuple(tasks), seed, support_size, query_size),
            Training(num_steps, episodes_per_step, seed),
            directory=None if directory is None else Path(directory),
            resume=resume,
            progress=progress,
        )

    def adapt(self, support: Sequence[Example], *, seed: int = 0) -> Posterior:
        """The posterior of a task given its labelled examples. Earlier posteriors stay valid."""
        self.likelihood.settle(support)
        with seeded(derive_seed("adapt", seed)):
            return self.method.adaptation.adapt(self.likelihood, list(support))

    def adapt_many(self, supports: Sequence[Sequence[Example]], *, tasks_at_once: int = 4) -> list[Posterior]:
        """The posteriors of several tasks, as `adapt` gives them but for rounding, with one pass a step for many tasks.

        A gain of about a sixth on a processor, for a multiple of the memory: see docs/performance.md.
        tasks_at_once: how many share a pass; its memory grows with them.

        Raises: AbmllError for methods that adapt by more than gradient steps at the adapter's mean.
        """
        if tasks_at_once < 1:
            raise AbmllError(f"tasks_at_once must be at least 1, got {tasks_at_once}.")
        self.likelihood.settle(some_of_each(supports))
        of_size: dict[int, list[int]] = {}
        for place, support in enumerate(supports):
            of_size.setdefault(len(support), []).append(place)
        posteriors: dict[int, Posterior] = {}
        for places in of_size.values():
            for start in range(0, len(places), tasks_at_once):
                chosen = places[start : start + tasks_at_once]
                found = adapt_side_by_side(
                    self.method.adaptation, self.likelihood, [list(supports[place]) for place in chosen]
                )
                posteriors.update(zip(chosen, found, strict=True))
        return [posteriors[place] for place in range(len(supports))]

    def evaluate(self, tasks: Sequence[Task], *, name: str | None = None, **options: Any) -> Iterator[Cell]:
        """Predictions on held-out tasks; options of `abmll.evaluation.evaluate.evaluate`."""
        self.settle(tasks)
        return evaluate(self.likelihood, self.method, name or self.name, tasks, **options)

    def save(
        self,
        directory: str | Path,
        *,
        role: Role = META,
        posterior: Posterior | None = None,
        task: Task | None = None,
    ) -> Path:
        """Writes θ (or, with `posterior`, one task's φ) as a PEFT adapter folder.

        The adapter of a posterior is its mean; that of an ensemble, which has none, is θ. A posterior that is more
        than one setting of the adapter (Laplace, SWAG, an ensemble, demonstrations, ...) is whole in
        `posterior.safetensors`. `lora/` is the mean of a Gaussian adapter as an ordinary LoRA, for plain servers; a
        point adapter is one itself.

        task: what the posterior was adapted to. Its question and its classes are kept with it, so that new rows need
            neither.
        """
        directory = Path(directory)
        state: dict[str, Tensor] = {}
        if posterior is not None:
            role, state, mean = TASK, posterior.state_dict(), posterior.mean()
            assign(self.likelihood.parameters(TASK), self.likelihood.parameters(META) if mean is None else mean)
        save_adapter(self.model, role, directory)
        config = self.model.peft_config[role]
        more = bool(state) and state.keys() != self.likelihood.parameters(TASK).keys()
        kept = None
        if more:
            metadata = {"method": self.name, "options": json.dumps(self.options, sort_keys=True)}
            kept = CardPosterior(file=POSTERIOR, sha256=save_posterior(directory, state, metadata))
        card = Card(
            version=version("abmll"),
            role=role,
            method=self.name,
            options=default_options(self.name) | {key: plain(value) for key, value in self.options.items()},
            base_model=config.base_model_name_or_path,
            dtype=str(self.model.get_base_model().dtype).removeprefix("torch."),
            prompt=PromptConfig(**asdict(self.likelihood.prompt)),
            adapter=AdapterConfig(
                r=config.r,
                lora_alpha=config.lora_alpha,
                target_modules=_plain(config.target_modules),
                upper_layers=self.upper_layers,
            ),
            task=CardTask() if task is None else _card_task(task),
            posterior=kept,
        )
        write_card(directory, card)
        if not more:
            (directory / POSTERIOR).unlink(missing_ok=True)  # of what was saved here before
        return directory

    @classmethod
    def load(cls, directory: str | Path, model: Any, tokenizer: Any, *, prediction_batch_size: int = 32) -> Learner:
        """The learner that `save` wrote, on its base model. META and TASK both hold the adapter that was saved, and
        `posterior` is the posterior.

        Raises AbmllError if a file of the folder is missing, damaged, of another folder or made for another base model.
        """
        directory = Path(directory)
        card = read_card(directory)
        try:
            learner = cls(
                model,
                tokenizer,
                card.method,
                prompt=card.prompt_format,
                prediction_batch_size=prediction_batch_size,
                **card.adapter.model_dump(),
                **card.options,
            )
        except AbmllError as error:
            made_for = f", which was made for the base model {card.base_model!r}" if card.base_model else ""
            raise AbmllError(f"cannot load the adapter in {directory}{made_for}: {error}") from error
        for role in (META, TASK):
            load_adapter(learner.model, role, directory)
        if card.posterior is not None:
            learner._loaded = learner._restored(directory, card.posterior.sha256)
        return learner

    def _restored(self, directory: Path, digest: str) -> Posterior:
        state = load_posterior(directory, digest)
        try:
            posterior = self.method.adaptation.restore(self.likelihood, state)
            mean = posterior.mean()
            if mean is not None and mean.keys() != self.likelihood.parameters(TASK).keys():
                raise ValueError("its tensors are not those of the adapter")
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise AbmllError(
                f"{directory / POSTERIOR} is no posterior of method {self.name!r} with the options in "
                f"{directory / CARD} ({error}). Adapt to the task again."
            ) from error
        return posterior

    def posterior(self) -> Posterior:
        """The posterior of the adapted task in the folder that was loaded; else the task adapter as it stands."""
        if self._loaded is not None:
            return self._loaded
        sample = bool(getattr(self.method.adaptation, "sample", False))
        return AdapterPosterior(self.likelihood, self.likelihood.parameters(TASK), sample=sample)


def _card_task(task: Task) -> CardTask:
    classes = task.examples[0].choices if task.is_classification else ()
    return CardTask(name=task.name, question=task.question, choices=classes)


def _plain(target_modules: Any) -> Any:
    return target_modules if isinstance(target_modules, str) else sorted(target_modules)


__all__ = ["CARD", "Learner", "Method", "read_card"]
