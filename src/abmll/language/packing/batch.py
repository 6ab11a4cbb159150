"""What one forward pass reads, and where in it the tokens of every choice are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from abmll.gaussian.noise import Copies


class Batch(NamedTuple):
    """Tensors of one pass of r rows over n questions of at most c choices of at most l scored tokens.

    Attributes:
        input_ids: (r, t).
        seen: which tokens a row may look at: (r, t) bool, causal among real tokens; (r, t, t) bool, a mask of its own;
            None, plain causal.
        position_ids: (r, t), or None if the model is to count by itself.
        real: (r, t) bool, False on padding.
        counted: (r, t) bool, True on the tokens that a KL divergence is summed over: every real token of a question
            once.
        copies: which rows and tokens are the same ones of the questions, if the pass holds some of them several times.
        kept: (k,) the columns whose predictions are scored, in ascending order: no other meets the vocabulary's matrix.
        row: (n, c) the row that predicts a choice;
        column: (n, c, l) where among the kept columns a token is predicted;
        token: (n, c, l) which token it is;
        scored: (n, c, l) True where this pass scores one.
        hidden: (r, t, width) what the blocks below the adapters make of the tokens (`language.trunk`), if it is known.
    """

    input_ids: Tensor
    seen: Tensor | None
    position_ids: Tensor | None
    real: Tensor
    counted: Tensor
    copies: Copies | None
    kept: Tensor
    row: Tensor
    column: Tensor
    token: Tensor
    scored: Tensor
    hidden: Tensor | None = None

    @property
    def branching(self) -> bool:
        """Whether rows have a mask of their own, under which their positions start anew at every choice."""
        return self.seen is not None and self.seen.ndim == 3

    @property
    def places(self) -> Tensor | None:
        """Which of the r·t places hold a token; None if all do."""
        return None if bool(self.real.all()) else self.real.flatten().nonzero().squeeze(1)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in self._asdict().items() if isinstance(value, Tensor)
        }
        if self.copies is not None:
            row, token = (tensor.to(device) for tensor in (self.copies.row, self.copies.token))
            moved["copies"] = self.copies._replace(row=row, token=token)
        return self._replace(**moved)


def predicted(logits: Tensor, batch: Batch) -> Tensor:
    """Log-probabilities (n, c, l, vocabulary) of all tokens where one is scored, 0 elsewhere.

    Args:
        logits: (r, k, vocabulary), the kept columns' predictions.
    """
    found = logits.float().log_softmax(-1)[batch.row[..., None], batch.column]
    return found.masked_fill(~batch.scored[..., None], 0.0)


def score(logits: Tensor, batch: Batch) -> Tensor:
    """Log-probabilities (n, c, l) of the scored tokens in the whole vocabulary, 0 elsewhere; float32 or more.

    Args:
        logits: (r, k, vocabulary), the kept columns' predictions.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    normaliser = logits.logsumexp(-1)
    row = batch.row[..., None]
    log_probs = logits[row, batch.column, batch.token] - normaliser[row, batch.column]
    return log_probs.masked_fill(~batch.scored, 0.0)


def scored_lengths(batches: Sequence[Batch]) -> Tensor:
    """(n, c): how many tokens each choice is scored by, over the passes that share the questions; 0 for no choice."""
    return torch.stack([batch.scored.sum(-1) for batch in batches]).sum(0)
