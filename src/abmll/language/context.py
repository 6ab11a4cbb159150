"""How long a text a model reads, and which tokens it knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from abmll.core.errors import AbmllError

_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions", "max_sequence_length")
_SEES = re.compile(r"(^|[._])(vision|visual|image|audio|patch)")
"""Parts of a model that read something else than text."""


def context_of(model: Any) -> int | None:
    """The longest text, in tokens, that a plain causal LM was made for; None if it does not say.

    Beyond it a model with a table of positions fails, and predictions of one with rotary positions mean nothing.
    """
    said = said_context(model.config)
    return min([*([] if said is None else [said]), *_tables(model)], default=None)


def said_context(config: Any) -> int | None:
    """What a transformers configuration says of it, for whoever has not loaded the weights."""
    text = config.get_text_config()
    said = (getattr(text, name, None) for name in _NAMES)
    return next((value for value in said if isinstance(value, int) and value > 0), None)


def _tables(model: nn.Module) -> Iterator[int]:
    """The lengths of tables of positions; one with a padding entry counts its positions from behind that."""
    for name, module in model.named_modules():
        if _SEES.search(name):
            continue
        if isinstance(module, nn.Embedding) and "position" in name.rpartition(".")[2]:
            yield module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)


def check_tokens(model: Any, tokenizer: Any, ids: Iterable[int]) -> None:
    """Raises AbmllError for a token that a plain causal LM has no embedding for."""
    rows = model.get_input_embeddings().weight.shape[0]
    unknown = sorted({token for token in ids if token >= rows})
    if unknown:
        raise AbmllError(
            f"the tokenizer makes token {unknown[0]} ({tokenizer.convert_ids_to_tokens(unknown[0])!r}), and the model "
            f"has embeddings for tokens 0 to {rows - 1} only. Load the tokenizer that belongs to the model, or call "
            f"model.resize_token_embeddings({len(tokenizer)}) and train the new rows."
        )
