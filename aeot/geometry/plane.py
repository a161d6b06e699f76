"""All power cells of the plane: clipping, moments and facets over a range of sites."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from aeot._compile import njit
from aeot.geometry.pixels import walk

# What is integrated over a polygon.
UNIFORM, DISK, GRID, PARTS = 0, 1, 2, 3


class Planes(NamedTuple):
    """Sites with heights, and the candidates that each cell is clipped by.

    Attributes:
        sites: (n, d).
        heights: (n,).
        indptr: Row pointers of the candidates (n + 1,).
        indices: Candidates, row after row; their places are called slots.
    """

    sites: np.ndarray
    heights: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray


class Region(NamedTuple):
    """What cells of the plane are clipped to and integrated against.

    Attributes:
        polygon: Vertices of the support, counter-clockwise (p, 2); for a disk, whose centre is the
            origin, a polygon around it.
        kind: UNIFORM, DISK, GRID or PARTS.
        radius: Of the disk.
        density: Mass per area of the uniform measures.
        triangles: The parts of a polygon with dents, counter-clockwise (k, 3, 2); `polygon` is the
            convex hull then.
        coefficients: See `pixels.tabulate`; may be empty unless kind is GRID.
        table: See `pixels.tabulate`.
        low: Lower left corner of the grid (2,).
        step: Size of a pixel (2,).
    """

    polygon: np.ndarray
    kind: int
    radius: float
    density: float
    triangles: np.ndarray
    coefficients: np.ndarray
    table: np.ndarray
    low: np.ndarray
    step: np.ndarray


class Polygon(NamedTuple):
    """A convex polygon that is clipped in place, with room for the work.

    Attributes:
        points: Vertices, counter-clockwise, in the first rows of (capacity, 2).
        label: label[k] names the edge from vertex k to the next (capacity,).
        spare_points: Like `points`.
        spare_label: Like `label`.
        values: (capacity,).
    """

    points: np.ndarray
    label: np.ndarray
    spare_points: np.ndarray
    spare_label: np.ndarray
    values: np.ndarray


@njit()
def _polygon(capacity: int) -> Polygon:
    return Polygon(
        np.empty((capacity, 2)),
        np.empty(capacity, np.int64),
        np.empty((capacity, 2)),
        np.empty(capacity, np.int64),
        np.empty(capacity),
    )


@njit()
def plane_cells(
    span: tuple[int, int],
    planes: Planes,
    region: Region,
    moments: np.ndarray,
    facets: tuple[np.ndarray, np.ndarray],
    evenly: tuple[np.ndarray, np.ndarray],
) -> None:
    """Clip and integrate the cells of a range of sites.

    Args:
        span: First site, and one past the last.
        planes: All sites, their heights and candidates.
        region: The support.
        moments: (n, 6), rows of these sites written: mass, first moments, then second moments
            xx, xy, yy about the centroid.
        facets: Written at the sites' slots: the mass of each facet (slots,), and its end points
            (slots, 4), or (0, 4) if they are not wanted. Of PARTS, those in the convex hull.
        evenly: Written like masses and facets, for no measure but the area of the region's
            polygon: (n,) and (slots,), or empty both if they are not wanted.
    """
    start, stop = span
    measures, ends = facets
    areas, lengths = evenly
    support, kind, radius = region.polygon, region.kind, region.radius
    most = 0
    for i in range(start, stop):
        most = max(most, planes.indptr[i + 1] - planes.indptr[i])
    body = _polygon(most + 2 * support.shape[0] + 8)
    part = _polygon(most + 2 * support.shape[0] + 12)
    poly, label = body.points, body.label
    m, piece = np.zeros(6), np.zeros(6)
    for i in range(start, stop):
        count = support.shape[0]
        for k in range(count):
            poly[k, 0], poly[k, 1] = support[k, 0], support[k, 1]
            label[k] = -1 - k
        count = clip_cell(i, planes, body, count)
        moments[i, :] = 0.0
        if count == 0:
            continue
        if areas.shape[0]:
            polygon_moments(poly, count, piece)
            areas[i] = piece[0]
        x0, y0 = 0.0, 0.0
        scale = region.density
        if kind == PARTS:
            x0, y0 = poly[0, 0], poly[0, 1]
            m[:] = 0.0
            for t in range(region.triangles.shape[0]):
                kept = clip_to_triangle(body, count, region.triangles[t], part)
                if kept == 0:
                    continue
                polygon_moments(part.points, kept, piece)
                add_moved(piece, part.points[0, 0] - x0, part.points[0, 1] - y0, m)
                for k in range(kept):
                    slot = part.label[k]
                    if slot >= 0:
                        after = k + 1 if k + 1 < kept else 0
                        measures[slot] += region.density * math.hypot(
                            part.points[after, 0] - part.points[k, 0],
                            part.points[after, 1] - part.points[k, 1],
                        )
        elif kind == GRID:
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
                length = walk(
                    ax, ay, bx, by, region.coefficients, region.table, region.low, region.step, m
                )
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
            straight = np.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
            if lengths.shape[0]:
                lengths[slot] += straight
            if kind in (UNIFORM, DISK):
                length = region.density * straight
            measures[slot] += length
            if straight > 0.0 and ends.shape[0]:
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
def plane_neighbours(
    span: tuple[int, int], planes: Planes, support: np.ndarray, slack: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find who bounds each cell of a range of sites, from candidates that may miss some.

    At every corner of a cell a walk goes from the sites that meet there to ever higher planes,
    along the candidates; a plane higher than the cell's own clips it, until none is found.

    Args:
        span: First site, and one past the last.
        planes: All sites, their heights and candidates.
        support: Vertices of the support (p, 2).
        slack: By how much a plane must be higher to be more than rounding.

    Returns:
        How many there are for each site of the span, and which, one site after the other. For an
        empty cell, those that emptied it.
    """
    sites, heights, indptr, indices = planes
    start, stop = span
    most = 64
    for i in range(start, stop):
        most = max(most, indptr[i + 1] - indptr[i] + 64)
    body = _polygon(most + 2 * support.shape[0] + 8)
    poly, label = body.points, body.label
    room = body.label.shape[0]
    used = np.empty(room, np.int64)
    counts = np.zeros(stop - start, np.int64)
    found, total = np.empty(8 * (stop - start) + room, np.int64), 0
    for i in range(start, stop):
        count = support.shape[0]
        for k in range(count):
            poly[k, 0], poly[k, 1], label[k] = support[k, 0], support[k, 1], -1
        clips, slot, corner = 0, indptr[i], 0
        while count > 0:
            if slot < indptr[i + 1]:
                j = indices[slot]
                slot += 1
            elif corner < count:
                x, y = poly[corner, 0], poly[corner, 1]
                j, best = i, x * sites[i, 0] + y * sites[i, 1] + heights[i] + slack
                one, two = label[corner], label[corner - 1 if corner > 0 else count - 1]
                first, last = (0, 2) if max(one, two) >= 0 else (indptr[i], indptr[i + 1])
                for s in range(first, last):
                    at = indices[s] if max(one, two) < 0 else (one if s == 0 else two)
                    while at >= 0:
                        here = at
                        at = -1
                        for t in range(indptr[here], indptr[here + 1]):
                            m = indices[t]
                            above = x * sites[m, 0] + y * sites[m, 1] + heights[m]
                            if above > best:
                                best, at, j = above, m, m
                corner += 1
                if j == i:
                    continue
            else:
                break
            if max(count + 2, clips) >= room:  # very many sides: left to the check of the areas
                break
            normal = sites[j, 0] - sites[i, 0], sites[j, 1] - sites[i, 1]
            count = clip(body, count, normal, heights[i] - heights[j], j)
            changed = count == 0
            for k in range(count):
                changed = changed or label[k] == j
            if changed:
                corner = 0
                used[clips] = j
                clips += 1
        if total + clips + count > found.shape[0]:
            found = np.concatenate((found, np.empty(found.shape[0] + clips + count, np.int64)))
        before = total
        if count == 0:
            for k in range(clips):
                found[total] = used[k]
                total += 1
        for k in range(count):
            if label[k] >= 0:
                found[total] = label[k]
                total += 1
        counts[i - start] = total - before
    return counts, found[:total]


@njit()
def plane_polygons(
    planes: Planes, support: np.ndarray, offsets: np.ndarray, points: np.ndarray
) -> int:
    """Write the vertices of every cell one after the other; the cell i is offsets[i]:offsets[i+1].

    Args:
        planes: The sites, their heights and candidates.
        support: Vertices of the support (p, 2).
        offsets: (n + 1,), written.
        points: (capacity, 2), written; the capacity may be too small.

    Returns:
        How many vertices there are; more than the capacity means that some were left out.
    """
    n = planes.sites.shape[0]
    most = 0
    for i in range(n):
        most = max(most, planes.indptr[i + 1] - planes.indptr[i])
    body = _polygon(most + 2 * support.shape[0] + 8)
    total = 0
    for i in range(n):
        offsets[i] = total
        count = support.shape[0]
        body.points[:count] = support
        count = clip_cell(i, planes, body, count)
        for k in range(count):
            if total + k < points.shape[0]:
                points[total + k, 0], points[total + k, 1] = body.points[k, 0], body.points[k, 1]
        total += count
    offsets[n] = total
    return total


@njit()
def clip(body: Polygon, count: int, normal: tuple[float, float], offset: float, name: int) -> int:
    """Keep the part of a convex polygon where <normal, x> <= offset, in place.

    Args:
        body: The polygon.
        count: Number of vertices.
        normal: (2,).
        offset: Right-hand side.
        name: Label of the new edge.

    Returns:
        The new number of vertices; 0 if nothing is left.
    """
    poly, label, spare, spare_label, values = body
    out = 0
    for k in range(count):
        values[k] = offset - normal[0] * poly[k, 0] - normal[1] * poly[k, 1]
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
                if (
                    here == 0.0
                ):  # the line passes through this vertex, whose edge becomes the new one
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
def clip_cell(i: int, planes: Planes, body: Polygon, count: int) -> int:
    """Clip a polygon of `count` vertices to the power cell of site i among its candidates.

    The edges are labelled by slots. Returns the new number of vertices.
    """
    sites, heights, indptr, indices = planes
    for slot in range(indptr[i], indptr[i + 1]):
        j = indices[slot]
        normal = sites[j, 0] - sites[i, 0], sites[j, 1] - sites[i, 1]
        count = clip(body, count, normal, heights[i] - heights[j], slot)
        if count == 0:
            break
    return count


@njit()
def clip_to_triangle(body: Polygon, count: int, triangle: np.ndarray, part: Polygon) -> int:
    """Write what a convex polygon and a triangle have in common; the triangle's edges are -1.

    Args:
        body: The polygon, left as it is.
        count: Number of its vertices.
        triangle: Counter-clockwise (3, 2).
        part: Written.

    Returns:
        The number of vertices of what they have in common, 0 if nothing.
    """
    for c in range(2):
        low, high = math.inf, -math.inf
        for k in range(count):
            low, high = min(low, body.points[k, c]), max(high, body.points[k, c])
        if low >= triangle[:, c].max() or high <= triangle[:, c].min():
            return 0
    for k in range(count):
        part.points[k, 0], part.points[k, 1] = body.points[k, 0], body.points[k, 1]
        part.label[k] = body.label[k]
    for e in range(3):
        after = e + 1 if e < 2 else 0
        normal = triangle[after, 1] - triangle[e, 1], triangle[e, 0] - triangle[after, 0]
        offset = normal[0] * triangle[e, 0] + normal[1] * triangle[e, 1]
        count = clip(part, count, normal, offset, -1)
        if count == 0:
            break
    return count


@njit()
def add_moved(moments: np.ndarray, dx: float, dy: float, out: np.ndarray) -> None:
    """Add to out (6,) moments (6,) about the point (dx, dy), taken about the origin."""
    area = moments[0]
    out[0] += area
    out[1] += moments[1] + area * dx
    out[2] += moments[2] + area * dy
    out[3] += moments[3] + 2 * dx * moments[1] + area * dx * dx
    out[4] += moments[4] + dx * moments[2] + dy * moments[1] + area * dx * dy
    out[5] += moments[5] + 2 * dy * moments[2] + area * dy * dy


@njit()
def touching(
    planes: Planes, corners: tuple[np.ndarray, np.ndarray], near: np.ndarray, out: np.ndarray
) -> None:
    """Raise planes below all others until they touch the upper envelope over the support.

    That is at the corner where the envelope is least above the plane, a convex function: a walk
    from cell to cell finds it.

    Args:
        planes: Sites, heights, and the neighbours of every cell.
        corners: As `plane_polygons` writes them: the offsets (n + 1,) and the points.
        near: A cell to start from (n,); negative for sites that stay as they are.
        out: (n,), the new heights, written where `near` is not negative.
    """
    sites, heights, indptr, indices = planes
    offsets, points = corners
    for i in range(sites.shape[0]):
        if near[i] < 0:
            continue
        best, at, moved = math.inf, near[i], True
        while moved:
            moved, here = False, at
            for slot in range(indptr[here] - 1, indptr[here + 1]):
                j = here if slot < indptr[here] else indices[slot]
                dx, dy = sites[j, 0] - sites[i, 0], sites[j, 1] - sites[i, 1]
                for k in range(offsets[j], offsets[j + 1]):
                    above = heights[j] + dx * points[k, 0] + dy * points[k, 1]
                    if above < best:
                        best, at, moved = above, j, j != here
        out[i] = best


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
