import numpy as np
import pytest
import torch

import aeot
from aeot import BrenierMap, Gaussian, UniformBox, generator

N = 40


def some(d, n=N):
    g = generator(d, "subgradient")
    sites = torch.randn(n, d, generator=g, dtype=torch.float64)
    return BrenierMap(Gaussian(dim=d), sites, -sites.square().sum(1) / 2)


def meeting(brenier, x, k):
    """Move a point to where the k planes that are highest near it meet, if none is above them."""
    sites, heights = brenier.sites.numpy(), brenier.heights.numpy()
    order = np.argsort(-(sites @ x + heights))[:k]
    edges, gaps = sites[order[1:]] - sites[order[0]], heights[order[0]] - heights[order[1:]]
    x = x + np.linalg.lstsq(edges, gaps - edges @ x, rcond=None)[0]
    values = sites @ x + heights
    return x, set(order.tolist()), values.max() <= values[order[0]] + 1e-9


@pytest.mark.parametrize("d", [2, 3, 8])
def test_where_k_planes_meet_the_subdifferential_is_the_simplex_of_their_sites(d):
    brenier, found = some(d), 0
    starts = torch.randn(300, d, generator=generator(1), dtype=torch.float64).numpy()
    for k in range(1, d + 2):
        met = [
            (x, sites) for x, sites, highest in (meeting(brenier, s, k) for s in starts) if highest
        ]
        found += len(met)
        here = brenier.subgradient(np.stack([x for x, _ in met]))
        assert here.dimension.tolist() == [k - 1] * len(met)
        for vertices, (_, expected) in zip(here.vertices.tolist(), met, strict=True):
            assert {i for i in vertices if i >= 0} == expected
    assert found > 20 * d


def test_the_exact_diagram_of_the_plane_says_the_same():
    brenier = some(2)
    square = UniformBox(low=[-1, -1], high=[1, 1])
    diagram = aeot.power_diagram(square, brenier.sites, brenier.heights)
    hit = diagram.masses > 0
    inside = brenier.subgradient(diagram.centroids[hit])
    assert not inside.dimension.any()
    assert torch.equal(inside.vertices[:, 0], hit.nonzero()[:, 0])
    on = brenier.subgradient(diagram.facets.endpoints.mean(1))
    assert bool((on.dimension == 1).all())
    assert torch.equal(on.vertices.sort(1).values, diagram.facets.pairs)


def test_a_site_between_others_is_no_vertex_though_its_plane_meets_theirs():
    sites = torch.tensor([[0.0, 0], [2, 0], [0, 2], [2, 2], [1, 1], [1, 0]], dtype=torch.float64)
    brenier = BrenierMap(UniformBox(dim=2), sites, torch.zeros(6))
    found = brenier.subgradient([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert found.dimension.tolist() == [2, 1, 0]
    assert sorted(found.vertices[0].tolist()) == [0, 1, 2, 3]
    assert sorted(i for i in found.vertices[1].tolist() if i >= 0) == [1, 3]
    assert found.vertices[2].tolist() == [3, -1, -1, -1]


def test_a_tolerance_widens_the_set_and_no_point_is_no_row():
    sites = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    brenier = BrenierMap(UniformBox(dim=1), sites, torch.tensor([0.0, -0.3, -1.0]))
    near = [[0.3 + 1e-6]]
    assert brenier.subgradient(near).dimension.tolist() == [0]
    assert brenier.subgradient(near, tol=1e-5).dimension.tolist() == [1]
    assert brenier.subgradient(torch.zeros(0, 1)).vertices.shape == (0, 1)
    with pytest.raises(ValueError, match="tol must be a finite number >= 0"):
        brenier.subgradient(near, tol=-1)
