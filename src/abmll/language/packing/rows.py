"""Questions as rows of plain text: one row for each choice that is longer than a token.

For models that look where no mask of ours tells them to: windows, distances counted by themselves, states carried from
left to right. The tokens stand for those of the trees (`Copies`): a prompt that several rows repeat draws the same
noise in all of them and counts once, so that every packing gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from abmll.gaussian.noise import Copies
from abmll.language.packing.batch import Batch
from abmll.language.packing.tree import Tree, kept_columns

Rows = Literal["left", "right", "alone"]
"""How rows of unequal length share a pass: padded on the left, padded on the right, or not at all."""


class Path(NamedTuple):
    """One text through a question's tree: the columns of its prompt and of one choice; branch 0 is the prompt alone."""

    question: int
    branch: int
    first: bool
    columns: Tensor


def as_rows(tree: Tree, kind: Rows, *, positions: bool) -> list[Batch]:
    """The passes of a tree's texts: one, or for "alone" one for each length of text.

    Args:
        positions: whether texts that are padded on the left come with the positions of their tokens. A text that is
            padded on the right, or not at all, is left to the model: no position is given and no mask.
    """
    paths = _paths(tree)
    lengths = sorted({len(path.columns) for path in paths})
    if kind == "alone" and len(lengths) > 1:
        return [_batch(tree, [p for p in paths if len(p.columns) == n], "right", False) for n in lengths]
    return [_batch(tree, paths, "left" if kind == "left" else "right", positions)]


def _paths(tree: Tree) -> list[Path]:
    paths = []
    for question, (real, branch) in enumerate(zip(tree.real, tree.branch, strict=True)):
        own = [*range(1, int(branch.max()) + 1)] or [0]
        texts = [(b, columns) for b in own if bool((branch == b).any()) for columns in [_text(real, branch, b)]]
        paths += [Path(question, b, place == 0, columns) for place, (b, columns) in enumerate(texts)]
    return paths


def _text(real: Tensor, branch: Tensor, own: int) -> Tensor:
    return (real & ((branch == 0) | (branch == own))).nonzero().squeeze(1)


def _batch(tree: Tree, paths: Sequence[Path], side: Literal["left", "right"], positions: bool) -> Batch:
    """A row for each path. A choice of a single token is predicted in the first row of its question."""
    (num_questions, width), num_choices = tree.real.shape, tree.scored.shape[1]
    longest = max(len(path.columns) for path in paths)
    source = torch.zeros(len(paths), longest, dtype=torch.long)  # columns of the tree
    real = torch.zeros(len(paths), longest, dtype=torch.bool)
    counted = torch.zeros(len(paths), longest, dtype=torch.bool)
    place = torch.zeros(len(paths), width, dtype=torch.long)  # from a column of the tree to one of the row
    row = torch.full((num_questions, num_choices), -1)
    of = torch.tensor([path.question for path in paths])
    for index, (question, branch, first, columns) in enumerate(paths):
        start = longest - len(columns) if side == "left" else 0
        here = slice(start, start + len(columns))
        source[index, here], real[index, here] = columns, True
        counted[index, here] = True if first else tree.branch[question, columns] == branch
        place[index, columns] = torch.arange(here.start, here.stop)
        if first:
            bodiless = ~_has_body(tree, question)
            row[question, bodiless] = index
        if branch:
            row[question, branch - 1] = index
    scored = tree.scored & (row >= 0)[..., None]
    row = row.clamp(min=0)
    kept, column = kept_columns(place[row[..., None], tree.column], scored)
    order = tree.real.flatten().cumsum(0).sub(1).clamp(min=0)  # the tree's tokens, counted without its padding
    token = order[of[:, None] * width + source]
    input_ids = tree.input_ids[of[:, None], source].masked_fill(~real, tree.pad_id)
    padded = side == "left" and not bool(real.all())
    as_in_tree = side == "left" and not tree.branches
    return Batch(
        input_ids,
        real if padded else None,
        tree.position_ids[of[:, None], source].masked_fill(~real, 0) if padded and positions else None,
        real,
        counted,
        None if as_in_tree else Copies(of, num_questions, token.flatten(), int(tree.real.sum())),
        kept,
        row,
        column,
        tree.token,
        scored,
    )


def _has_body(tree: Tree, question: int) -> Tensor:
    """(c,) True for choices of more than one token."""
    choices = torch.arange(1, tree.scored.shape[1] + 1)
    return (tree.branch[question][None] == choices[:, None]).any(1)
