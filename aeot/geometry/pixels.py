"""Exact integrals of a gridded density over polygons, by a walk along their edges.

With F_p(x, y) the integral of t^p rho(x, t) dt from the grid's lower edge up to y, Green's theorem
turns the integral of x^q y^p rho over a polygon into minus that of x^q F_p dx around it. The
inner integrals are tabulated once for every pixel, so a polygon costs what its edges cross, not
what it covers. On one pixel every integrand is a polynomial of degree at most five along the edge:
three Gauss points are exact.
"""

from __future__ import annotations

import math

import numpy as np

from aeot._compile import njit

_NODE = math.sqrt(0.15)  # Gauss points on [0, 1]: 1/2 and 1/2 -+ sqrt(3/5)/2
_OUTER, _INNER = 5.0 / 18.0, 8.0 / 18.0


def tabulate(coefficients: np.ndarray, low: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Integrate the density up every column of pixels.

    Args:
        coefficients: (rows, columns, 4): on a pixel the density is a + b u + c v + d u v with
            u, v in [0, 1] its own coordinates; row 0 is the lowest.
        low: Lower left corner of the grid (2,).
        step: Width and height of a pixel (2,).

    Returns:
        (rows, columns, 3, 2): for p = 0, 1, 2 the integral of y^p rho from the grid's lower edge
        to the pixel's, as (value at u = 0, slope in u).
    """
    rows, columns = coefficients.shape[:2]
    s = step[1]
    y = (low[1] + s * np.arange(rows))[:, None]
    pieces = np.empty((rows, columns, 3, 2))
    for k in range(2):  # constant part and slope in u
        a, b = coefficients[..., k], coefficients[..., 2 + k]
        flat, ramp, bent = s * (a + b / 2), s**2 * (a / 2 + b / 3), s**3 * (a / 3 + b / 4)
        pieces[:, :, 0, k] = flat
        pieces[:, :, 1, k] = y * flat + ramp
        pieces[:, :, 2, k] = y * y * flat + 2 * y * ramp + bent
    table = np.zeros_like(pieces)
    np.cumsum(pieces[:-1], axis=0, out=table[1:])
    return table


@njit()
def _next_line(position: float, direction: float, index: int, low: float, step: float) -> float:
    """Parameter at which position + t direction leaves the pixel row or column `index`."""
    if direction > 0.0:
        return (low + step * (index + 1) - position) / direction
    if direction < 0.0:
        return (low + step * index - position) / direction
    return math.inf


@njit()
def walk(
    ax: float,
    ay: float,
    bx: float,
    by: float,
    coefficients: np.ndarray,
    table: np.ndarray,
    low: np.ndarray,
    step: np.ndarray,
    out: np.ndarray,
) -> float:
    """Add one directed edge's share of the moments to out (6,), and return its own mass.

    Args:
        ax: First coordinate of the edge's start.
        ay: Second coordinate of the edge's start.
        bx: First coordinate of the edge's end.
        by: Second coordinate of the edge's end.
        coefficients: See `tabulate`.
        table: What `tabulate` returned.
        low: Lower left corner of the grid (2,).
        step: Size of a pixel (2,).
        out: 1, x, y, xx, xy, yy against the density, added to.

    Returns:
        The integral of the density along the edge.
    """
    rows, columns = coefficients.shape[0], coefficients.shape[1]
    dx, dy = bx - ax, by - ay
    length = math.sqrt(dx * dx + dy * dy)
    line = 0.0
    t = 0.0
    # Which pixel a point on a grid line belongs to depends on where the edge is heading.
    column = int(math.floor((ax - low[0]) / step[0]))
    row = int(math.floor((ay - low[1]) / step[1]))
    column = min(max(column, 0), columns - 1)
    row = min(max(row, 0), rows - 1)
    for _ in range(4 * (rows + columns)):
        tx = _next_line(ax, dx, column, low[0], step[0])
        ty = _next_line(ay, dy, row, low[1], step[1])
        end = min(tx, ty, 1.0)
        if (dx > 0.0 and column == columns - 1) or (dx < 0.0 and column == 0):
            tx = math.inf
            end = min(ty, 1.0)
        if (dy > 0.0 and row == rows - 1) or (dy < 0.0 and row == 0):
            ty = math.inf
            end = min(tx, 1.0)
        if end > t:
            for g in range(3):
                weight = _INNER if g == 1 else _OUTER
                s = t + (end - t) * (0.5 + (g - 1) * _NODE)
                x, y = ax + s * dx, ay + s * dy
                u = (x - low[0]) / step[0] - column
                v = (y - low[1]) / step[1] - row
                c = coefficients[row, column]
                alpha, beta = c[0] + c[1] * u, c[2] + c[3] * u
                line += weight * (end - t) * length * (alpha + beta * v)
                base = low[1] + step[1] * row
                q = step[1] * v
                flat = q * (alpha + beta * v / 2)
                ramp = q * q * (alpha / 2 + beta * v / 3)
                bent = q * q * q * (alpha / 3 + beta * v / 4)
                f = table[row, column]
                f0 = f[0, 0] + f[0, 1] * u + flat
                f1 = f[1, 0] + f[1, 1] * u + base * flat + ramp
                f2 = f[2, 0] + f[2, 1] * u + base * base * flat + 2 * base * ramp + bent
                share = -weight * (end - t) * dx
                out[0] += share * f0
                out[1] += share * x * f0
                out[2] += share * f1
                out[3] += share * x * x * f0
                out[4] += share * x * f1
                out[5] += share * f2
            t = end
        if end >= 1.0:
            break
        if tx <= ty:
            column += 1 if dx > 0.0 else -1
        else:
            row += 1 if dy > 0.0 else -1
    return line
