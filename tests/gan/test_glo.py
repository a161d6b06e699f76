"""Codes learned with their generator: where they lie, at which rates they move."""

import pytest
import torch

from aeot import GLO
from aeot.data import tensors


def test_glo_learns_codes_and_keeps_them_on_the_sphere():
    rows = tensors(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))
    glo = GLO(latent_dim=4, width=32, batch_size=20, halve_every=100).fit(rows, steps=200)
    codes = glo.codes_(torch.arange(40))
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(40))
    assert glo.history_[-1]["misfit"] < 0.6 * float(rows[:].abs().mean())
    drawn = glo._latent(2000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(2000))
    # The fitted Gaussian keeps the mean of the codes, up to the projection to the sphere.
    apart = (drawn.mean(0) - codes.detach().mean(0)).norm()
    assert float(apart) < 0.15


def test_glo_halves_both_rates_by_epochs():
    # 40 rows in batches of 20: two steps are an epoch, and each second epoch halves.
    rows = tensors(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))
    glo = GLO(latent_dim=4, width=8, batch_size=20, halve_every=2)
    rates = []

    def note(step, record):
        rates.append([group["lr"] for group in glo._mover.param_groups])

    glo.fit(rows, steps=9, on_step=note)
    factors = [1, 1, 1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 4]
    assert rates == [pytest.approx([1e-3 * f, 1e-2 * f]) for f in factors]


def test_codes_of_one_row_have_no_spread():
    with pytest.raises(ValueError, match="data must hold at least two rows, got 1"):
        GLO(latent_dim=2).fit(torch.zeros(1, 3), steps=1)
