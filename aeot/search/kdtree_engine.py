"""Scores by SciPy's k-d tree on lifted sites: for few dimensions and cells near their sites.

Winners and candidate lists are its k highest planes; the rest is that of the torch engine.
`aeot.search.engines.Engine` says what every function does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree

from aeot.search import torch_engine
from aeot.search.heights import power_weights
from aeot.search.planes import Block, Listed, Planes, Winners, scores_of
from aeot.search.torch_engine import add_points, arrange, close_pairs, count, each, relist

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
NAME = "kdtree"
HALVES = False
HOST = False
_EPS = 64 * torch.finfo(torch.float64).eps


def top_k(
    points: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    k: int,
    edges: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k highest planes at every point, best first, and where they are certain."""
    x, y = points.to(torch.float64), sites.to(torch.float64)
    # Cells are those of any shifted and scaled copy of the sites (with the heights to match);
    # the tree prunes well where the sites lie among the points.
    middle = x.mean(0)
    y = y - y.mean(0)
    spread = [float(t.square().sum(1).mean().sqrt()) for t in (x - middle, y)]
    factor = spread[0] / spread[1] if min(spread) > 0 else 1.0
    y = factor * y
    h = factor * heights.to(torch.float64) + y @ middle
    tree = _tree(y, h)
    found = _query(tree, x - middle, min(k + 1, len(y)))
    value = scores_of(x - middle, y, h, found)
    slack = _rounding(tree) + _EPS * (x - middle).square().sum(1)
    clear = value[:, :-1] - value[:, 1:] > slack[:, None]
    found, doubt = found[:, :k].contiguous(), ~clear.all(1)
    if bool(doubt.any()):
        found[doubt] = torch_engine.top_k(points[doubt].double(), sites, heights, k)[0]
    found = torch_engine.and_ranges(found, points, sites, heights, edges)
    return found, torch.ones_like(clear)


def _tree(sites: torch.Tensor, heights: torch.Tensor) -> cKDTree:
    # The highest plane is the nearest of the sites (y_i, sqrt(max w - w_i)), w the power weights.
    weights = power_weights(heights, sites)
    lifted = torch.cat([sites, (weights.max() - weights).sqrt()[:, None]], 1)
    return cKDTree(lifted.numpy())


def _rounding(tree: cKDTree) -> float:
    # How far the half squared distances may be off, beside the share of the points: a site that
    # is far away lifts all the others.
    return _EPS * float(np.square(tree.data).sum(1).max())


def _query(tree: cKDTree, points: torch.Tensor, k: int) -> torch.Tensor:
    flat = torch.nn.functional.pad(points, (0, 1)).numpy()
    return torch.from_numpy(tree.query(flat, k=np.arange(1, k + 1))[1].astype(np.int64))


class Raised(NamedTuple):
    """Heights with the tree of the sites that they lift; (columns,) float32, `Planes.padded`."""

    heights: torch.Tensor
    tree: cKDTree
    slack: float  # what the tree's rounding adds to that of scores


def raised(planes: Planes, heights: torch.Tensor) -> Raised:
    """Prepare heights for the passes over blocks that follow."""
    h = heights.to(torch.float64)
    tree = _tree(planes.sites.to(torch.float64), h)
    return Raised(planes.padded(heights), tree, 2 * _rounding(tree))


def _top(
    planes: Planes, heights: Raised, block: Block, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = block.points(), planes.sites
    site = _query(heights.tree, x.to(torch.float64), min(k, y.shape[0]))
    return torch.stack([(x * y[i]).sum(1) + heights.heights[i] for i in site.T], 1), site


def winners(
    planes: Planes,
    heights: Raised,
    block: Block,
    *,
    runners: bool,
    slack: torch.Tensor | None = None,
) -> Winners:
    """Find the best site of every sample of a block."""
    slack = None if slack is None else slack + heights.slack
    found = _top(planes, heights, block, 1 if slack is None and not runners else 2)
    return torch_engine.winners_of(block, *found, runners, slack)


def candidates(
    planes: Planes,
    heights: Raised,
    block: Block,
    *,
    radius: float,
    least: int,
    longest: int,
) -> list[Listed]:
    """List, for every sample of a block, the sites within a radius of the best."""
    value, site = _top(planes, heights, block, longest + 1)
    return [torch_engine.lists_of(value, site, value, radius, least, longest)]


def cluster_maxima(
    planes: Planes, heights: Raised, block: Block, edges: np.ndarray
) -> torch.Tensor:
    """Find the best score of every sample within each cluster of consecutive sites."""
    return torch_engine.cluster_maxima(planes, heights.heights, block, edges)
