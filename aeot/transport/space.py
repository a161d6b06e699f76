"""All power cells of space: cutting, moments and facets over a range of sites."""

from __future__ import annotations

import numba
import numpy as np

from aeot.transport.polyhedra import BOX_PLANES, SLACK, add_tetrahedron, cut, loop, start_box
from aeot.transport.spheres import add_face


@numba.njit(cache=True, nogil=True)
def cut_cell(
    i: int,
    sites: np.ndarray,
    heights: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    half: np.ndarray,
    triples: np.ndarray,
    points: np.ndarray,
    at: np.ndarray,
    values: np.ndarray,
    border: np.ndarray,
    following: np.ndarray,
    slots: np.ndarray,
) -> tuple[int, int]:
    """Cut the box to the power cell of site i among its candidates.

    Returns:
        Number of vertices and of planes; slots[p] is the candidate slot of plane p, negative for
        the box. The number of vertices is -1 if the work space is too small.
    """
    count = start_box(half, triples, points, at)
    planes = BOX_PLANES
    for p in range(planes):
        slots[p] = -1 - p
    size = np.sqrt(half[0] ** 2 + half[1] ** 2 + half[2] ** 2)
    normal = np.empty(3)
    for slot in range(indptr[i], indptr[i + 1]):
        j = indices[slot]
        square = 0.0
        for c in range(3):
            normal[c] = sites[j, c] - sites[i, c]
            square += normal[c] * normal[c]
        if planes == slots.shape[0]:
            return -1, planes
        before = count
        count = cut(
            count,
            planes,
            normal,
            heights[i] - heights[j],
            SLACK * size * np.sqrt(square),
            triples,
            points,
            at,
            values,
            border,
            following,
        )
        if count <= 0:
            return count, planes
        # The newest plane, if it cut, stands in the last place of some triple.
        changed = count != before
        if not changed:
            for t in range(count):
                if triples[t, 2] == planes:
                    changed = True
                    break
        if changed:
            slots[planes] = slot
            planes += 1
    return count, planes


@numba.njit(cache=True, nogil=True)
def space_cells(
    start: int,
    stop: int,
    sites: np.ndarray,
    heights: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    half: np.ndarray,
    radius: float,
    density: float,
    moments: np.ndarray,
    measures: np.ndarray,
) -> None:
    """Fill the rows start..stop of `moments`, and `measures` at their candidates' slots.

    Args:
        start: First site.
        stop: One past the last site.
        sites: (n, 3).
        heights: (n,).
        indptr: Row pointers of the candidates (n + 1,).
        indices: Candidates, row after row.
        half: The support is the box |x_k| <= half_k (3,).
        radius: Of a ball about the origin to intersect with, or 0.
        density: Mass per volume.
        moments: (n, 10): mass, centroid, then second moments xx, xy, xz, yy, yz, zz about it.
        measures: (slots,) mass of each facet per length unit of the density.
    """
    room = 256
    triples, points = np.empty((2 * room, 3), np.int32), np.empty((2 * room, 3))
    at, values = np.empty((room, room), np.int32), np.empty(2 * room)
    border, following = np.empty((room, 4), np.int32), np.full(room, -1, np.int32)
    slots, seen = np.empty(room, np.int64), np.zeros(room, np.bool_)
    ring, m = np.empty(2 * room, np.int32), np.zeros(10)
    a, b, c, normal = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    corners = np.empty((2 * room, 3))
    for i in range(start, stop):
        count = -1
        planes = 0
        while True:
            count, planes = cut_cell(
                i, sites, heights, indptr, indices, half,
                triples, points, at, values, border, following, slots,
            )  # fmt: skip
            if count >= 0:
                break
            room *= 2
            triples, points = np.empty((2 * room, 3), np.int32), np.empty((2 * room, 3))
            at, values = np.empty((room, room), np.int32), np.empty(2 * room)
            border, following = np.empty((room, 4), np.int32), np.full(room, -1, np.int32)
            slots, seen = np.empty(room, np.int64), np.zeros(room, np.bool_)
            ring, corners = np.empty(2 * room, np.int32), np.empty((2 * room, 3))
        moments[i, :] = 0.0
        if count == 0:
            continue
        m[:] = 0.0
        seen[:planes] = False
        outside = False
        if radius > 0.0:
            for t in range(count):
                square = points[t, 0] ** 2 + points[t, 1] ** 2 + points[t, 2] ** 2
                outside = outside or square > radius * radius
        origin = np.zeros(3) if outside else points[0].copy()
        for t in range(count):
            for e in range(3):
                plane = triples[t, e]
                if seen[plane]:
                    continue
                seen[plane] = True
                k = loop(plane, t, triples, at, ring)
                ax, ay, az = 0.0, 0.0, 0.0
                for s in range(1, k - 1):
                    for x in range(3):
                        a[x] = points[ring[0], x] - origin[x]
                        b[x] = points[ring[s], x] - origin[x]
                        c[x] = points[ring[s + 1], x] - origin[x]
                    if not outside:
                        add_tetrahedron(a, b, c, m)
                    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
                    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
                    ax += (uy * vz - uz * vy) / 2
                    ay += (uz * vx - ux * vz) / 2
                    az += (ux * vy - uy * vx) / 2
                area = np.sqrt(ax * ax + ay * ay + az * az)
                if outside and area > 0.0:
                    normal[0], normal[1], normal[2] = ax / area, ay / area, az / area
                    for s in range(k):
                        corners[s] = points[ring[s]]
                    area = add_face(corners, k, normal, radius, m)
                if slots[plane] >= 0:
                    measures[slots[plane]] = density * area
        volume = abs(m[0])
        if volume <= 1e-16 * radius**3:  # what is left of a cell outside the ball
            continue
        moments[i, 0] = density * volume
        for x in range(3):
            moments[i, 1 + x] = origin[x] + m[1 + x] / m[0]
        k = 4
        for p in range(3):
            for q in range(p, 3):
                moments[i, k] = m[k] / m[0] - (m[1 + p] / m[0]) * (m[1 + q] / m[0])
                k += 1


@numba.njit(cache=True, nogil=True)
def space_polygons(
    sites: np.ndarray,
    heights: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    half: np.ndarray,
    wanted: np.ndarray,
    room: int,
    sizes: np.ndarray,
    corners: np.ndarray,
) -> int:
    """Write the corners of the facets at the wanted slots, one facet after the other.

    Args:
        sites: (n, 3).
        heights: (n,).
        indptr: Row pointers of the candidates (n + 1,).
        indices: Candidates, row after row.
        half: The support's box (3,).
        wanted: Mask of the slots (slots,).
        room: At least the planes of any cell.
        sizes: Number of corners of each slot's facet, written (slots,).
        corners: (capacity, 3), written; the capacity may be too small.

    Returns:
        How many corners there are.
    """
    triples, points = np.empty((2 * room, 3), np.int32), np.empty((2 * room, 3))
    at, values = np.empty((room, room), np.int32), np.empty(2 * room)
    border, following = np.empty((room, 4), np.int32), np.full(room, -1, np.int32)
    slots, seen = np.empty(room, np.int64), np.zeros(room, np.bool_)
    ring = np.empty(2 * room, np.int32)
    total = 0
    for i in range(sites.shape[0]):
        count, planes = cut_cell(
            i, sites, heights, indptr, indices, half,
            triples, points, at, values, border, following, slots,
        )  # fmt: skip
        seen[:planes] = False
        for slot in range(indptr[i], indptr[i + 1]):
            if not wanted[slot]:
                continue
            for t in range(count):
                for e in range(3):
                    plane = triples[t, e]
                    if slots[plane] != slot or seen[plane]:
                        continue
                    seen[plane] = True
                    sizes[slot] = loop(plane, t, triples, at, ring)
                    for k in range(sizes[slot]):
                        if total + k < corners.shape[0]:
                            corners[total + k] = points[ring[k]]
                    total += sizes[slot]
    return total
