import pytest
import torch
from matplotlib.image import imread

import aeot
from aeot import BrenierMap, UniformBox, generator
from aeot.plotting import singular as plots


@pytest.fixture(scope="module")
def two():
    sites = 0.1 * torch.randn(40, 2, generator=generator(0), dtype=torch.float64)
    sites[20:, 0] += 5
    return aeot.find_singularities(aeot.solve_exact(UniformBox(dim=2), sites).map())


def test_modes_are_drawn_beside_their_sites(two, tmp_path):
    figure = plots.modes(two, codes=two.brenier.sites, path=tmp_path / "deep" / "modes.png")
    left, right = figure.axes
    assert "40 sites in 2 modes" in right.get_title()
    colours = {tuple(c) for c in right.collections[0].get_facecolors().tolist()}
    assert len(colours) == 2
    assert imread(tmp_path / "deep" / "modes.png").shape[1] > 600


def test_only_planar_maps_have_a_picture():
    brenier = BrenierMap(UniformBox(dim=3), torch.rand(9, 3), torch.zeros(9))
    singular = aeot.find_singularities(brenier, n_points=500)
    for draw in (plots.modes, plots.tears):
        with pytest.raises(ValueError, match="singular must be of a map in the plane, got d = 3"):
            draw(singular)


@pytest.mark.parametrize(("width", "panels"), [(1.0, (1, 3)), (4.0, (3, 1))])
def test_only_the_map_without_tears_has_points_in_the_gap(width, panels, tmp_path):
    sites = 0.1 * torch.randn(60, 2, generator=generator(0), dtype=torch.float64)
    sites[30:, 0] += 5
    source = UniformBox(low=[0.0, 0.0], high=[width, 1.0])
    torn = aeot.find_singularities(aeot.solve_exact(source, sites).map())
    figure = plots.tears(torn, 600, path=tmp_path / "tears.png")
    _, cut, whole = figure.axes
    assert cut.get_subplotspec().get_gridspec().get_geometry() == panels
    gaps = []
    for ax in (cut, whole):
        x = ax.collections[0].get_offsets()[:, 0]
        assert len(x) == 600
        gaps.append(int(((x > 1) & (x < 4)).sum()))
    assert gaps[0] == 0
    assert gaps[1] > 20  # the cells along the border are a tenth of all, or more


def test_the_mark_stands_between_the_frames_around_the_break():
    frames = torch.zeros(5, 1, 8, 8)
    figure = plots.crossing(frames, frames, breaks=[0.6])
    line = figure.axes[0].lines[0]
    assert line.get_xdata()[0] == 3 * 8 - 0.5  # 0.6 lies between frames 2 (0.5) and 3 (0.75)
    for jumps in ([0.6], None):  # a map jumps between any two cells; the caller says if it is cut
        axes = plots.crossing(frames, frames, breaks=jumps).axes
        assert [ax.get_yticklabels()[0].get_text() for ax in axes] == ["map", "blend"]
    with pytest.raises(ValueError, match="blended must have the shape of broken"):
        plots.crossing(frames, frames[1:])


def test_jumps_weigh_facets_by_mass(two):
    figure = plots.jumps(two)
    total = sum(bar.get_height() for group in figure.axes[0].containers for bar in group)
    assert total == pytest.approx(float(two.facets.mass.sum()), rel=0.02)  # below the first bin
