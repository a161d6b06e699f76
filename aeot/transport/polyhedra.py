"""Power cells in space: a convex polyhedron cut by half-spaces, kept by its dual triangles.

A vertex is the triple of planes that meet in it; the triples form a triangulated sphere. A cut
removes the triangles on its far side, which must be one disk, and fills the hole with a fan around
the new plane. New vertices are interpolated along the edges they lie on, never solved for, so
they stay on the polyhedron however flat the cut is.

References:
    N. Ray, D. Sokolov, S. Lefebvre, B. Levy, "Meshless Voronoi on the GPU", ACM Transactions on
    Graphics 37 (2018): the triangle representation.
"""

from __future__ import annotations

import numba
import numpy as np

BOX_PLANES = 6
SLACK = 1e-15  # a cut shallower than this part of the support's size is no cut


@numba.njit(cache=True, nogil=True)
def start_box(half: np.ndarray, triples: np.ndarray, points: np.ndarray, at: np.ndarray) -> int:
    """Write the box |x_k| <= half_k; its planes are -x, +x, -y, +y, -z, +z. Return 8."""
    t = 0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                sign = (2 * a - 1) * (2 * b - 1) * (2 * c - 1)
                triples[t, 0] = a
                triples[t, 1] = 2 + b if sign > 0 else 4 + c
                triples[t, 2] = 4 + c if sign > 0 else 2 + b
                points[t, 0] = (2 * a - 1) * half[0]
                points[t, 1] = (2 * b - 1) * half[1]
                points[t, 2] = (2 * c - 1) * half[2]
                for e in range(3):
                    at[triples[t, e], triples[t, (e + 1) % 3]] = t
                t += 1
    return t


@numba.njit(cache=True, nogil=True)
def cut(
    count: int,
    plane: int,
    normal: np.ndarray,
    offset: float,
    slack: float,
    triples: np.ndarray,
    points: np.ndarray,
    at: np.ndarray,
    values: np.ndarray,
    border: np.ndarray,
    following: np.ndarray,
) -> int:
    """Keep the part of the polyhedron where <normal, x> <= offset, in place.

    Args:
        count: Number of vertices.
        plane: Number of the new plane.
        normal: (3,).
        offset: Right-hand side.
        slack: Depth below which nothing is cut, in units of the offset.
        triples: Planes of each vertex (capacity, 3), consistently oriented.
        points: Coordinates of each vertex (capacity, 3).
        at: at[a, b] is the vertex whose triple holds the directed pair (a, b).
        values: Work space (capacity,).
        border: Work space (capacity, 4).
        following: Work space (planes,), all -1 between calls.

    Returns:
        The new number of vertices, 0 if nothing is left, -1 if there is no room for the new ones,
        `count` if nothing was cut.
    """
    deepest = 0.0
    for t in range(count):
        values[t] = offset - (
            normal[0] * points[t, 0] + normal[1] * points[t, 1] + normal[2] * points[t, 2]
        )
        deepest = min(deepest, values[t])
    while True:
        if deepest >= -slack:
            return count
        gone, edges, sound = 0, 0, True
        for t in range(count):
            if values[t] >= -slack:
                continue
            gone += 1
            for e in range(3):
                a, b = triples[t, e], triples[t, (e + 1) % 3]
                other = at[b, a]
                if values[other] >= -slack:
                    if following[a] >= 0 or edges == border.shape[0]:
                        sound = False
                        break
                    following[a] = edges
                    border[edges, 0], border[edges, 1] = a, b
                    border[edges, 2], border[edges, 3] = t, other
                    edges += 1
            if not sound:
                break
        if gone == count and sound:
            return 0
        if sound:  # the border must be one cycle
            steps, a = 0, border[0, 0]
            while steps < edges:
                if following[a] < 0:
                    break
                a = border[following[a], 1]
                steps += 1
                if a == border[0, 0]:
                    break
            sound = steps == edges and a == border[0, 0]
        for k in range(edges):
            following[border[k, 0]] = -1
        if sound:
            break
        slack *= 16.0  # rounding made the sides inconsistent: treat more of it as touching
    if count + edges > points.shape[0]:
        return -1
    # Append the fan, then move the last vertices into the holes.
    total = count
    for k in range(edges):
        t, other = border[k, 2], border[k, 3]
        part = values[other] / (values[other] - values[t])
        part = min(max(part, 0.0), 1.0)
        for c in range(3):
            points[total, c] = points[other, c] + part * (points[t, c] - points[other, c])
        triples[total, 0], triples[total, 1], triples[total, 2] = border[k, 0], border[k, 1], plane
        total += 1
    kept = total - gone
    source = total
    for t in range(min(count, kept)):
        if values[t] >= -slack:
            continue
        source -= 1
        while source < count and values[source] < -slack:
            source -= 1
        for c in range(3):
            points[t, c], triples[t, c] = points[source, c], triples[source, c]
        for e in range(3):
            at[triples[t, e], triples[t, (e + 1) % 3]] = t
    for t in range(count, kept):
        for e in range(3):
            at[triples[t, e], triples[t, (e + 1) % 3]] = t
    return kept


@numba.njit(cache=True, nogil=True)
def loop(plane: int, first: int, triples: np.ndarray, at: np.ndarray, out: np.ndarray) -> int:
    """Write the vertices of a face in order, starting anywhere on it; return how many."""
    t, m = first, 0
    while True:
        out[m] = t
        m += 1
        e = 0
        while triples[t, e] != plane:
            e += 1
        t = at[plane, triples[t, (e + 2) % 3]]
        if t == first or m == out.shape[0]:
            return m


@numba.njit(cache=True, nogil=True)
def add_tetrahedron(a: np.ndarray, b: np.ndarray, c: np.ndarray, out: np.ndarray) -> None:
    """Add volume, first and second moments of the tetrahedron 0, a, b, c to out (10,)."""
    volume = (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        + a[1] * (b[2] * c[0] - b[0] * c[2])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    ) / 6
    out[0] += volume
    k = 4
    for p in range(3):
        sp = a[p] + b[p] + c[p]
        out[1 + p] += volume * sp / 4
        for q in range(p, 3):
            sq = a[q] + b[q] + c[q]
            out[k] += volume * (sp * sq + a[p] * a[q] + b[p] * b[q] + c[p] * c[q]) / 20
            k += 1
