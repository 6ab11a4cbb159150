"""From token ids to one forward pass that scores every choice of every question.

A row of the batch is one question: its prompt, padded on the left so that all prompts end in the same column, then
the tokens of its choices side by side. A choice's first token is predicted where the prompt ends, so single-token
choices (letters) cost nothing beyond the prompt; longer ones append all their tokens but the last. Choices see the
prompt and themselves, not each other, and their positions all start where the prompt ends: the shared prefix is
computed once, in a pass that gradients and checkpointing go through like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Continuations = Sequence[Sequence[int]]


class Batch(NamedTuple):
    """Tensors of one pass over n questions of at most c choices of at most l tokens.

    input_ids, position_ids, token_mask: (n, t); the mask is True on real tokens.
    attention: (n, t, t) bool, True where a row may look, or None if plain causal attention says the same.
    kept: (k,) the columns whose predictions are scored, in ascending order: no other meets the vocabulary's matrix.
    column: (n, c, l) where among the kept columns a token is predicted; token: (n, c, l) which token it is;
    scored: (n, c, l) True where there is one.
    hidden: (n, t, width) what the blocks below the adapters make of the tokens (`language.trunk`), if it is known.
    """

    input_ids: Tensor
    position_ids: Tensor
    token_mask: Tensor
    attention: Tensor | None
    kept: Tensor
    column: Tensor
    token: Tensor
    scored: Tensor
    hidden: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return self._replace(
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            token_mask=self.token_mask.to(device),
            attention=None if self.attention is None else self.attention.to(device),
            kept=self.kept.to(device),
            column=self.column.to(device),
            token=self.token.to(device),
            scored=self.scored.to(device),
            hidden=None if self.hidden is None else self.hidden.to(device),
        )


def pack(
    prefixes: Sequence[Sequence[int]],
    continuations: Sequence[Continuations],
    *,
    pad_id: int,
    supervised: Sequence[int] | None = None,
) -> Batch:
    """Packs prompts and their choices.

    supervised: for each question, how many of the prompt's own last tokens are scored as a part of every choice
        (the assistant header of the published loss). Needs a single choice a question.
    """
    headers = list(supervised or [0] * len(prefixes))
    width = max(map(len, prefixes))
    extra = max(sum(len(choice) - 1 for choice in choices) for choices in continuations)
    header = max(headers)
    rows, num_choices = len(prefixes), max(map(len, continuations))
    longest = max(len(choice) for choices in continuations for choice in choices) + header
    total = width + extra

    input_ids = torch.full((rows, total), pad_id)
    position_ids = torch.zeros(rows, total, dtype=torch.long)
    token_mask = torch.zeros(rows, total, dtype=torch.bool)
    branch = torch.zeros(rows, total, dtype=torch.long)  # 0: the prompt, k: choice k
    column = torch.zeros(rows, num_choices, longest, dtype=torch.long)
    token = torch.zeros(rows, num_choices, longest, dtype=torch.long)
    scored = torch.zeros(rows, num_choices, longest, dtype=torch.bool)

    for row, (prefix, choices) in enumerate(zip(prefixes, continuations, strict=True)):
        start, length = width - len(prefix), len(prefix)
        input_ids[row, start:width] = torch.tensor(prefix)
        position_ids[row, start:width] = torch.arange(length)
        token_mask[row, start:width] = True
        cursor = width
        for index, choice in enumerate(choices):
            body = list(choice[:-1])
            end = cursor + len(body)
            if body:
                input_ids[row, cursor:end] = torch.tensor(body)
                position_ids[row, cursor:end] = length + torch.arange(len(body))
                token_mask[row, cursor:end] = True
                branch[row, cursor:end] = index + 1
            own = headers[row]
            tokens = [*prefix[length - own :], *choice]
            where = [*range(width - 1 - own, width), *range(cursor, end)]
            token[row, index, : len(tokens)] = torch.tensor(tokens)
            column[row, index, : len(tokens)] = torch.tensor(where)
            scored[row, index, : len(tokens)] = True
            cursor = end

    branches = num_choices > 1 and extra > 0
    attention = _tree_attention(branch, token_mask) if branches else None
    kept = column[scored].unique()
    column = torch.searchsorted(kept, column).masked_fill(~scored, 0)
    return Batch(input_ids, position_ids, token_mask, attention, kept, column, token, scored)


def _tree_attention(branch: Tensor, token_mask: Tensor) -> Tensor:
    """(n, t, t): a token sees real tokens before it that are of the prompt or of its own choice."""
    size = branch.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    kin = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    return causal & kin & token_mask[:, None, :]


def score(logits: Tensor, batch: Batch) -> Tensor:
    """Log-probabilities (n, c, l) of the scored tokens in the whole vocabulary, 0 elsewhere; float32 or more.

    logits: (n, k, vocabulary), the kept columns' predictions.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    normaliser = logits.logsumexp(-1)
    rows = torch.arange(len(logits), device=logits.device)[:, None, None]
    log_probs = logits[rows, batch.column, batch.token] - normaliser[rows, batch.column]
    return log_probs.masked_fill(~batch.scored, 0.0)
