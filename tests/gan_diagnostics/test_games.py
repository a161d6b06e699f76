"""Game dynamics against eigenvalues worked out by hand."""

import math

import pytest
import torch

from aeot.gan_diagnostics import games


def eigenvalues(matrix):
    return sorted(torch.linalg.eigvals(matrix).tolist(), key=lambda z: (z.real, z.imag))


def test_the_bare_game_is_a_rotation():
    assert eigenvalues(games.flow_matrix()) == pytest.approx([-1j, 1j])


@pytest.mark.parametrize("rate", [0.1, 0.7, 1.9])
def test_moduli_of_the_update_rules(rate):
    radius = {m: games.spectral_radius(games.step_matrix(m, rate)) for m in games.METHODS}
    assert radius["simultaneous"] == pytest.approx(math.sqrt(1 + rate**2))
    assert radius["alternating"] == pytest.approx(1)
    assert radius["extragradient"] == pytest.approx(math.sqrt(1 - rate**2 + rate**4))


def test_alternating_steps_escape_beyond_rate_two():
    assert games.spectral_radius(games.step_matrix("alternating", 2.1)) > 1.5


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (3.0, 0.1), (0.0, 1.0), (-0.3, 0.5)])
def test_regularised_flow_has_the_stated_eigenvalues(alpha, beta):
    root = complex((alpha - beta) ** 2 / 4 - 1) ** 0.5
    wanted = sorted(
        [-(alpha + beta) / 2 - root, -(alpha + beta) / 2 + root], key=lambda z: (z.real, z.imag)
    )
    found = eigenvalues(games.flow_matrix(alpha=alpha, beta=beta))
    assert found == pytest.approx(wanted, abs=1e-7)
    stable = max(z.real for z in found) < 0
    assert stable == (alpha + beta > 0 and alpha * beta > -1)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_equal_regularisers_converge_below_the_known_rate(alpha):
    limit = 2 * alpha / (1 + alpha**2)
    for factor, converges in ((0.99, True), (1.01, False)):
        matrix = games.step_matrix("simultaneous", factor * limit, alpha=alpha, beta=alpha)
        assert (games.spectral_radius(matrix) < 1) == converges


@pytest.mark.parametrize("method", games.METHODS)
def test_matrices_are_the_updates_they_stand_for(method):
    alpha, beta, rate = 0.3, 0.2, 0.1
    g, d = 0.7, -1.2

    def slope(g, d):  # of the loss, descended in g and ascended in d
        return d + alpha * g, g - beta * d

    if method == "simultaneous":
        a, b = slope(g, d)
        wanted = g - rate * a, d + rate * b
    elif method == "alternating":
        moved = g - rate * slope(g, d)[0]
        wanted = moved, d + rate * slope(moved, d)[1]
    else:
        a, b = slope(g, d)
        a, b = slope(g - rate * a, d + rate * b)
        wanted = g - rate * a, d + rate * b
    matrix = games.step_matrix(method, rate, alpha=alpha, beta=beta)
    assert (matrix @ matrix.new_tensor([g, d])).tolist() == pytest.approx(wanted)


def test_one_centred_penalty_never_settles_on_the_data():
    circling = games.dirac_wgan_gp(0.1, 4000, penalty=0.1)[-500:, 0]
    assert float(circling.max()) > 0.5
    assert float(circling.min()) < -0.5
    resting = games.dirac_wgan_gp(0.05, 4000, critic_steps=5, penalty=1.0)
    assert resting[-1].tolist() == pytest.approx([2.0, 0.0], abs=1e-6)
    # The zero-centred penalty does settle.
    quiet = games.step_matrix("simultaneous", 0.05, beta=1.0).matrix_power(4000)
    assert float(quiet.norm()) < 1e-8


@pytest.mark.parametrize("beta", [0.5, 1.99, 2.0, 3.0])
def test_critical_damping_is_two(beta):
    turns = bool((torch.linalg.eigvals(games.flow_matrix(beta=beta)).imag.abs() > 1e-6).any())
    assert turns == (beta < 2)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="method must be one of"):
        games.step_matrix("newton", 0.1)


@pytest.mark.parametrize("dim", [2, 3])
def test_spectral_normalisation_damps_nothing(dim):
    d = torch.arange(1.0, dim + 1, dtype=torch.float64)

    def flow(state):  # <g, d> / |d|, descended in g and ascended in d
        g, c = state.chunk(2)
        return torch.cat([-c / c.norm(), (g - c * (g @ c) / (c @ c)) / c.norm()])

    state = torch.cat([torch.zeros(dim, dtype=torch.float64), d])
    matrix = games.spectral_flow_matrix(d)
    torch.testing.assert_close(matrix, torch.autograd.functional.jacobian(flow, state))
    found = torch.linalg.eigvals(matrix)
    assert float(found.real.abs().max()) < 1e-12
    assert float(found.imag.max()) == pytest.approx(1 / float(d.norm()))
    with pytest.raises(ValueError, match="critic must be a vector that is not zero"):
        games.spectral_flow_matrix(torch.zeros(3))
