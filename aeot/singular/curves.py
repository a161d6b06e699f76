"""Facets chained into singular curves and surfaces, with the points and lines where they branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from aeot import _check
from aeot._environment import plain_torch
from aeot.geometry.diagram import PowerDiagram


@dataclass(frozen=True)
class SingularCurves:
    """Singular facets of a planar diagram, chained.

    Attributes:
        lines: Curves (m, 2), each from a branch point or end to the next, or closed (first point
            repeated at the end).
        facets: The facets each curve runs along, as indices into the diagram's (m - 1,).
        branch_points: Points where three or more singular facets meet, (b, 2): there the
            subgradient of the potential has dimension two.
        ends: Points where a curve ends, (e, 2): on the boundary, or where the jump fades.
    """

    lines: list[torch.Tensor]
    facets: list[torch.Tensor]
    branch_points: torch.Tensor
    ends: torch.Tensor


@dataclass(frozen=True)
class SingularSurfaces:
    """Singular facets of a diagram in space, joined into sheets.

    Attributes:
        facets: The singular facets, as indices into the diagram's (s,).
        sheets: Sheet of each of them, numbered from zero (s,).
        branch_lines: Edges where three or more singular facets meet, (b, 2, 3).
    """

    facets: torch.Tensor
    sheets: torch.Tensor
    branch_lines: torch.Tensor


def _nodes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge points that differ by rounding: the node of each, and the nodes' positions."""
    scale = max(float(np.ptp(points, axis=0).max(initial=0.0)), 1e-300)
    pairs = cKDTree(points).query_pairs(1e-9 * scale, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(points), len(points)))
    count, label = connected_components(graph, directed=False)
    position = np.zeros((count, points.shape[1]))
    position[label] = points
    return label, position


def masked(diagram: PowerDiagram, singular: Any, dim: int) -> np.ndarray:  # noqa: ANN401
    """Return the numbers of the facets that a mask names, of a diagram in `dim` dimensions.

    Raises:
        ValueError: If it is no such diagram, or the mask does not fit.
    """
    way_out = "power_diagram(source, sites, heights) makes one"
    _check.instance("diagram", diagram, PowerDiagram, way_out)
    if diagram.sites.shape[1] != dim:
        got = f"d = {diagram.sites.shape[1]}"
        raise _check.fail("diagram", f"have d = {dim}", got)
    mask = _check.tensor("singular", singular).cpu()
    shape = tuple(diagram.facets.mass.shape)
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        got = f"{mask.dtype} of shape {tuple(mask.shape)}"
        raise _check.fail("singular", f"be a boolean mask of the facets, shape {shape}", got)
    return np.flatnonzero(mask.numpy())


@plain_torch()
def singular_curves(diagram: PowerDiagram, singular: Any) -> SingularCurves:  # noqa: ANN401
    """Chain singular facets of a planar power diagram into curves.

    Args:
        diagram: In the plane.
        singular: Mask of its facets (k,), for instance ``diagram.facets.jumps > 0.5``.

    Returns:
        Curves, branch points and ends.

    Raises:
        ValueError: If the diagram is not planar or the mask does not fit.

    Example:
        >>> from aeot import UniformBox, power_diagram
        >>> diagram = power_diagram(UniformBox(dim=2), [[0.0, 0.5], [1.0, 0.5]], [0.25, -0.25])
        >>> [line.tolist() for line in singular_curves(diagram, diagram.facets.jumps > 0.5).lines]
        [[[0.5, 0.0], [0.5, 1.0]]]
    """
    chosen = masked(diagram, singular, 2)
    if len(chosen) == 0:
        nothing = torch.zeros(0, 2, dtype=torch.float64)
        return SingularCurves([], [], nothing, nothing)
    endpoints = diagram.facets.endpoints
    assert endpoints is not None
    label, position = _nodes(endpoints.numpy()[chosen].reshape(-1, 2))
    ends = label.reshape(-1, 2)
    real = ends[:, 0] != ends[:, 1]
    chosen, ends = chosen[real], ends[real]
    degree = np.bincount(ends.ravel(), minlength=len(position))
    at: dict[int, list[int]] = {}
    for edge, (u, v) in enumerate(ends.tolist()):
        at.setdefault(u, []).append(edge)
        at.setdefault(v, []).append(edge)
    used = np.zeros(len(ends), dtype=bool)
    lines, along = [], []

    def follow(node: int, edge: int) -> None:
        nodes, edges = [node], []
        while True:
            used[edge] = True
            edges.append(int(chosen[edge]))
            node = int(ends[edge].sum()) - node
            nodes.append(node)
            onward = [e for e in at[node] if not used[e]]
            if degree[node] != 2 or not onward:
                break
            edge = onward[0]
        lines.append(torch.from_numpy(position[nodes]))
        along.append(torch.tensor(edges))

    for node in np.flatnonzero((degree != 2) & (degree > 0)).tolist():
        for edge in at[node]:
            if not used[edge]:
                follow(node, edge)
    for edge in range(len(ends)):  # what is left are closed curves
        if not used[edge]:
            follow(int(ends[edge, 0]), edge)
    return SingularCurves(
        lines,
        along,
        torch.from_numpy(position[degree >= 3]),
        torch.from_numpy(position[degree == 1]),
    )


@plain_torch()
def singular_surfaces(diagram: PowerDiagram, singular: Any) -> SingularSurfaces:  # noqa: ANN401
    """Join singular facets of a diagram in space into sheets that end where sheets meet.

    Args:
        diagram: In space.
        singular: Mask of its facets (k,).

    Returns:
        Sheets and the lines along which they branch.

    Raises:
        ValueError: If the diagram is not in space or the mask does not fit.
    """
    chosen = masked(diagram, singular, 3)
    polygons = [diagram.facet_polygons[k].numpy() for k in chosen.tolist()]
    if len(chosen) == 0:
        none = torch.zeros(0, dtype=torch.int64)
        return SingularSurfaces(none, none, torch.zeros(0, 2, 3, dtype=torch.float64))
    sizes = np.array([len(p) for p in polygons])
    label, position = _nodes(np.concatenate(polygons))
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    after = start + (np.arange(len(label)) - start + 1) % np.repeat(sizes, sizes)
    edge = np.sort(np.c_[label, label[after]], axis=1)
    owner = np.repeat(np.arange(len(chosen)), sizes)
    keep = edge[:, 0] != edge[:, 1]
    edge, owner = edge[keep], owner[keep]
    distinct, which, count = np.unique(edge, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(which, kind="stable")
    first = np.cumsum(count) - count
    smooth = first[count == 2]  # an edge of exactly two singular facets joins them
    a, b = owner[order[smooth]], owner[order[smooth + 1]]
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(chosen), len(chosen)))
    _, sheets = connected_components(graph, directed=False)
    return SingularSurfaces(
        torch.from_numpy(chosen),
        torch.from_numpy(sheets.astype(np.int64)),
        torch.from_numpy(position[distinct[count >= 3]]),
    )
