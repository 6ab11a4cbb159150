"""The head, the dearest matrix of a small model, sees the columns whose predictions are scored, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from abmll.language import PromptFormat
from abmll.language.packing.rows import as_rows
from abmll.language.packing.tree import grow
from tests.language.test_likelihood import EXAMPLES, likelihood_of


@contextmanager
def seen_by_the_head(model) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("answer", ["letters", "text"])
@pytest.mark.parametrize("loss", ["choices", "tokens"])
def test_the_head_sees_the_scored_columns_in_memory_of_their_own(answer, loss):
    likelihood = likelihood_of(prompt=PromptFormat(answer=answer, loss=loss))
    likelihood.choice_log_probs(EXAMPLES)  # the first pass also finds out what the model bears
    with seen_by_the_head(likelihood.model) as seen:
        likelihood.choice_log_probs(EXAMPLES)
        with likelihood.terms(EXAMPLES):
            pass
    encoded = [likelihood.encode(example) for example in EXAMPLES]
    bodies = [[len(choice) - 1 for choice in item.choices] for item in encoded]
    right = [len(item.choices[item.target]) - 1 for item in encoded]
    in_terms = max(map(sum, bodies)) if loss == "choices" else max(right)
    assert [hidden.shape[1] for hidden in seen] == [1 + max(map(sum, bodies)), 1 + in_terms]
    # a view of the last columns would be multiplied by a copy of the head's weight for every row
    assert all(hidden.is_contiguous() for hidden in seen)


def test_columns_that_no_row_scores_are_left_out_of_the_middle():
    """A header of one token in the prompt and an answer behind it: the prompt's other columns are not kept."""
    tree = grow([[5, 6, 7, 8], [5, 6]], [[[9, 10]], [[11]]], pad_id=0, supervised=[1, 0])
    (batch,) = as_rows(tree, "left", positions=True)
    assert batch.kept.tolist() == [2, 3, 4]
    assert batch.column[0, 0].tolist() == [0, 1, 2]  # the header's token, then the answer's two
    assert batch.column[1, 0, 0].item() == 2  # the end of the row, where the other's body ends
    assert batch.scored.tolist() == [[[True, True, True]], [[True, False, False]]]


def test_a_model_that_cannot_be_told_is_scored_alike():
    likelihood = likelihood_of(prompt=PromptFormat(answer="text"))
    expected = likelihood.choice_log_probs(EXAMPLES)
    likelihood._packed._forward._keeps_columns = False
    with seen_by_the_head(likelihood.model) as seen:
        torch.testing.assert_close(likelihood.choice_log_probs(EXAMPLES), expected, rtol=0, atol=1e-5)
    assert seen[0].shape[1] > max(len(likelihood.encode(example).prefix) for example in EXAMPLES)
