"""Scores in plain torch: on any device, and what needs no other package."""

from __future__ import annotations

import torch

NAME = "torch"
_GROUPS = 16  # columns per group in the two-level maximum
_TILE = 1 << 20  # scores held at once; a constant, so that no setting changes a result


def top_k(points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k highest planes at every point, best first: indices (m, k) int64."""
    m, n = points.shape[0], sites.shape[0]
    groups = -(-n // _GROUPS)
    # A shift of all sites changes no cell and keeps float32 products accurate far from zero.
    y = sites.to(torch.float64)
    y = torch.nn.functional.pad((y - y.mean(0)).to(points.dtype).T, (0, groups * _GROUPS - n))
    h = heights.to(points.dtype)
    h = torch.nn.functional.pad(h, (0, groups * _GROUPS - n), value=-torch.inf)
    # Wide sites are worth reading for many points.
    rows = max(8, min(4096, _TILE // (groups * _GROUPS)), points.shape[1] // 2)
    indices = torch.empty(m, k, dtype=torch.int64, device=points.device)
    for start in range(0, m, rows):
        x = points[start : start + rows]
        count = x.shape[0]
        if count < rows:
            x = torch.nn.functional.pad(x, (0, 0, 0, rows - count))
        scores = torch.addmm(h, x, y).view(rows, _GROUPS, groups)
        # Column g + groups * r belongs to group g. The k best groups hold the k best columns,
        # and a maximum over strided groups is vectorised where one with an index is not.
        tops = scores.amax(1)  # (rows, groups)
        best = tops.argmax(1, keepdim=True) if k == 1 else tops.topk(min(k, groups), 1).indices
        inside = scores.gather(2, best[:, None].expand(-1, _GROUPS, -1)).flatten(1)
        picked = inside.argmax(1, keepdim=True) if k == 1 else inside.topk(k, 1).indices
        width = best.shape[1]
        found = best.gather(1, picked % width) + groups * (picked // width)
        indices[start : start + count] = found[:count]
    return indices
