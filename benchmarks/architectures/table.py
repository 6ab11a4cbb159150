"""The page of docs that lists what each architecture bears."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from abmll.adapters.kind import check_kind
from abmll.core.errors import AbmllError
from abmll.language.packing.evidence import Bearing, Evidence
from abmll.language.packing.forward import Forward
from benchmarks.architectures.tiny import CONTEXT, WINDOW, architectures, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SHORT, LONG = 32, 64
"""Tokens of texts that are shorter and longer than the tiny models' windows."""
_VERSIONS = f"transformers {version('transformers')} and PyTorch {version('torch').partition('+')[0]}"

_HEAD = f"""# Models

Any causal language model of transformers can be adapted. Which packing it bears is found when it is first used, by
comparing with each text alone and unpadded; all packings give the same numbers, but they do not take the same time.

- **Choices of several tokens.** *One prompt*: they stand side by side behind a prompt that is computed once. *One
  prompt within the window*: so they do while the text is shorter than the model's window of attention; longer texts
  take a row for each choice, as all texts do where it says *a row each*. Letters are single tokens and share a row.
- **Texts of unequal length** are padded on the *left* or on the *right*. *Left, counting by itself*: the model is not
  told the positions of its tokens.

Refused, with the reason: encoder-decoder models (BART, T5), encoders (BERT, unless trained as a decoder) and models
whose predictions change with what stands behind them. `target_modules = "all-linear"` is the linear layers of the
blocks: nothing of the head, also where a dense layer stands before the output embeddings. Of mixtures of experts, it
adapts attention and what all tokens pass; it says which experts and which routers it leaves out.

Methods with a divergence over layers' outputs (`abmll-output`) refuse a layer that does not see every token once, or
that runs without gradient, and name it: BigBird's pooler, ZAYA's delayed values, the indexers of DeepSeek V3.2, AXK 2,
GLM MoE DSA and HY V4, all of HRM Text. `abmll`, `fomaml` and others without one take them. Models that read several
streams of codes (MusicGen) have no one table of embeddings and are refused; those that see images too are asked about
texts alone.

Made by `python -m benchmarks.architectures` with {_VERSIONS}, over tiny random models of
every architecture that transformers loads as a causal language model and a processor can build so small, with windows
of {WINDOW} tokens and texts of up to {SHORT} and {LONG}. `make test-slow` compares predictions, samples, losses and
gradients of each, and this table, with the plain pass.

| model type | choices of several tokens | texts of unequal length |
|---|---|---|
"""


_SIDES = {"left": "left", "right": "right", "alone": "none: one length after the other"}


def bearings(model: Any) -> tuple[Bearing, Bearing]:
    """What a plain model bears in short texts and in long ones. Raises: AbmllError if it is refused."""
    check_kind(model.config, model)
    evidence = Evidence(model, Forward(model), 0, CONTEXT)
    return evidence.at(SHORT), evidence.at(LONG)


def row_of(kind: str, found: tuple[Bearing, Bearing]) -> str:
    """A model type's line of the table."""
    short, long = found
    choices = "one prompt" if long.tree else "one prompt within the window" if short.tree else "a row each"
    sides = [_SIDES[bearing.rows] for bearing in found]
    if short.rows == "left" and not short.positions:
        sides[0] += ", counting by itself"
    padding = sides[0] if short.rows == long.rows else f"{sides[0]}; beyond the window {sides[1]}"
    return f"| {kind} | {choices} | {padding} |"


def page(kinds: Sequence[str] | None = None) -> str:
    """The whole page; kinds: of the table, all if they are not named."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    rows: list[str] = []
    refused: list[str] = []
    unbuilt: list[str] = []
    for kind in architectures() if kinds is None else kinds:
        try:
            model = tiny_model(kind)
        except Exception:  # sizes that do not fit each other, packages that are not here: anything
            unbuilt.append(kind)
            continue
        try:
            rows.append(row_of(kind, bearings(model)))
        except AbmllError as error:
            (unbuilt if "gives no predictions" in str(error) else refused).append(kind)
    tail = [f"\n{len(rows)} architectures."]
    if refused:
        tail.append(f"Refused, because they look ahead: {', '.join(refused)}.")
    if unbuilt:
        tail.append(f"Not built so small, and found out like any other when one is used: {', '.join(unbuilt)}.")
    return _HEAD + "\n".join([*rows, *tail]) + "\n"


def listed(text: str) -> dict[str, str]:
    """The table's lines by model type."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| model type")]
    return {line.split("|")[1].strip(): line for line in lines}
