"""Power cells in the plane: convex polygons clipped by half-planes, and their moments.

The kernels see plain arrays and one cell at a time, so a range of cells can be handed to a thread
(they release the interpreter lock) and the result does not depend on how many there are. A cell is
clipped by its candidates only: with too few of them it comes out too large, never too small, which
is what lets the caller certify a whole diagram by its total mass.
"""

from __future__ import annotations

import math

import numba
import numpy as np

# What is integrated over a polygon.
UNIFORM, DISK, GRID = 0, 1, 2


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def _add_triangle(px: float, py: float, qx: float, qy: float, out: np.ndarray) -> None:
    area = (px * qy - py * qx) / 2
    out[0] += area
    out[1] += area * (px + qx) / 3
    out[2] += area * (py + qy) / 3
    out[3] += area * (px * px + px * qx + qx * qx) / 6
    out[4] += area * (2 * px * py + px * qy + qx * py + 2 * qx * qy) / 12
    out[5] += area * (py * py + py * qy + qy * qy) / 6


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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
