"""Scores by SciPy's k-d tree on lifted sites: for few dimensions and cells near their sites."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from aeot.scores.heights import power_weights

NAME = "kdtree"


def top_k(points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k highest planes at every point, best first: indices (m, k) int64."""
    x, y = points.to(torch.float64), sites.to(torch.float64)
    # Cells are those of any shifted and scaled copy of the sites (with the heights to match);
    # the tree prunes well where the sites lie among the points.
    middle = x.mean(0)
    y = y - y.mean(0)
    spread = [float(t.square().sum(1).mean().sqrt()) for t in (x - middle, y)]
    factor = spread[0] / spread[1] if min(spread) > 0 else 1.0
    y = factor * y
    h = factor * heights.to(torch.float64) + y @ middle
    return torch.from_numpy(_query(_tree(y, h), x - middle, k))


def _tree(sites: torch.Tensor, heights: torch.Tensor) -> cKDTree:
    # The highest plane is the nearest of the sites (y_i, sqrt(max w - w_i)), w the power weights.
    weights = power_weights(heights, sites)
    lifted = torch.cat([sites, (weights.max() - weights).sqrt()[:, None]], 1)
    return cKDTree(lifted.numpy())


def _query(tree: cKDTree, points: torch.Tensor, k: int) -> np.ndarray:
    flat = torch.nn.functional.pad(points, (0, 1)).numpy()
    return tree.query(flat, k=np.arange(1, k + 1))[1].astype(np.int64)
