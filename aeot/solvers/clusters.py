"""Clusters of sites, and corrections of the heights one cluster at a time.

Newton steps on single sites move mass between distant groups of sites only step by step. With the
best score of every sample within each cluster stored, the problem in one extra height per cluster
is an exact semi-discrete problem in a few hundred unknowns, where no step needs a bound.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from aeot import _ranks
from aeot._rng import stream_seed
from aeot.geometry.diagram import laplacian
from aeot.solvers.minimize import Evaluation, Trust, levenberg
from aeot.solvers.scorer import Scorer

SAMPLES = 16  # per cluster
_FAR = 3.0  # median distances from a centre


def cluster(sites: torch.Tensor, k: int, *, seed: int, rounds: int = 6) -> np.ndarray:
    """Partition sites into k clusters by Lloyd's algorithm, and at most k single far ones.

    Args:
        sites: (n, d).
        k: Wanted number of clusters.
        seed: Of the choice of the first centres among the sites.
        rounds: Lloyd iterations.

    Returns:
        (n,) int64 labels 0 .. k' - 1, every one of them in use, k' <= 2 k.
    """
    # Not sklearn.cluster.KMeans: its threads add up a centre in any order, so that labels could
    # depend on them, and on one thread it saves 3 ms of a solve (2000 sites in 10 dimensions).
    y = sites.to(torch.float32)
    rng = np.random.default_rng(stream_seed(seed, "clusters", k))
    chosen = rng.choice(y.shape[0], min(k, y.shape[0]), replace=False)
    centres = y[torch.from_numpy(np.sort(chosen)).to(y.device)]
    labels = torch.zeros(y.shape[0], dtype=torch.int64, device=y.device)
    scores = y.new_empty(1024, len(centres))
    for _ in range(rounds):
        half = centres.square().sum(1) / 2
        # Blocks of fixed size: the same rounding, and labels, for any number of threads. They share
        # their memory, because what is kept of each must not lie between fresh ones.
        for first in range(0, len(y), len(scores)):
            part = y[first : first + len(scores)]
            torch.addmm(-half, part, centres.T, out=scores[: len(part)])
            labels[first : first + len(part)] = scores[: len(part)].argmax(1)
        total = torch.zeros(centres.shape, dtype=torch.float64, device=y.device)
        total.index_add_(0, labels, y.to(torch.float64))
        count = torch.bincount(labels, minlength=centres.shape[0])
        centres = torch.where(
            (count > 0)[:, None], (total / count.clamp(min=1)[:, None]).to(y), centres
        )
    # Centres are drawn where sites are many. Those far from all centres are clusters of their own.
    gap = (y - centres[labels]).norm(dim=1)
    far = (gap > _FAR * gap.median()).nonzero()[:, 0]
    far = far[gap[far].argsort(descending=True, stable=True)[:k]]
    labels[far] = len(centres) + torch.arange(len(far), device=y.device)
    return np.unique(labels.cpu().numpy(), return_inverse=True)[1].reshape(-1)


def _best_two(scores: torch.Tensor, extra: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return best values (m,), where, the second best and where, of scores (m, k) plus extra (k,).

    Some rows at a time: the scores are all that is large.
    """
    parts = []
    for rows in scores.split(256):
        raised = rows + extra.to(rows)
        value, winner = raised.max(1)
        second, runner = raised.scatter_(1, winner[:, None], -torch.inf).max(1)
        parts.append((value, winner, second, runner))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def correct(
    scorer: Scorer, heights: torch.Tensor, labels: np.ndarray, *, stage: str
) -> tuple[torch.Tensor, float]:
    """Raise and lower whole clusters until each holds its share of the mass.

    Args:
        scorer: Of the problem.
        heights: (n,) float64.
        labels: (n,) int64, the cluster of each site.
        stage: Key of the samples.

    Returns:
        The corrected heights, and the total variation over clusters before.
    """
    order = np.argsort(labels, kind="stable")
    index = torch.from_numpy(order)
    problem = scorer.problem
    options: dict[str, Any] = {"memory": scorer.memory, "threads": scorer.threads}
    sorted_problem = replace(problem, sites=problem.sites[index.to(problem.sites.device)])
    k = int(labels.max()) + 1
    edges = np.searchsorted(labels[order], np.arange(k + 1))
    scorer = Scorer(sorted_problem, engine=scorer.engine.NAME, **options)
    blocks = range(scorer.blocks_for(max(SAMPLES * k, 2048)))
    own, m = len(_ranks.part(blocks)), scorer.block_samples
    scores = torch.empty(own, m, k, dtype=torch.float32, device=heights.device)
    found = scorer.cluster_maxima(heights[index], edges, stage, blocks)
    for number, part in enumerate(found):
        scores[number] = part
    (scores,) = _ranks.joined(scores)
    target = torch.zeros(k, dtype=torch.float64)
    target.index_add_(0, torch.from_numpy(labels), problem.masses)

    extra, before = balanced(scores.flatten(0, 1), target, torch.zeros(k, dtype=torch.float64))
    return heights + extra[torch.from_numpy(labels)].to(heights), before


def balanced(
    scores: torch.Tensor, target: torch.Tensor, start: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Find what raises the columns of stored scores to win their shares of the rows.

    Args:
        scores: (m, k).
        target: (k,) float64, the shares wanted.
        start: (k,) float64.

    Returns:
        (k,) float64, and the total variation at the start.
    """
    m, k = scores.shape

    def oracle(extra: torch.Tensor, window: torch.Tensor | float | None) -> Evaluation:
        value, winner, second, runner = _best_two(scores, extra)
        gap = value - second
        masses = torch.bincount(winner, minlength=k).to("cpu", torch.float64) / m
        energy = float(value.sum(dtype=torch.float64)) / m - float(target @ extra)
        hessian = None
        if window is not None:
            close = gap < window
            i, j = (x[close].cpu().numpy() for x in (winner, runner))
            hessian = laplacian(i, j, np.full(i.size, 0.5 / float(window) / m), k)
        return Evaluation(energy, masses, masses - target, hessian)

    def gap_scale(extra: torch.Tensor) -> float:
        value, _, second, _ = _best_two(scores, extra)
        return max(float((value - second).quantile(0.25)) / 0.288, 1e-12)

    extra = start
    unit = gap_scale(extra)
    before = float(oracle(extra, None).gradient.abs().sum()) / 2
    floor = 0.4 * float(target.sqrt().sum()) / m**0.5
    for _ in range(4):
        extra, now, _ = levenberg(
            oracle, extra, target, trust=Trust(unit, 1e30, 1.0), stop=0.5 * floor, max_steps=6
        )
        if float(now.gradient.abs().sum()) / 2 <= 0.5 * floor:
            break
        # Far from the solution the gaps are of another size: measure them again.
        unit = gap_scale(extra)
    return extra, before
