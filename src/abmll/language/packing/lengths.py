"""One pass as several over texts of like length: short texts beside a long one are mostly padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from abmll.language.packing.batch import Batch
from abmll.language.packing.tree import Tree

PASS_ON_CPU, PASS = 64, 8192
"""What a pass costs besides its places (rows times tokens of the longest), in places, on a processor and on anything
else: calls, and reading the weights. A processor is busy with few tokens, an accelerator waits for many."""


def shares(lengths: Sequence[int], cost_of_pass: int) -> list[list[int]]:
    """Which texts share a pass, as indices, so that the passes take the fewest places with what each costs besides.

    Passes of neighbours in length are the best ones, and which neighbours, dynamic programming finds.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    best: list[tuple[int, int]] = [(0, 0)]  # of the first k texts: the cost, and where their last pass starts
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[start][0] + (end - start) * longest + cost_of_pass, start) for start in range(end)))
    found, end = [], len(order)
    while end:
        start = best[end][1]
        found.append(sorted(order[start:end]))
        end = start
    return found[::-1]


def only(tree: Tree, questions: Sequence[int]) -> Tree:
    """Some questions of a tree, without the columns that none of them uses."""
    chosen = torch.tensor(questions)
    used = tree.real[chosen].any(0).nonzero()
    first, behind = int(used.min()), int(used.max()) + 1
    scored = tree.scored[chosen]
    return tree._replace(
        input_ids=tree.input_ids[chosen, first:behind],
        position_ids=tree.position_ids[chosen, first:behind],
        real=tree.real[chosen, first:behind],
        branch=tree.branch[chosen, first:behind],
        column=(tree.column[chosen] - first).masked_fill(~scored, 0),
        token=tree.token[chosen],
        scored=scored,
    )


def among(batch: Batch, questions: Sequence[int], count: int) -> Batch:
    """A pass over some questions, of `count`, as one that scores nothing of the others. It is for no noise."""
    chosen = torch.tensor(questions)

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(count, *values.shape[1:]).index_copy(0, chosen, values)

    return batch._replace(
        copies=None,
        row=spread(batch.row.contiguous()),
        column=spread(batch.column),
        token=spread(batch.token),
        scored=spread(batch.scored),
    )
