"""Questions as trees: each prompt once, and behind it the tokens of its choices side by side.

A row is one question: its prompt, padded on the left so that all prompts end in the same column, then the tokens of
its choices. A choice's first token is predicted where the prompt ends, so single-token choices (letters) cost nothing
beyond the prompt; longer ones append all their tokens but the last. Choices see the prompt and themselves, not each
other, and their positions all start where the prompt ends: the shared prefix is computed once, in a pass that
gradients and checkpointing go through like any other. Needs a model that looks where a mask lets it and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from abmll.language.packing.batch import Batch

Continuations = Sequence[Sequence[int]]


class Tree(NamedTuple):
    """n questions, each a row of t columns; from it every packing is made.

    Attributes:
        input_ids: (n, t).
        position_ids: likewise.
        real: (n, t) bool, False on padding.
        branch: (n, t), 0 for the prompt's tokens and k for those of choice k - 1.
        column: (n, c, l) where each token of a choice is predicted;
        token: (n, c, l) which it is;
        scored: (n, c, l) True where there is one.
        pad_id: the token of the padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    real: Tensor
    branch: Tensor
    column: Tensor
    token: Tensor
    scored: Tensor
    pad_id: int

    @property
    def longest(self) -> int:
        """Tokens of the longest text, a prompt with one choice behind it."""
        return int(self.position_ids.max()) + 1

    @property
    def branches(self) -> bool:
        """Whether some question has tokens of more than one choice behind its prompt."""
        own = self.branch.amax(1, keepdim=True)
        return bool(((self.branch > 0) & (self.branch != own)).any())


def grow(
    prefixes: Sequence[Sequence[int]],
    continuations: Sequence[Continuations],
    *,
    pad_id: int,
    supervised: Sequence[int] | None = None,
) -> Tree:
    """The trees of prompts and their choices.

    Args:
        supervised: for each question, how many of the prompt's own last tokens are scored as a part of every choice
            (the assistant header of the published loss). Needs a single choice a question.
    """
    headers = list(supervised or [0] * len(prefixes))
    bodies = [[list(choice[:-1]) for choice in choices] for choices in continuations]
    # Without branches a row is one text, and all of them end in the same column, as left padding has it.
    single = all(sum(map(bool, of_question)) <= 1 for of_question in bodies)
    extra = [sum(map(len, of_question)) for of_question in bodies]
    lengths = [len(prefix) for prefix in prefixes]
    width = max(map(sum, zip(lengths, extra, strict=True))) if single else max(lengths) + max(extra)
    starts = [
        width - length - behind if single else max(lengths) - length
        for length, behind in zip(lengths, extra, strict=True)
    ]
    num_choices = max(map(len, continuations))
    longest = max(len(choice) for choices in continuations for choice in choices) + max(headers)
    shape, scores = (len(prefixes), width), (len(prefixes), num_choices, longest)

    input_ids = torch.full(shape, pad_id)
    position_ids = torch.zeros(shape, dtype=torch.long)
    real = torch.zeros(shape, dtype=torch.bool)
    branch = torch.zeros(shape, dtype=torch.long)
    column, token = (torch.zeros(scores, dtype=torch.long) for _ in range(2))
    scored = torch.zeros(scores, dtype=torch.bool)

    for row, (prefix, choices) in enumerate(zip(prefixes, continuations, strict=True)):
        start, length, own = starts[row], lengths[row], headers[row]
        cursor = start + length
        input_ids[row, start:cursor] = torch.tensor(prefix)
        position_ids[row, start:cursor] = torch.arange(length)
        real[row, start:cursor] = True
        before = [*range(cursor - 1 - own, cursor)]
        for index, (choice, body) in enumerate(zip(choices, bodies[row], strict=True)):
            end = cursor + len(body)
            if body:
                input_ids[row, cursor:end] = torch.tensor(body)
                position_ids[row, cursor:end] = length + torch.arange(len(body))
                real[row, cursor:end] = True
                branch[row, cursor:end] = index + 1
            tokens = [*prefix[length - own :], *choice]
            token[row, index, : len(tokens)] = torch.tensor(tokens)
            column[row, index, : len(tokens)] = torch.tensor([*before, *range(cursor, end)])
            scored[row, index, : len(tokens)] = True
            cursor = end
    return Tree(input_ids, position_ids, real, branch, column, token, scored, pad_id)


def as_trees(tree: Tree) -> Batch:
    """One row a question, under a mask of its own; the trees as they stand."""
    row = torch.arange(len(tree.real))[:, None].expand(tree.scored.shape[:2])
    kept, column = kept_columns(tree.column, tree.scored)
    return Batch(
        tree.input_ids,
        _kin(tree),
        tree.position_ids,
        tree.real,
        tree.real,
        None,
        kept,
        row,
        column,
        tree.token,
        tree.scored,
    )


def _kin(tree: Tree) -> Tensor:
    """(n, t, t): a token sees real tokens before it that are of the prompt or of its own choice."""
    size = tree.branch.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    kin = (tree.branch[:, None, :] == 0) | (tree.branch[:, None, :] == tree.branch[:, :, None])
    return causal & kin & tree.real[:, None, :]


def kept_columns(column: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of which predictions are needed, ascending, and `column` as places among them."""
    kept = column[scored].unique()
    return kept, torch.searchsorted(kept, column.contiguous()).clamp(max=len(kept) - 1).masked_fill(~scored, 0)
