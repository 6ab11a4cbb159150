"""A Gaussian prior over a layer's LoRA factors, from LoRAs that are trained already.

Two LoRAs of the same change of weight ΔW = s·BA can have any factors: (B R⁻¹)(R A) is the same for every invertible R.
So the factors of LoRAs from different starts are never averaged. Products are, and factors are compared only after each
LoRA was written in one form and turned towards the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LENGTH = math.sqrt(1 / 3)
"""Length of the rows of A: that of a fresh LoRA's, whose elements are uniform in ±1/√in_features."""
SMALLEST_VARIANCE = 1e-12
"""Of a tensor in which the LoRAs agree to rounding, so that it has a logarithm."""


class Lora(NamedTuple):
    """A change of weight ΔW = scaling · B A of one layer.

    Attributes:
        A: (rank, in_features).
        B: (out_features, rank).
        scaling: s.
    """

    A: Tensor
    B: Tensor
    scaling: float


class LoraPrior(NamedTuple):
    """The prior of one layer's factors.

    Attributes:
        mean: A, whose rows are orthogonal and of length `LENGTH`, and B, for the scaling that was asked for; float64.
        variance_A: σ² of the elements of A.
        variance_B: σ² of the elements of B.
        size: the squared norm of the mean's product.
        kept: the share of the squared norm of the mean of the products that this rank keeps, from 0 to 1.
    """

    mean: Lora
    variance_A: float
    variance_B: float
    size: float
    kept: float


def lora_prior(loras: Sequence[Lora], scaling: float) -> LoraPrior:
    """The prior N((A, B), (σ_A² I, σ_B² I)) of one layer from the LoRAs of T tasks, all of one rank r.

    The mean is the best approximation of rank r to the mean of the products, (1/T) Σ s_t B_t A_t. That matrix is never
    built: with the factors side by side it is [s_1 B_1 … s_T B_T] / T [A_1; …; A_T] = Q_B (R_B R_Aᵀ) Q_Aᵀ, and the
    small matrix in the brackets has its singular values.

    Of all factors of that product, A has orthogonal rows of one length α, as a fresh LoRA nearly has, and B the rest. A
    direction that the mean lacks is then free to be learned, with B = 0 there; a balanced split would have both factors
    0, and no gradient. Every task's LoRA is written in this form too, which leaves a rotation R of r dimensions
    open; the one that turns it towards the mean makes

        α² ‖B_t Rᵀ - B‖² + b² ‖R A_t - A‖²,    b² = the mean of ‖B_t‖² over tasks, divided by r,

    least (orthogonal Procrustes; both terms have the product's unit). σ_A² and σ_B² are the mean squares of what
    remains, over tasks and elements.

    Args:
        loras: one for each task, on one device.
        scaling: s of the mean's product s·BA.

    Source: Eckart & Young 1936, "The approximation of one matrix by another of lower rank"; Schönemann 1966, "A
        generalized solution of the orthogonal Procrustes problem".
    """
    rank = len(loras[0].A)
    products = [(lora.A.double(), lora.scaling * lora.B.double()) for lora in loras]
    A, B, kept = _in_form(
        torch.cat([A for A, _ in products]), torch.cat([B for _, B in products], dim=1) / len(loras), rank
    )
    forms = [_in_form(*product, rank)[:2] for product in products]
    weight = torch.stack([B_t.square().sum() for _, B_t in forms]).mean() / rank
    of_A, of_B = [], []
    for A_t, B_t in forms:
        U, _, Vh = torch.linalg.svd(LENGTH**2 * B.T @ B_t + weight * A @ A_t.T)
        R = U @ Vh
        of_A.append((R @ A_t - A).square().mean())
        of_B.append((B_t @ R.T - B).square().mean() / scaling**2)
    variance_A, variance_B = (max(float(torch.stack(each).mean()), SMALLEST_VARIANCE) for each in (of_A, of_B))
    size = float(LENGTH**2 * B.square().sum())
    return LoraPrior(Lora(A, B / scaling, scaling), variance_A, variance_B, size, kept)


def _in_form(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The best approximation of this rank to B A, with orthogonal rows of A; the share of its norm that it keeps."""
    Q_A, R_A = torch.linalg.qr(A.T)
    Q_B, R_B = torch.linalg.qr(B)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T)  # Vh is square: it goes on where B has fewer rows than the rank
    some = min(rank, len(S))
    reduced = torch.zeros(len(B), rank, dtype=B.dtype, device=B.device)
    reduced[:, :some] = Q_B @ U[:, :some] * S[:some] / LENGTH
    whole = float(S.square().sum())
    return LENGTH * Vh[:rank] @ Q_A.T, reduced, float(S[:some].square().sum()) / whole if whole else 1.0
