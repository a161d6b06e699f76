"""Pictures of singular sets: modes and their borders, what a path shows that crosses one."""

from __future__ import annotations

import os

import numpy as np
import torch
from matplotlib.figure import Figure

from aeot import _check
from aeot._environment import plain_torch
from aeot._rng import generator
from aeot.geometry.diagram import power_diagram
from aeot.maps.brenier import BrenierMap
from aeot.plotting.images import as_tiles, mosaic
from aeot.plotting.style import ACCENT, CHART, INK, LINE, SINGULAR, colour_sites, panel, save
from aeot.plotting.transport import power_diagram as draw_diagram
from aeot.singular.singular_set import SingularSet


@plain_torch()
def modes(
    singular: SingularSet,
    *,
    codes: torch.Tensor | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw the modes a planar map believes in: cells in the source, sites in the target.

    Args:
        singular: Of a map in the plane whose source has exact geometry.
        codes: Generated codes (m, 2), drawn as dots among the sites.
        path: Where to write the figure.

    Returns:
        The figure: on the left the source, each cell in the colour of its mode, the singular set
        in red; on the right the sites in the same colours.

    Raises:
        ValueError: If the map is not planar.
    """
    brenier = _planar(singular)
    if codes is not None:
        codes = _check.points("codes", codes, dim=2).detach()
    sites = brenier.sites.cpu().numpy()
    labels = singular.components.cpu().numpy()
    middles = np.stack([sites[labels == label].mean(0) for label in range(labels.max() + 1)])
    colours = colour_sites(middles)[labels]
    figure = Figure(figsize=(9.4, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    diagram = power_diagram(brenier.source, brenier.sites, brenier.heights)
    broken = singular.crosses(*diagram.facets.pairs.to(brenier.sites.device).T).cpu()
    draw_diagram(diagram, singular=broken, colours=colours, ax=left)
    left.set_title("source: cells, and where the map breaks", fontsize=10, color=INK)
    panel(right)
    if codes is not None:
        right.plot(*codes.cpu().numpy().T, ".", color=LINE, ms=1.5, alpha=0.5, zorder=1)
    strong = 0.72 * colours
    right.scatter(*sites.T, s=14, c=strong, edgecolors="white", linewidths=0.3, zorder=2)
    note = f"target: {len(sites)} sites in {singular.n_components} modes"
    note += "" if codes is None else f", {len(codes)} new points in grey"
    right.set_title(note, fontsize=10, color=INK)
    return save(figure, path)


@plain_torch()
def tears(
    singular: SingularSet,
    n: int = 4000,
    *,
    seed: int = 0,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw a planar map with its tears, what it generates, and what it would without them.

    Args:
        singular: Of a map in the plane whose source has exact geometry.
        n: New points in each of the two pictures of the target.
        seed: Of the new points.
        path: Where to write the figure.

    Returns:
        The figure, three panels side by side, or one above the other for wide sources: the cells
        in the source, each in the colour of its site, and the singular set in red; new points
        that keep off it; new points of the continuous map that interpolates between all
        neighbouring sites. A new point has the colour of the site it lies next to.

    Raises:
        ValueError: If the map is not planar.

    Example:
        >>> import aeot
        >>> sites = aeot.data.toy("ring", 40).values
        >>> brenier = aeot.solve_exact(aeot.UniformBox(dim=2), sites).map()
        >>> figure = tears(aeot.find_singularities(brenier), 100)
    """
    brenier = _planar(singular)
    n, seed = _check.integer("n", n), _check.seed("seed", seed)
    diagram = power_diagram(brenier.source, brenier.sites, brenier.heights)
    broken = singular.crosses(*diagram.facets.pairs.to(brenier.sites.device).T).cpu()
    wide, high = np.ptp(np.concatenate([cell.numpy() for cell in diagram.polygons]), axis=0)
    stacked = wide > 1.5 * high
    figure = Figure(figsize=(8.0, 0.9 + 21.0 * high / wide) if stacked else (12.0, 4.4))
    figure.set_layout_engine("constrained")
    top, *below = figure.subplots(*((3, 1) if stacked else (1, 3)))
    draw_diagram(diagram, singular=broken, ax=top)
    sites = brenier.sites.cpu().numpy()
    colours = colour_sites(sites, lightness=0.62)
    titles = ["noise: each point in the colour of where it goes, and where the map tears"]
    for ax, cut in zip(below, (singular, None), strict=True):
        draw = brenier.draw(n, singular=cut, method="linear", generator=generator(seed, "tears"))
        panel(ax)
        ax.scatter(*draw.codes.cpu().numpy().T, s=2, c=colours[draw.owners.cpu().numpy()])
        ax.set(xlim=_padded(sites[:, 0]), ylim=_padded(sites[:, 1]))
    titles += ["new points of the map with its tears", "new points of a map without tears"]
    for ax, title in zip((top, *below), titles, strict=True):
        ax.set_title(title, fontsize=10, color=INK)
    return save(figure, path)


def _padded(values: np.ndarray) -> tuple[float, float]:
    margin = 0.04 * np.ptp(values)
    return values.min() - margin, values.max() + margin


def _planar(singular: SingularSet) -> BrenierMap:
    _check.instance("singular", singular, SingularSet, "aeot.find_singularities makes one")
    if singular.brenier.dim != 2:
        raise _check.fail("singular", "be of a map in the plane", f"d = {singular.brenier.dim}")
    return singular.brenier


@plain_torch()
def crossing(
    broken: torch.Tensor,
    blended: torch.Tensor,
    *,
    breaks: list[float] | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw a path through the source: images of the map above, blends of the end codes below.

    Args:
        broken: Images of the map at even steps along the path, (k, C, H, W) in [-1, 1].
        blended: Images of the straight line between the end codes, (k, C, H, W).
        breaks: Where along the path the map jumps, in (0, 1); marked above the first row.
        path: Where to write the figure.

    Returns:
        The figure.

    Raises:
        ValueError: If the rows differ in shape.
    """
    rows = {"map": as_tiles("broken", broken), "blend": as_tiles("blended", blended)}
    shapes = [tuple(row.shape) for row in rows.values()]
    if shapes[0] != shapes[1]:
        got = f"{shapes[1]} and {shapes[0]} in colour"
        raise _check.fail("blended", "have the shape of broken", got)
    marks = [] if breaks is None else _check.array("breaks", breaks).flatten().tolist()
    for mark in marks:
        _check.real("breaks", mark, minimum=0, maximum=1)
    count, _, high, wide = shapes[0]
    figure = Figure(figsize=(0.75 * count + 1.1, 2.1), layout="constrained")
    axes = figure.subplots(2, 1)
    for ax, (name, row) in zip(axes, rows.items(), strict=True):
        ax.imshow(mosaic(row, count, gap=0), interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([high / 2], [name], fontsize=9, color=INK)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    for at in marks:
        # Frame k stands at k / (count - 1): mark the border between the frames around the break.
        place = (int(at * (count - 1)) + 1) * wide - 0.5
        axes[0].axvline(place, color=SINGULAR, lw=2)
        axes[0].plot(place, -high * 0.06, "v", color=SINGULAR, ms=6, clip_on=False)
    axes[0].set_ylim(high - 0.5, -0.5)  # the mark stands outside
    return save(figure, path)


@plain_torch()
def jumps(singular: SingularSet, *, path: str | os.PathLike | None = None) -> Figure:
    """Draw how far the map jumps across its facets, regular and singular ones.

    Args:
        singular: The singular set.
        path: Where to write the figure.

    Returns:
        The figure: two histograms over log-spaced jumps |y_i - y_j|, weighted by facet mass.
    """
    _check.instance("singular", singular, SingularSet, "aeot.find_singularities makes one")
    facets = singular.facets
    cut = singular.crosses(*facets.pairs.T).cpu().numpy()
    jump = facets.jumps.cpu().numpy()
    mass = facets.mass.cpu().numpy()
    figure, ax = panel(size=CHART, equal=False)
    if len(jump):
        low, high = max(jump.min(), 1e-3 * jump.max()), jump.max()
        bins = np.geomspace(low, high * 1.001, 60).tolist()
        ax.hist(jump[~cut], bins, weights=mass[~cut], color=ACCENT, label="regular")
        ax.hist(jump[cut], bins, weights=mass[cut], color=SINGULAR, label="singular")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(_one_two_five)
    ax.xaxis.set_minor_formatter(_one_two_five)
    ax.set_xlabel("jump $|y_i - y_j|$ across the facet")
    ax.set_ylabel("facet mass")
    ax.legend(frameon=False)
    return save(figure, path)


def _one_two_five(value: float, _: float) -> str:
    """Label ..., 1, 2, 5, 10, 20, ... alone: more would overlap."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""
