"""Minimisers of a convex energy given by an oracle. They know no sites, samples or devices."""

from __future__ import annotations

from dataclasses import dataclass

import scipy.sparse
import torch


@dataclass(frozen=True)
class Evaluation:
    """What an oracle says of one vector of heights.

    Attributes:
        energy: E(h).
        masses: Cell masses (n,), float64; the gradient is ``masses - target``.
        gradient: (n,), float64, sums to zero.
        hessian: Symmetric positive semidefinite Laplacian (n, n), or None if not asked for.
    """

    energy: float
    masses: torch.Tensor
    gradient: torch.Tensor
    hessian: scipy.sparse.csr_matrix | None = None
