"""Which power cell a point falls in, and the runners-up: dense, keops, kdtree."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from scipy.spatial import cKDTree

from aeot import _check
from aeot.scores import heights as _heights

_GROUPS = 16  # columns per group in the two-level maximum of the dense backend
_TILE = 1 << 20  # scores held at once; a constant, so that no setting changes a result


def choose_backend(n: int, d: int, device: torch.device | str, *, has_keops: bool) -> str:
    """Return the backend that ``backend="auto"`` stands for: the dense one, whatever the problem.

    ======  =====  =====  =======
    device  d      n      backend
    ======  =====  =====  =======
    any     any    any    dense
    ======  =====  =====  =======

    On a CPU the kd-tree is up to three times faster on Voronoi-like cells (d <= 6), but three to
    nine times slower on the transport cells of 10 000 clustered codes, and nothing in n and d
    tells the two apart; KeOps is slower than dense throughout. GPUs were not measured.
    ``benchmarks/bench_cells.py`` makes the figures, ``docs/backends.md`` shows them.

    Args:
        n: Number of sites.
        d: Dimension.
        device: Where the sites are.
        has_keops: Whether pykeops can be imported.

    Returns:
        "dense", "keops" or "kdtree".

    Example:
        >>> choose_backend(5000, 2, "cpu", has_keops=True)
        'dense'
    """
    del n, d, device, has_keops  # no rule needs them yet
    return "dense"


def has_keops() -> bool:
    """Whether pykeops can be imported (it is not imported to find out)."""
    try:
        return importlib.util.find_spec("pykeops") is not None
    except (ImportError, ValueError):  # ValueError: blocked by sys.modules["pykeops"] = None
        return False


def assign(
    points: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    k: int = 1,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k highest planes <x, y_i> + h_i at every point, best first.

    The first column is the potential and the power cell. Ties are decided by rounding, so compare
    backends by the values. The score matrix (m, n) is never held: memory is 8 MiB beside the
    result, and a point's answer does not depend on the other points.

    Args:
        points: (m, d) floating; its dtype is that of the values.
        sites: (n, d), on the same device.
        heights: (n,).
        k: How many planes, 1 <= k <= n.
        backend: "auto" (see `choose_backend`), "dense", "keops" (needs pykeops and a C++
            compiler) or "kdtree" (CPU; for small d).

    Returns:
        values (m, k) in the dtype of the points and indices (m, k) int64.

    Raises:
        ValueError: For wrong shapes, k, devices or an unknown backend.
        ImportError: For "keops" without pykeops.

    Example:
        >>> import torch
        >>> sites = torch.tensor([[0.0], [1.0]])
        >>> assign(torch.tensor([[0.2], [0.9]]), sites, torch.tensor([0.25, -0.25]))[1].T
        tensor([[0, 1]])
    """
    points = _check.array("points", points)
    if points.ndim != 2 or points.shape[1] != sites.shape[1]:
        got = f"shape {tuple(points.shape)}"
        raise _check.fail("points", f"have shape (rows, {sites.shape[1]})", got)
    if _check.integer("k", k) > sites.shape[0]:
        raise _check.fail("k", f"be at most the number of sites {sites.shape[0]}", k)
    if points.device != sites.device:
        got = f"{points.device} against {sites.device}"
        raise _check.fail("points", "be on the device of the sites", got)
    name = _check.choice("backend", backend, ["auto", *_BACKENDS])
    if name == "auto":
        name = choose_backend(*sites.shape, sites.device, has_keops=has_keops())
    if points.shape[0] == 0:
        empty = torch.empty(0, k, device=points.device)
        return empty.to(points.dtype), empty.to(torch.int64)
    return _BACKENDS[name](points, sites, heights, k)


def _values(
    points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor, indices: torch.Tensor
) -> torch.Tensor:
    # From the winners alone and in float64: the same for every backend, block and thread count.
    x, y = points.to(torch.float64), sites[indices].to(torch.float64)  # (m, d), (m, k, d)
    return ((x[:, None] * y).sum(2) + heights.to(torch.float64)[indices]).to(points.dtype)


def _dense(
    points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    m, n = points.shape[0], sites.shape[0]
    groups = -(-n // _GROUPS)
    # A shift of all sites changes no cell and keeps float32 products accurate far from zero.
    y = sites.to(torch.float64)
    y = torch.nn.functional.pad((y - y.mean(0)).to(points.dtype).T, (0, groups * _GROUPS - n))
    h = heights.to(points.dtype)
    h = torch.nn.functional.pad(h, (0, groups * _GROUPS - n), value=-torch.inf)
    rows = max(8, min(4096, _TILE // (groups * _GROUPS)))
    values = points.new_empty(m, k)
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
        values[start : start + count] = _values(x[:count], sites, heights, found[:count])
    return values, indices


def _keops(
    points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        from pykeops.torch import LazyTensor
    except ImportError as error:
        raise ImportError("backend='keops' needs pykeops: pip install pykeops") from error
    y = sites.to(torch.float64)
    y = (y - y.mean(0)).to(points.dtype).contiguous()
    x_i = LazyTensor(points.contiguous()[:, None, :])
    y_j = LazyTensor(y[None, :, :])
    h_j = LazyTensor(heights.to(points.dtype)[None, :, None].contiguous())
    costs = -((x_i * y_j).sum(-1) + h_j)
    indices = costs.argKmin(k, dim=1).view(points.shape[0], k).to(torch.int64)
    return _in_blocks(points, sites, heights, indices), indices


def _kdtree(
    points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    if points.device.type != "cpu":
        raise _check.fail("backend", "be 'dense' or 'keops' off the CPU", "'kdtree'")
    x, y = points.to(torch.float64), sites.to(torch.float64)
    # Cells are those of any shifted and scaled copy of the sites (with the heights to match);
    # the tree prunes well where the sites lie among the points.
    middle = x.mean(0)
    y = y - y.mean(0)
    spread = [float(t.square().sum(1).mean().sqrt()) for t in (x - middle, y)]
    factor = spread[0] / spread[1] if min(spread) > 0 else 1.0
    y = factor * y
    h = factor * heights.to(torch.float64) + y @ middle
    weights = _heights.power_weights(h, y)
    lifted = torch.cat([y, (weights.max() - weights).sqrt()[:, None]], 1)
    query = torch.nn.functional.pad(x - middle, (0, 1))
    _, found = cKDTree(lifted.numpy()).query(query.numpy(), k=np.arange(1, k + 1))
    indices = torch.from_numpy(found.astype(np.int64))
    return _in_blocks(points, sites, heights, indices), indices


def _in_blocks(
    points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor, indices: torch.Tensor
) -> torch.Tensor:
    rows = max(1, _TILE // (indices.shape[1] * sites.shape[1]))
    parts = zip(points.split(rows), indices.split(rows), strict=True)
    return torch.cat([_values(x, sites, heights, found) for x, found in parts])


_BACKENDS = {"dense": _dense, "keops": _keops, "kdtree": _kdtree}
