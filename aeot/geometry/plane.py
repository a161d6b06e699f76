"""All power cells of the plane: clipping, moments and facets over a range of sites."""

from __future__ import annotations

import math

import numpy as np

from aeot._compile import njit
from aeot.geometry.pixels import walk


@njit()
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


@njit()
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


# What is integrated over a polygon.
UNIFORM, DISK, GRID = 0, 1, 2


@njit()
def clip(
    poly: np.ndarray,
    label: np.ndarray,
    count: int,
    normal_x: float,
    normal_y: float,
    offset: float,
    name: int,
    spare: np.ndarray,
    spare_label: np.ndarray,
    values: np.ndarray,
) -> int:
    """Keep the part of a convex polygon where <normal, x> <= offset, in place.

    Args:
        poly: Vertices, counter-clockwise, the first `count` rows of (capacity, 2).
        label: label[k] names the edge from vertex k to the next.
        count: Number of vertices.
        normal_x: First coordinate of the normal.
        normal_y: Second coordinate of the normal.
        offset: Right-hand side.
        name: Label of the edge that the cut makes.
        spare: Work space like `poly`.
        spare_label: Work space like `label`.
        values: Work space (capacity,).

    Returns:
        The new number of vertices; 0 if nothing is left.
    """
    out = 0
    for k in range(count):
        values[k] = offset - normal_x * poly[k, 0] - normal_y * poly[k, 1]
        if values[k] < 0.0:
            out += 1
    if out == 0:
        return count
    if out == count:
        return 0
    m = 0
    for k in range(count):
        after = k + 1 if k + 1 < count else 0
        here, there = values[k], values[after]
        if here >= 0.0:
            spare[m, 0], spare[m, 1] = poly[k, 0], poly[k, 1]
            spare_label[m] = label[k]
            m += 1
            if there < 0.0:
                if here == 0.0:  # the cut passes through this vertex: its edge becomes the cut
                    spare_label[m - 1] = name
                else:
                    t = here / (here - there)
                    spare[m, 0] = poly[k, 0] + t * (poly[after, 0] - poly[k, 0])
                    spare[m, 1] = poly[k, 1] + t * (poly[after, 1] - poly[k, 1])
                    spare_label[m] = name
                    m += 1
        elif there > 0.0:
            t = there / (there - here)
            spare[m, 0] = poly[after, 0] + t * (poly[k, 0] - poly[after, 0])
            spare[m, 1] = poly[after, 1] + t * (poly[k, 1] - poly[after, 1])
            spare_label[m] = label[k]
            m += 1
    if m < 3:
        return 0
    for k in range(m):
        poly[k, 0], poly[k, 1] = spare[k, 0], spare[k, 1]
        label[k] = spare_label[k]
    return m


@njit()
def cut_cell(
    i: int,
    sites: np.ndarray,
    heights: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    poly: np.ndarray,
    label: np.ndarray,
    count: int,
    spare: np.ndarray,
    spare_label: np.ndarray,
    values: np.ndarray,
) -> int:
    """Clip `poly` to the power cell of site i among its candidates; label slots, not sites."""
    for slot in range(indptr[i], indptr[i + 1]):
        j = indices[slot]
        count = clip(
            poly,
            label,
            count,
            sites[j, 0] - sites[i, 0],
            sites[j, 1] - sites[i, 1],
            heights[i] - heights[j],
            slot,
            spare,
            spare_label,
            values,
        )
        if count == 0:
            break
    return count


@njit()
def polygon_moments(poly: np.ndarray, count: int, out: np.ndarray) -> None:
    """Area and first and second moments about poly[0]: 1, x, y, xx, xy, yy into out (6,)."""
    x0, y0 = poly[0, 0], poly[0, 1]
    out[:] = 0.0
    for k in range(1, count - 1):
        ax, ay = poly[k, 0] - x0, poly[k, 1] - y0
        bx, by = poly[k + 1, 0] - x0, poly[k + 1, 1] - y0
        area = (ax * by - ay * bx) / 2
        out[0] += area
        out[1] += area * (ax + bx) / 3
        out[2] += area * (ay + by) / 3
        out[3] += area * (ax * ax + ax * bx + bx * bx) / 6
        out[4] += area * (2 * ax * ay + ax * by + bx * ay + 2 * bx * by) / 12
        out[5] += area * (ay * ay + ay * by + by * by) / 6


@njit()
def chord(ax: float, ay: float, bx: float, by: float, radius: float) -> tuple[float, float]:
    """Parameters in [0, 1] between which a + t (b - a) lies in the disk about the origin.

    The second is below the first when the segment misses the disk.
    """
    dx, dy = bx - ax, by - ay
    square = dx * dx + dy * dy
    if square == 0.0:
        return 1.0, 0.0
    # Foot of the perpendicular and half the chord: no cancellation as in the textbook roots.
    foot = -(ax * dx + ay * dy) / square
    cross = (ax * dy - ay * dx) / math.sqrt(square)
    rest = radius * radius - cross * cross
    if rest <= 0.0:
        return 1.0, 0.0
    half = math.sqrt(rest / square)
    return max(0.0, foot - half), min(1.0, foot + half)


@njit()
def _add_triangle(px: float, py: float, qx: float, qy: float, out: np.ndarray) -> None:
    area = (px * qy - py * qx) / 2
    out[0] += area
    out[1] += area * (px + qx) / 3
    out[2] += area * (py + qy) / 3
    out[3] += area * (px * px + px * qx + qx * qx) / 6
    out[4] += area * (2 * px * py + px * qy + qx * py + 2 * qx * qy) / 12
    out[5] += area * (py * py + py * qy + qy * qy) / 6


@njit()
def add_sector(px: float, py: float, qx: float, qy: float, radius: float, out: np.ndarray) -> None:
    """Add the moments of the sector of the disk from the direction of p to that of q."""
    angle = math.atan2(px * qy - py * qx, px * qx + py * qy)
    p, q = math.hypot(px, py), math.hypot(qx, qy)
    if p == 0.0 or q == 0.0:
        return
    cp, sp, cq, sq = px / p, py / p, qx / q, qy / q
    r2 = radius * radius
    out[0] += r2 * angle / 2
    out[1] += r2 * radius * (sq - sp) / 3
    out[2] += r2 * radius * (cp - cq) / 3
    out[3] += r2 * r2 * (angle + sq * cq - sp * cp) / 8
    out[4] += r2 * r2 * (sq * sq - sp * sp) / 8
    out[5] += r2 * r2 * (angle - sq * cq + sp * cp) / 8


@njit()
def disk_moments(poly: np.ndarray, count: int, radius: float, out: np.ndarray) -> bool:
    """Moments of polygon and disk in common, about the disk's centre, which is the origin.

    Each edge contributes a triangle where it runs inside the disk and a sector where it runs
    outside, so the arcs are exact. A polygon inside the disk is left to `polygon_moments`.

    Returns:
        False if the polygon lies in the disk and `out` was not written.
    """
    inside = True
    for k in range(count):
        if poly[k, 0] ** 2 + poly[k, 1] ** 2 > radius * radius:
            inside = False
    if inside:
        return False
    out[:] = 0.0
    for k in range(count):
        after = k + 1 if k + 1 < count else 0
        ax, ay, bx, by = poly[k, 0], poly[k, 1], poly[after, 0], poly[after, 1]
        t0, t1 = chord(ax, ay, bx, by, radius)
        if t1 <= t0:
            add_sector(ax, ay, bx, by, radius, out)
            continue
        px, py = ax + t0 * (bx - ax), ay + t0 * (by - ay)
        qx, qy = ax + t1 * (bx - ax), ay + t1 * (by - ay)
        if t0 > 0.0:
            add_sector(ax, ay, px, py, radius, out)
        _add_triangle(px, py, qx, qy, out)
        if t1 < 1.0:
            add_sector(qx, qy, bx, by, radius, out)
    if out[0] <= 0.0:
        out[:] = 0.0
    return True
