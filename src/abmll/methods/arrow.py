"""Arrow: every token, in every layer, takes the LoRAs of the library that point its way; no labels, no gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.library import A, B, lora_of
from abmll.core.params import assign, clone, placed, with_prefix
from abmll.core.passes import Passes
from abmll.core.types import TASK, AdapterSpec, Example, Gate, Likelihood, Method, OuterOptimizer
from abmll.methods.parts.inner import InnerLoop, InnerOptimizer
from abmll.methods.parts.library import LoraPerTask, library, library_of
from abmll.methods.parts.posterior import counted
from abmll.methods.parts.space import ADAM_RATE, Choice, LogUniform, searched

PROTOTYPE = "prototype"
"""What the names of the prototypes begin with, among the tensors of a posterior."""


@dataclass(frozen=True)
class Arrow:
    """A layer's LoRAs, each weighed for every token x by how well x lies along what the LoRA answers to.

    The prototype p_i of a LoRA is the first right singular vector of B_i A_i: the direction of unit length that it
    answers to most. The token's scores are |p_i·x|; the k largest are divided by the temperature and put through a
    softmax, the others weigh 0; the layer adds Σ w_i(x) B_i A_i x. The support set is not looked at.

    Attributes:
        num_loras: how many LoRAs the library has room for; those that were never trained are never chosen.
        top_k: k; all LoRAs where there are fewer.
        temperature: as above.

    Source: Ostapenko et al. 2024, arXiv 2405.11157, section 4. k = 3 and a temperature of 1 are PEFT's. PEFT finds
        the singular vector by 15 power iterations, here it is exact; the subtraction of general knowledge that it
        offers besides is left out.

    Raises:
        AbmllError: For options out of range.
    """

    num_loras: int
    top_k: int = 3
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.num_loras < 1 or self.top_k < 1 or self.temperature <= 0:
            raise AbmllError(
                "arrow: num_loras and top_k must be at least 1 and temperature above 0; got "
                f"num_loras={self.num_loras}, top_k={self.top_k}, temperature={self.temperature}."
            )

    @property
    def zero_shot(self) -> Arrow:
        """It asks for no labels."""
        return self

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> ArrowPosterior:
        theta, found = library_of(likelihood, self.num_loras, "arrow")
        return ArrowPosterior(self, likelihood, theta, prototypes(theta, found, self.num_loras))

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> ArrowPosterior:
        state = placed(likelihood, state)
        theta = {name: tensor for name, tensor in state.items() if not name.startswith(f"{PROTOTYPE}.")}
        return ArrowPosterior(self, likelihood, theta, with_prefix(state, PROTOTYPE))

    def query_passes(self, num_samples: int) -> Passes:
        return Passes(0.0, 1.0)


class ArrowPosterior:
    """The library and its prototypes. It has no mean: which LoRA a token takes hangs on the token."""

    def __init__(
        self, arrow: Arrow, likelihood: Likelihood, theta: Mapping[str, Tensor], towards: Mapping[str, Tensor]
    ) -> None:
        self._likelihood = library(likelihood)
        self._theta, self._prototypes = clone(theta), clone(towards)
        self._gates: dict[str, Gate] = {}
        for name, directions in self._prototypes.items():
            r = theta[name].shape[0] // arrow.num_loras
            self._gates[name] = gate(directions, r, arrow.top_k, arrow.temperature)

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (1, examples, choices)."""
        assign(self._likelihood.parameters(TASK), self._theta)
        with self._likelihood.routed(self._gates):
            return self._likelihood.choice_log_probs(query)

    def mean(self) -> None:
        """None: no one LoRA stands for several between which tokens choose."""

    def state_dict(self) -> dict[str, Tensor]:
        return {**clone(self._theta), **{f"{PROTOTYPE}.{name}": t.clone() for name, t in self._prototypes.items()}}

    def __repr__(self) -> str:
        count = max((len(directions) for directions in self._prototypes.values()), default=0)
        return f"ArrowPosterior(a library of {count} LoRAs, {counted(self._theta)})"


@torch.no_grad()
def prototypes(theta: Mapping[str, Tensor], found: Sequence[int], count: int) -> dict[str, Tensor]:
    """The prototypes of every layer, (count, in_features), by the name of its A; those of LoRAs not in `found` are 0.

    A layer that a LoRA leaves as it is (B_i A_i = 0) has none to say where it points: its prototype is 0 as well.
    """
    loras = {index: lora_of(theta, index, count) for index in found}
    towards = {}
    for name, tensor in theta.items():
        if A not in name:
            continue
        rows = torch.zeros(count, tensor.shape[1], dtype=tensor.dtype, device=tensor.device)
        for index, lora in loras.items():
            rows[index] = first_right_singular_vector(lora[name], lora[name.replace(A, B)])
        towards[name] = rows
    return towards


def first_right_singular_vector(A: Tensor, B: Tensor) -> Tensor:
    """That of B A, (in_features,), without the product: QR of both factors leaves one of r × r. 0 where B A is.

    Args:
        A: (r, in_features).
        B: (out_features, r).
    """
    in_basis, of_A = torch.linalg.qr(A.double().mT)
    _, of_B = torch.linalg.qr(B.double())
    _, values, right = torch.linalg.svd(of_B @ of_A.mT)
    direction: Tensor = in_basis @ right[0] * (values[0] > 0)
    return direction.to(A.dtype)


def gate(directions: Tensor, r: int, top_k: int, temperature: float) -> Gate:
    """The weights of a layer's LoRAs, each r times, for every token.

    Args:
        directions: (loras, in_features), the prototypes; a LoRA whose own is 0 weighs 0.
        r: rank of a LoRA.
        top_k, temperature: see `Arrow`.
    """
    there = directions.abs().sum(1) > 0
    count = min(top_k, int(there.sum()))

    def weights(x: Tensor) -> Tensor:
        scores = (x @ directions.to(x).mT).abs().masked_fill(~there, -torch.inf)
        highest, chosen = scores.topk(count, -1)
        shares = (highest / temperature).softmax(-1)
        return torch.zeros_like(scores).scatter(-1, chosen, shares).repeat_interleave(r, -1)

    return weights


@searched(learning_rate=ADAM_RATE, top_k=Choice((1, 3, 8)), temperature=LogUniform(0.1, 10.0))
def arrow(
    num_loras: int = 20,
    num_steps: int = 5,
    learning_rate: float = 3e-3,
    optimizer: InnerOptimizer = "adamw",
    batch_size: int | None = None,
    top_k: int = 3,
    temperature: float = 1.0,
) -> Method:
    """Arrow: one LoRA a training task; every token takes those that point its way, without a label of the new task.

    Takes the memory and disk of `num_loras` LoRAs. A run sets their number to that of its training tasks, unless it is
    given.

    Args:
        num_loras: one for each training task.
        num_steps: of the steps that a LoRA is trained by when its task is visited.
        learning_rate: likewise.
        optimizer: likewise.
        batch_size: likewise.
        top_k: how many LoRAs a token takes.
        temperature: by which their scores are divided.
    """
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size)
    return Method(
        AdapterSpec(num_loras=num_loras),
        Arrow(num_loras, top_k, temperature),
        LoraPerTask(num_loras, inner),
        OuterOptimizer("sgd", 1.0),
    )
