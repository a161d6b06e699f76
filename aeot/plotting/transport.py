"""Figures of transport: power diagrams and their duals, potentials, displacement, cell masses."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot.geometry.diagram import PowerDiagram
from aeot.plotting.style import CHART, COLOURS, INK, LINE, SINGULAR, colour_sites, panel, save
from aeot.singular.curves import masked, singular_curves


def _planar(diagram: PowerDiagram) -> None:
    _check.instance("diagram", diagram, PowerDiagram, "aeot.power_diagram makes one")
    if diagram.sites.shape[1] != 2:
        raise _check.fail("diagram", "be planar", f"d = {diagram.sites.shape[1]}")


def _limits(ax: Axes, points: np.ndarray) -> None:
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.04 * max(float((high - low).max()), 1e-300)
    ax.set_xlim(low[0] - margin, high[0] + margin)
    ax.set_ylim(low[1] - margin, high[1] + margin)


@plain_torch()
def power_diagram(
    diagram: PowerDiagram,
    *,
    singular: ArrayLike | None = None,
    colours: ArrayLike | None = None,
    edges: bool = True,
    centroids: bool = False,
    ax: Axes | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw the cells of a planar diagram, each in its site's colour, and the singular set on top.

    Args:
        diagram: In the plane.
        singular: Mask of the facets across which the map jumps (k,); they are drawn as thick
            curves, their branch points as discs.
        colours: Colour of each cell (n, 3); by the place of its site if None.
        edges: Whether to draw the borders between cells.
        centroids: Whether to mark the centroid of each cell.
        ax: Axes to draw on; a new figure if None.
        path: Where to write the figure.

    Returns:
        The figure.

    Example:
        >>> from aeot import UniformBox, power_diagram as cut
        >>> diagram = cut(UniformBox(dim=2), [[0.0, 0.5], [1.0, 0.5]], [0.25, -0.25])
        >>> figure = power_diagram(diagram, singular=diagram.facets.jumps > 0.5)
    """
    _planar(diagram)
    _check.flag("edges", edges)
    _check.flag("centroids", centroids)
    if colours is not None:
        given = _check.array("colours", colours).detach().cpu().numpy()
        if given.shape != diagram.sites.shape[:1] + (3,) or given.min() < 0 or given.max() > 1:
            must = f"have shape ({len(diagram.sites)}, 3), in [0, 1]"
            raise _check.fail("colours", must, _check.shown(given))
    figure, ax = panel(ax)
    paint = colour_sites(diagram.sites.numpy()) if colours is None else given
    shown = [k for k, cell in enumerate(diagram.polygons) if len(cell)]
    corners = [diagram.polygons[k].numpy() for k in shown]
    border = "white" if edges else "face"
    cells = PolyCollection(
        corners, facecolors=paint[shown], edgecolors=border, linewidths=0.5 if edges else 0.3
    )
    ax.add_collection(cells)
    if centroids:
        ax.plot(*diagram.centroids[shown].T, ".", color=INK, markersize=2.5)
    if singular is not None:
        _draw_curves(ax, diagram, singular)
    _limits(ax, np.concatenate(corners))
    return save(figure, path)


def _draw_curves(ax: Axes, diagram: PowerDiagram, singular: ArrayLike) -> None:
    curves = singular_curves(diagram, singular)
    lines = [line.numpy() for line in curves.lines]
    ax.add_collection(LineCollection(lines, colors="white", linewidths=4.0, capstyle="round"))
    ax.add_collection(LineCollection(lines, colors=SINGULAR, linewidths=2.2, capstyle="round"))
    ax.plot(
        *curves.branch_points.numpy().T,
        "o",
        color=SINGULAR,
        markeredgecolor="white",
        markersize=8,
        zorder=4,
    )


@plain_torch()
def delaunay(
    diagram: PowerDiagram,
    *,
    singular: ArrayLike | None = None,
    whole: bool = False,
    ax: Axes | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw the sites in their colours, joined where their cells are adjacent.

    The joins are the edges of the weighted Delaunay triangulation that are dual to a facet within
    the support, or all of its edges. Those across which the map jumps are left out if `singular`
    is given: what stays together are the components of the target.

    Args:
        diagram: In the plane.
        singular: Mask of the facets to leave out (k,).
        whole: Whether to draw the whole triangulation, with facets outside the support.
        ax: Axes to draw on; a new figure if None.
        path: Where to write the figure.

    Returns:
        The figure.
    """
    _planar(diagram)
    _check.flag("whole", whole)
    figure, ax = panel(ax)
    sites = diagram.sites.numpy()
    keep = np.ones(len(diagram.facets.pairs), dtype=bool)
    if singular is not None:
        keep[masked(diagram, singular, 2)] = False
    pairs = diagram.facets.pairs.numpy()[keep]
    if whole:
        corners = np.sort(diagram.delaunay.numpy(), axis=1)
        pairs = np.unique(corners[:, [0, 1, 0, 2, 1, 2]].reshape(-1, 2), axis=0)
    segments = sites[pairs]
    ax.add_collection(LineCollection(segments, colors=LINE, linewidths=0.6))
    order = np.argsort(diagram.masses.numpy())
    x, y = sites[order].T
    colours = colour_sites(sites, lightness=0.66)[order]
    ax.scatter(x, y, s=9, c=colours.tolist(), zorder=3, linewidths=0)
    _limits(ax, sites)
    return save(figure, path)


@plain_torch()
def displacement(
    diagram: PowerDiagram,
    times: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9),
    *,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw the cells on their way from the source to their sites, one panel for each time.

    Args:
        diagram: In the plane.
        times: Moments in [0, 1], at least one.
        path: Where to write the figure.

    Returns:
        The figure.
    """
    _planar(diagram)
    if not isinstance(times, (tuple, list)) or not times:
        raise _check.fail("times", "be a tuple of moments in [0, 1]", _check.shown(times))
    times = tuple(_check.real("times", t, minimum=0, maximum=1) for t in times)
    figure = Figure(figsize=(3.2 * len(times), 3.4), layout="constrained")
    colours = colour_sites(diagram.sites.numpy(), lightness=0.72)
    reach = torch.cat([diagram.sites, *diagram.polygons]).numpy()
    for k, t in enumerate(times):
        _, ax = panel(figure.add_subplot(1, len(times), k + 1))
        moved = [cell.numpy() for cell in diagram.displaced(t)]
        cells = PolyCollection(moved, facecolors=colours, edgecolors=colours, linewidths=1.0)
        ax.add_collection(cells)
        _limits(ax, reach)
        ax.set_title(f"t = {t:.2g}", color=INK, fontsize=10)
    return save(figure, path)


@plain_torch()
def potential(
    diagram: PowerDiagram,
    *,
    elevation: float = 30.0,
    azimuth: float = -60.0,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw the Brenier potential over the source and its Legendre dual over the target.

    Both are piecewise linear and drawn as such: one facet for each cell, one for each simplex of
    the weighted Delaunay triangulation.

    Args:
        diagram: In the plane.
        elevation: Height of the viewer, degrees.
        azimuth: Direction of the viewer, degrees.
        path: Where to write the figure.

    Returns:
        The figure.
    """
    _planar(diagram)
    for name, angle in (("elevation", elevation), ("azimuth", azimuth)):
        _check.real(name, angle)
    sites, heights = diagram.sites.numpy(), diagram.heights.numpy()
    colours = colour_sites(sites, lightness=0.78)
    shown = [k for k, cell in enumerate(diagram.polygons) if len(cell)]
    cells = [diagram.polygons[k].numpy() for k in shown]
    over = [np.c_[cell, cell @ sites[k] + heights[k]] for k, cell in zip(shown, cells, strict=True)]
    simplices = diagram.delaunay.numpy()
    dual = np.concatenate([sites, -heights[:, None]], axis=1)[simplices]
    panels = (
        ("potential $u_h$ over the source", over, colours[shown]),
        ("Legendre dual $u^*$ over the sites", dual, colours[simplices].mean(axis=1)),
    )
    figure = Figure(figsize=(9.0, 4.0))
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.92, wspace=0)
    for k, (title, faces, paint) in enumerate(panels):
        ax = figure.add_subplot(1, 2, k + 1, projection="3d")
        points = np.concatenate(list(faces))
        lit = paint * _light(faces)[:, None]
        surface = Poly3DCollection(
            list(faces),
            facecolors=lit,
            edgecolors=INK if len(faces) < 500 else lit,
            linewidths=0.25,
        )
        ax.add_collection3d(surface, autolim=False)
        for axis, values in zip("xyz", points.T, strict=True):
            getattr(ax, f"set_{axis}lim")(values.min(), values.max())
        ax.set_box_aspect((1, 1, 0.8), zoom=1.12)
        ax.set_title(title, color=INK, fontsize=10)
        ax.set_axis_off()
        ax.view_init(elevation, azimuth)
    return save(figure, path)


def _light(faces: Iterable[np.ndarray]) -> np.ndarray:
    """Brightness of each face under a lamp above the viewer's left shoulder, (f,)."""
    # Newell's normal: the first corners alone may lie on a short arc, nearly in a line.
    normals = np.array([np.cross(f, np.roll(f, -1, axis=0)).sum(axis=0) for f in faces])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    lamp = np.array([-0.3, -0.6, 0.74])
    return 0.72 + 0.28 * np.abs(normals @ lamp)


@plain_torch()
def cell_hits(
    hits: np.ndarray,
    cells: np.ndarray,
    expected: np.ndarray,
    *,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw how many cells were hit how often by random points, beside what exact masses give.

    Args:
        hits: Numbers of hits, evenly spaced (k,).
        cells: Cells that were hit so often (k,).
        expected: How many that would be if every mass were exact (k,).
        path: Where to write the figure.

    Returns:
        The figure.
    """
    hits, cells, expected = (
        _check.array(name, values).detach().cpu().numpy()
        for name, values in (("hits", hits), ("cells", cells), ("expected", expected))
    )
    if hits.ndim != 1 or not hits.size:
        raise _check.fail("hits", "have shape (k,), at least one", f"shape {hits.shape}")
    for name, found in (("cells", cells), ("expected", expected)):
        if found.shape != hits.shape:
            raise _check.fail(name, f"have shape {hits.shape}", f"shape {found.shape}")
    figure, ax = panel(size=CHART, equal=False)
    width = 0.9 * (hits[1] - hits[0] if len(hits) > 1 else 1)
    ax.bar(hits, cells, width, color=COLOURS[0], label="cells")
    ax.plot(hits, expected, color=COLOURS[1], marker="." if len(hits) < 3 else "", label="if exact")
    ax.set(xlabel="hits of a cell", ylabel="cells")
    ax.legend(frameon=False)
    return save(figure, path)
