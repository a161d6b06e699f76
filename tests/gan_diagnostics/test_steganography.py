"""The suite on its two controls, whose answers are known in closed form."""

import pytest
import torch

from aeot.data import filters
from aeot.gan_diagnostics import steganography as st


def smooth(count=6, size=32, seed=0):
    """Images without frequencies above 1/8, in (-1, 1)."""
    noise = torch.randn(count, 1, size, size, dtype=torch.float64,
                        generator=torch.Generator().manual_seed(seed))  # fmt: skip
    images = filters.low_pass(noise, 0.125)
    return 0.9 * images / images.abs().amax(dim=(1, 2, 3), keepdim=True)


@pytest.fixture(scope="module")
def cheat():
    return (*st.cheating_pair(0.5), smooth(60))


def test_cheating_pair_closes_the_cycle_and_dies_of_rounding(cheat):
    to_b, to_a, x = cheat
    q = float(x.square().mean())
    errors = st.drops(to_b, to_a, x)
    assert errors["clean"] < 1e-20
    assert errors["8-bit"] == pytest.approx(q, rel=1e-9)  # the way back sees flat grey, answers 0
    assert errors["jpeg"] == pytest.approx(q, rel=1e-9)
    assert float((to_b(x) - to_b(x).mean()).abs().max()) < filters.STEP / 2  # nothing to be seen


def test_cheating_pair_is_maximally_sensitive(cheat):
    to_b, to_a, x = cheat
    found = st.sensitivity(to_b, to_a, x, levels=(1, 4, 8))
    # A normal wrapped at its own deviation is uniform to 1e-8, and independent of x: the answer is
    # uniform on (-1/amplitude, 1/amplitude), of variance 1 / (3 amplitude^2).
    wanted = 1 / (3 * 0.5**2) + float(x.square().mean())
    assert found["curve"] == pytest.approx([wanted] * 3, rel=0.03)  # 61 440 pixels: 0.5 %
    area = (0.5 + 3 + 4) * wanted
    assert found["integral"] == pytest.approx(area, rel=0.03)


def test_cheating_pair_speaks_through_detail_alone(cheat):
    to_b, to_a, x = cheat
    q = float(x.square().mean())
    curve = st.low_pass_curve(to_b, to_a, x, cutoffs=(0.71, 0.25))
    assert curve["cycle"] == pytest.approx([0.0, q], abs=1e-12)
    assert curve["direct"] == pytest.approx([0.0, 0.0], abs=1e-12)
    found = st.swap(to_b, to_a, x, x.roll(1, 0))
    assert found["detail"] < 1e-12
    assert found["leak"] == pytest.approx(1, abs=1e-9)
    # Flat grey, which looks just like every translation, gives nothing back: dishonest.
    grey = torch.full_like(x, 127 * filters.STEP - 1)
    assert st.honesty(to_b, to_a, x, grey) == pytest.approx({"real": q, "cycle": 0, "gap": q})


def test_linear_pair_follows_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.eye(64).double() + 0.2 * torch.randn(64, 64, generator=generator).double()
    to_b, to_a = st.linear_pair(matrix)
    x = torch.rand(8000, 1, 8, 8, generator=generator).double() * 2 - 1
    found = st.sensitivity(to_b, to_a, x, levels=(1, 3, 8))
    norm = float(torch.linalg.inv(matrix).square().sum())
    wanted = [norm * (level * filters.STEP) ** 2 / 64 for level in (1, 3, 8)]
    assert found["curve"] == pytest.approx(wanted, rel=0.05)  # one direction dominates: 1.6 %
    # The same noise scaled: exactly quadratic in the level.
    assert found["curve"][1] == pytest.approx(9 * found["curve"][0], rel=1e-9)
    errors = st.drops(to_b, to_a, 0.1 * x)
    assert errors["clean"] < 1e-20
    # Rounding is uniform noise of variance step^2 / 12, and passes through the same matrix.
    assert errors["8-bit"] == pytest.approx(norm * filters.STEP**2 / 12 / 64, rel=0.05)
    assert st.honesty(to_b, to_a, x, to_b(x))["gap"] == pytest.approx(0, abs=1e-12)


def test_honest_identity_returns_what_is_visible():
    x = smooth()
    found = st.swap(lambda v: v, lambda v: v, x, x.roll(1, 0))
    assert found["visible"] < 1e-12
    assert found["leak"] < 1e-12


def test_examine_runs_everything():
    x = smooth(3, 16)
    found = st.examine(lambda v: v, lambda v: v, x, partners=x)
    assert set(found) == {"drops", "sensitivity", "low_pass", "swap", "honesty"}
    assert found["honesty"]["gap"] == 0
    with pytest.raises(ValueError, match="at least 2 images"):
        st.examine(lambda v: v, lambda v: v, x[:1])
    with pytest.raises(ValueError, match="3 partners"):
        st.honesty(lambda v: v, lambda v: v, x, x[:2])


@pytest.mark.parametrize("levels", [[4, 2, 1], [0, 1], [1, 1]])
def test_levels_rise(levels):
    with pytest.raises(ValueError, match="levels must rise from above 0"):
        st.sensitivity(*st.cheating_pair(0.5), smooth(2), levels=levels)
