"""Cheapest plans between two finite sets of points."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse
import torch
from scipy.optimize import linear_sum_assignment, linprog

REPEATED, PAIRS = 2000, 250_000  # rows of an assignment; entries of a linear program: some seconds


def cheapest_plan(cost: torch.Tensor, mu: torch.Tensor, nu: torch.Tensor) -> torch.Tensor:
    """Return a plan (n, m) of least cost, for masses mu (n,) and nu (m,) that sum to one.

    Args:
        cost: (n, m) of each pair, in float64, with n m <= PAIRS or, of equal masses, a common
            multiple of n and m of at most REPEATED.
        mu: Masses of rows.
        nu: Masses of columns.
    """
    n, m = cost.shape
    common = math.lcm(n, m)
    if bool((mu == mu[0]).all()) and bool((nu == nu[0]).all()) and common <= REPEATED:
        # Equal masses 1/n against 1/m: both sides repeated to a common count make an assignment.
        across, down = common // n, common // m
        wide = cost.repeat_interleave(across, 0).repeat_interleave(down, 1)
        first, second = linear_sum_assignment(wide.numpy())
        flat = torch.as_tensor(first // across) * m + torch.as_tensor(second // down)
        plan = torch.zeros(n * m, dtype=torch.float64)
        plan.index_add_(0, flat, torch.full((common,), 1 / common, dtype=torch.float64))
        return plan.view(n, m)
    rows = scipy.sparse.kron(scipy.sparse.eye(n), np.ones((1, m)))
    columns = scipy.sparse.kron(np.ones((1, n)), scipy.sparse.eye(m))
    both = scipy.sparse.vstack([rows, columns], format="csr")[:-1]  # the last follows
    wanted = np.concatenate([mu.numpy(), nu.numpy()])[:-1]
    scale = float(cost.max()) or 1.0
    found = linprog(cost.numpy().ravel() / scale, A_eq=both, b_eq=wanted, method="highs-ds")
    assert found.x is not None, found.message
    return torch.from_numpy(np.maximum(found.x, 0)).view(n, m)
