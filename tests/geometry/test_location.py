"""Cells of points in the plane, found by where they lie, against scores of all sites."""

import numpy as np
import pytest
import torch

import aeot
from aeot.geometry.location import Location
from aeot.search.engines import cell

LOW, HIGH = np.array([-1.0, 2.0]), np.array([3.0, 2.5])


def planes(kind, n, seed=0):
    rng = np.random.default_rng(seed)
    sites = rng.uniform(LOW, HIGH, (n, 2))
    if kind == "clusters":
        sites[: n // 2] = sites[0] + 1e-3 * rng.normal(size=(n // 2, 2))
    if kind == "lattice":
        side = round(n**0.5)
        sites = np.stack(np.meshgrid(*[np.arange(side) / 4.0] * 2), -1).reshape(-1, 2)
    heights = -(sites**2).sum(1) / 2
    if kind == "empty":  # most cells
        heights += rng.normal(size=n)
    return np.c_[sites, heights]


@pytest.mark.parametrize("kind", ["even", "clusters", "lattice", "empty"])
@pytest.mark.parametrize("n", [1, 2, 16, 900])
def test_cells_are_those_of_all_scores(kind, n):
    p = planes(kind, n)
    x = np.random.default_rng(1).uniform(LOW, HIGH, (20_000, 2))
    got = Location(p, LOW, HIGH)(x)
    scores = x @ p[:, :2].T + p[:, 2]
    assert (got >= 0).all()
    best = scores.max(1)
    assert np.abs(scores[np.arange(len(x)), got] - best).max() <= 1e-13 * np.abs(scores).max()


def test_a_cell_that_only_grazes_a_box_is_looked_at_there():
    p = planes("even", 2000)
    source = aeot.ConvexPolygon([LOW, [HIGH[0], LOW[1]], HIGH, [LOW[0], HIGH[1]]])
    cells = aeot.power_diagram(source, p[:, :2].copy(), p[:, 2].copy()).polygons
    middle = torch.cat([c.mean(0).expand_as(c) for c in cells]).numpy()
    x = torch.cat(cells).numpy()
    x = x + 1e-6 * (middle - x)  # just inside of each corner of each cell
    owner = np.repeat(np.arange(len(p)), [len(c) for c in cells])
    assert (Location(p, LOW, HIGH)(x) == owner).all()


def test_of_equal_planes_the_first_is_taken():
    p = planes("lattice", 64)  # sites a quarter apart: borders at odd eighths, exactly
    x = np.stack(np.meshgrid(np.arange(1, 6, 2) / 8, np.arange(17, 20, 2) / 8), -1).reshape(-1, 2)
    scores = x @ p[:, :2].T + p[:, 2]
    assert ((scores == scores.max(1, keepdims=True)).sum(1) > 1).any()
    assert (Location(p, LOW, HIGH)(x) == scores.argmax(1)).all()


def test_outside_and_on_the_edge():
    locate = Location(planes("even", 100), LOW, HIGH)
    corners = np.array([LOW, HIGH, [LOW[0], HIGH[1]]])
    assert (locate(corners) >= 0).all()
    beyond = np.array([[-1.1, 2.2], [0.0, 2.6], [np.nan, 2.2], [np.inf, 2.2]])
    assert (locate(beyond) == -1).all()


def test_sites_that_have_no_cells_are_left_to_others():
    p = np.r_[planes("even", 50), planes("even", 50)]
    x = np.random.default_rng(1).uniform(LOW, HIGH, (10, 2))
    assert (Location(p, LOW, HIGH)(x) == -1).all() or (Location(p, LOW, HIGH)(x) < 50).all()


@pytest.mark.parametrize("source", [aeot.UniformBall(dim=2), aeot.Gaussian(dim=2)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_map_finds_the_same_cells_either_way(source, dtype):
    g = aeot.generator(0)
    sites = torch.randn(500, 2, generator=g, dtype=dtype)
    heights = -sites.double().square().sum(1) / 2
    brenier = aeot.BrenierMap(source, sites, heights)
    x = source.sample(1 << 15, generator=g).to(dtype)
    x[:3] = torch.tensor([[1e4, 0], [0, -1e4], [5, 5]], dtype=dtype)  # outside
    want = cell(x, sites, heights)
    assert torch.equal(brenier.cell(x), want)
    assert brenier._location is not None
    assert torch.equal(brenier.cell(x[:10]), want[:10])
    # Heights changed in place are seen.
    brenier.heights[7] += 3.0
    assert torch.equal(brenier.cell(x), cell(x, sites, brenier.heights))
