"""Which packings a model bears: found by comparing each with every text alone and unpadded, not by its name.

A mask of our own takes the place of what a model does by itself (sliding windows, distances counted from the mask),
and a recurrent layer does not read it; positions are counted in many ways. Where a packing does not agree with the
plain pass to rounding, the next one is taken: trees, then rows padded on one side or the other, and one length of text
after the other, which is the plain pass itself.

What a model bears can depend on the length of its texts: a window shows only in texts that are longer. So the
comparison is made at the length that is needed, rounded up to a power of two, the first time it is needed; and where
the model's configuration names a window, texts beyond it are not packed as trees, whatever the comparison says, for
with half precision a window's effect can pass for rounding.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.language.evaluation_mode import evaluation_mode
from abmll.language.packing.batch import Batch, predicted
from abmll.language.packing.forward import Forward
from abmll.language.packing.rows import Rows, as_rows
from abmll.language.packing.tree import Tree, as_trees, grow

SHORTEST = 32
"""Tokens of the shortest comparison."""
SLACK = {torch.float32: 8.0, torch.bfloat16: 1.0, torch.float16: 1.0}
"""By how many machine epsilons of a type log-probabilities may differ, in units of 1 + the largest of them."""
MET = 4.0
"""How many times the rounding that is met in a pass which is surely right a difference may be."""
LEAK = {torch.float32: 2048.0, torch.bfloat16: 16.0, torch.float16: 16.0}
"""The most that rounding can do, in the same units: beyond it a prediction depends on what stands behind it."""
_WINDOW, _OTHER = re.compile(r"window|sliding|local|chunk"), re.compile(r"layer|pattern|num_|head|feed|theta|freq")

logger = logging.getLogger("abmll")


class Bearing(NamedTuple):
    """What a model bears at some length. tree: whether choices may stand side by side behind one prompt. rows: how rows
    of text share a pass. positions: whether texts padded on the left come with their positions."""

    tree: bool
    rows: Rows
    positions: bool

    def describe(self) -> str:
        """In words."""
        sides = {
            "left": "padded on the left",
            "right": "padded on the right",
            "alone": "in passes of texts of equal length",
        }
        if self.tree:
            return f"choices behind one prompt, questions {sides[self.rows]}"
        return f"one row a choice, {sides[self.rows]}"


class Evidence:
    """The comparisons of one model, each made once.

    Args:
        model: a causal LM, or a PEFT model of one.
        pad_id: the token of the padding.
        context: the longest text that the model reads, if it is known.
    """

    def __init__(self, model: Any, forward: Forward, pad_id: int, context: int | None = None) -> None:
        self._model, self._forward = model, forward
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._name, self._vocabulary = type(base).__name__, base.get_input_embeddings().weight.shape[0]
        self._pad_id, self._context = pad_id, context
        self._quantised = bool(getattr(base, "is_quantized", False))
        self.window = smallest_window(base.config)
        self._found: dict[int, Bearing] = {}

    def at(self, width: int) -> Bearing:
        """What the model bears in passes of up to `width` tokens a row.

        Raises:
            AbmllError: If it gives no predictions at all, or such that depend on the tokens behind them.
        """
        size = max(SHORTEST, 1 << (width - 1).bit_length())
        if self._context is not None:
            size = max(min(size, self._context), width)
        if size not in self._found:
            bearing = self._compare(size)
            if self._found and bearing not in self._found.values():
                logger.info("%s, texts of up to %d tokens: %s", self._name, size, bearing.describe())
            elif not self._found:
                logger.info("%s: %s (compared with each text alone)", self._name, bearing.describe())
            self._found[size] = bearing
        return self._found[size]

    @torch.no_grad()
    def _compare(self, width: int) -> Bearing:
        evaluation_mode(self._model)
        tree = self._probe(width)
        plain = as_rows(tree, "alone", positions=False)
        try:
            expected = self._predictions(plain)
            rounding = self._rounding(plain[-1])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise AbmllError(
                f"{self._name} gives no predictions for a plain text of {width} tokens ({type(error).__name__}: "
                f"{first}). A causal language model of transformers is needed that takes input_ids alone."
            ) from error
        if expected.isnan().any():
            kind = str(self._model.dtype).removeprefix("torch.")
            raise AbmllError(
                f"{self._name} gives NaN for a plain text of {width} tokens in {kind}: its weights are damaged, or it "
                "overflows in that type. Fetch it again, or load it in another (dtype)."
            )
        scale = 1 + expected.abs().max()
        if rounding > self._of_type(LEAK) * scale and not self._quantised:  # whose rounding knows no bound
            raise AbmllError(
                f"{self._name} is not causal: its prediction of a token changes by {rounding:.2g} (log p) with the "
                "tokens behind it, so that answers would be scored by themselves. Load a causal language model (GPT, "
                "Llama, Qwen, Mistral, …; a BERT-like encoder with is_decoder=True)."
            )
        allowed = torch.maximum(self._of_type(SLACK) * scale, MET * rounding)

        def agrees(batches: list[Batch]) -> bool:
            try:
                found = self._predictions(batches)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # a model may refuse a mask in any way
                return False
            return bool((found - expected).abs().max() <= allowed)

        beyond = self.window is not None and width > self.window
        bears_trees = not beyond and agrees([as_trees(tree)])
        for rows, positions in self._candidates(bears_trees):
            if agrees(as_rows(tree, rows, positions=positions)):
                return Bearing(bears_trees, rows, positions)
        return Bearing(bears_trees, "alone", False)

    def _candidates(self, trees: bool) -> list[tuple[Rows, bool]]:
        """Left padding first for models that look where a mask lets them: all answers then stand in the same columns.

        Others may carry a state from left to right. It would begin in the padding, where a sample of the adapter is
        noise that no mask keeps out; and padding on the right is behind everything.
        """
        left: list[tuple[Rows, bool]] = [("left", True)] if self._forward.takes_positions else []
        left.append(("left", False))
        return [*left, ("right", False)] if trees else [("right", False), *left]

    def _probe(self, width: int) -> Tree:
        """A long question and a short one, of random tokens, with choices of several tokens."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(self._vocabulary, (2 * width + 8,), generator=generator)
        text = iter([i for i in ids.tolist() if i != self._pad_id])

        def some(count: int) -> list[int]:
            return [next(text) for _ in range(count)]

        prefixes = [some(width - 3), some(width // 4)]
        return grow(prefixes, [[some(3), some(2)], [some(2), some(1)]], pad_id=self._pad_id)

    def _predictions(self, batches: list[Batch]) -> Tensor:
        """(questions, choices, tokens, vocabulary) of all passes together."""
        total: Tensor | None = None
        for batch in batches:
            batch = batch.to(self._model.device)
            found = predicted(self._forward(batch), batch)
            total = found if total is None else total + found
        assert total is not None
        return total

    def _rounding(self, batch: Batch) -> Tensor:
        """How much predictions change where they must not: with one more token behind the text."""
        longer = torch.cat([batch.input_ids, batch.input_ids[:, :1]], 1)
        found = [
            self._forward(one.to(self._model.device)).float().log_softmax(-1)
            for one in (batch, batch._replace(input_ids=longer))
        ]
        return (found[0] - found[1]).abs().max()

    def _of_type(self, epsilons: Mapping[torch.dtype, float]) -> float:
        """These machine epsilons of the model's type, or of float32, in which parts of every model are computed."""
        own = self._model.dtype
        return max(epsilons[t] * torch.finfo(t).eps for t in {torch.float32, own} if t in epsilons)


def smallest_window(config: Any) -> int | None:
    """The smallest window, in tokens, that a model's configuration speaks of; None if it speaks of none."""
    found = list(_windows(config.to_dict()))
    return min(found) if found else None


def _windows(fields: Mapping[Any, Any]) -> Iterator[int]:
    for key, value in fields.items():
        name = str(key)
        if isinstance(value, Mapping):
            yield from _windows(value)
        elif type(value) is int and value > 1 and _WINDOW.search(name) and not _OTHER.search(name):
            yield value
