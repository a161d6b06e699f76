"""All power cells of the plane: clipping, moments and facets over a range of sites."""

from __future__ import annotations

import numba
import numpy as np

from aeot.transport.pixels import walk
from aeot.transport.polygons import DISK, GRID, chord, cut_cell, disk_moments, polygon_moments


@numba.njit(cache=True, nogil=True)
def plane_cells(
    start: int,
    stop: int,
    sites: np.ndarray,
    heights: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    support: np.ndarray,
    kind: int,
    radius: float,
    density: float,
    coefficients: np.ndarray,
    table: np.ndarray,
    low: np.ndarray,
    step: np.ndarray,
    moments: np.ndarray,
    measures: np.ndarray,
    ends: np.ndarray,
) -> None:
    """Fill the rows start..stop of `moments`, and `measures`, `ends` at their candidates' slots.

    Args:
        start: First site.
        stop: One past the last site.
        sites: (n, 2).
        heights: (n,).
        indptr: Row pointers of the candidates (n + 1,).
        indices: Candidates, row after row.
        support: Vertices of the support, counter-clockwise (p, 2); for a disk, whose centre is the
            origin, a polygon around it.
        kind: UNIFORM, DISK or GRID.
        radius: Of the disk.
        density: Mass per area of the uniform measures.
        coefficients: See `pixels.tabulate`; may be empty unless kind is GRID.
        table: See `pixels.tabulate`.
        low: Lower left corner of the grid (2,).
        step: Size of a pixel (2,).
        moments: (n, 6): mass, first moments, then second moments xx, xy, yy about the centroid.
        measures: (slots,) mass of each facet per length unit of the density.
        ends: (slots, 4) end points of each facet, or (0, 4) if they are not wanted.
    """
    most = 0
    for i in range(start, stop):
        most = max(most, indptr[i + 1] - indptr[i])
    capacity = most + 2 * support.shape[0] + 8
    poly, spare = np.empty((capacity, 2)), np.empty((capacity, 2))
    label, spare_label = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    values, m = np.empty(capacity), np.zeros(6)
    for i in range(start, stop):
        count = support.shape[0]
        for k in range(count):
            poly[k, 0], poly[k, 1] = support[k, 0], support[k, 1]
            label[k] = -1 - k
        count = cut_cell(
            i, sites, heights, indptr, indices, poly, label, count, spare, spare_label, values
        )
        moments[i, :] = 0.0
        if count == 0:
            continue
        x0, y0 = 0.0, 0.0
        scale = density
        if kind == GRID:
            m[:] = 0.0
            scale = 1.0
        elif kind != DISK or not disk_moments(poly, count, radius, m):
            polygon_moments(poly, count, m)
            x0, y0 = poly[0, 0], poly[0, 1]
        for k in range(count):
            after = k + 1 if k + 1 < count else 0
            ax, ay, bx, by = poly[k, 0], poly[k, 1], poly[after, 0], poly[after, 1]
            length = 0.0
            if kind == GRID:
                length = walk(ax, ay, bx, by, coefficients, table, low, step, m)
            slot = label[k]
            if slot < 0:
                continue
            if kind == DISK:
                t0, t1 = chord(ax, ay, bx, by, radius)
                if t1 <= t0:
                    continue
                px, py = ax + t0 * (bx - ax), ay + t0 * (by - ay)
                bx, by = ax + t1 * (bx - ax), ay + t1 * (by - ay)
                ax, ay = px, py
            if kind != GRID:
                length = density * np.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
            if length > 0.0:
                measures[slot] += length
                if ends.shape[0]:
                    ends[slot, 0], ends[slot, 1], ends[slot, 2], ends[slot, 3] = ax, ay, bx, by
        if m[0] <= 0.0:
            continue
        cx, cy = m[1] / m[0], m[2] / m[0]
        moments[i, 0] = scale * m[0]
        moments[i, 1], moments[i, 2] = x0 + cx, y0 + cy
        moments[i, 3] = m[3] / m[0] - cx * cx
        moments[i, 4] = m[4] / m[0] - cx * cy
        moments[i, 5] = m[5] / m[0] - cy * cy


@numba.njit(cache=True, nogil=True)
def plane_polygons(
    sites: np.ndarray,
    heights: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    support: np.ndarray,
    offsets: np.ndarray,
    points: np.ndarray,
) -> int:
    """Write the vertices of every cell one after the other; the cell i is offsets[i]:offsets[i+1].

    Args:
        sites: (n, 2).
        heights: (n,).
        indptr: Row pointers of the candidates (n + 1,).
        indices: Candidates, row after row.
        support: Vertices of the support (p, 2).
        offsets: (n + 1,), written.
        points: (capacity, 2), written; the capacity may be too small.

    Returns:
        How many vertices there are; more than the capacity means that some were left out.
    """
    most = 0
    for i in range(sites.shape[0]):
        most = max(most, indptr[i + 1] - indptr[i])
    capacity = most + 2 * support.shape[0] + 8
    poly, spare = np.empty((capacity, 2)), np.empty((capacity, 2))
    label, spare_label = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    values = np.empty(capacity)
    total = 0
    for i in range(sites.shape[0]):
        offsets[i] = total
        count = support.shape[0]
        poly[:count] = support
        count = cut_cell(
            i, sites, heights, indptr, indices, poly, label, count, spare, spare_label, values
        )
        for k in range(count):
            if total + k < points.shape[0]:
                points[total + k, 0], points[total + k, 1] = poly[k, 0], poly[k, 1]
        total += count
    offsets[sites.shape[0]] = total
    return total
