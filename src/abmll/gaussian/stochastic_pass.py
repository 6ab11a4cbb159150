"""The record through which stochastic layers report their KL divergence to a loss.

A loss opens a `stochastic_pass`, runs the model inside it, and calls `backward()` before it closes:

    with stochastic_pass(sample=True, prior="meta", mask=attention_mask.bool()) as record:
        loss = model(**batch).loss + beta * record.kl()
        loss.backward()

Outside any pass every layer predicts at its mean, in training mode as in evaluation mode: whether a forward pass is
random is an explicit choice, never a side effect of `model.train()`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Unpack

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.types import PassRequest, Requested
from abmll.gaussian.noise import Copies

# A plain variable, not a ContextVar or a thread-local: on CUDA the autograd engine recomputes checkpointed layers
# in a thread of its own, and they must see the same pass there.
_active: StochasticPass | None = None


class UnfitLayer(AbmllError):
    """A layer that a divergence cannot be taken of. layer: it, for whoever knows its name; None until one does."""

    layer: Hashable = None


class StochasticPass:
    """What the stochastic layers are asked to do in one pass, and what they reported.

    Attributes:
        request: the questions.
        prior: name of the adapter that holds the prior's parameters; None asks for no KL.
        mask: (batch, tokens), True where a token counts; None counts all.
        copies: which rows and tokens of the pass draw the same noise; None: each its own.
        places: (tokens,) which of the pass's batch·tokens places hold a token; None: all. A layer computes nothing of
            its Gaussian for the others, which are padding.
    """

    places: Tensor | None = None

    def __init__(
        self,
        request: PassRequest,
        prior: str | None,
        mask: Tensor | None,
        copies: Copies | None = None,
    ) -> None:
        self.request = request
        self.prior = prior
        self.mask = mask
        self.copies = copies
        self._wants_grad = torch.is_grad_enabled()
        self._kl: dict[Hashable, Tensor] = {}
        self._hyper: dict[Hashable, Tensor] = {}

    def report(self, layer: Hashable, kl: Tensor, hyper: Tensor | None = None) -> None:
        """A layer's contribution: elementwise values (batch, tokens, out_features), summed over counted tokens.

        Flattened values (batch·tokens, out_features) are taken as well.

        A layer that runs several times (shared weights, several forward passes) adds up. A recomputation by
        gradient checkpointing does not: it happens inside `backward()`, after the loss has read the first report.

        Raises:
            AbmllError: If the shape does not fit the mask, or if the layer runs without gradient although the pass was
                opened with it, which is how reentrant checkpointing silently loses the KL's gradient.
        """
        counted = self.counted(kl.shape, kl.device)
        # summed in a recomputation too, which must save the same tensors as the first run
        self.report_counted(layer, sum_counted(kl, counted), None if hyper is None else sum_counted(hyper, counted))

    def report_counted(self, layer: Hashable, kl: Tensor, hyper: Tensor | None = None) -> None:
        """As `report`, of values that are already summed over the rows that `counted` names and over their units."""
        self._require_grad()
        if _inside_backward():
            return
        for record, total in ((self._kl, kl), (self._hyper, hyper)):
            if total is not None:
                record[layer] = record[layer] + total if layer in record else total

    def counted(self, shape: torch.Size, device: torch.device) -> Tensor | None:
        """The mask for a layer's output of this shape, flattened to one entry a row; None counts every row.

        Args:
            shape: (batch, tokens, out_features), also with axes of size 1 among them (DeepSeek's latent attention), or
                (batch·tokens, out_features) as some blocks see their tokens (OPT's feed-forward).

        Raises:
            AbmllError: If it does not fit the mask.
        """
        if self.mask is None:
            return None
        if _without_ones(shape[:-1]) not in (_without_ones(self.mask.shape), _without_ones([self.mask.numel()])):
            raise UnfitLayer(
                f"a layer's output has shape {tuple(shape)}, which does not fit the mask's (batch, tokens) "
                f"= {tuple(self.mask.shape)}. Adapt only layers that see every token once "
                "(see target_modules), take a method without a divergence, such as 'abmll' or 'fomaml', or open the "
                "pass without a mask to count every row."
            )
        return self.mask.to(device).flatten()

    def copies_of_tokens(self, shape: torch.Size) -> Copies | None:
        """The copies for a layer's output of this shape; None for a layer that does not see every token once.

        Such a layer (a head at some of the tokens) draws noise of its own everywhere.
        """
        fits = self.copies is not None and shape[:-1].numel() == len(self.copies.token)
        return self.copies if fits else None

    def places_of_tokens(self, shape: torch.Size) -> Tensor | None:
        """The places for a layer's output of this shape; None for a layer that does not see every token once."""
        fits = self.places is not None and self.mask is not None and shape[:-1].numel() == self.mask.numel()
        return self.places if fits else None

    def report_sum(self, layer: Hashable, kl: Tensor, hyper: Tensor | None = None) -> None:
        """A layer's contribution if its Gaussian is over weights: scalars, whatever the batch and its mask.

        A layer that runs several times has one KL all the same. Raises: AbmllError as `report` does.
        """
        self._require_grad()
        if _inside_backward():
            return
        self._kl[layer] = kl
        if hyper is not None:
            self._hyper[layer] = hyper

    def _require_grad(self) -> None:
        if self._wants_grad and not torch.is_grad_enabled():
            raise UnfitLayer(
                "the KL divergence was asked for with gradients, but a layer ran with gradients off, so the KL's "
                "gradient would be lost. If gradient checkpointing is on, it is the reentrant kind: turn it on by "
                "model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False}). "
                "If you run the model under torch.no_grad(), open the stochastic pass inside it. If the model itself "
                "runs some of its layers so (DeepSeek V3.2's indexers), leave them out of target_modules, or take a "
                "method without a divergence, such as 'abmll' or 'fomaml'."
            )

    def kl(self) -> Tensor:
        """Sum of the reported KL over layers, counted tokens and units, in nats; 0 if nothing was reported."""
        return _total(self._kl)

    def hyper(self) -> Tensor:
        """Sum of the reported -log p(θ), likewise; 0 if nothing was reported."""
        return _total(self._hyper)


def sum_counted(values: Tensor, counted: Tensor | None) -> Tensor:
    """The sum of values (..., out_features) over the counted rows; counted: (rows,) boolean, or None for all."""
    if counted is None:
        return values.sum()
    per_row = values.sum(-1).flatten()
    # where, not a product: 0·inf in a padded row would be nan
    return torch.where(counted, per_row, per_row.new_zeros(())).sum()


def _inside_backward() -> bool:
    # torch.utils.checkpoint asks the same question in the same way; -1 is "no backward pass in this thread"
    return torch._C._current_graph_task_id() != -1


def _total(record: dict[Hashable, Tensor]) -> Tensor:
    if not record:
        return torch.zeros(())
    first, *others = record.values()
    return sum((other.to(first.device) for other in others), first)


@contextmanager
def stochastic_pass(
    *,
    prior: str | None = None,
    mask: Tensor | None = None,
    copies: Copies | None = None,
    **requested: Unpack[Requested],
) -> Iterator[StochasticPass]:
    """Tells the stochastic layers what to do until the block ends, and yields the record of what they reported.

    Call `backward()` inside the block: gradient checkpointing runs the layers again there, and they must do the
    same.

    Args:
        prior: name of the adapter that holds the prior's parameters. With one the KL is reported, by the closed form if
            `kl` names no estimator; without one it is not.
        mask: (batch, tokens) boolean, True where a token counts; None counts all.
        copies: which rows and tokens of the pass draw the same noise; None: each its own.
        **requested: sample, kl, hyper_prior and prior_only, as `PassRequest` describes them.

    Raises:
        AbmllError: for an unknown estimator, a one-sample estimate without a sample, a hyper-prior without a prior, a
            mask that is not a boolean (batch, tokens) tensor, or a pass inside a pass.
    """
    global _active
    request = PassRequest(**requested)
    if request.hyper_prior and prior is None:
        raise AbmllError(
            "hyper_prior=True needs to know whose parameters it is of: pass prior='meta' (or another adapter)."
        )
    if mask is not None and (mask.dtype != torch.bool or mask.ndim != 2):
        raise AbmllError(
            f"the mask must be a boolean (batch, tokens) tensor, got {mask.dtype} of shape {tuple(mask.shape)}: "
            "pass attention_mask.bool()."
        )
    if _active is not None:
        raise AbmllError("a stochastic pass is already active: close it before opening another one.")
    _active = StochasticPass(request, prior, mask, copies)
    try:
        yield _active
    finally:
        _active = None


def _without_ones(shape: Iterable[int]) -> list[int]:
    return [size for size in shape if size != 1]


def current_pass() -> StochasticPass | None:
    """The pass a layer is running in; None outside any, where it predicts at its mean."""
    return _active
