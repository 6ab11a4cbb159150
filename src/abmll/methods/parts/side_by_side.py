"""Several tasks adapted in the passes of one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from abmll.core.errors import AbmllError
from abmll.core.params import clone, reset_task, train_only
from abmll.core.types import TASK, Adaptation, Example, Likelihood, StackedLikelihood
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.posterior import AdapterPosterior


def adapt_side_by_side(
    adaptation: Adaptation, likelihood: Likelihood, supports: Sequence[Sequence[Example]]
) -> list[AdapterPosterior]:
    """The posteriors that `adaptation` has for each support set, from one pass a step for all of them.

    The gradient of a sum over tasks is each task's own by its own parameters, and the optimisers work element by
    element, so the posteriors are those of one task after the other but for rounding.

    Args:
        supports: of equal size. Raises: AbmllError if they are not, if the adaptation is not plain gradient steps at
            the mean, or if the likelihood has no stacked parameters.
    """
    inner = _plain_steps(adaptation)
    if inner is None:
        raise AbmllError(
            "only gradient steps at the adapter's mean, without a sample or a KL divergence, can be taken for several "
            f"tasks side by side; this method adapts by {type(adaptation).__name__}"
            f"{' with one of them' if type(adaptation) is GradientAdaptation else ''}. "
            "Adapt to one task after the other (adapt)."
        )
    if not isinstance(likelihood, StackedLikelihood):
        raise AbmllError("this likelihood takes no stacked parameters: adapt to one task after the other (adapt).")
    sizes = {len(support) for support in supports}
    if len(sizes) != 1:
        raise AbmllError(f"support sets side by side must be of equal size, got sizes {sorted(sizes)}: group them.")
    reset_task(likelihood)
    train_only(likelihood, TASK)
    start = clone(likelihood.parameters(TASK))
    params = {name: torch.stack([tensor] * len(supports)) for name, tensor in start.items()}
    moving = [tensor.requires_grad_() for name, tensor in params.items() if inner.moves(name)]
    optimizer = inner.optimizer_of(moving)
    with likelihood.stacked(params):
        for batches in zip(*(inner.batches(support) for support in supports), strict=True):
            optimizer.zero_grad()
            examples = [example for batch in batches for example in batch]
            with likelihood.terms(examples) as terms:
                of_tasks = terms.nll.split(len(batches[0]))
                torch.stack([inner.objective.nll(terms._replace(nll=nll)) for nll in of_tasks]).sum().backward()
            optimizer.step()
    of_task = [{name: tensor[t] for name, tensor in params.items()} for t in range(len(supports))]
    return [AdapterPosterior(likelihood, own, sample=bool(getattr(adaptation, "sample", False))) for own in of_task]


def _plain_steps(adaptation: Adaptation) -> InnerLoop | None:
    """Its inner loop, if all it does are steps of a torch optimiser at the mean."""
    if type(adaptation) is not GradientAdaptation or not isinstance(adaptation.inner, InnerLoop):
        return None
    objective = adaptation.inner.objective
    return None if objective.sample or objective.kl else adaptation.inner
