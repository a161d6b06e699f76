"""What a polyhedron and a ball about the origin have in common, in closed form, face by face.

Seen from the centre, a face covers a solid angle. Where the face runs inside the ball it bounds a
cone; where it runs outside, the ball's own surface does. Every edge therefore adds, with its sign,
tetrahedra, cones over sectors of the disk that the ball cuts from the face's plane, and pieces of
the sphere. For the latter, with outward conormal v along the boundary,

    integral of w dw = 1/2 integral of w x dw,
    3 integral of w_i w_j dw = delta_ij area - integral of w_i v_j ds,

so arcs of great and small circles suffice.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from aeot.transport.polygons import add_sector, chord
from aeot.transport.polyhedra import add_tetrahedron


@numba.njit(cache=True, nogil=True)
def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@numba.njit(cache=True, nogil=True)
def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.empty(3)
    out[0] = a[1] * b[2] - a[2] * b[1]
    out[1] = a[2] * b[0] - a[0] * b[2]
    out[2] = a[0] * b[1] - a[1] * b[0]
    return out


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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
