"""Flow matching against a distribution whose moments are known."""

import numpy as np
import pytest
import torch

import aeot
from aeot import FlowMatching
from aeot.data import tensors


def test_flow_carries_a_gaussian_to_a_gaussian():
    mean, axes = torch.tensor([5.0, -1.0]), torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    stream = torch.Generator().manual_seed(0)
    data = torch.randn(4000, 2, generator=stream) @ axes.T + mean
    flow = FlowMatching(hidden=64, layers=2, learning_rate=3e-3).fit(tensors(data), steps=400)
    samples = flow.sample(4000, seed=1).numpy()
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.25)
    np.testing.assert_allclose(np.cov(samples.T), (axes @ axes.T).numpy(), atol=0.6)


@pytest.fixture(scope="module")
def pairs():
    rows = 3 * torch.randn(60, 2, generator=aeot.generator(0)) + 5
    solution = aeot.solve_semidiscrete(aeot.Gaussian(dim=2), rows, tol=0.05)
    return rows, solution


def test_coupled_noise_is_what_the_velocity_is_fitted_to(pairs):
    """One step by hand, on the noise and the rows of the coupling's first batch."""
    rows, solution = pairs
    coupling = aeot.coupling(solution, rows, batch_size=20)
    flow = FlowMatching(hidden=8, layers=1, batch_size=20)
    flow.fit(rows, coupling=coupling, steps=1)
    fresh = FlowMatching(hidden=8, layers=1, batch_size=20).fit(rows, steps=0).velocity_
    batch = coupling.batch(0)
    end = (batch.data - rows.mean(0)) / (rows - rows.mean(0)).square().mean().sqrt()
    stream = aeot.generator(0, "noise", 0)
    time = torch.rand((20, 1), generator=stream)
    out = fresh(torch.lerp(batch.noise, end, time), time)
    loss = (out - (end - batch.noise)).square().mean()
    assert flow.history_[-1]["misfit"] == pytest.approx(loss.item(), rel=1e-5)


def test_a_resumed_fit_goes_on_with_the_pairs_that_follow(pairs, tmp_path):
    rows, solution = pairs
    options = {"coupling": aeot.coupling(solution, rows, batch_size=20)}
    whole = FlowMatching(hidden=8, batch_size=20).fit(rows, steps=9, **options)
    FlowMatching(hidden=8, batch_size=20).fit(rows, steps=4, checkpoint=tmp_path / "c", **options)
    rest = FlowMatching(hidden=8, batch_size=20)
    rest.fit(rows, steps=9, checkpoint=tmp_path / "c", **options)
    assert torch.equal(rest.sample(5), whole.sample(5))
    with pytest.raises(ValueError, match="coupling"):
        FlowMatching(hidden=8, batch_size=20).fit(rows, steps=12, checkpoint=tmp_path / "c")


def test_couplings_of_something_else_are_refused(pairs):
    rows, solution = pairs
    other = aeot.solve_semidiscrete(aeot.UniformBox(dim=2), rows, tol=0.1)
    cases = [
        (solution, "coupling must be a Coupling, got Solution"),
        (aeot.coupling(solution, rows), "coupling must have the batch_size of the model, 20"),
        (aeot.coupling(other, rows, batch_size=20), "coupling must draw from Gaussian"),
    ]
    for coupling, message in cases:
        with pytest.raises(ValueError, match=message):
            FlowMatching(batch_size=20).fit(rows, steps=1, coupling=coupling)
    coupling = aeot.coupling(solution, rows, batch_size=20)
    with pytest.raises(ValueError, match="coupling must be of the 59 rows of data"):
        FlowMatching(batch_size=20).fit(rows[1:], steps=1, coupling=coupling)
