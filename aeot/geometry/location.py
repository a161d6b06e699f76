"""Which power cell of the plane holds a point: boxes in a grid, each with the cells crossing it."""

from __future__ import annotations

import numpy as np

from aeot._compile import njit
from aeot.geometry.tessellation import Tessellation, support
from aeot.measures import UniformBox

_MARGIN = 1e-9  # of a box: cells so near to it count as crossing


class Location:
    """Finds the cells of points in a rectangle of the plane.

    A point is scored against the few sites whose cells cross its box, so that it costs the same for
    any number of sites.

    Args:
        planes: (n, 3): the sites and their heights.
        low: Lower left corner of the rectangle (2,).
        high: Upper right corner (2,).

    Attributes:
        planes: As given.
    """

    def __init__(self, planes: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        self.planes = planes
        sites, middle = planes[:, :2] - planes[:, :2].mean(0), (low + high) / 2
        side = max(1, round(1.5 * len(planes) ** 0.5))
        self._grid = low, (high - low) / side
        counts = np.zeros(side * side + 1, dtype=np.int64)
        try:
            where = support(UniformBox(low=low - middle, high=high - middle))
            outline = Tessellation(where, sites).corners(planes[:, 2] + sites @ middle)
        except (RuntimeError, ValueError):  # sites that are equal, a rectangle without area
            self._boxes = counts, np.zeros(0, dtype=np.int64)
            return
        outline = outline[0], outline[1] + middle
        _cross(outline, self._grid, side, counts, np.zeros(0, dtype=np.int64))
        indptr = np.cumsum(counts)
        self._boxes = indptr.copy(), np.empty(indptr[-1], dtype=np.int64)
        _cross(outline, self._grid, side, indptr, self._boxes[1])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the cell of every point (m, 2), float64: (m,), -1 where it is not known.

        That is outside the rectangle, and everywhere where no cells could be found.
        """
        owner = np.full(len(points), -1, dtype=np.int64)
        _locate(points, self.planes, self._grid, self._boxes, owner)
        return owner


@njit()
def _cross(
    outline: tuple[np.ndarray, np.ndarray],
    grid: tuple[np.ndarray, np.ndarray],
    side: int,
    places: np.ndarray,
    cells: np.ndarray,
) -> None:
    """Count how many cells cross each box, into places[1:]; or write them, moving the places on.

    Args:
        outline: Offsets (n + 1,) and the corners of every cell.
        grid: Lower left corner, and the size of a box (2,).
        side: Boxes in a row, and rows.
        places: (side^2 + 1,).
        cells: Written at the places, unless it is empty.
    """
    offsets, corners = outline
    low, step = grid
    for i in range(offsets.shape[0] - 1):
        first, last = offsets[i], offsets[i + 1]
        if first == last:
            continue
        bottom, top = np.inf, -np.inf
        for k in range(first, last):
            v = (corners[k, 1] - low[1]) / step[1]
            bottom, top = min(bottom, v), max(top, v)
        begin = min(max(int(np.floor(bottom - _MARGIN)), 0), side - 1)
        end = min(max(int(np.floor(top + _MARGIN)), 0), side - 1)
        for row in range(begin, end + 1):
            # From where to where the cell reaches in this row of boxes.
            left, right = np.inf, -np.inf
            for k in range(first, last):
                after = k + 1 if k + 1 < last else first
                au, av = (corners[k, 0] - low[0]) / step[0], (corners[k, 1] - low[1]) / step[1]
                bu = (corners[after, 0] - low[0]) / step[0]
                bv = (corners[after, 1] - low[1]) / step[1]
                if max(av, bv) < row - _MARGIN or min(av, bv) > row + 1 + _MARGIN:
                    continue
                s, t = 0.0, 1.0
                if av != bv:
                    one = (row - _MARGIN - av) / (bv - av)
                    two = (row + 1 + _MARGIN - av) / (bv - av)
                    s, t = max(s, min(one, two)), min(t, max(one, two))
                for part in (s, t):
                    u = au + part * (bu - au)
                    left, right = min(left, u), max(right, u)
            if right < left:
                continue
            first_box = min(max(int(np.floor(left - _MARGIN)), 0), side - 1)
            last_box = min(max(int(np.floor(right + _MARGIN)), 0), side - 1)
            for box in range(row * side + first_box, row * side + last_box + 1):
                if cells.shape[0]:
                    cells[places[box]] = i
                    places[box] += 1
                else:
                    places[box + 1] += 1


@njit()
def _locate(
    points: np.ndarray,
    planes: np.ndarray,
    grid: tuple[np.ndarray, np.ndarray],
    boxes: tuple[np.ndarray, np.ndarray],
    owner: np.ndarray,
) -> None:
    """Write the highest plane at every point among those of its box; -1 stays outside of all."""
    low, step = grid
    indptr, cells = boxes
    side = round(np.sqrt(indptr.shape[0] - 1))
    for k in range(points.shape[0]):
        x, y = points[k, 0], points[k, 1]
        u, v = (x - low[0]) / step[0], (y - low[1]) / step[1]
        if not (0 <= u <= side and 0 <= v <= side):
            continue
        box = min(int(v), side - 1) * side + min(int(u), side - 1)
        best = -np.inf
        for s in range(indptr[box], indptr[box + 1]):
            i = cells[s]
            value = x * planes[i, 0] + y * planes[i, 1] + planes[i, 2]
            if value > best:  # cells ascend in a box: of equal planes the first, as everywhere
                best, owner[k] = value, i
