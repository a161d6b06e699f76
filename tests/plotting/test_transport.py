"""What the figures of transport show, read back from their artists."""

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PolyCollection

import aeot
from aeot.plotting import transport as plots
from aeot.plotting.style import SINGULAR, colour_sites


@pytest.fixture(scope="module")
def solved():
    g = aeot.generator(0)
    offset = torch.tensor([[2.0, 0.0]]) * (torch.arange(30)[:, None] % 2)
    sites = torch.rand(30, 2, generator=g, dtype=torch.float64) + offset
    solution = aeot.solve_exact(aeot.UniformBall(dim=2), sites)
    return solution, aeot.power_diagram(solution.source, sites, solution.heights)


def collections(figure, kind):
    return [c for ax in figure.axes for c in ax.collections if type(c) is kind]


def area(corners):
    x, y = np.asarray(corners).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_cells_drawn_are_the_cells(solved, tmp_path):
    _, diagram = solved
    figure = plots.power_diagram(diagram, path=tmp_path / "new folder" / "cells.png")
    (cells,) = collections(figure, PolyCollection)
    areas = [area(path.vertices[:-1]) for path in cells.get_paths()]
    # Arcs are drawn as chords of 1.5 degrees.
    assert areas == pytest.approx((diagram.masses * torch.pi).tolist(), abs=1e-3)
    assert (tmp_path / "new folder" / "cells.png").stat().st_size > 5000


def test_singular_curves_drawn_lie_where_the_map_jumps(solved):
    solution, diagram = solved
    figure = plots.power_diagram(diagram, singular=diagram.facets.jumps > 0.9)
    paint = [int(SINGULAR[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    lines = collections(figure, LineCollection)
    red = [c for c in lines if np.allclose(c.get_colors()[0][:3], paint)]
    segments = [
        (a, b) for line in red[0].get_segments() for a, b in zip(line[:-1], line[1:], strict=True)
    ]
    assert len(segments) == int((diagram.facets.jumps > 0.9).sum())
    for a, b in segments:
        scores = torch.from_numpy((a + b) / 2) @ diagram.sites.T + solution.heights
        best = scores.topk(2)
        assert float(best.values[0] - best.values[1]) == pytest.approx(0, abs=1e-12)
        assert float((diagram.sites[best.indices[0]] - diagram.sites[best.indices[1]]).norm()) > 0.9


def test_delaunay_leaves_out_what_is_cut(solved):
    _, diagram = solved
    mask = diagram.facets.jumps > 0.9
    (kept,) = collections(plots.delaunay(diagram, singular=mask), LineCollection)
    assert len(kept.get_segments()) == int((~mask).sum())
    (whole,) = collections(plots.delaunay(diagram, whole=True), LineCollection)
    n, triangles = len(diagram.sites), len(diagram.delaunay)
    assert len(whole.get_segments()) == n + triangles - 1  # Euler: V - E + F = 1, all cells alive


def test_other_figures_are_drawn(solved, tmp_path):
    _, diagram = solved
    assert len(plots.displacement(diagram, (0.0, 0.5)).axes) == 2
    assert len(plots.potential(diagram, path=tmp_path / "u.png").axes) == 2
    figure = plots.cell_hits(np.array([3, 5]), np.array([4.0, 2.0]), np.array([3.5, 2.5]))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [4, 2]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [3.5, 2.5]


def test_colours_are_colours_and_tell_places_apart():
    sites = np.random.default_rng(0).standard_normal((200, 2))
    colours = colour_sites(sites)
    assert colours.shape == (200, 3)
    assert 0 <= colours.min() <= colours.max() <= 1
    left, right = colours[sites[:, 0] < -1.5].mean(axis=0), colours[sites[:, 0] > 1.5].mean(axis=0)
    assert np.abs(left - right).max() > 0.15


def test_diagrams_in_space_are_refused():
    diagram = aeot.power_diagram(aeot.UniformBox(dim=3), torch.rand(4, 3), torch.zeros(4))
    for draw in (plots.power_diagram, plots.delaunay, plots.displacement, plots.potential):
        with pytest.raises(ValueError, match="be planar"):
            draw(diagram)
