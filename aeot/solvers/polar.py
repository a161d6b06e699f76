"""Polar factorisation: a map is a rearrangement of its source, then an optimal map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot.maps.brenier import BrenierMap
from aeot.measures import Measure, check_source
from aeot.solvers.estimator import merge_duplicates
from aeot.solvers.solution import Solution
from aeot.solvers.solve import solve_semidiscrete


@dataclass(frozen=True)
class PolarFactorisation:
    """phi = grad u o s, from the values of phi at m points drawn from the source.

    Attributes:
        rearranged: s at the m points (m, d): the centroids of the cells of their values. Their law
            tends to the source's as m grows: s preserves it.
        gradient: The map grad u, which sends rows of `rearranged` back to the values.
        solution: The transport problem behind it, with its certificate.
    """

    rearranged: torch.Tensor
    gradient: BrenierMap = field(repr=False)
    solution: Solution = field(repr=False)


@plain_torch()
def polar_factorisation(
    source: Measure, values: ArrayLike, *, tol: float = 0.02, seed: int = 0
) -> PolarFactorisation:
    """Factor a map into a rearrangement of the source and the optimal map to its values.

    Brenier's theorem: phi = grad u o s, u convex and s preserving the source, in one way only. So a
    map that carries the source onto a law differs from the optimal one by a rearrangement, and
    costs more by what that moves.

    Args:
        source: The law of the points x_1 ... x_m.
        values: phi(x_k), (m, d), in any order; equal ones are merged.
        tol: As in `solve_semidiscrete`.
        seed: As there.

    Returns:
        The two factors.

    Raises:
        ValueError: If the width of the values is not the source's.

    References:
        Y. Brenier, "Polar factorization and monotone rearrangement of vector-valued functions",
        CPAM 44 (1991), theorem 1.1. N. Lei et al., "A geometric understanding of deep learning",
        Engineering 6 (2020), theorem 3.9.

    Example:
        >>> import aeot, torch
        >>> plane = aeot.UniformBox(dim=2)
        >>> x = plane.sample(400, generator=aeot.generator(0))
        >>> turned = 1 - x  # half a turn preserves the square: its gradient part is the identity
        >>> found = aeot.polar_factorisation(plane, turned)
        >>> bool(torch.equal(found.gradient(found.rearranged), turned))
        True
        >>> float((found.rearranged - turned).norm(dim=1).mean()) < 0.05
        True
    """
    check_source(source)
    values = _check.points("values", values, dim=source.dim)
    plain = values.detach().cpu().numpy()
    sites, masses, rows = merge_duplicates(plain, np.ones(len(plain)))
    solution = solve_semidiscrete(
        source,
        torch.from_numpy(sites).to(values.device),
        torch.from_numpy(masses),
        tol=tol,
        seed=seed,
    )
    gradient = solution.map()
    if gradient.centroids is None:
        gradient.estimate_moments(seed=seed)
    assert gradient.centroids is not None
    return PolarFactorisation(gradient.centroids[torch.from_numpy(rows)], gradient, solution)
