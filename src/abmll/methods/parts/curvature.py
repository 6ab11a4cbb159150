"""Curvatures H = Σ RᵀR over named tensors: diagonal, Kronecker-factored and full, behind one small interface.

Each takes the rows R of one example after the other (`add`), knows the eigenvalues of its H, and multiplies by
(H + λI)^-½, symmetric: applied to white noise that is a posterior draw, applied to a Jacobian it is the root of the
predictive covariance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


class Curvature(ABC):
    """H over the tensors of `like`, zero at first. All tensors called rows or vectors are (any count, *shape)."""

    @abstractmethod
    def add(self, rows: Tensors) -> None:
        """H ← H + RᵀR."""

    @abstractmethod
    def eigenvalues(self) -> Tensor:
        """All eigenvalues of H that are not zero, in one dimension (zeros may be among them)."""

    @abstractmethod
    def whiten(self, vectors: Tensors, precision: float) -> dict[str, Tensor]:
        """(H + precision·I)^-½ v for each v."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]: ...

    @abstractmethod
    def load_state_dict(self, state: Tensors) -> None:
        """Takes the tensors of `state_dict`, whatever else `state` holds. The names are those it was made with."""


class DiagonalCurvature(Curvature):
    """The diagonal of H, exactly."""

    def __init__(self, like: Tensors) -> None:
        self.diagonal = {name: torch.zeros_like(tensor) for name, tensor in like.items()}

    def add(self, rows: Tensors) -> None:
        for name, diagonal in self.diagonal.items():
            diagonal += rows[name].square().sum(0)

    def eigenvalues(self) -> Tensor:
        return torch.cat([diagonal.flatten() for diagonal in self.diagonal.values()])

    def whiten(self, vectors: Tensors, precision: float) -> dict[str, Tensor]:
        return {name: v * (self.diagonal[name] + precision).rsqrt() for name, v in vectors.items()}

    def state_dict(self) -> dict[str, Tensor]:
        return {f"diagonal.{name}": diagonal for name, diagonal in self.diagonal.items()}

    def load_state_dict(self, state: Tensors) -> None:
        self.diagonal = {name: state[f"diagonal.{name}"] for name in self.diagonal}


class KroneckerCurvature(Curvature):
    """One block U ⊗ V / tr H a tensor, from the rows as matrices G (m × k): U = Σ GGᵀ, V = Σ GᵀG.

    The trace is exact, tr(U ⊗ V / tr H) = tr H. The block is exact if all G share their left or their right factor
    (G = u vᵢᵀ or uᵢ vᵀ), hence for vectors (taken as 1 × k); if G = g aᵀ with g and a uncorrelated in their second
    moments it is KFAC's E[ggᵀ] ⊗ E[aaᵀ]. Unlike KFAC it needs no activations, and a matrix that is used at several
    tokens has its summed Jacobian, not a sum of squares.

    Args:
        rank: keeps this many leading directions of each factor, the others count as flat; None keeps them all.
    """

    def __init__(self, like: Tensors, rank: int | None = None) -> None:
        self.rank = rank
        matrices = {name: _matrices(tensor[None])[0] for name, tensor in like.items()}
        self.left = {name: matrix.new_zeros(0, matrix.shape[0]) for name, matrix in matrices.items()}
        self.right = {name: matrix.new_zeros(0, matrix.shape[1]) for name, matrix in matrices.items()}
        self.trace = {name: matrix.new_zeros(()) for name, matrix in matrices.items()}

    def add(self, rows: Tensors) -> None:
        for name in self.trace:
            G = _matrices(rows[name])
            self.left[name] = self._compress(torch.cat([self.left[name], G.mT.flatten(0, 1)]))
            self.right[name] = self._compress(torch.cat([self.right[name], G.flatten(0, 1)]))
            self.trace[name] = self.trace[name] + G.square().sum()

    def _compress(self, root: Tensor) -> Tensor:
        """A root S with SᵀS = RᵀR and orthogonal rows, the longest first."""
        _, lengths, directions = torch.linalg.svd(root, full_matrices=False)
        kept = lengths > lengths[:1] * torch.finfo(root.dtype).eps
        longest: Tensor = lengths[kept, None] * directions[kept]
        return longest[: self.rank]

    def _eigen(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues (a, c) of the block, and the directions (a, m) and (c, k) they belong to."""
        left, right = self.left[name], self.right[name]
        values = left.square().sum(1)[:, None] * right.square().sum(1)
        unit = (part / part.norm(dim=1, keepdim=True) for part in (left, right))
        return values / self.trace[name].clamp(min=torch.finfo(values.dtype).tiny), *unit

    def eigenvalues(self) -> Tensor:
        return torch.cat([self._eigen(name)[0].flatten() for name in self.trace])

    def whiten(self, vectors: Tensors, precision: float) -> dict[str, Tensor]:
        out = {}
        for name, vector in vectors.items():
            values, left, right = self._eigen(name)
            flat, matrix = precision**-0.5, _matrices(vector)
            inside = (left @ matrix @ right.mT) * ((values + precision).rsqrt() - flat)
            out[name] = (flat * matrix + left.mT @ inside @ right).view_as(vector)
        return out

    def state_dict(self) -> dict[str, Tensor]:
        parts = {"left": self.left, "right": self.right, "trace": self.trace}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def load_state_dict(self, state: Tensors) -> None:
        names = list(self.trace)
        self.left, self.right, self.trace = (
            {name: state[f"{part}.{name}"] for name in names} for part in ("left", "right", "trace")
        )


class FullCurvature(Curvature):
    """H whole, over all tensors together: for small adapters, and to judge the others by."""

    def __init__(self, like: Tensors) -> None:
        flat = torch.cat([tensor.flatten() for tensor in like.values()])
        self.names, self.matrix = list(like), flat.new_zeros(len(flat), len(flat))

    def add(self, rows: Tensors) -> None:
        R = self._flat(rows)
        self.matrix += R.mT @ R

    def _flat(self, rows: Tensors) -> Tensor:
        return torch.cat([rows[name].flatten(1) for name in self.names], dim=1)

    def eigenvalues(self) -> Tensor:
        eigenvalues: Tensor = torch.linalg.eigvalsh(self.matrix)
        return eigenvalues.clamp(min=0)

    def whiten(self, vectors: Tensors, precision: float) -> dict[str, Tensor]:
        values, directions = torch.linalg.eigh(self.matrix)
        root = (directions * (values.clamp(min=0) + precision).rsqrt()) @ directions.mT
        parts = (self._flat(vectors) @ root).split([vectors[name][0].numel() for name in self.names], dim=1)
        return {name: part.reshape(vectors[name].shape) for name, part in zip(self.names, parts, strict=True)}

    def state_dict(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}

    def load_state_dict(self, state: Tensors) -> None:
        self.matrix = state["matrix"]


def _matrices(batch: Tensor) -> Tensor:
    """(count, m, k) from (count, *shape); a vector is one row."""
    return batch.flatten(2) if batch.dim() > 2 else batch.flatten(1)[:, None]
