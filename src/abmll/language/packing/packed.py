"""A causal language model that scores every choice of every question, whatever packing it bears."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.notices import tell
from abmll.gaussian.stochastic_pass import StochasticPass
from abmll.language.evaluation_mode import evaluation_mode
from abmll.language.packing.batch import Batch, score
from abmll.language.packing.evidence import Bearing, Evidence
from abmll.language.packing.forward import Forward
from abmll.language.packing.lengths import PASS, PASS_ON_CPU, among, only, shares
from abmll.language.packing.rows import as_rows
from abmll.language.packing.tree import Continuations, Tree, as_trees, grow
from abmll.language.trunk import Trunk


class PackedModel:
    """Packs questions for one model, and reads its predictions.

    Args:
        model: a PEFT model.
        pad_id: the token of the padding.
        context: the longest text the model reads, if known.
        longest: the longest pass that is to be expected, in tokens a row; a model that several processes hold between
            them is examined at this length alone, because all of them must make the same passes.
    """

    def __init__(self, model: Any, pad_id: int, *, context: int | None = None, longest: int = 512) -> None:
        self._model, self._pad_id, self._longest = model, pad_id, longest
        self._forward = Forward(model)
        self._evidence = Evidence(model, self._forward, pad_id, context)
        self._told = False
        self.trunk = Trunk.of(model, self._forward, self._trial)
        self.forced: Bearing | None = None
        """For comparisons: a packing to use whatever the model bears."""

    def bearing(self, width: int) -> Bearing:
        """What the model bears in passes over texts of up to `width` tokens. Raises: AbmllError as `Evidence.at`."""
        if self.forced is not None:
            return self.forced
        if any(hasattr(type(module), "unshard") for module in self._model.modules()):
            found = self._evidence.at(self._longest)
            return found if width <= self._longest else found._replace(tree=False)
        return self._evidence.at(width)

    def pack(
        self,
        prefixes: Sequence[Sequence[int]],
        continuations: Sequence[Continuations],
        supervised: Sequence[int] | None = None,
        *,
        by_length: bool = False,
    ) -> list[Batch]:
        """The passes over these prompts and their choices; see `tree.grow`. Leaves the model in evaluation mode.

        Args:
            by_length: they may be several, of texts of like length, where that saves padding. Not for sampling: the
                noise of one pass is not that of several.
        """
        evaluation_mode(self._model)
        tree = grow(prefixes, continuations, pad_id=self._pad_id, supervised=supervised)
        bearing = self.bearing(tree.longest)
        groups = self._shares(tree) if by_length else [list(range(len(prefixes)))]
        if len(groups) == 1:
            batches = self._batches(tree, bearing)
        else:
            batches = [
                among(batch, group, len(prefixes))
                for group in groups
                for batch in self._batches(only(tree, group), bearing)
            ]
        self._tell(tree.branches, bearing)
        if self.trunk is not None:
            batches = [self.trunk.filled(batch) for batch in batches]
        return [batch.to(self._model.device) for batch in batches]

    def _batches(self, tree: Tree, bearing: Bearing) -> list[Batch]:
        if tree.branches and bearing.tree:
            return [as_trees(tree)]
        return as_rows(tree, bearing.rows, positions=bearing.positions)

    def _shares(self, tree: Tree) -> list[list[int]]:
        if torch.is_grad_enabled() and self._checkpointing():
            return [list(range(len(tree.real)))]
        cost = PASS_ON_CPU if self._model.device.type == "cpu" else PASS
        return shares(tree.real.sum(1).tolist(), cost)

    def examine(self) -> None:
        """Finds out what only passes of the model as it stands can tell, before something else stands in its place."""
        if self.trunk is not None:
            evaluation_mode(self._model)
            self.trunk.check()

    def _trial(self, branching: bool) -> list[Batch]:
        """See `trunk.Trial`."""
        tokens = iter(range(1, 10_000, 7))
        vocabulary = self._model.get_input_embeddings().weight.shape[0]

        def some(count: int) -> list[int]:
            return [next(tokens) * 31 % vocabulary for _ in range(count)]

        answers = (2, 3, 1) if branching else (2,)
        prefixes, choices = [some(9), some(4), some(13)], [[some(count) for count in answers] for _ in range(3)]
        tree = grow(prefixes, choices, pad_id=self._pad_id)
        bearing = self.bearing(tree.longest)
        if branching:
            return [as_trees(tree)] if bearing.tree else []
        return as_rows(tree, bearing.rows, positions=bearing.positions)

    def log_probs(
        self, batches: Sequence[Batch], record: StochasticPass, call: Callable[..., Any] | None = None
    ) -> Tensor:
        """Log-probabilities (questions, choices, tokens) of the scored tokens, 0 elsewhere.

        Args:
            record: the pass that is open.
            call: in place of the model itself.

        Raises:
            AbmllError: For several passes under gradient checkpointing, which would run them again all alike.
        """
        return self._summed(batches, record, lambda batch: (score(self._forward(batch, call), batch),))[0]

    def with_hidden(self, batches: Sequence[Batch], record: StochasticPass) -> tuple[Tensor, Tensor]:
        """`log_probs`, and (questions, width) the hidden states that questions' first answer tokens are predicted from:
        those of their prompts' last tokens, the same for all choices. Raises: AbmllError likewise."""

        def read(batch: Batch) -> tuple[Tensor, Tensor]:
            logits, hidden = self._forward.with_hidden(batch)
            first = hidden[batch.row[:, 0], batch.column[:, 0, 0]]
            return score(logits, batch), first.masked_fill(~batch.scored[:, 0, :1], 0.0)

        scores, hidden = self._summed(batches, record, read)
        return scores, hidden

    def _summed(
        self, batches: Sequence[Batch], record: StochasticPass, read: Callable[[Batch], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """What `read` makes of each pass, added up: every question is 0 but in the pass that holds it."""
        if len(batches) > 1 and torch.is_grad_enabled() and self._checkpointing():
            raise AbmllError(
                f"{type(self._model.get_base_model()).__name__} bears no padding, so that texts of unequal length take "
                "several passes, and these cannot be differentiated under gradient checkpointing. Call "
                "model.gradient_checkpointing_disable()."
            )
        again = _Randomness(self._model.device) if record.request.sample and len(batches) > 1 else None
        total: tuple[Tensor, ...] = ()
        for batch in batches:
            if again is not None:  # the same noise in every pass, of which each takes the rows that it holds
                again.restore()
            record.mask, record.copies, record.places = batch.counted, batch.copies, batch.places
            with nullcontext() if self.trunk is None else self.trunk.stands_for(batch.hidden):
                found = read(batch)
            total = tuple(map(torch.add, total, found)) if total else found
        return total

    def _checkpointing(self) -> bool:
        return any(vars(module).get("gradient_checkpointing", False) for module in self._model.modules())

    def _tell(self, branches: bool, bearing: Bearing) -> None:
        if branches and not bearing.tree and not self._told:
            self._told = True
            name, packing = type(self._model.get_base_model()).__name__, bearing._replace(tree=False).describe()
            tell(
                f"{name} does not bear several choices behind one prompt in texts of this length: they are scored as "
                f'{packing}, which is as right and takes longer. Letters (answer = "letters") take one row a question.'
            )


class _Randomness:
    """The state of the generators that layers draw from."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._cpu = device, torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
