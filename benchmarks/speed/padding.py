"""What batches of like length save in predictions on questions of very different length."""

from __future__ import annotations

from typing import Any

import torch

from abmll.core.types import Example
from abmll.methods import build_method
from benchmarks.speed.measure import Case, Clock, compare
from benchmarks.speed.tasks import likelihood_of, without_saved


def padding(count: int, repeats: int, clock: Clock) -> dict[str, Any]:
    """Seconds and padding of predictions on `count` questions, in batches as they come and of like length."""
    likelihood = likelihood_of(build_method("abmll"))
    examples = mixed_lengths(count)
    step = likelihood.batch_size

    def as_they_come() -> None:
        for start in range(0, len(examples), step):
            likelihood.choice_log_probs(examples[start : start + step])

    known = tuple(likelihood.model.parameters())
    cases = {
        "as they come": Case(as_they_come, known),
        "by length": Case(lambda: likelihood.choice_log_probs(examples), known),
    }
    results = without_saved(compare(cases, repeats, "as they come", clock))
    lengths = [len(likelihood.encode(example).prefix) for example in examples]
    results["as they come"]["padding"] = padded_share(lengths, step)
    results["by length"]["padding"] = padded_share(sorted(lengths), step)
    return {"batch": step, "shortest": min(lengths), "longest": max(lengths), "cases": results}


def padded_share(lengths: list[int], step: int) -> float:
    """The share of all places of the batches, taken in this order, that hold padding."""
    batches = [lengths[start : start + step] for start in range(0, len(lengths), step)]
    return 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


def mixed_lengths(count: int) -> list[Example]:
    """Questions whose words are log-normal in number (median 20, σ = 0.8, at most 200), as comments and posts are."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(count, generator=generator).mul(0.8).exp().mul(20).clamp(2, 200).int().tolist()
    return [Example(" ".join(["good"] * number), ("yes", "no"), 0, id=str(i)) for i, number in enumerate(words)]
