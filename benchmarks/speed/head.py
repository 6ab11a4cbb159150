"""What the vocabulary's matrix costs a prediction: beside a plain forward pass whose head sees one column a row."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.speed.cases import BASELINE, PROJECTIONS, attach
from benchmarks.speed.measure import Case, Clock, compare

FORWARD, INDEX, NUMBER = "plain forward pass", "by index", "by number"


def head(config: Any, rows: int, tokens: int, repeats: int, clock: Clock) -> dict[str, Any]:
    """Seconds of one pass with the last column asked for by index (as the likelihood does) and by number.

    The plain pass has no adapter, and its head is one matrix product of the last column.
    """
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    plain = LlamaForCausalLM(config).eval()
    ids = torch.randint(config.vocab_size, (rows, tokens))
    adapted = attach(LlamaForCausalLM(config), BASELINE, PROJECTIONS).eval()
    last = torch.tensor([tokens - 1])

    @torch.no_grad()
    def forward() -> None:
        plain.lm_head(plain.model(input_ids=ids, use_cache=False).last_hidden_state[:, -1])

    @torch.no_grad()
    def keep(columns: Any) -> None:
        adapted(input_ids=ids, use_cache=False, logits_to_keep=columns)

    known = (ids, *plain.parameters(), *adapted.parameters())
    cases = {
        FORWARD: Case(forward, known),
        INDEX: Case(lambda: keep(last), known),
        NUMBER: Case(lambda: keep(1), known),
    }
    return {"rows": rows, "tokens": tokens, "cases": compare(cases, repeats, FORWARD, clock)}
