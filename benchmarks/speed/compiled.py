"""torch.compile around a training step at the mean, the kind of pass that it takes whole."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.speed.cases import BASELINE, PROJECTIONS, attach, llama_config
from benchmarks.speed.measure import Case, Clock, compare, timed


def compiled(hidden: int, layers: int, batch: int, tokens: int, repeats: int, clock: Clock) -> dict[str, Any]:
    """Seconds of a step of LoRA and of ABMLL, as they are and compiled.

    Of a compiled one also the seconds on the wall of its first step, with nothing cached by an earlier one.
    """
    cases, first = {}, {}
    for name, variant in ((BASELINE, BASELINE), ("ABMLL", "fused")):
        for way in ("eager", "compiled"):
            case = _at_the_mean(variant, llama_config(hidden, layers), batch, tokens, way == "compiled")
            cases[f"{name}, {way}"] = case
            if way == "compiled":
                with torch.compiler.config.patch(force_disable_caches=True):  # type: ignore[attr-defined]
                    first[f"{name}, {way}"] = timed(case.step)
    rows = compare(cases, repeats, f"{BASELINE}, eager", clock)
    for name, seconds in first.items():
        rows[name]["first_seconds"] = seconds
    return {"layers": layers, "batch": batch, "tokens": tokens, "cases": rows}


def _at_the_mean(variant: str, config: Any, batch: int, tokens: int, compile_it: bool) -> Case:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    ids = torch.randint(config.vocab_size, (batch, tokens))
    adapted = attach(model, variant, PROJECTIONS)
    if compile_it:
        adapted.compile()
    return Case(lambda: adapted(input_ids=ids, labels=ids).loss.backward(), (ids, *adapted.parameters()))
