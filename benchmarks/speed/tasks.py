"""What a whole method costs: adapting to one new task, and meta-training over few or many tasks."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from abmll import default
from abmll.adapters import attach_roles
from abmll.adapters.spec import peft_config
from abmll.core.types import Example
from abmll.data.episodes import EpisodeSampler, evaluation_episode
from abmll.data.task import Task
from abmll.language import CausalLMLikelihood, PromptFormat
from abmll.methods import build_method
from abmll.methods.parts.side_by_side import adapt_side_by_side
from benchmarks.speed.measure import Case, Clock, compare


def likelihood_of(method: Any) -> CausalLMLikelihood:
    """The embedded model with the method's adapters."""
    torch.manual_seed(0)
    model, tokenizer = default.model()
    return CausalLMLikelihood(attach_roles(model, peft_config(method.adapter)), tokenizer, PromptFormat("letters"))


def adaptation(repeats: int, clock: Clock) -> dict[str, Any]:
    """16 support examples of a held-out task, and one step of meta-training, by LoRA, MAML and ABMLL, 5 steps each."""
    task = default.suite().test[0]
    drawn = evaluation_episode(task, 0, 16, 16)
    results = {}
    rows = {"lora": {}, "maml": {}, "abmll": {}, "abmll, weight": {"space": "weight"}}
    adapt, meta = {}, {}
    for name, options in rows.items():
        method = build_method(name.partition(",")[0], num_steps=5, **options)
        likelihood = likelihood_of(method)
        known = tuple(likelihood.model.parameters())

        def adapt_once(method: Any = method, likelihood: Any = likelihood) -> None:
            method.adaptation.adapt(likelihood, drawn.support)

        def meta_once(method: Any = method, likelihood: Any = likelihood) -> None:
            method.meta_learner.meta_gradient(likelihood, drawn)

        adapt[name] = Case(adapt_once, known)
        if method.meta_learner is not None:
            meta[name] = Case(meta_once, known)
    results["adapt"] = without_saved(compare(adapt, repeats, "lora", clock))
    results["meta_step"] = without_saved(compare(meta, repeats, "maml", clock))
    return results


def without_saved(results: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """A whole loop saves and frees many times over; only its peak means something."""
    return {name: {k: v for k, v in row.items() if not k.startswith("saved")} for name, row in results.items()}


def number_of_tasks(counts: list[int], repeats: int, clock: Clock) -> list[dict[str, float]]:
    """Seconds and peak bytes of an outer step on the next episode, while meta-training runs through so many tasks.

    The counts take turns, and their ratios are to the first of them.
    """
    method = build_method("abmll", num_steps=3)
    likelihood = likelihood_of(method)
    meta = method.meta_learner
    assert meta is not None

    def outer_step(count: int) -> Case:
        sampler = EpisodeSampler(synthetic_tasks(count), 0, 8, 8)
        places = itertools.count()
        return Case(lambda: meta.meta_gradient(likelihood, sampler[next(places)]), tuple(likelihood.model.parameters()))

    cases = {str(count): outer_step(count) for count in counts}
    results = without_saved(compare(cases, repeats, str(counts[0]), clock))
    return [{"tasks": count, **results[str(count)]} for count in counts]


def side_by_side(count: int, repeats: int, clock: Clock) -> dict[str, Any]:
    """Seconds of adapting a LoRA to 16 examples of each of `count` tasks, one after the other and side by side."""
    method = build_method("lora", num_steps=5)
    likelihood = likelihood_of(method)
    supports = [task.examples[:16] for task in synthetic_tasks(count)]

    def one_after_the_other() -> None:
        for support in supports:
            method.adaptation.adapt(likelihood, support)

    known = tuple(likelihood.model.parameters())
    cases = {
        "one after the other": Case(one_after_the_other, known),
        "side by side": Case(lambda: adapt_side_by_side(method.adaptation, likelihood, supports), known),
    }
    return without_saved(compare(cases, repeats, "one after the other", clock))


def synthetic_tasks(count: int) -> tuple[Task, ...]:
    """Tasks of equal length that differ in what is asked and in which answer is right."""

    def row(task: int, i: int) -> Example:
        return Example(f"item {i:03d} of list {task:04d}", ("yes", "no"), (i * 7 + task) % 3 % 2, id=str(i))

    return tuple(Task(f"task-{n:04d}", tuple(row(n, i) for i in range(32)), question="Is it in?") for n in range(count))
