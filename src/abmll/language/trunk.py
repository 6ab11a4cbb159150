"""The frozen trunk of a model, all that lies below its lowest adapted block, run once for each row.

Where an adapter leaves the lower blocks as they are, what they make of a row is the same in every inner step, fold,
posterior sample, seed and method. It is computed when the row is first met and kept; later passes hand it to the lowest
adapted block, and only the embeddings' look-up of the rows below is repeated.

A row is computed alone and without padding. So it has one value, to the bit, whatever rows it is met with first: runs
that are resumed, or shared among processes, stay equal.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from abmll.adapters.blocks import Blocks, blocks_of, untouched
from abmll.language.packing.batch import Batch, predicted

CAPACITY = 2**30
"""How many bytes of hidden states a process keeps, on the devices that they were computed on. A row of 50 tokens of a
model of width 576 takes 115 kB in float32."""

Run = Callable[[Batch], Tensor]
"""A pass of the whole model: the predictions in the kept columns."""
Trial = Callable[[bool], Sequence[Batch]]
"""Small passes to try the trunk on, over rows of unequal length, packed as the model bears it: with several choices
behind one prompt, or of plain texts. None at all if it does not bear the former."""


class RowStore:
    """Hidden states by row. Those that were used longest ago go first, once all take more than `capacity` bytes."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.num_bytes = 0
        self._rows: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> Tensor | None:
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def put(self, key: bytes, hidden: Tensor) -> None:
        old = self._rows.pop(key, None)
        self._rows[key] = hidden
        self.num_bytes += hidden.nbytes - (0 if old is None else old.nbytes)
        while self.num_bytes > self.capacity:
            self.num_bytes -= self._rows.popitem(last=False)[1].nbytes


SHARED = RowStore()
"""What all models of a process keep. Models with the same trunk, as those of several seeds and methods, share rows."""


class Trunk:
    """What lies below a model's lowest adapted block.

    Args:
        model: a PEFT model.
        blocks: those of its base.
        size: how many of them are untouched, and not all of them.
        run: an ordinary pass of `model` over a batch, which the trunk's own passes are made by.
        trial: passes to try it on.
        store: where the rows are kept.
    """

    def __init__(self, model: Any, blocks: Blocks, size: int, run: Run, trial: Trial, store: RowStore = SHARED) -> None:
        base = model.get_base_model()
        self.size = size
        self._model, self._run, self._store, self._trial = model, run, store, trial
        self._lower, self._lowest_above = list(blocks.modules[:size]), blocks.modules[size]
        upper = {id(module) for block in blocks.modules[size:] for module in block.modules()}
        head = base.get_output_embeddings()
        after = upper | (set() if head is None else {id(module) for module in head.modules()})
        self._parameters = {
            id(parameter): parameter
            for module in base.modules()
            if id(module) not in after
            for parameter in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        }
        self._others: list[tuple[Any, ...] | None] = []  # what each lower block returns beside its hidden states
        self._digest = b""
        self._digested: tuple[tuple[int, int], ...] = ()
        self._enterable: dict[bool, bool] = {}  # with the mask of several choices, and without
        self._warned = False

    @classmethod
    def of(cls, model: Any, run: Run, trial: Trial) -> Trunk | None:
        """The trunk of a PEFT model; None if adapters touch its lowest block, or its blocks cannot be told."""
        base = model.get_base_model()
        blocks = blocks_of(base)
        size = 0 if blocks is None else min(untouched(base, blocks), len(blocks.modules) - 1)
        return None if blocks is None or size == 0 else cls(model, blocks, size, run, trial)

    def filled(self, batch: Batch) -> Batch:
        """`batch`, on any device, with its hidden states; without, where the trunk must run in every pass."""
        self.check()
        if not self._enterable[batch.branching] or not self._unchanging():
            return batch
        keys = [self._key(batch, row) for row in range(len(batch.input_ids))]
        found: dict[bytes, Tensor] = {}  # held here, for the store may be smaller than a batch
        for row, key in enumerate(keys):
            if key not in found:
                hidden = self._store.get(key)
                if hidden is None:
                    hidden = self._computed(_alone(batch, row))
                    self._store.put(key, hidden)
                found[key] = hidden
        rows = [found[key] for key in keys]
        hidden = rows[0].new_zeros(*batch.input_ids.shape, rows[0].shape[-1])
        hidden[batch.real.to(hidden.device)] = torch.cat(rows)
        return batch._replace(hidden=hidden)

    @contextmanager
    def stands_for(self, hidden: Tensor | None) -> Iterator[None]:
        """In the block, the trunk's blocks answer with these hidden states and compute nothing. None: they compute."""
        with ExitStack() as stack:
            for module, others in zip(self._lower, self._others, strict=True) if hidden is not None else ():
                stack.enter_context(_answering(module, hidden if others is None else (hidden, *others)))
            yield

    def check(self) -> None:
        """Finds out, the first time, whether this model's blocks can be entered in the middle: by trying.

        Blocks that hand on more than hidden states, or that keep something for those above, cannot.
        """
        if self._enterable:
            return
        reasons = {
            branching: [self._difference(batch) for batch in self._trial(branching)] for branching in (False, True)
        }
        plain, branching = (bool(found) and not any(found) for found in (reasons[False], reasons[True]))
        self._enterable = {False: plain, True: plain and branching}  # rows without branches are plain texts in both
        for reason in filter(None, (*reasons[False], *reasons[True])):
            self._warn(reason)

    @torch.no_grad()
    def _difference(self, batch: Batch) -> str | None:
        """What keeps the trunk from being left out of a pass; None if the pass comes to the same."""
        batch = batch.to(self._model.device)
        try:
            with ExitStack() as stack:
                outputs: list[Any] = []
                for module in self._lower:
                    handle = module.register_forward_hook(lambda _, __, output: outputs.append(output))
                    stack.callback(handle.remove)
                expected = self._run(batch)
            self._others = [output[1:] if isinstance(output, tuple) else None for output in outputs]
            if len(outputs) != self.size or any(other is not None for others in self._others for other in others or ()):
                return "they hand on more than hidden states"
            rows = [self._computed(_alone(batch, row)) for row in range(len(batch.input_ids))]
            hidden = rows[0].new_zeros(*batch.input_ids.shape, rows[0].shape[-1])
            hidden[batch.real] = torch.cat(rows)
            with self.stands_for(hidden):
                found = self._run(batch)
            # only where something is scored: what is predicted from padding is anything
            found, expected = predicted(found, batch), predicted(expected, batch)
        except Exception as error:  # whatever a foreign model's code raises, the ordinary pass is there
            return f"{type(error).__name__}: {error}"
        difference = float((found - expected).norm() / expected.norm())
        if difference <= torch.finfo(expected.dtype).eps ** 0.5:
            return None
        return f"the predictions differ by {difference:.1e} of their size"

    def _unchanging(self) -> bool:
        """Whether the trunk is frozen, whole and called as it stands. If its weights are others than before, their
        digest is taken anew, and the rows computed before are no longer found."""
        base, parameters = self._model.get_base_model(), self._parameters.values()
        reason = None
        if any(parameter.requires_grad for parameter in parameters):
            reason = "they are being trained"
        elif any(isinstance(parameter, DTensor) for parameter in self._model.parameters()):
            reason = "the model is shared among processes"
        elif len({parameter.device for parameter in self._model.parameters()}) > 1:
            reason = "the model lies on several devices"
        elif any(module._compiled_call_impl is not None for module in (self._model, base)):
            reason = "the model is compiled"
        if reason is not None:
            self._warn(reason)
            return False
        state = tuple((parameter._version, parameter.data_ptr()) for parameter in parameters)
        if state != self._digested:
            self._digest, self._digested = self._digest_of_weights(), state
        return True

    def _digest_of_weights(self) -> bytes:
        base = self._model.get_base_model()
        made_by = base.config.to_json_string(), base.config._attn_implementation, self.size
        digest = hashlib.sha256(repr(made_by).encode())
        if getattr(base, "is_quantized", False):
            digest.update(str(id(self)).encode())  # a packed weight's scales are no parameters
        for tensor in self._parameters.values():
            digest.update(f"{tensor.shape} {tensor.dtype} {tensor.device}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.digest()

    def _key(self, batch: Batch, row: int) -> bytes:
        """Equal for rows that are equal in the trunk: in tokens and in positions, which restart at every choice."""
        alone = _alone(batch, row)
        places = alone.position_ids
        if places is None:
            places = torch.arange(alone.input_ids.shape[1])[None]
        return self._digest + torch.cat([alone.input_ids, places]).numpy().tobytes()

    @torch.no_grad()
    def _computed(self, row: Batch) -> Tensor:
        """(tokens, width): the hidden states of a batch of one row that the lowest block above is about to get."""

        def reach(*arguments: Any, **named: Any) -> None:
            raise _Reached(arguments[0] if arguments else named["hidden_states"])

        with _answering(self._lowest_above, reach):
            try:
                self._run(row.to(self._model.device))
            except _Reached as reached:
                return reached.hidden[0].detach().clone()
        raise RuntimeError("the blocks are not run in their order")

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the adapter leaves the lower {self.size} blocks as they are, but what they compute cannot be kept "
                f"({reason}): they run in every pass, which is slower and gives the same.",
                stacklevel=2,
            )


class _Reached(Exception):
    """The lowest block above the trunk was reached; what lies above needs not run."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@contextmanager
def _answering(module: nn.Module, answer: Any) -> Iterator[None]:
    """The module answers with a value, or by a function of its arguments, instead of its own forward pass."""
    own = vars(module).get("forward")
    vars(module)["forward"] = answer if callable(answer) else lambda *_, **__: answer
    try:
        yield
    finally:
        if own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = own


def _alone(batch: Batch, row: int) -> Batch:
    """One row of the batch, unpadded; a plain text where it has no branches, whatever the rows beside it have.

    Its predictions, which nobody reads, are kept in one column.
    """
    real = batch.real[row]
    own = batch if batch.branching and _restarts(batch, row) else batch._replace(position_ids=None, seen=None)
    return own._replace(
        input_ids=own.input_ids[row][real][None],
        position_ids=None if own.position_ids is None else own.position_ids[row][real][None],
        seen=None if own.seen is None else own.seen[row][real][:, real][None],
        real=real[real][None],
        kept=own.kept.new_zeros(1),
    )


def _restarts(batch: Batch, row: int) -> bool:
    """Whether positions start anew within a row, as they do where several choices stand behind one prompt."""
    assert batch.position_ids is not None
    return bool((batch.position_ids[row][batch.real[row]].diff() != 1).any())
