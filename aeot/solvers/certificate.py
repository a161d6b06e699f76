"""What fresh samples say of given heights: the mass error, its bound, and the cells' means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.stats
import torch

from aeot import _ranks
from aeot.search.planes import Edges, add_rows
from aeot.solvers.oracles import NEAR, everyones, widths
from aeot.solvers.problem import times
from aeot.solvers.scorer import Scorer

BATCHES = 32  # independent parts of a sample, whose spread measures its noise
_AT_ONCE = 1 << 14  # doubtful samples that wait to be decided together
ENOUGH = 30  # a cell that expects this many samples and gets none is empty
_FIRST = 10  # samples per cell before unseen cells are looked for
_TAILS = 14  # degrees of freedom of the standard error of samples that share halves
_EARLY = 1e-4  # chance of a wrong bound that one look spends which is not thought to be the last
_FINAL = 0.049  # chance that those spend together which are: each 0.3 of the one before


def quantile(look: int | None = None, *, shared: bool = False) -> float:
    """Return how many standard errors the bound of a look adds, so that it holds by 95 %.

    A solve looks at its heights again and again and ends with the first bound that is small enough;
    all its bounds together hold by 95 %. Of the chance of 0.05 to be wrong once, the first look
    that is thought to be the last spends 0.0343, every later one 0.3 of the one before, and each of
    up to ten earlier ones 0.0001. For samples that share halves the tails are those of Student's t
    with 14 degrees of freedom, since the standard error is itself an estimate; that of independent
    samples is no less than it is known to be. The tests hold them against the worst errors for the
    bound.

    Args:
        look: Which of those thought to be the last, from 1; 0 for an earlier one; None for heights
            that are looked at once.
        shared: Whether samples share halves.
    """
    spent = 0.05
    if look is not None:
        spent = _FINAL * 0.7 * 0.3 ** (look - 1) if look else _EARLY
    return float(scipy.stats.t.isf(spent, _TAILS) if shared else scipy.stats.norm.isf(spent))


@dataclass
class Tally:
    """Counts of fresh samples at given heights, kept in independent batches.

    Attributes:
        counts: (BATCHES, n) int64, where the samples are.
        sums: (n, d) int64, the sum of this rank's samples in each cell (`planes.add_rows`), columns
            in the scorer's order.
        edges: The samples near facets, one entry per block, if asked for.
        shared: Whether samples share halves.
    """

    counts: torch.Tensor
    sums: torch.Tensor | None
    edges: list[Edges] = field(default_factory=list)
    shared: bool = False

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return int(self.counts.sum())

    @property
    def cell_counts(self) -> np.ndarray:
        """Samples per cell, (n,)."""
        return self.counts.sum(0).cpu().numpy()

    def joined(self, other: Tally) -> Tally:
        """Return this and the samples of another, whose sums went into the same array."""
        edges = [*self.edges, *other.edges]
        return Tally(self.counts + other.counts, self.sums, edges, self.shared)


def tally(
    scorer: Scorer,
    heights: torch.Tensor,
    stage: str,
    blocks: range,
    *,
    sums: torch.Tensor | None = None,
    window: torch.Tensor | float | None = None,
) -> Tally:
    """Count where the samples of some blocks belong, as `BrenierMap.cell` says.

    Fast scores decide first; a sample that their rounding may have sent to another cell is decided
    again, and put right, on the caller's sites with the heights that he would get.

    Args:
        scorer: Of the problem.
        heights: (n,) float64, standard coordinates.
        stage: Key of the samples.
        blocks: Which blocks.
        sums: (n, d) int64, columns in the order of the scorer, to which every sample of this rank
            is added.
        window: Collect the samples in a band of this width along the facets: one for all cells, or
            (n,).
    """
    n, width = heights.shape[0], widths(window, heights)
    counts = torch.zeros(BATCHES, n, dtype=torch.int64, device=heights.device)
    # Samples of one group share half points, so a group goes to one batch as a whole.
    per_group = scorer.split**2 if scorer.split > 1 else 32
    per_block = scorer.block_samples // per_group
    own = _ranks.part(blocks)
    edges: list[Edges] = []
    again: list[Edges] = []  # of doubtful samples: how many wait together changes no order
    doubtful: list[_Doubtful] = []
    found = scorer.winners(heights, stage, blocks, runners=width is not None, doubts=True)
    for index, won in zip(own, found, strict=True):
        scorer.engine.count(won.site, index * per_block, per_group, counts)
        if sums is not None:
            scorer.engine.add_points(won.block, won.site, sums)
        if width is not None:
            second = won.second.index_fill(0, won.unsure, -1)
            near = won.site, second, won.gap, width, NEAR
            edges.append(scorer.engine.close_pairs(scorer.problem.sites, *near))
        if len(won.unsure):
            batch = (index * per_block + won.unsure // per_group) % BATCHES
            z, x = won.block.some(won.unsure), scorer.points(won.block, won.unsure)
            doubtful.append(_Doubtful(z, x, won.site[won.unsure].long(), batch))
        if doubtful and (index == own[-1] or sum(map(len, doubtful)) >= _AT_ONCE):
            near_again = _settled(scorer, heights, doubtful, counts, sums, width)
            again += [] if near_again is None else [near_again]
            doubtful = []
    _ranks.total(counts)
    if window is not None:
        told = n, scorer.engine, heights.device
        edges = everyones(edges, *told) + everyones(again, *told)
    return Tally(counts, sums, edges, scorer.split > 1)


@dataclass(frozen=True)
class _Doubtful:
    """Samples that rounding may have sent to another cell.

    Attributes:
        z: (k, d) float32, columns in the scorer's order.
        x: (k, d) float64, the same in the caller's coordinates.
        cell: (k,) int64, where they were counted.
        batch: (k,) int64, in which batch.
    """

    z: torch.Tensor
    x: torch.Tensor
    cell: torch.Tensor
    batch: torch.Tensor

    def __len__(self) -> int:
        return len(self.cell)


def _settled(
    scorer: Scorer,
    heights: torch.Tensor,
    doubtful: list[_Doubtful],
    counts: torch.Tensor,
    sums: torch.Tensor | None,
    window: torch.Tensor | None,
) -> Edges | None:
    """Decide doubtful samples as the caller would, put counts and sums right; return edges."""
    problem = scorer.problem
    two = window is not None and len(heights) > 1
    x, name = torch.cat([d.x for d in doubtful]), scorer.engine.NAME
    values, found = problem.decide(x, heights, 1 + two, engine=name)
    cell = torch.cat([d.cell for d in doubtful])
    moved = cell != found[:, 0]
    batch = torch.cat([d.batch for d in doubtful])[moved]
    before, after = cell[moved], found[moved, 0]
    flat, one = counts.view(-1), torch.ones_like(batch)
    flat.index_add_(0, batch * len(heights) + before, one, alpha=-1)
    flat.index_add_(0, batch * len(heights) + after, one)
    if sums is not None:
        z = torch.cat([d.z for d in doubtful])[moved]
        add_rows(sums, before, z, sign=-1)
        add_rows(sums, after, z)
    if not two or window is None:
        return None
    # The sites apart in float64: those of near-duplicates may be one in float32.
    y, factor = problem.given, problem.factor.to(found.device)
    apart = times(y[found[:, 0]] - y[found[:, 1]], factor).norm(dim=1) / problem.scale
    band = torch.minimum(NEAR * apart, window[found[:, 0]])
    close = values[:, 0] - values[:, 1] < band
    return found[close, 0], found[close, 1], 0.5 / band[close]


@dataclass(frozen=True)
class Certificate:
    """The held-out error of given heights.

    Attributes:
        mass_error: Total variation, with the check's own noise removed.
        mass_error_upper: Its upper bound; all those of a solve hold together by 95 %.
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


def certify(result: Tally, masses: np.ndarray, look: int | None = None) -> Certificate:
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
        look: See `quantile`; None for heights that are looked at once.

    Returns:
        The certificate.
    """
    n_batches, m = BATCHES, result.n_samples
    products, mean, noise = _between(result.counts, masses)
    total = result.cell_counts / m
    inflation = noise / max(float((total * (1 - total)).sum()) / m, 1e-300)
    row = (products.sum(1) - products.diagonal()) / (n_batches - 1)
    square = float(row.mean())
    off = products[~np.eye(n_batches, dtype=bool)]
    pair = float(off.var(ddof=1))
    # Rows share products: so much of their variance is not that of one batch, or is missing.
    rest, shared = (n_batches - 2) / (n_batches - 1) ** 2, (1 - 1 / (n_batches - 1)) ** 2
    own = max((float(row.var(ddof=1)) - rest * pair) / (shared - 2 * rest), 0.0)
    least = max(inflation, 1.0) * n_batches / m
    errors = quantile(look, shared=result.shared)
    upper = 0.5 * np.sqrt(_bound(square, own, pair, least, mean, errors))
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


def _bound(
    square: float, own: float, pair: float, least: float, mean: np.ndarray, errors: float
) -> float:
    """Return the Q that is `errors` of its own standard errors above the estimate.

    The standard error grows with Q, as `own` does, the variance of what one batch says of Q; that
    of the estimate itself is too small where the estimate is (E. B. Wilson, "Probable inference,
    the law of succession, and statistical inference", J. Amer. Stat. Assoc. 22, 1927). For the
    errors that make the bound exact, |w_i - nu_i| ~ a_i, and independent samples it is Q times
    batches over samples.

    Args:
        square: The estimate.
        own: See above, at the estimate.
        pair: Variance of the product of two batches.
        least: What `own` is at least, for Q = 1.
        mean: (n,), mean of the batches' scaled deviations: its square is Q and their noise.
        errors: How many.
    """
    low, n_batches = max(square, 0.0), BATCHES
    noise, both = max(float(mean @ mean) - square, 1e-300), max(pair - 2 * own, 0.0)
    bound = low
    for _ in range(100):
        single = max(own + own * (bound - low) / (low + noise), least * bound)
        spread = 2 * (n_batches - 1) * single + both
        bound = low + errors * np.sqrt(2 / (n_batches * (n_batches - 1)) * spread)
    return float(bound)


def _between(counts: torch.Tensor, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Compare batches: products of their scaled deviations (BATCHES, BATCHES), and their mean (n,).

    Also the variance of the mean of their masses. On a GPU they are made there: the counts are
    many vectors of n, as large as all else that a check needs, so at most two more are held.
    """
    share: Any = counts.to(torch.float64)
    nu: Any = torch.from_numpy(masses).to(share.device)
    if share.device.type == "cpu":
        share, nu = share.numpy(), nu.numpy()
    share /= share.sum(1)[:, None].clip(1)
    away = share - share.mean(0)
    away *= away
    noise = away.sum(0) / (len(share) - 1)
    del away
    root = nu**0.5
    share -= nu
    share *= (root.sum() / root) ** 0.5
    products, mean = (torch.as_tensor(x).cpu().numpy() for x in (share @ share.T, share.mean(0)))
    return products, mean, float(noise.sum()) / len(share)


def certificate_size(masses: np.ndarray, tol: float, inflation: float = 1.0, look: int = 1) -> int:
    """Return how many samples make a certificate sharp enough for `tol`.

    The standard error of Q is then a ninth of (2 tol)^2, less for later looks in the measure that
    they add more of them, and nearly all cells are seen; the few others are looked for with more.
    """
    total = float(np.sqrt(masses).sum())
    sharp = inflation * np.sqrt(2.0) * total / (0.44 * tol**2) * quantile(look) / quantile(1)
    return int(max(sharp, _FIRST * masses.size, 4096))
