"""Translation by transport: on vectors where the answer is known, and its storage."""

import pytest
import torch
from sklearn.exceptions import NotFittedError

from aeot.data import paired, unpaired
from aeot.models.autoencoder import Autoencoder
from aeot.models.translator import TransportTranslator


class Identity(Autoencoder):
    """An autoencoder that is none: images of four pixels are their own codes."""

    shape_ = (1, 2, 2)

    def encode(self, data):
        return data[:].flatten(1) if not isinstance(data, torch.Tensor) else data.flatten(1)

    def decode(self, codes):
        return codes.view(-1, 1, 2, 2)


@pytest.fixture(scope="module")
def shifted():
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(200, 1, 2, 2, generator=draw) * 0.1 - 0.4
    b = torch.randn(200, 1, 2, 2, generator=draw) * 0.1 + 0.4
    model = TransportTranslator(latent_dim=4, tol=0.1)
    return (
        model.fit(unpaired(a.clamp(-1, 1), b.clamp(-1, 1)), autoencoder=Identity(latent_dim=4)),
        a,
        b,
    )


def test_a_shift_is_found_both_ways(shifted):
    """Between two normal laws that differ by a shift, the optimal map is the shift."""
    model, a, b = shifted
    assert all(found["converged"] for found in model.certificates_.values())
    for x, to, move in ((a, "b", 0.8), (b, "a", -0.8)):
        moved = model.translate(x, to=to)
        # 200 sites in four dimensions lie about 0.08 from each other: no map knows more.
        assert float((moved - x - move).square().mean().sqrt()) < 0.08
        assert float((moved - x).mean()) == pytest.approx(move, abs=0.02)
        assert float(moved.std()) == pytest.approx(0.1, rel=0.2)


def test_optimal_not_just_any_coupling(shifted):
    """The same marginals with codes matched at random cost much more than the map."""
    model, a, b = shifted
    moved = model.translate(a, to="b")
    cost = float((moved - a).square().sum(dim=(1, 2, 3)).mean())
    random = float((b - a).square().sum(dim=(1, 2, 3)).mean())
    assert random - cost > 0.04  # 4 * 2 * 0.01 less what the estimation of the map costs


def test_save_load(tmp_path):
    x = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    model = TransportTranslator(latent_dim=2, tol=0.3, seed=1).fit(unpaired(x, -x), steps=4)
    model.save(tmp_path / "m")
    back = TransportTranslator.load(tmp_path / "m")
    assert torch.equal(model.translate(x[:7]), back.translate(x[:7]))
    assert torch.equal(model.translate(x[:7], to="a"), back.translate(x[:7], to="a"))
    assert back.certificates_ == model.certificates_


def test_bad_input():
    x = torch.rand(6, 1, 16, 16) - 1
    with pytest.raises(NotFittedError):
        TransportTranslator().translate(x)
    with pytest.raises(ValueError, match="made by aeot.unpaired"):
        TransportTranslator().fit(x)
    with pytest.raises(ValueError, match="data.b must hold at least 2"):
        TransportTranslator().fit(unpaired(x, x[:1]))
    with pytest.raises(ValueError, match="smoothing must"):
        TransportTranslator(smoothing=0).fit(unpaired(x, x))
    with pytest.raises(ValueError, match="latent_dim must be that of the autoencoder"):
        TransportTranslator(latent_dim=3).fit(paired(x, x), autoencoder=Identity(latent_dim=4))
