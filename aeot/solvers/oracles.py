"""Oracles: functions from heights to an Evaluation, over candidate lists or fresh samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from aeot import _loop, _ranks
from aeot.geometry.diagram import laplacian
from aeot.search.engines import Engine
from aeot.search.planes import LOW, CandidateLists, Edges
from aeot.solvers.laplacian import DividedLaplacian, Laplacian, own_rows, to_rows
from aeot.solvers.minimize import Evaluation
from aeot.solvers.problem import Problem
from aeot.solvers.scorer import PrunedScorer, Scorer
from aeot.solvers.torch_laplacian import TorchLaplacian

T = TypeVar("T")
# The width of the band along a facet in which samples are counted as its mass, at most this
# part of the change of the gap over one standard deviation of the source: without it the facet
# of two near-duplicate sites is lost in the band and one of them swallows the other's mass.
NEAR = 0.87
_PRIOR = 4.0  # samples that the mean gap of all stands for in that of one cell


@dataclass(frozen=True)
class Bank:
    """Candidate lists of a fixed sample: a deterministic oracle.

    Attributes:
        problem: In standard coordinates.
        engine: What made the lists, and searches them.
        lists: Some samples each, those of this rank.
        n_samples: Number of samples, of all ranks.
        threads: Worker threads; they change no result.
    """

    problem: Problem
    engine: Engine
    lists: list[CandidateLists]
    n_samples: int
    threads: int = 1

    def evaluate(
        self, heights: torch.Tensor, window: torch.Tensor | float | None = None
    ) -> Evaluation:
        """Evaluate the energy, the masses and the Laplacian at `heights`.

        Args:
            heights: (n,) float64, standard coordinates.
            window: Width of the band along a facet, in units of the score, that stands for the
                facet in the Laplacian: one for all cells, or (n,). None leaves the Laplacian out.
        """
        n, m = self.problem.sites.shape[0], self.n_samples
        counts = torch.zeros(n, dtype=torch.int64, device=heights.device)
        values: list[float] = []
        edges: list[Edges] = []
        width, shift = widths(window, heights), self.shift(heights)

        def part(lists: CandidateLists) -> tuple[torch.Tensor, float, Edges | None]:
            winner, runner, gap, best = self.engine.relist(lists, shift)
            sites, near = self.problem.sites, None
            if width is not None:
                near = self.engine.close_pairs(sites, winner, runner, gap, width, NEAR)
            return winner, lists.lead + best, near

        for winner, best, near in self._map(part):
            _loop.beat()
            _count(winner, counts)
            values.append(best)
            if near is not None:
                edges.append(near)
        _ranks.total(counts)
        total = _ranks.added(values)
        masses = counts.to(torch.float64) / m
        nu = self.problem.target(masses)
        hessian = None
        if window is not None:
            edges = everyones(edges, n, self.engine, heights.device)
            hessian = facet_laplacian(edges, n, m, self.engine)
        energy = total / m - float(nu @ heights)
        return Evaluation(energy=energy, masses=masses, gradient=masses - nu, hessian=hessian)

    def gap_scale(self, heights: torch.Tensor) -> float:
        """Return the mean gap between winner and runner-up, from its lower quartile."""
        none = torch.zeros(0, dtype=torch.float32, device=heights.device)
        shift = self.shift(heights)
        found = [self.engine.relist(lists, shift)[2] for lists in self.lists]
        (gaps,) = _ranks.joined(torch.cat([none, *found]))
        gaps = gaps[gaps < 1e29]
        if not gaps.numel():
            return 1.0
        k = max(1, gaps.numel() // 4)
        # An exponential law has its quartile at 0.288 of its mean; long gaps may be cut off.
        return max(float(gaps.kthvalue(k).values) / 0.288, 1e-12)

    def units(self, heights: torch.Tensor, unit: float) -> torch.Tensor:
        """Return the unit of each height, (n,) float64.

        It is the mean gap of all samples, but a quarter of the mean gap where the site wins if that
        is more: heavy tails have scales of their own. Few samples count as part of all.
        """
        n, device = self.problem.sites.shape[0], heights.device
        shift = self.shift(heights)
        found = [self.engine.relist(lists, shift)[:3:2] for lists in self.lists]
        none = [torch.zeros(0, dtype=kind, device=device) for kind in (torch.int32, torch.float32)]
        site, gap = _ranks.joined(*map(torch.cat, zip(none, *found, strict=True)))
        del found
        far = gap >= 1e29  # a list of one
        if bool(far.any()):
            site, gap = site[~far], gap[~far]
        total = torch.full((n,), _PRIOR * unit, dtype=torch.float64, device=device)
        for own, part in zip(site.split(1 << 20), gap.split(1 << 20), strict=True):
            total.index_add_(0, own, part.to(torch.float64))
        count = torch.bincount(site, minlength=n) + _PRIOR
        return (total / count / 4).clamp(min=unit)

    def shift(self, heights: torch.Tensor) -> torch.Tensor:
        """Return what heights gained since the lists were made, (n,) float32: all at the same."""
        return self.lists[0].shift(heights) if self.lists else heights.to(torch.float32)

    def absent(self) -> np.ndarray:
        """Return the sites that are in no list."""
        sites = self.problem.sites
        listed = torch.zeros(len(sites), dtype=torch.int64, device=sites.device)
        for lists in self.lists:
            listed[lists.site.long()] = 1
        _ranks.total(listed)
        return np.flatnonzero(listed.cpu().numpy() == 0)

    def _map(self, part: Callable[[CandidateLists], T]) -> Iterator[T]:
        if self.threads == 1 or len(self.lists) <= 1:
            yield from map(part, self.lists)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            yield from pool.map(part, self.lists)


def _count(site: torch.Tensor, counts: torch.Tensor) -> None:
    # In place, without a vector of n: the heap would grow by one for each piece that is kept.
    one = torch.ones((), dtype=torch.int64, device=counts.device)
    counts.index_add_(0, site, one.expand(len(site)))


def everyones(edges: list[Edges], n: int, engine: Engine, device: torch.device) -> list[Edges]:
    """Return the samples near facets of n sites that all ranks found, in their order.

    Where each rank holds some rows of the Laplacian, those whose first site is one of them. Where
    there are several ranks `edges` is emptied: of very many there is no room for copies.
    """
    if _ranks.size() == 1:
        return edges
    whole = torch.int32 if engine.HOST else torch.int64
    none = [torch.zeros(0, dtype=kind, device=device) for kind in (whole, whole, torch.float64)]
    columns = [list(column) for column in zip(none, *edges, strict=True)]
    edges.clear()
    i, j, weight = (torch.cat(columns.pop(0)).to(x.dtype) for x in none)
    if engine.HOST and own_rows(n) is not None:
        own = to_rows(n, i.numpy(), j.numpy(), weight.numpy())
        return [(torch.from_numpy(own[0]), torch.from_numpy(own[1]), torch.from_numpy(own[2]))]
    i, j, weight = _ranks.joined(i, j, weight)
    return [(i, j, weight)]


def widths(window: torch.Tensor | float | None, heights: torch.Tensor) -> torch.Tensor | None:
    """Return the width of the bands of each cell, (n,) float64, of one for all or of one each."""
    if window is None:
        return None
    width = torch.as_tensor(window, dtype=torch.float64, device=heights.device)
    return width.expand(heights.shape).contiguous()


def facet_laplacian(edges: list[Edges], n: int, m: int, engine: Engine) -> Laplacian:
    """Return the Laplacian (n, n) of the facets that m samples were collected near.

    On the host where the engine sums there, else where the samples are.

    Args:
        edges: As `everyones` returns them.
        n: Number of sites.
        m: See above.
        engine: That collected them.
    """
    columns = zip(*edges, strict=True)
    i, j, weight = (part[0] if len(part) == 1 else torch.cat(part) for part in columns)
    if not engine.HOST:
        return TorchLaplacian.of_pairs(i.long(), j.long(), weight, n) / m
    of_pairs = laplacian if own_rows(n) is None else DividedLaplacian.of_pairs
    return of_pairs(i.numpy(), j.numpy(), (weight / m).numpy(), n)


def sampled(scorer: Scorer, stage: str, blocks: range) -> Callable[[torch.Tensor], Evaluation]:
    """Return the oracle of a keyed sample that is scored afresh at every call.

    Nothing is kept between calls: memory does not grow with the sample, and a site wins wherever
    it is best, however far the heights have moved.
    """
    problem = scorer.problem
    n, m = problem.sites.shape[0], len(blocks) * scorer.block_samples

    def oracle(heights: torch.Tensor) -> Evaluation:
        counts = torch.zeros(n, dtype=torch.int64, device=heights.device)
        values: list[float] = []
        for won in scorer.winners(heights, stage, blocks):
            _count(won.site, counts)
            values.append(float(won.value.sum(dtype=torch.float64)))
        _ranks.total(counts)
        total = _ranks.added(values)
        masses = counts.to(torch.float64) / m
        nu = problem.masses.to(masses)
        energy = total / m - float(nu @ heights)
        return Evaluation(energy=energy, masses=masses, gradient=masses - nu)

    return oracle


def best_gaps(
    scorer: Scorer | PrunedScorer,
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
    shape = 8, chosen.size
    nearest = torch.full(shape, torch.inf, dtype=torch.float32, device=heights.device)
    # Some of the sites at a time, as many whatever the memory: a product's shape is in its bits.
    most = 1 << (28 if heights.device.type == "cuda" else 21)
    some = max(1, most // scorer.block_samples)
    for block, lead in scorer.leads(heights, stage, blocks):
        for first in range(0, chosen.size, some):
            columns = slice(first, first + some)
            scores = scorer.scores_of(block, heights, chosen[columns])
            gap = torch.cat([nearest[:, columns], (lead[:, None] - scores).clamp(min=0)])
            nearest[:, columns] = gap.topk(8, dim=0, largest=False, sorted=True).values
    (nearest,) = _ranks.joined(nearest)
    nearest = nearest.topk(8, dim=0, largest=False, sorted=True).values
    index = torch.from_numpy(rank - 1).to(heights.device)
    rise = nearest.gather(0, index[None])[0].to(torch.float64)
    return torch.where(rise < -LOW / 2, rise, 0.0)  # some sites may win none of these samples
