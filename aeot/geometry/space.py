"""All power cells of space: clipping, moments and facets over a range of sites."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from aeot._compile import njit
from aeot.geometry.plane import Planes, add_sector, chord

BOX_PLANES = 6
SLACK = 1e-15  # what reaches less far, in parts of the support's size, clips nothing


class Polyhedron(NamedTuple):
    """A convex polyhedron that is clipped in place, with room for the work.

    Attributes:
        triples: Planes of each vertex (capacity, 3), consistently oriented.
        points: Coordinates of each vertex (capacity, 3).
        at: at[a, b] is the vertex whose triple holds the directed pair (a, b).
        slots: slots[p] is the candidate slot of plane p, negative for the box (room,).
        values: (capacity,).
        border: (room, 4).
        following: (room,), all -1 between calls.
        seen: Mask of planes (room,).
        ring: Vertices of a face (capacity,).
    """

    triples: np.ndarray
    points: np.ndarray
    at: np.ndarray
    slots: np.ndarray
    values: np.ndarray
    border: np.ndarray
    following: np.ndarray
    seen: np.ndarray
    ring: np.ndarray


@njit()
def _polyhedron(room: int) -> Polyhedron:
    return Polyhedron(
        np.empty((2 * room, 3), np.int32),
        np.empty((2 * room, 3)),
        np.empty((room, room), np.int32),
        np.empty(room, np.int64),
        np.empty(2 * room),
        np.empty((room, 4), np.int32),
        np.full(room, -1, np.int32),
        np.zeros(room, np.bool_),
        np.empty(2 * room, np.int32),
    )


@njit()
def clip_cell(i: int, planes: Planes, half: np.ndarray, body: Polyhedron) -> tuple[int, int]:
    """Clip the box |x_k| <= half_k to the power cell of site i among its candidates.

    Returns:
        Number of vertices and of planes. The number of vertices is -1 if there is no room.
    """
    sites, heights, indptr, indices = planes
    triples, slots = body.triples, body.slots
    count = start_box(half, body)
    used = BOX_PLANES
    for p in range(used):
        slots[p] = -1 - p
    size = np.sqrt(half[0] ** 2 + half[1] ** 2 + half[2] ** 2)
    normal = np.empty(3)
    for slot in range(indptr[i], indptr[i + 1]):
        j = indices[slot]
        square = 0.0
        for c in range(3):
            normal[c] = sites[j, c] - sites[i, c]
            square += normal[c] * normal[c]
        if used == slots.shape[0]:
            return -1, used
        before = count
        offset, slack = heights[i] - heights[j], SLACK * size * np.sqrt(square)
        count = clip(body, count, used, normal, (offset, slack))
        if count <= 0:
            return count, used
        # The newest plane, if it clipped anything, stands in the last place of some triple.
        changed = count != before
        if not changed:
            for t in range(count):
                if triples[t, 2] == used:
                    changed = True
                    break
        if changed:
            slots[used] = slot
            used += 1
    return count, used


@njit()
def space_cells(
    span: tuple[int, int],
    planes: Planes,
    region: tuple[np.ndarray, float, float],
    moments: np.ndarray,
    measures: np.ndarray,
) -> None:
    """Clip and integrate the cells of a range of sites.

    Args:
        span: First site, and one past the last.
        planes: All sites, their heights and candidates.
        region: The support's box |x_k| <= half_k (3,), the radius of a ball about the origin to
            intersect it with, or 0, and the mass per volume.
        moments: (n, 10), rows of these sites written: mass, centroid, then second moments xx, xy,
            xz, yy, yz, zz about it.
        measures: (slots,), mass of each facet, written at the sites' slots.
    """
    half, radius, density = region
    room = 256
    body = _polyhedron(room)
    m = np.zeros(10)
    a, b, c, normal = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    for i in range(span[0], span[1]):
        count, used = clip_cell(i, planes, half, body)
        while count < 0:
            room *= 2
            body = _polyhedron(room)
            count, used = clip_cell(i, planes, half, body)
        triples, points, at, slots = body.triples, body.points, body.at, body.slots
        seen, ring = body.seen, body.ring
        moments[i, :] = 0.0
        if count == 0:
            continue
        m[:] = 0.0
        seen[:used] = False
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
                    area = add_face(points[ring[:k]], k, normal, radius, m)
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


@njit()
def space_neighbours(
    span: tuple[int, int], planes: Planes, half: np.ndarray, slack: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find who bounds each cell of a range of sites; see `plane.plane_neighbours`.

    Args:
        span: First site, and one past the last.
        planes: All sites, their heights and candidates.
        half: The support's box |x_k| <= half_k (3,).
        slack: By how much a plane must be higher to be more than rounding.

    Returns:
        How many there are for each site of the span, and which, one site after the other. For an
        empty cell, those that emptied it.
    """
    sites, heights, indptr, indices = planes
    start, stop = span
    room = 192
    body = _polyhedron(room)
    size = np.sqrt(half[0] ** 2 + half[1] ** 2 + half[2] ** 2)
    normal = np.empty(3)
    counts = np.zeros(stop - start, np.int64)
    found, total = np.empty(24 * (stop - start) + room, np.int64), 0
    i = start
    while i < stop:
        triples, points, slots, seen = body.triples, body.points, body.slots, body.seen
        count = start_box(half, body)
        used = BOX_PLANES
        for p in range(used):
            slots[p] = -1
        slot, corner, full = indptr[i], 0, False
        while count > 0:
            if slot < indptr[i + 1]:
                j = indices[slot]
                slot += 1
            elif corner < count:
                x, y, z = points[corner, 0], points[corner, 1], points[corner, 2]
                j = i
                best = x * sites[i, 0] + y * sites[i, 1] + z * sites[i, 2] + heights[i] + slack
                bare = True
                for e in range(3):
                    bare = bare and slots[triples[corner, e]] < 0
                first, last = (indptr[i], indptr[i + 1]) if bare else (0, 3)
                for s in range(first, last):
                    at = indices[s] if bare else slots[triples[corner, s]]
                    while at >= 0:
                        here = at
                        at = -1
                        for t in range(indptr[here], indptr[here + 1]):
                            m = indices[t]
                            above = x * sites[m, 0] + y * sites[m, 1] + z * sites[m, 2]
                            above += heights[m]
                            if above > best:
                                best, at, j = above, m, m
                corner += 1
                if j == i:
                    continue
            else:
                break
            if used == room:
                full = True
                break
            square = 0.0
            for c in range(3):
                normal[c] = sites[j, c] - sites[i, c]
                square += normal[c] * normal[c]
            slots[used] = j
            before = count
            bound = heights[i] - heights[j], SLACK * size * np.sqrt(square)
            count = clip(body, count, used, normal, bound)
            if count < 0:
                full = True
                break
            changed = count != before
            if not changed:
                for t in range(count):
                    if triples[t, 2] == used:
                        changed = True
                        break
            if changed:
                used += 1
                corner = 0
        if full and room < 4 * (sites.shape[0] + BOX_PLANES):  # start again with more room
            room *= 2
            body = _polyhedron(room)
            continue
        if total + used > found.shape[0]:
            found = np.concatenate((found, np.empty(found.shape[0] + used, np.int64)))
        seen[:used] = count == 0
        for t in range(count):
            for e in range(3):
                seen[triples[t, e]] = True
        before = total
        for p in range(BOX_PLANES, used):
            if seen[p]:
                found[total] = slots[p]
                total += 1
        counts[i - start] = total - before
        i += 1
    return counts, found[:total]


@njit()
def space_polygons(
    planes: Planes,
    half: np.ndarray,
    wanted: np.ndarray,
    sizes: np.ndarray,
    corners: np.ndarray,
) -> int:
    """Write the corners of the facets at the wanted slots, one facet after the other.

    Args:
        planes: The sites, their heights and candidates.
        half: The support's box (3,).
        wanted: Mask of the slots (slots,).
        sizes: Number of corners of each slot's facet, written (slots,).
        corners: (capacity, 3), written; the capacity may be too small.

    Returns:
        How many corners there are.
    """
    indptr = planes.indptr
    most = 64
    for i in range(planes.sites.shape[0]):
        most = max(most, indptr[i + 1] - indptr[i])
    body = _polyhedron(most + 8)  # at least the planes of any cell
    triples, points, at, slots = body.triples, body.points, body.at, body.slots
    seen, ring = body.seen, body.ring
    total = 0
    for i in range(planes.sites.shape[0]):
        count, used = clip_cell(i, planes, half, body)
        seen[:used] = False
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


@njit()
def start_box(half: np.ndarray, body: Polyhedron) -> int:
    """Write the box |x_k| <= half_k; its planes are -x, +x, -y, +y, -z, +z. Return 8."""
    triples, points, at = body.triples, body.points, body.at
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


@njit()
def clip(
    body: Polyhedron, count: int, plane: int, normal: np.ndarray, bound: tuple[float, float]
) -> int:
    """Keep the part of the polyhedron where <normal, x> <= offset, in place.

    Args:
        body: The polyhedron.
        count: Number of vertices.
        plane: Number of the new plane.
        normal: (3,).
        bound: The offset, and the slack: the depth below which nothing is clipped, in its units.

    Returns:
        The new number of vertices, 0 if nothing is left, -1 if there is no room for the new ones,
        `count` if nothing was clipped.
    """
    triples, points, at = body.triples, body.points, body.at
    values, border, following = body.values, body.border, body.following
    offset, slack = bound
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


@njit()
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


@njit()
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


@njit()
def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit()
def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.empty(3)
    out[0] = a[1] * b[2] - a[2] * b[1]
    out[1] = a[2] * b[0] - a[0] * b[2]
    out[2] = a[0] * b[1] - a[1] * b[0]
    return out


@njit()
def _add_arc(p: np.ndarray, q: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Boundary terms of the great arc from p to q, unit vectors."""
    normal = _cross(p, q)
    size = math.sqrt(_dot(normal, normal))
    if size == 0.0:
        return
    normal /= size
    angle = math.atan2(size, _dot(p, q))
    along = _cross(q - p, normal)  # integral of w ds
    for i in range(3):
        first[i] += angle * normal[i] / 2
        for j in range(3):
            second[i, j] += along[i] * normal[j] / 3


@njit()
def add_face(
    corners: np.ndarray, count: int, normal: np.ndarray, radius: float, out: np.ndarray
) -> float:
    """Add one face's share of the moments about the ball's centre, which is the origin.

    Args:
        corners: The face's vertices in order, all faces of a body the same way round (count, 3).
        count: Number of vertices.
        normal: Unit normal of the face, either way.
        radius: Of the ball.
        out: 1, x, y, z, xx, xy, xz, yy, yz, zz, added to.

    Returns:
        The area of the face inside the ball.
    """
    n = normal.copy()
    distance = _dot(n, corners[0])
    if distance < 0.0:  # edges then run the other way round and the sign comes out by itself
        n, distance = -n, -distance
    e1 = np.zeros(3)
    e1[np.argmin(np.abs(n))] = 1.0
    e1 -= _dot(e1, n) * n
    e1 /= math.sqrt(_dot(e1, e1))
    e2 = _cross(n, e1)
    inner = math.sqrt(max(0.0, radius * radius - distance * distance))
    lift, ratio = distance / radius, inner / radius
    foot = distance * n
    flat = np.zeros(6)  # of the sectors, in the plane about the foot
    first, second = np.zeros(3), np.zeros((3, 3))
    solid, triangles = 0.0, 0.0
    a, b = np.empty(3), np.empty(3)
    for k in range(count):
        after = k + 1 if k + 1 < count else 0
        ax, ay = _dot(corners[k], e1), _dot(corners[k], e2)
        bx, by = _dot(corners[after], e1), _dot(corners[after], e2)
        if (bx - ax) ** 2 + (by - ay) ** 2 == 0.0:
            continue  # a corner of more than three faces is there several times
        t0, t1 = chord(ax, ay, bx, by, inner) if inner > 0.0 else (1.0, 0.0)
        if t1 <= t0:
            t0, t1 = 1.0, 1.0
        for piece in range(3):
            s0 = 0.0 if piece == 0 else (t0 if piece == 1 else t1)
            s1 = t0 if piece == 0 else (t1 if piece == 1 else 1.0)
            if s1 <= s0:
                continue
            px, py = ax + s0 * (bx - ax), ay + s0 * (by - ay)
            qx, qy = ax + s1 * (bx - ax), ay + s1 * (by - ay)
            for c in range(3):
                a[c] = foot[c] + px * e1[c] + py * e2[c]
                b[c] = foot[c] + qx * e1[c] + qy * e2[c]
            if piece == 1:
                add_tetrahedron(foot, a, b, out)
                triangles += (px * qy - py * qx) / 2
                continue
            p, q = a / math.sqrt(_dot(a, a)), b / math.sqrt(_dot(b, b))
            solid += 2 * math.atan2(_dot(n, _cross(p, q)), 1 + _dot(n, p) + _dot(p, q) + _dot(q, n))
            _add_arc(p, q, first, second)
            if inner == 0.0:
                continue
            add_sector(px, py, qx, qy, inner, flat)
            angle = math.atan2(px * qy - py * qx, px * qx + py * qy)
            solid -= angle * (1 - lift)
            # The small circle, run backwards: integrals of e and e e^T over its angle.
            u, v = math.hypot(px, py), math.hypot(qx, qy)
            cp, sp, cq, sq = px / u, py / u, qx / v, qy / v
            i1, i2 = sq - sp, cp - cq
            m11 = (angle + sq * cq - sp * cp) / 2
            m12 = (sq * sq - sp * sp) / 2
            m22 = (angle - sq * cq + sp * cp) / 2
            for i in range(3):
                ei = i1 * e1[i] + i2 * e2[i]
                first[i] -= (ratio * ratio * angle * n[i] - lift * ratio * ei) / 2
                for j in range(3):
                    ej = i1 * e1[j] + i2 * e2[j]
                    ee = m11 * e1[i] * e1[j] + m12 * (e1[i] * e2[j] + e2[i] * e1[j])
                    ee += m22 * e2[i] * e2[j]
                    second[i, j] += (ratio / 3) * (
                        -lift * ratio * angle * n[i] * n[j]
                        + lift * lift * n[i] * ej
                        - ratio * ratio * ei * n[j]
                        + ratio * lift * ee
                    )
    r3 = radius**3
    out[0] += distance * flat[0] / 3 + r3 * solid / 3
    k = 4
    for i in range(3):
        mean = flat[0] * foot[i] + flat[1] * e1[i] + flat[2] * e2[i]
        out[1 + i] += distance * mean / 4 + r3 * radius * first[i] / 4
        for j in range(i, 3):
            square = flat[0] * foot[i] * foot[j]
            square += foot[i] * (flat[1] * e1[j] + flat[2] * e2[j])
            square += foot[j] * (flat[1] * e1[i] + flat[2] * e2[i])
            square += flat[3] * e1[i] * e1[j] + flat[5] * e2[i] * e2[j]
            square += flat[4] * (e1[i] * e2[j] + e2[i] * e1[j])
            surface = (second[i, j] + second[j, i]) / 2
            if i == j:
                surface += solid / 3
            out[k] += distance * square / 5 + r3 * radius * radius * surface / 5
            k += 1
    return abs(triangles + flat[0])
