"""The clipping kernels against other geometry: brute force, Qhull, quadrature."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.spatial import ConvexHull, HalfspaceIntersection

from aeot.geometry.pixels import tabulate, walk
from aeot.geometry.plane import (
    UNIFORM,
    Planes,
    Region,
    chord,
    disk_moments,
    plane_cells,
    polygon_moments,
)
from aeot.geometry.space import add_face, space_cells
from aeot.measures import GridDensity

SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def complete(n):
    columns = np.concatenate([np.delete(np.arange(n), i) for i in range(n)])
    return np.arange(n + 1) * (n - 1), columns


def halfspaces(i, sites, heights):
    others = np.delete(np.arange(len(sites)), i)
    return np.c_[sites[others] - sites[i], heights[others] - heights[i]]


def polygon_by_qhull(i, sites, heights):
    box = np.c_[
        np.r_[np.eye(sites.shape[1]), -np.eye(sites.shape[1])], -np.ones(2 * sites.shape[1])
    ]
    rows = np.r_[halfspaces(i, sites, heights), box]
    return ConvexHull(HalfspaceIntersection(rows, sites[i]).intersections)


@pytest.fixture(params=[2, 3])
def cells(request):
    d, n = request.param, 25
    rng = np.random.default_rng(d)
    sites = rng.uniform(-0.9, 0.9, (n, d))
    # Near enough to Voronoi heights for every cell to hold its own site.
    heights = -(sites**2).sum(1) / 2 + 1e-3 * rng.random(n)
    moments = np.zeros((n, 6 if d == 2 else 10))
    graph = complete(n)
    planes, measures = Planes(sites, heights, *graph), np.zeros(len(graph[1]))
    if d == 2:
        nothing = np.zeros((0, 0, 4)), np.zeros((0, 0, 3, 2)), np.zeros(2), np.ones(2)
        region = Region(SQUARE, UNIFORM, 0.0, 1.0, np.zeros((0, 3, 2)), *nothing)
        unwanted = np.zeros(0), np.zeros(0)
        plane_cells((0, n), planes, region, moments, (measures, np.zeros((0, 4))), unwanted)
    else:
        space_cells((0, n), planes, (np.ones(3), 0.0, 1.0), moments, measures)
    return sites, heights, moments, measures.reshape(n, n - 1)


def test_cells_are_those_of_qhull(cells):
    sites, heights, moments, _ = cells
    for i in range(len(sites)):
        hull = polygon_by_qhull(i, sites, heights)
        assert moments[i, 0] == pytest.approx(hull.volume, rel=1e-10)


def test_facets_add_up_to_the_boundary_of_each_cell(cells):
    # The divergence theorem for constant fields: the facets and the box's sides cancel.
    sites, heights, moments, measures = cells
    d = sites.shape[1]
    for i in range(len(sites)):
        hull = polygon_by_qhull(i, sites, heights)
        wall = 0.0
        for simplex, equation in zip(hull.simplices, hull.equations, strict=True):
            corners = hull.points[simplex]
            if np.isclose(np.abs(corners).max(axis=0), 1).any():
                flat = [(np.isclose(corners[:, k], s)).all() for k in range(d) for s in (1, -1)]
                if any(flat):
                    edges = corners[1:] - corners[0]
                    size = np.linalg.norm(edges) if d == 2 else np.linalg.norm(np.cross(*edges)) / 2
                    wall += size
            assert np.isclose(np.linalg.norm(equation[:d]), 1)
        assert measures[i].sum() + wall == pytest.approx(hull.area, rel=1e-9)


def test_second_moments_of_a_triangle():
    # About the first corner, by the exact formula for the standard simplex.
    out = np.zeros(6)
    polygon_moments(np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), 3, out)
    assert out == pytest.approx([3, 2, 3, 2, 1.5, 4.5])


@pytest.mark.parametrize("center", [(0.0, 0.0), (0.8, 0.3), (1.2, 0.0), (-0.5, 0.9)])
def test_disk_moments_against_quadrature(center):
    polygon = np.array([[-0.4, -0.3], [0.5, -0.2], [0.3, 0.6], [-0.2, 0.4]]) * 1.5 + center
    out = np.zeros(6)
    if not disk_moments(polygon, 4, 1.0, out):
        polygon_moments(polygon, 4, out)
        x, y = polygon[0]
        m, mx, my, xx, xy, yy = out
        out = np.array(
            [
                m,
                mx + x * m,
                my + y * m,
                xx + 2 * x * mx + x * x * m,
                xy + x * my + y * mx + x * y * m,
                yy + 2 * y * my + y * y * m,
            ]
        )

    def strip(x):
        low, high = -np.sqrt(max(0, 1 - x * x)), np.sqrt(max(0, 1 - x * x))
        crossing = []
        for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if min(a[0], b[0]) <= x <= max(a[0], b[0]) and a[0] != b[0]:
                crossing.append(a[1] + (x - a[0]) / (b[0] - a[0]) * (b[1] - a[1]))
        if len(crossing) < 2:
            return 0.0, 0.0
        low, high = max(low, min(crossing)), min(high, max(crossing))
        return (low, high) if high > low else (0.0, 0.0)

    powers = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
    kinks = sorted({*polygon[:, 0].clip(-1, 1), -1.0, 1.0})
    for k, (p, q) in enumerate(powers):

        def inner(x, p=p, q=q):
            low, high = strip(x)
            return x**p * (high ** (q + 1) - low ** (q + 1)) / (q + 1)

        want = sum(
            quad(inner, a, b, limit=400, epsabs=1e-11)[0]
            for a, b in zip(kinks, kinks[1:], strict=False)
        )
        assert out[k] == pytest.approx(want, abs=2e-6)


def test_a_chord_is_where_the_segment_is_inside():
    assert chord(-2.0, 0.6, 2.0, 0.6, 1.0) == pytest.approx(((2 - 0.8) / 4, (2 + 0.8) / 4))
    start, stop = chord(-2.0, 1.5, 2.0, 1.5, 1.0)
    assert stop < start


@pytest.mark.parametrize("interpolation", ["constant", "linear"])
def test_gridded_integrals_against_fine_sums(interpolation):
    rng = np.random.default_rng(0)
    source = GridDensity(rng.random((5, 4)), low=[-1, 0], high=[1, 3], interpolation=interpolation)
    coefficients, step = source.coefficients.numpy(), source.step.numpy()
    low = source.low.numpy()
    table = tabulate(coefficients, low, step)
    polygon = np.array([[-0.7, 0.2], [0.6, 0.5], [0.9, 1.9], [-0.1, 2.8], [-0.8, 1.1]])
    out = np.zeros(6)
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        walk(*a, *b, coefficients, table, low, step, out)
    k = 700
    x, y = np.meshgrid(-1 + 2 * (np.arange(k) + 0.5) / k, 3 * (np.arange(k) + 0.5) / k)
    inside = np.ones_like(x, dtype=bool)
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        inside &= (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) > 0
    u, v = (x - low[0]) / step[0], (y - low[1]) / step[1]
    c = coefficients[np.floor(v).astype(int), np.floor(u).astype(int)]
    u, v = u % 1, v % 1
    rho = (c[..., 0] + c[..., 1] * u + c[..., 2] * v + c[..., 3] * u * v) * inside * 6 / k**2
    want = [rho.sum(), (x * rho).sum(), (y * rho).sum()]
    want += [(x * x * rho).sum(), (x * y * rho).sum(), (y * y * rho).sum()]
    assert out == pytest.approx(want, abs=5e-4)


def faces_of_box(low, high):
    for axis in range(3):
        for side, bound in ((0, low), (1, high)):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            square = [(low, low), (high, low), (high, high), (low, high)]
            corners = np.empty((4, 3))
            for k, (p, q) in enumerate(square if side else square[::-1]):
                corners[k, axis], corners[k, a], corners[k, b] = bound[axis], p[a], q[b]
            normal = np.zeros(3)
            normal[axis] = 1.0
            yield corners, normal


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ((-2, -2, -2), (2, 2, 2)),  # the whole ball
        ((-2, -2, 0.3), (2, 2, 2)),  # a cap
        ((0, 0, 0), (2, 2, 2)),  # an octant, the centre on three faces
        ((0.2, -0.1, -0.4), (0.7, 2, 0.9)),  # cut by edges and faces
        ((0.5, 0.5, 0.5), (2, 2, 2)),  # a small corner
        ((0.6, 0.6, 0.6), (2, 2, 2)),  # outside
    ],
)
def test_ball_moments_against_quadrature(low, high):
    low, high = np.array(low, dtype=float), np.array(high, dtype=float)
    out = np.zeros(10)
    for corners, normal in faces_of_box(low, high):
        add_face(corners, 4, normal, 1.0, out)
    k = 400  # fine in z only: in the plane z = const the exact planar formula is used
    nodes, weights = np.polynomial.legendre.leggauss(k)
    a, b = max(low[2], -1.0), min(high[2], 1.0)
    want = np.zeros(10)
    for z, w in zip((a + b) / 2 + (b - a) / 2 * nodes, (b - a) / 2 * weights, strict=True):
        flat = np.zeros(6)
        rectangle = np.array([low[:2], (high[0], low[1]), high[:2], (low[0], high[1])])
        if not disk_moments(rectangle, 4, np.sqrt(1 - z * z), flat):
            x, y = np.array([low[0], high[0]]), np.array([low[1], high[1]])
            px, py = [[np.diff(t ** (p + 1))[0] / (p + 1) for p in range(3)] for t in (x, y)]
            flat = [px[0] * py[0], px[1] * py[0], px[0] * py[1]]
            flat += [px[2] * py[0], px[1] * py[1], px[0] * py[2]]
        m, mx, my, xx, xy, yy = flat
        want += w * np.array([m, mx, my, z * m, xx, xy, z * mx, yy, z * my, z * z * m])
    # Gauss quadrature meets a kink where an edge of the box leaves the ball.
    assert out == pytest.approx(want, abs=2e-6)
