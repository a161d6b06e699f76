"""Flow matching against a distribution whose moments are known."""

import numpy as np
import torch

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
