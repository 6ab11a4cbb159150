"""A causal language model called on a batch, with the arguments that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.language.packing.batch import Batch


class Forward:
    """The predictions of a Hugging Face causal LM where a batch needs them.

    Args:
        model: it, or a PEFT model of it.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._base = base
        takes = inspect.signature(base.forward).parameters
        # By index, not by number: the last columns are a view that is not contiguous, from which torch makes a batched
        # product with a copy of the vocabulary's matrix for every row.
        self._keeps_columns = "logits_to_keep" in takes and "Tensor" in str(takes["logits_to_keep"].annotation)
        self._options = {"use_cache": False} if "use_cache" in takes else {}
        self.takes_positions = "position_ids" in takes

    def __call__(self, batch: Batch, call: Callable[..., Any] | None = None) -> Tensor:
        """(rows, kept, vocabulary): the predictions in the kept columns. call: in place of the model itself."""
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, **self._options}
        if batch.seen is not None:
            inputs["attention_mask"] = batch.seen.long() if not batch.branching else self._added(batch.seen)
        if batch.position_ids is not None and self.takes_positions:
            inputs["position_ids"] = batch.position_ids
        if self._keeps_columns:
            inputs["logits_to_keep"] = batch.kept
        logits: Tensor = (call or self._model)(**inputs).logits
        return logits if self._keeps_columns else logits[:, batch.kept]

    def with_hidden(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The predictions, and (rows, kept, width) the hidden states that the output head makes them of.

        Raises:
            AbmllError: If the model has no output head, or does not ask it once in a pass.
        """
        heard: list[Tensor] = []
        head = self._base.get_output_embeddings()
        if head is not None:
            handle = head.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
            try:
                logits = self(batch)
            finally:
                handle.remove()
        if len(heard) != 1 or heard[0].shape[:2] != (logits if self._keeps_columns else batch.input_ids).shape[:2]:
            raise AbmllError(
                f"{type(self._base).__name__} does not show the hidden states that its predictions are made of (no "
                "output head that reads them once in a pass). Take a method that adapts by gradient steps."
            )
        return logits, heard[0] if self._keeps_columns else heard[0][:, batch.kept]

    def _added(self, seen: Tensor) -> Tensor:
        """The mask as a summand: eager attention adds it, and fused kernels take it just the same."""
        dtype = self._model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
