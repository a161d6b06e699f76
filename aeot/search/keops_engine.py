"""Scores by a reduction that KeOps compiles: no score is ever written to memory.

Winners and candidate lists are its k highest planes; the rest is that of the torch engine.
`aeot.search.engines.Engine` says what every function does.
"""

from __future__ import annotations

import numpy as np
import torch
from pykeops.torch import LazyTensor

from aeot.search.planes import Block, Listed, Planes, Winners, scores_of, sure
from aeot.search.torch_engine import (
    add_points,
    and_ranges,
    arrange,
    close_pairs,
    cluster_maxima,
    count,
    each,
    lists_of,
    raised,
    relist,
    winners_of,
)

__all__ = [
    "HALVES",
    "HOST",
    "NAME",
    "add_points",
    "arrange",
    "candidates",
    "close_pairs",
    "cluster_maxima",
    "count",
    "each",
    "raised",
    "relist",
    "top_k",
    "winners",
]
NAME = "keops"
HALVES = False
HOST = False


def top_k(
    points: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    k: int,
    edges: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k highest planes at every point, best first, and where they are certain."""
    wide = k if points.dtype == torch.float64 else min(k + 1, len(sites))  # the next one tells
    # A shift of all sites changes no cell and keeps float32 products accurate far from zero.
    y = sites.to(torch.float64)
    y = (y - y.mean(0)).to(points.dtype)
    h = heights.to(points.dtype)
    found = _highest(points, y, h, wide)
    # Computed another way than those that were compared, so off by as much again.
    value = scores_of(points, y, h, found).to(points.dtype) / 2
    found = and_ranges(found[:, :k].contiguous(), points, sites, heights, edges)
    return found, sure(value, points, y, h)


def _highest(x: torch.Tensor, y: torch.Tensor, h: torch.Tensor, k: int) -> torch.Tensor:
    x_i = LazyTensor(x.contiguous()[:, None, :])
    y_j = LazyTensor(y.contiguous()[None, :, :])
    h_j = LazyTensor(h.contiguous()[None, :, None])
    costs = -((x_i * y_j).sum(-1) + h_j)
    return costs.argKmin(k, dim=1).view(x.shape[0], k).to(torch.int64)


def _top(
    planes: Planes, heights: torch.Tensor, block: Block, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = block.points(), planes.sites
    h = heights[: y.shape[0]]
    site = _highest(x, y, h, min(k, y.shape[0]))
    return torch.stack([(x * y[i]).sum(1) + h[i] for i in site.T], 1), site


def winners(
    planes: Planes,
    heights: torch.Tensor,
    block: Block,
    *,
    runners: bool,
    slack: torch.Tensor | None = None,
) -> Winners:
    """Find the best site of every sample of a block."""
    slack = None if slack is None else 2 * slack  # not the scores that were compared
    found = _top(planes, heights, block, 1 if slack is None and not runners else 2)
    return winners_of(block, *found, runners, slack)


def candidates(
    planes: Planes,
    heights: torch.Tensor,
    block: Block,
    *,
    radius: float,
    least: int,
    longest: int,
) -> list[Listed]:
    """List, for every sample of a block, the sites within a radius of the best."""
    value, site = _top(planes, heights, block, longest + 1)
    return [lists_of(value, site, value, radius, least, longest)]
