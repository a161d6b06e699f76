"""Oracles: functions from heights to an Evaluation, over candidate lists or fresh samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse
import torch

from aeot.scores.candidates import Segment, load_kernels
from aeot.solvers.minimize import Evaluation
from aeot.solvers.problem import Problem
from aeot.solvers.scorer import Scorer

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
        threads: Worker threads; they change no result.
    """

    problem: Problem
    segments: list[Segment] = field(default_factory=list)
    threads: int = 1

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

        def part(segment: Segment) -> tuple[torch.Tensor, float, Any]:
            winner, runner, gap, best = segment.winners(heights)
            edges = (
                None
                if window is None
                else close_pairs(self.problem.sites, winner, runner, gap, window)
            )
            return torch.bincount(winner, minlength=n), segment.lead + best, edges

        for count, best, edge in self._map(part):
            counts += count
            total += best
            edges.append(edge)
        masses = counts.to(torch.float64) / m
        nu = self.problem.masses.to(masses)
        hessian = None if window is None else laplacian(edges, n, m)
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

    def absent(self) -> np.ndarray:
        """Return the sites that are in no list."""
        listed = torch.zeros(self.problem.sites.shape[0], dtype=torch.bool)
        for segment in self.segments:
            listed[segment.site.long().cpu()] = True
        return np.flatnonzero(~listed.numpy())

    def _map(self, part: Callable[[Segment], Any]) -> Iterator[Any]:
        if self.threads == 1 or len(self.segments) == 1:
            yield from map(part, self.segments)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            yield from pool.map(part, self.segments)


def close_pairs(
    sites: torch.Tensor,
    winner: torch.Tensor,
    runner: torch.Tensor,
    gap: torch.Tensor,
    window: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (i, j, weight) of the samples in the band along their facet.

    Their weights 1 / (2 band), summed and divided by the number of samples, estimate the mass of
    the facet per unit of height.

    Args:
        sites: (n, d) float32.
        winner: (m,) int32.
        runner: (m,) int32, -1 for none.
        gap: (m,) float32.
        window: Width of the band; narrower between near sites (`NEAR`).
    """
    kernels = load_kernels()
    if kernels and sites.device.type == "cpu":
        out = tuple(np.empty(winner.shape[0], t) for t in (np.int32, np.int32, np.float64))
        arrays = (x.numpy() for x in (winner, runner, gap, sites))
        k = kernels.close_pairs(*arrays, window, NEAR, *out)
        return tuple(x[:k].copy() for x in out)
    close = (gap < window) & (runner >= 0)
    i, j, gap = winner[close].long(), runner[close].long(), gap[close]
    pairs = zip(i.split(1 << 16), j.split(1 << 16), strict=True)
    apart = torch.cat([(sites[a] - sites[b]).norm(dim=1) for a, b in pairs])
    band = (NEAR * apart).clamp(max=window)
    close = gap < band
    weight = 0.5 / band[close].double()
    return i[close].cpu().numpy(), j[close].cpu().numpy(), weight.cpu().numpy()


def laplacian(edges: list[tuple[np.ndarray, ...]], n: int, m: int) -> scipy.sparse.csr_matrix:
    """Return the graph Laplacian (n, n) of edges (i, j, weight), each weight divided by m."""
    i, j, weight = (np.concatenate(part) for part in zip(*edges, strict=True))
    index = np.int32 if n < 1 << 31 else np.int64
    half = scipy.sparse.coo_matrix((weight / m, (i.astype(index), j.astype(index))), shape=(n, n))
    half = half.tocsr()
    both = half + half.T
    degree = np.asarray(both.sum(1)).ravel()
    return (scipy.sparse.diags(degree) - both).tocsr()


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
        for won in scorer.winners(heights, stage, blocks):
            counts += torch.bincount(won.site, minlength=n)
            total += float(won.value.sum(dtype=torch.float64))
        masses = counts.to(torch.float64) / m
        nu = problem.masses.to(masses)
        energy = total / m - float(nu @ heights)
        return Evaluation(energy=energy, masses=masses, gradient=masses - nu)

    return oracle


def best_gaps(
    scorer: Scorer,
    heights: torch.Tensor,
    chosen: np.ndarray,
    stage: str,
    blocks: range,
    *,
    rank: np.ndarray,
) -> torch.Tensor:
    """Return how far chosen sites must rise to win a few samples.

    Args:
        scorer: Of the problem.
        heights: (n,) float64.
        chosen: (k,) indices of sites.
        stage: Key of the samples.
        blocks: Which blocks.
        rank: (k,), how many samples each site shall win, 1 to 8.

    Returns:
        (k,) float64, the least rise with which the site wins `rank` samples if it alone moves.
    """
    nearest = torch.full((8, chosen.size), torch.inf, device=heights.device)
    for won in scorer.winners(heights, stage, blocks):
        gap = won.value[:, None] - scorer.scores_of(won.block, heights, chosen)
        nearest = torch.cat([nearest, gap]).topk(8, dim=0, largest=False, sorted=True).values
    index = torch.from_numpy(rank - 1).to(heights.device)
    return nearest.gather(0, index[None])[0].to(torch.float64)
