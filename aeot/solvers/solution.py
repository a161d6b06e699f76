"""What a transport solver returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch

from aeot._environment import plain_methods
from aeot.maps.brenier import BrenierMap
from aeot.measures import Measure


class Outcome(Enum):
    """How a solve ended, each with a sentence: what happened, and what to change."""

    CONVERGED = "the certificate holds"
    UNMET = "the masses asked for were not met: raise tol"
    EMPTY = "a cell is empty, or lighter than the last place of its height: merge close sites"
    STOPPED = "stopped by on_step"
    OUT_OF_SAMPLES = "out of samples: raise max_samples or tol"


@plain_methods
@dataclass(frozen=True)
class Solution:
    """Heights with their certificate.

    Attributes:
        source: The source measure mu.
        sites: (n, d), the caller's, in the caller's dtype and on the caller's device.
        masses: Target masses (n,), float64, summing to one.
        heights: (n,), float64, mean zero.
        mass_error: Total variation sum|cell_masses - masses| / 2. Exact solvers: of the exact
            masses. Monte-Carlo solvers: measured on points the solver did not optimise on, with
            the sampling noise of that check removed.
        mass_error_upper: The 95 % upper bound of `mass_error`; equal to it where it is exact.
        outcome: How the solve ended.
        message: One sentence: what was reached, or what to change.
        history: One plain dict per iteration or stage, the same keys each time.
        n_samples: Source points drawn in all; 0 for exact geometry.
        method: The method used: "exact", "newton", "lbfgs" or "adam".
        engine: What scored samples against sites: "numba", "torch", "keops" or "kdtree"; "geometry"
            for exact cells.
        cell_masses: What the heights give each site, (n,), as measured by the certificate.
        cell_centroids: Mean of the source inside each cell, (n, d), or None if not estimated.
        cell_variance: Mean of |x - c(x)|^2 / d over the source, c(x) the centroid of the cell of
            x: its variance per axis inside a cell; None if not estimated.
    """

    source: Measure
    sites: torch.Tensor
    masses: torch.Tensor
    heights: torch.Tensor
    mass_error: float
    mass_error_upper: float
    outcome: Outcome
    message: str
    method: str
    engine: str
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    n_samples: int = 0
    cell_masses: torch.Tensor | None = field(default=None, repr=False)
    cell_centroids: torch.Tensor | None = field(default=None, repr=False)
    cell_variance: float | None = field(default=None, repr=False)

    @property
    def converged(self) -> bool:
        """Whether the promise of the solver holds.

        For Monte Carlo ``mass_error_upper <= tol`` and no empty cell, for exact geometry every
        relative cell error at most `tol` (or 1e-14 absolute).
        """
        return self.outcome is Outcome.CONVERGED

    def map(self, *, engine: str = "auto") -> BrenierMap:
        """Return the transport map, an nn.Module that holds sites, heights and source.

        Args:
            engine: What finds the cell of a point there; see `BrenierMap`.
        """
        return BrenierMap(
            self.source,
            self.sites,
            self.heights,
            masses=self.masses,
            centroids=self.cell_centroids,
            spread=self.cell_variance,
            engine=engine,
        )
