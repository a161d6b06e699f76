"""The closed-form update of a generator against the map between two Gaussians."""

import numpy as np
import ot
import pytest
import scipy.stats
import torch

import aeot
from aeot.models.cooperation import cooperative_update


def test_one_update_is_the_map_between_two_gaussians():
    mean, covariance = np.array([1.0, -2.0]), np.array([[1.5, 0.8], [0.8, 1.0]])
    sobol = scipy.stats.qmc.Sobol(2, seed=0).random(512)
    data = scipy.stats.norm.ppf(sobol) @ np.linalg.cholesky(covariance).T + mean
    stretch = torch.tensor([[2.0, 0.3], [0.0, 0.5]], dtype=torch.float64)

    def generator(z):
        return z.double() @ stretch.T + 3

    update, solution = cooperative_update(generator, aeot.Gaussian(dim=2), data, tol=0.03)
    assert solution.converged
    before = (stretch @ stretch.T).numpy()
    # Another library's closed form; its rows are points, so that it multiplies from the right.
    linear, shift = ot.gaussian.bures_wasserstein_mapping(np.full(2, 3.0), mean, before, covariance)
    z = torch.randn(4000, 2, generator=aeot.generator(5))
    exact = generator(z).numpy() @ linear + shift
    apart = np.linalg.norm(update(z).numpy() - exact, axis=1).mean()
    moved = np.linalg.norm(generator(z).numpy() - exact, axis=1).mean()
    # Within a cell all points go to one site: 512 sites in an area of some 15 are 0.17 wide.
    assert apart < 0.15 < moved / 20
    # Mapping every point to its nearest datum is no transport map.
    nearest = data[ot.dist(generator(z).numpy(), data).argmin(1)]
    assert np.linalg.norm(nearest - exact, axis=1).mean() > 5 * apart


def test_every_datum_is_made_equally_often():
    data = torch.randn(20, 2, generator=aeot.generator(1), dtype=torch.float64)
    update, _ = cooperative_update(lambda z: z**3 + z, aeot.UniformBox(dim=2), data, tol=0.02)
    made = update(torch.rand(40_000, 2, generator=aeot.generator(2)))
    counts = (made[:, None] == data).all(2).sum(0)
    assert int(counts.sum()) == 40_000
    # tol, and the noise of 40 000 draws: 0.4 sqrt(20 / 40 000) = 0.009
    assert float((counts / 40_000 - 1 / 20).abs().sum() / 2) < 0.03


def test_dimensions_must_agree():
    with pytest.raises(ValueError, match="have 2 columns"):
        cooperative_update(lambda z: z[:, :1], aeot.UniformBox(dim=2), torch.eye(2))


@pytest.mark.filterwarnings("error")
def test_a_collapsed_generator_is_named_and_a_flat_one_is_carried_on():
    box, data = aeot.UniformBox(dim=2), torch.tensor([[0.0, 0.3], [1.0, -0.5], [2.0, 0.1]])
    with pytest.raises(ValueError, match="generator must send latent points to more than one"):
        cooperative_update(lambda z: z * 0, box, data)
    with pytest.raises(ValueError, match=r"generator\(latent points\) must be finite"):
        cooperative_update(lambda z: z * torch.nan, box, data)
    with pytest.raises(ValueError, match="generator must be callable"):
        cooperative_update(data, box, data)
    with pytest.raises(ValueError, match="latent must be a measure.*got Tensor"):
        cooperative_update(lambda z: z, data, data)
    # One datum is the value of the only map there is.
    update, _ = cooperative_update(lambda z: z * 0, box, data[:1])
    assert update(torch.rand(3, 2)).tolist() == [data[0].tolist()] * 3
    # One axis constant: the map is increasing along the other, a third for each datum.
    update, _ = cooperative_update(lambda z: z * torch.tensor([1.0, 0.0]), box, data, tol=0.02)
    at = torch.tensor([[0.1, 0.9], [0.3, 0.0], [0.5, 0.5], [0.7, 0.2], [0.9, 0.7]])
    assert update(at).tolist() == data[[0, 0, 1, 2, 2]].tolist()
