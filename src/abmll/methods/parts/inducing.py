"""A matrix whose uncertainty is carried by a few inducing variables: sparse Gaussian-process algebra for weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InducingMatrix(nn.Module):
    """q(W) for a matrix W (m × k), prior N(0, 1) on every element, through inducing variables U (rows × columns).

    Jointly Gaussian a priori: Cov(U) = K_c ⊗ K_r and Cov(W, U) = Z_cᵀ ⊗ Z_rᵀ, with K = ZZᵀ + D² on each side, D
    diagonal. Hence E[W | U] = T_r U T_c with T_r = Z_rᵀK_r^-1 and T_c = K_c^-1 Z_c. The posterior has

        q(U): U = L_r V L_cᵀ, LLᵀ = K, V ~ N(mean, std²) elementwise (the prior has V ~ N(0, 1))
        q(W | U): the prior's conditional, its covariance scaled by λ²

    Z, D, λ, mean and std are learned. Only rows × rows and columns × columns matrices are ever factored.
    Source: Ritter et al. 2021, arXiv 2105.14594; the form that Bayesian-LoRA uses.
    """

    def __init__(self, like: Tensor, num_inducing: int, std: float = 1e-3, noise_scale: float = 1e-4) -> None:
        super().__init__()
        (m, k), size = like.shape, num_inducing

        def softplus_inverse(value: float, *shape: int) -> nn.Parameter:
            return nn.Parameter(like.new_full(shape, value).expm1().log())

        def inputs(count: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(size, count, dtype=like.dtype, device=like.device) * size**-0.5)

        self.Z_r, self.Z_c = inputs(m), inputs(k)
        self.mean = nn.Parameter(like.new_zeros(size, size))
        self.raw_std = softplus_inverse(std, size, size)
        self.raw_D_r, self.raw_D_c = softplus_inverse(1e-3, size), softplus_inverse(1e-3, size)
        self.raw_scale = softplus_inverse(noise_scale)

    def transforms(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """T_r (m, rows), T_c (columns, k), L_r, L_c; factored in float64, since K may be all but singular."""
        out = []
        for Z, raw_D in ((self.Z_r, self.raw_D_r), (self.Z_c, self.raw_D_c)):
            wide = Z.double()
            L = torch.linalg.cholesky(wide @ wide.mT + torch.diag(F.softplus(raw_D.double()).square()))
            out.append((torch.cholesky_solve(wide, L).to(Z), L.to(Z)))
        (T_r, L_r), (T_c, L_c) = out
        return T_r.mT, T_c, L_r, L_c

    def conditional_mean(self, V: Tensor) -> Tensor:
        """E[W | U = L_r V L_cᵀ], (m, k)."""
        T_r, T_c, L_r, L_c = self.transforms()
        return T_r @ (L_r @ V @ L_c.mT) @ T_c

    def conditional_noise(self, E: Tensor) -> Tensor:
        """A draw of W - E[W | U] under the prior from white noise E (m + rows, k + columns), by Matheron's rule.

        E's corner (m, k) is a prior draw of W; with [Z D] on both sides E gives the U that goes with it.
        """
        T_r, T_c, _, _ = self.transforms()
        rows = torch.cat([self.Z_r, torch.diag(F.softplus(self.raw_D_r))], dim=1)
        columns = torch.cat([self.Z_c, torch.diag(F.softplus(self.raw_D_c))], dim=1)
        return E[: T_r.shape[0], : T_c.shape[1]] - T_r @ (rows @ E @ columns.mT) @ T_c

    def draw(self) -> Tensor:
        """One differentiable draw of W from q, (m, k)."""
        V = self.mean + F.softplus(self.raw_std) * torch.randn_like(self.mean)
        shape = [Z.shape[0] + Z.shape[1] for Z in (self.Z_r, self.Z_c)]
        E = torch.randn(shape, dtype=V.dtype, device=V.device)
        return self.conditional_mean(V) + F.softplus(self.raw_scale) * self.conditional_noise(E)

    def kl_divergence(self) -> Tensor:
        """KL(q(W, U) ‖ p(W, U)) in nats: of V to N(0, 1), and mk(½λ² - log λ - ½) for the scaled conditional."""
        std, scale = F.softplus(self.raw_std), F.softplus(self.raw_scale)
        inducing = 0.5 * (std.square() + self.mean.square() - 1) - std.log()
        elements = self.Z_r.shape[1] * self.Z_c.shape[1]
        return inducing.sum() + elements * (0.5 * scale.square() - scale.log() - 0.5)
