"""Oracles: functions from heights to an Evaluation, over candidate lists or fresh samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse
import torch

from aeot.transport.blocks import Problem
from aeot.transport.lists import Scorer, Segment
from aeot.transport.minimize import Evaluation

# The width of the band along a facet in which samples are counted as its mass, at most this
# part of the change of the gap over one standard deviation of the source: without it the facet
# of two near-duplicate sites is lost in the band and one of them swallows the other's mass.
NEAR = 0.87


@dataclass
class Bank:
    """Candidate lists of a fixed sample: a deterministic oracle.

    Attributes:
        problem: In standard coordinates.
        segments: The lists.
    """

    problem: Problem
    segments: list[Segment] = field(default_factory=list)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return sum(segment.n_samples for segment in self.segments)

    def evaluate(self, heights: torch.Tensor, window: float | None = None) -> Evaluation:
        """Evaluate the energy, the masses and the Laplacian at `heights`.

        Args:
            heights: (n,) float64, standard coordinates.
            window: Width of the band along a facet, in units of the score, that stands for the
                facet in the Laplacian; None leaves the Laplacian out.
        """
        n, m = self.problem.sites.shape[0], self.n_samples
        counts = torch.zeros(n, dtype=torch.int64, device=heights.device)
        total, edges = 0.0, []
        for segment in self.segments:
            winner, runner, gap, best = segment.winners(heights)
            counts += torch.bincount(winner, minlength=n)
            total += segment.lead + best
            if window is not None:
                edges.append(self._edges(winner, runner, gap, window))
        masses = counts.to(torch.float64) / m
        nu = self.problem.masses.to(masses)
        hessian = None if window is None else _laplacian(edges, n, m)
        energy = total / m - float(nu @ heights)
        return Evaluation(energy=energy, masses=masses, gradient=masses - nu, hessian=hessian)

    def gap_scale(self, heights: torch.Tensor) -> float:
        """Return the mean gap between winner and runner-up, from its lower quartile."""
        gaps = [segment.winners(heights)[2] for segment in self.segments]
        gaps = torch.cat(gaps)
        gaps = gaps[gaps < 1e29]
        if not gaps.numel():
            return 1.0
        k = max(1, gaps.numel() // 4)
        # An exponential law has its quartile at 0.288 of its mean; long gaps may be cut off.
        return max(float(gaps.kthvalue(k).values) / 0.288, 1e-12)

    def unsettled(self, heights: torch.Tensor) -> float:
        """Return the share of samples whose winner might not be in their list."""
        return sum(s.unsettled(heights) for s in self.segments) / max(self.n_samples, 1)

    def _edges(
        self, winner: torch.Tensor, runner: torch.Tensor, gap: torch.Tensor, window: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        close = (gap < window) & (runner >= 0)
        i, j, gap = winner[close].long(), runner[close].long(), gap[close]
        y = self.problem.sites
        limit = (
            NEAR
            * torch.cat(
                [
                    (y[a] - y[b]).norm(dim=1)
                    for a, b in zip(i.split(1 << 16), j.split(1 << 16), strict=True)
                ]
            )
            if i.numel()
            else gap
        )
        band = limit.clamp(max=window)
        close = gap < band
        weight = 0.5 / band[close].double()
        return i[close].cpu().numpy(), j[close].cpu().numpy(), weight.cpu().numpy()


def _laplacian(edges: list[tuple[np.ndarray, ...]], n: int, m: int) -> scipy.sparse.csr_matrix:
    i, j, weight = (np.concatenate(part) for part in zip(*edges, strict=True))
    index = np.int32 if n < 1 << 31 else np.int64
    half = scipy.sparse.coo_matrix((weight / m, (i.astype(index), j.astype(index))), shape=(n, n))
    half = half.tocsr()
    both = half + half.T
    degree = np.asarray(both.sum(1)).ravel()
    return (scipy.sparse.diags(degree) - both).tocsr()


def listed(bank: Bank) -> Callable[[torch.Tensor, float | None], Evaluation]:
    """Return the oracle of a bank: ``(heights, window) -> Evaluation``."""
    return bank.evaluate


def sampled(scorer: Scorer, stage: str, blocks: range) -> Callable[[torch.Tensor], Evaluation]:
    """Return the oracle of a keyed sample that is scored afresh at every call.

    Nothing is kept between calls: memory does not grow with the sample, and a site wins wherever
    it is best, however far the heights have moved.
    """
    problem = scorer.problem
    n, m = problem.sites.shape[0], len(blocks) * scorer.block_samples

    def oracle(heights: torch.Tensor) -> Evaluation:
        counts = torch.zeros(n, dtype=torch.int64, device=heights.device)
        total = 0.0
        for _, site, value in scorer.winners(heights, stage, blocks):
            counts += torch.bincount(site, minlength=n)
            total += float(value.sum(dtype=torch.float64))
        masses = counts.to(torch.float64) / m
        nu = problem.masses.to(masses)
        energy = total / m - float(nu @ heights)
        return Evaluation(energy=energy, masses=masses, gradient=masses - nu)

    return oracle
