"""Implicit maximum likelihood: the nearest sample of every datum, and none left out."""

import torch

from aeot import IMLE
from aeot._rng import generator
from aeot.data import tensors, toy
from aeot.gan import imle


def test_noise_is_drawn_once_an_epoch_and_stays_that_of_the_seed(monkeypatch):
    drawn = []

    def counted(shape, stream, like):
        drawn.append(made(shape, stream, like))
        return drawn[-1]

    made = imle.noise
    monkeypatch.setattr(imle, "noise", counted)
    # 200 rows in batches of 50: four steps are an epoch.
    model = IMLE(batch_size=50, noise_dim=3).fit(toy("ring", 200), steps=9)
    assert len(drawn) == 3
    for epoch, values in enumerate(drawn):
        wanted = torch.randn(400, 3, generator=generator(0, "implicit", epoch))
        assert torch.equal(values, wanted)
    # In the last epoch every datum has the noise that was chosen for it.
    assert torch.equal(model.choice_.noise, drawn[2][model.choice_.nearest])


def test_implicit_likelihood_leaves_no_mode_out():
    # Four far modes, one of them rare: each datum pulls its own nearest sample.
    stream = torch.Generator().manual_seed(0)
    modes = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    labels = torch.cat([torch.arange(3).repeat(60), torch.full((20,), 3)])
    points = modes[labels] + 0.1 * torch.randn(200, 2, generator=stream)
    model = IMLE(batch_size=100, noise_dim=4).fit(tensors(points), steps=300)
    near = torch.cdist(modes, model.sample(1000)).min(1).values
    assert float(near.max()) < 0.5
