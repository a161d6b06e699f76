"""What fresh samples say of given heights: the mass error, its bound, and the cells' means."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.stats
import torch

from aeot.search.planes import Edges
from aeot.solvers.oracles import NEAR
from aeot.solvers.scorer import Scorer

BATCHES = 32  # independent parts of a sample, whose spread measures its noise
ENOUGH = 30  # a cell that expects this many samples and gets none is empty


@dataclass
class Tally:
    """Counts of fresh samples at given heights, kept in independent batches.

    Attributes:
        counts: (BATCHES, n) int64.
        sums: (n, d) float64, the sum of the samples in each cell, columns in the scorer's order.
        edges: The samples near facets, one entry per block, if asked for.
    """

    counts: np.ndarray
    sums: np.ndarray | None
    edges: list[Edges] = field(default_factory=list)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return int(self.counts.sum())

    @property
    def cell_counts(self) -> np.ndarray:
        """Samples per cell, (n,)."""
        return self.counts.sum(0)


def tally(
    scorer: Scorer,
    heights: torch.Tensor,
    stage: str,
    blocks: range,
    *,
    sums: np.ndarray | None = None,
    window: float | None = None,
) -> Tally:
    """Score the samples of some blocks against all sites and count the winners.

    Args:
        scorer: Of the problem.
        heights: (n,) float64, standard coordinates.
        stage: Key of the samples.
        blocks: Which blocks.
        sums: (n, d) float64, columns in the order of the scorer, to which every sample is added.
        window: Collect the samples in a band of this width along the facets.
    """
    n = heights.shape[0]
    counts = np.zeros((BATCHES, n), np.int64)
    # Samples of one group share half points, so a group goes to one batch as a whole.
    per_group = scorer.split**2 if scorer.split > 1 else 32
    per_block = scorer.block_samples // per_group
    edges: list[Edges] = []
    found = scorer.winners(heights, stage, blocks, runners=window is not None)
    for index, won in zip(blocks, found, strict=True):
        cell = won.site.cpu().numpy()
        scorer.engine.count(cell, index * per_block, per_group, counts)
        if sums is not None:
            scorer.engine.add_points(won.block, cell, sums)
        if window is not None:
            near = won.site, won.second, won.gap, window, NEAR
            edges.append(scorer.engine.close_pairs(scorer.problem.sites, *near))
    return Tally(counts, sums, edges)


@dataclass(frozen=True)
class Certificate:
    """The held-out error of given heights.

    Attributes:
        mass_error: Total variation, with the check's own noise removed.
        mass_error_upper: Its 95 % upper bound.
        square: Unbiased estimate of sum (w_i - nu_i)^2 / a_i, a_i proportional to sqrt(nu_i).
        inflation: Variance of the masses relative to independent samples.
        empty: Cells that expect at least thirty samples and got none.
        cell_masses: (n,) float64 on the CPU.
        n_samples: Samples counted.
    """

    mass_error: float
    mass_error_upper: float
    square: float
    inflation: float
    empty: int
    cell_masses: torch.Tensor
    n_samples: int

    @property
    def rank(self) -> tuple[bool, float]:
        """What makes a certificate better than another: the less, the better."""
        return self.empty > 0, self.mass_error_upper

    def holds(self, tol: float) -> bool:
        """Return whether no cell is empty and the bound is at most `tol`."""
        return self.mass_error_upper <= tol and self.empty == 0


def certify(result: Tally, masses: np.ndarray) -> Certificate:
    r"""Estimate the total variation between cell masses and target, and bound it.

    By Cauchy-Schwarz TV = sum\|w_i - nu_i\| / 2 <= sqrt(Q) / 2, Q = sum (w_i - nu_i)^2 / a_i for
    any positive a that sums to one; a_i ~ sqrt(nu_i) is the choice for errors that look like
    sampling noise. The mean over pairs of batches of the products of their deviations estimates Q
    without bias, whatever the dependence inside a batch, and the spread of those products gives
    its standard error (W. Hoeffding, "A class of statistics with asymptotically normal
    distribution", 1948, eq. 5.13).

    Args:
        result: The counts.
        masses: (n,) target.

    Returns:
        The certificate.
    """
    n_batches, m = BATCHES, result.n_samples
    share = result.counts / np.maximum(result.counts.sum(1, keepdims=True), 1)
    root = np.sqrt(masses)
    scaled = (share - masses) * np.sqrt(root.sum() / root)
    products = scaled @ scaled.T
    row = (products.sum(1) - products.diagonal()) / (n_batches - 1)
    square = float(row.mean())
    off = products[~np.eye(n_batches, dtype=bool)]
    pair = float(off.var(ddof=1))
    own = max(float(row.var(ddof=1)) - pair / (n_batches - 1), 0.0)
    spread = 2 / (n_batches * (n_batches - 1)) * (2 * (n_batches - 2) * own + pair)
    upper = 0.5 * np.sqrt(max(square, 0.0) + 1.645 * np.sqrt(spread))

    total = result.cell_counts / m
    noise = share.var(axis=0, ddof=1).sum() / n_batches
    inflation = noise / max(float((total * (1 - total)).sum()) / m, 1e-300)
    # Mean absolute deviation of a Poisson count: 2 lambda P(floor lambda).
    expected = m * masses
    deviation = 2 * expected * scipy.stats.poisson.pmf(np.floor(expected), expected) / m
    raw = float(np.abs(total - masses).sum()) / 2
    own_noise = float(deviation.sum()) / 2 * np.sqrt(inflation)
    error = float(np.sqrt(max(raw**2 - own_noise**2, 0.0)))
    return Certificate(
        mass_error=error,
        mass_error_upper=float(min(max(upper, error), 1.0)),  # no total variation is larger
        square=square,
        inflation=float(inflation),
        empty=int(((result.cell_counts == 0) & (expected >= ENOUGH)).sum()),
        cell_masses=torch.from_numpy(total),
        n_samples=m,
    )


def certificate_size(masses: np.ndarray, tol: float, inflation: float = 1.0) -> int:
    """Return how many samples make a certificate sharp enough for `tol`.

    The standard error of Q is then a tenth of (2 tol)^2, and equal masses expect at least
    `ENOUGH` samples each.
    """
    total = float(np.sqrt(masses).sum())
    sharp = inflation * np.sqrt(2.0) * total / (0.4 * tol**2)
    return int(max(sharp, (ENOUGH + 2) * masses.size, 4096))
