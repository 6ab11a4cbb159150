"""A language model with one method attached: what a learner holds, before anything is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from abmll.adapters import attach_roles
from abmll.adapters.blocks import below
from abmll.adapters.library import begin_alike
from abmll.adapters.spec import peft_config
from abmll.config.schema import AdapterConfig
from abmll.core.seeds import derive_seed, seeded
from abmll.core.types import META, Method
from abmll.data.task import Task
from abmll.language import CausalLMLikelihood, PromptFormat
from abmll.language.letters import letters_fit, some_of_each
from abmll.learner.attachment import working
from abmll.learner.chosen import chosen_method
from abmll.learner.source import base_model
from abmll.rules import Count, Names, Text, breach, breaches, plain, rules_of


class AdaptedModel:
    """The model with the adapters of one method, checked and attached; `Learner` says what the arguments are."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        method: str | Method | Callable[..., Method] = "abmll",
        *,
        prompt: PromptFormat | None = None,
        r: int = 8,
        lora_alpha: int = 16,
        target_modules: str | Sequence[str] = "all-linear",
        upper_layers: int | None = None,
        prediction_batch_size: int = 32,
        seed: int = 0,
        dtype: str | None = None,
        device: str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> None:
        listed = isinstance(target_modules, (list, tuple, set, frozenset))
        targets = list(target_modules) if listed else target_modules
        own: dict[str, Any] = {"r": r, "lora_alpha": lora_alpha, "target_modules": targets, "seed": seed}
        own |= {"upper_layers": upper_layers, "prediction_batch_size": prediction_batch_size}
        rules = rules_of(AdapterConfig) | {"target_modules": Text | Names, "seed": int, "prediction_batch_size": Count}
        wrong = [breach(name, own[name], rule) for name, rule in breaches(rules, own).items()]
        if prompt is not None and not isinstance(prompt, PromptFormat):
            wrong.append(f"prompt is {type(prompt).__name__}: it must be an abmll.PromptFormat")
        chosen = chosen_method(method, options, wrong)
        model, tokenizer = base_model(model, tokenizer, dtype=dtype, device=device, revision=revision)
        self.upper_layers = plain(upper_layers)
        config = peft_config(
            chosen.method.adapter,
            r=plain(r),
            lora_alpha=plain(lora_alpha),
            target_modules=targets,
            exclude_modules=None if upper_layers is None else below(model, self.upper_layers),
        )
        with seeded(derive_seed("init", plain(seed))):
            peft_model = attach_roles(model, config)
        if chosen.method.adapter.same_start:
            begin_alike(peft_model, chosen.method.adapter.num_loras)
        self._chosen = chosen
        self.method = chosen.method
        self.likelihood = CausalLMLikelihood(peft_model, tokenizer, prompt, batch_size=plain(prediction_batch_size))
        self.trained_steps = 0

    @property
    def name(self) -> str:
        """The method's name."""
        return self._chosen.name

    @property
    def options(self) -> dict[str, Any]:
        """The method's options as they were given."""
        return dict(self._chosen.options)

    @property
    def model(self) -> Any:
        """The PEFT model, with the adapters "meta" and "task"."""
        return self.likelihood.model

    @property
    def base_name(self) -> str | None:
        """The language model's name or folder; None if it has none."""
        # of META, which is attached first: PEFT notes it in a second adapter only when that is saved
        return self.model.peft_config[META].base_model_name_or_path or None

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.likelihood.tokenizer

    @property
    def prompt(self) -> PromptFormat:
        """How questions are put and answers scored."""
        return self.likelihood.prompt

    def settle(self, tasks: Sequence[Task]) -> PromptFormat:
        """Settles answer = "auto" of the prompt, if it still is, on rows of `tasks`, and returns the prompt.

        Done by whatever is called first: `meta_train`, `adapt` or `evaluate`; a saved adapter keeps it. The labels are
        not looked at.
        """
        if self.prompt.answer == "auto":
            rows = some_of_each([task.examples for task in tasks])
            # a task with more choices than there are letters settles it for all
            rows += [row for task in tasks for row in task.examples if not letters_fit([row])][:1]
            if rows:
                with working(self):
                    self.likelihood.settle(rows)
        return self.prompt

    def __sklearn_clone__(self) -> Self:
        """A learner is shared, not copied: a copy would hold the language model a second time."""
        return self

    def __repr__(self) -> str:
        name = self.base_name or type(self.model.get_base_model()).__name__
        count = sum(parameter.numel() for parameter in self.likelihood.parameters(META).values())
        trained = f"meta-trained for {self.trained_steps} steps" if self.trained_steps else "not meta-trained here"
        return f"Learner({self.name} on {name}, {count:,} adapter parameters, {trained})"
