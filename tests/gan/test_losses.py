"""Losses and penalties against closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import nn

from aeot.gan import losses

REAL = torch.tensor([2.0, -0.5, 0.3], dtype=torch.float64)
FAKE = torch.tensor([-1.0, 0.7], dtype=torch.float64)
LEVEL = torch.tensor(2.0, requires_grad=True)


def probability(score):
    return 1 / (1 + np.exp(-score.numpy()))


def test_scores_are_logits_of_the_published_losses():
    good, bad = probability(REAL), probability(FAKE)
    critic = -np.log(good).mean() - np.log(1 - bad).mean()
    assert float(losses.logistic_critic_loss(REAL, FAKE)) == pytest.approx(critic)
    minimax, nonsaturating = np.log(1 - bad).mean(), -np.log(bad).mean()
    assert float(losses.minimax_generator_loss(FAKE)) == pytest.approx(minimax)
    assert float(losses.nonsaturating_generator_loss(FAKE)) == pytest.approx(nonsaturating)
    ali = -np.log(1 - good).mean() - np.log(bad).mean()
    assert float(losses.ali_generator_loss(REAL, FAKE)) == pytest.approx(ali)


def test_logistic_losses_survive_scores_that_overflow_a_sigmoid():
    far = torch.tensor([200.0])
    assert float(losses.logistic_critic_loss(-far, far)) == pytest.approx(400)
    assert float(losses.nonsaturating_generator_loss(-far)) == pytest.approx(200)


def test_other_losses():
    squares = ((REAL - 1) ** 2).mean() / 2 + (FAKE**2).mean() / 2
    assert float(losses.least_squares_critic_loss(REAL, FAKE)) == pytest.approx(float(squares))
    squares = ((FAKE - 1) ** 2).mean() / 2
    assert float(losses.least_squares_generator_loss(FAKE)) == pytest.approx(float(squares))
    # The critic that is larger on data has the smaller loss, and minus it is the estimate.
    assert float(losses.wasserstein_critic_loss(REAL, FAKE)) == pytest.approx(-0.6 - 0.15)
    assert float(losses.wasserstein_generator_loss(FAKE)) == pytest.approx(0.15)


def test_best_discriminator_makes_the_jensen_shannon_divergence():
    # Ten rows on each side, on three places; the best score is log p - log q, the loss then
    # 2 log 2 - 2 JS, and every other score does worse.
    p, q = torch.tensor([5, 3, 2]), torch.tensor([1, 1, 8])
    score = (p.double() / q).log()

    def loss(score):
        return float(
            losses.logistic_critic_loss(score.repeat_interleave(p), score.repeat_interleave(q))
        )

    divergence = jensenshannon(p, q) ** 2  # its square root is a metric
    assert loss(score) == pytest.approx(2 * math.log(2) - 2 * divergence)
    for i, step in itertools.product(range(3), (-0.1, 0.1)):
        assert loss(score + step * nn.functional.one_hot(torch.tensor(i), 3)) > loss(score)


@pytest.mark.parametrize("where", ["mixed", "real", "fake"])
@pytest.mark.parametrize("shape", [(6, 4), (6, 1, 2, 2)])
def test_linear_critic_has_the_closed_form_penalty(where, shape):
    w = torch.tensor([3.0, 0.0, 4.0, 12.0])
    stream = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, *shape, generator=stream)
    points = losses.interpolate(real, fake, where=where, generator=stream)
    penalty, facts = losses.gradient_penalty(lambda x: x.flatten(1) @ w, points, weight=10)
    assert facts == {"gradient_norm": pytest.approx(13)}
    assert float(penalty) == pytest.approx(10 * (13 - 1) ** 2)


def test_one_sided_penalty_lets_small_slopes_go():
    norms = torch.tensor([0.5, 1.0, 3.0])
    assert float(losses.slope_penalty(norms, weight=6, one_sided=True)) == pytest.approx(6 * 4 / 3)
    assert float(losses.slope_penalty(norms, weight=6)) == pytest.approx(6 * 4.25 / 3)


def test_interpolates_take_one_fraction_per_sample():
    real, fake = torch.zeros(1000, 1, 3, 3), torch.ones(1000, 1, 3, 3)
    points = losses.interpolate(real, fake, generator=torch.Generator().manual_seed(0))
    assert float(points.flatten(1).std(1).max()) == pytest.approx(0, abs=1e-6)
    share = points[:, 0, 0, 0]
    assert float(share.mean()) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 1000))
    assert float(share.var()) == pytest.approx(1 / 12, rel=0.15)
    with pytest.raises(ValueError, match="fake must have the shape of real"):
        losses.interpolate(real, fake[:5])


def test_penalty_has_the_right_derivative():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(2, 5), nn.Softplus(), nn.Linear(5, 1)).double()
    points = torch.randn(7, 2, dtype=torch.float64)

    def value():
        return losses.slope_penalty(losses.gradient_norms(critic, points))

    value().backward()
    weight = critic[0].weight
    slope, step = weight.grad[1, 1].item(), 1e-5
    with torch.no_grad():
        weight[1, 1] += step
        above = float(value())
        weight[1, 1] -= 2 * step
        below = float(value())
    assert slope == pytest.approx((above - below) / (2 * step), rel=1e-6)


def test_zero_gradient_has_a_finite_penalty_and_derivative():
    critic = nn.Linear(3, 1)
    nn.init.zeros_(critic.weight)
    penalty, _ = losses.gradient_penalty(critic, torch.zeros(4, 3))
    penalty.backward()
    assert penalty.item() == pytest.approx(10, rel=1e-4)
    assert bool(torch.isfinite(critic.weight.grad).all())


def test_penalty_stays_in_float32_under_autocast():
    critic = nn.Linear(3, 1)
    with torch.no_grad():
        critic.weight[:] = torch.tensor([[0.1234567, 1.0, 0.7654321]])
    with torch.autocast("cpu", torch.bfloat16):
        norms = losses.gradient_norms(critic, torch.zeros(2, 3))
    assert norms.dtype == torch.float32
    assert float(norms[0]) == pytest.approx(float(critic.weight.norm()), rel=1e-6)


def test_slopes_of_points_that_are_numbers():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    slopes = losses.gradient_norms(lambda x: x**3, x).detach()
    assert slopes.numpy() == pytest.approx(3 * x.numpy() ** 2, abs=1e-6)
    # As a column, they are the same points.
    column = losses.gradient_norms(lambda x: x[:, 0] ** 3, x[:, None]).detach()
    torch.testing.assert_close(slopes, column)


@pytest.mark.parametrize("constant", [lambda x: torch.ones(len(x)), lambda x: LEVEL.expand(len(x))])
def test_a_constant_critic_has_slope_zero(constant):
    x = torch.randn(6, 3)
    assert float(losses.gradient_norms(constant, x).max()) == pytest.approx(0, abs=1e-5)
    penalty, _ = losses.gradient_penalty(constant, x, weight=7.0)
    assert float(penalty) == pytest.approx(7, rel=1e-4)  # weight (0 - 1)^2


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_a_penalty_has_no_negative_weight(weight):
    x, edges = torch.randn(6, 3), torch.tensor([[0, 1]])
    calls = [
        lambda: losses.gradient_penalty(lambda x: x.sum(1), x, weight=weight),
        lambda: losses.slope_penalty(x[:, 0], weight=weight),
        lambda: losses.edge_penalty(x[:, 0], edges, torch.ones(1), weight=weight),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="weight must be a finite number >= 0"):
            call()


def test_groups_count_alike_and_are_reported():
    # f(x, y) = s_y <w, x>: the penalty is the mean over groups of (|s_y| |w| - 1)^2.
    w, scale = torch.tensor([0.6, 0.8]), torch.tensor([1.0, 3.0, -2.0])
    group = torch.tensor([0] * 6 + [1] + [2] * 3)
    x = torch.randn(10, 2)

    def critic(x, y):
        return scale[y] * (x @ w)

    penalty, facts = losses.gradient_penalty(critic, x, group, weight=5, groups=group)
    assert float(penalty) == pytest.approx(5 * (0 + 4 + 1) / 3, rel=1e-5)
    names = ("gradient_norm_0", "gradient_norm_1", "gradient_norm_2", "gradient_norm")
    assert facts == pytest.approx(dict(zip(names, (1, 3, 2, 1.5), strict=True)), rel=1e-5)
    # One penalty for all hides the rare steep group.
    assert float(losses.gradient_penalty(critic, x, group, weight=5)[0]) < float(penalty)


def test_dragan_points_stay_above_the_data_by_at_most_half_a_deviation():
    real = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    moved = losses.perturb(real, generator=torch.Generator().manual_seed(1)) - real
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 0.5 * float(real.std(correction=0))
    # The mean of a product of two independent uniforms is a quarter.
    wanted = 0.25 * 0.5 * float(real.std(correction=0))
    assert float(moved.mean()) == pytest.approx(wanted, rel=0.1)


def test_edge_penalty_vanishes_exactly_for_lipschitz_values():
    edges, lengths = torch.tensor([[0, 1], [1, 2], [2, 0]]), torch.tensor([1.0, 2.0, 5.0])
    assert float(losses.edge_penalty(torch.tensor([0.0, 1.0, 3.0]), edges, lengths)) == 0
    steep = losses.edge_penalty(torch.tensor([0.0, 2.0, 3.0]), edges, lengths, weight=3.0)
    assert float(steep) == pytest.approx(3 * 1 / 3)


def test_packing_joins_rows_of_equal_parts():
    samples = torch.arange(12.0).view(6, 2)
    packed = losses.pack(samples, 3)
    assert packed.tolist() == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
    assert losses.pack(torch.zeros(4, 1, 8, 8), 2).shape == (2, 2, 8, 8)
    with pytest.raises(ValueError, match="multiple of 4 rows"):
        losses.pack(samples, 4)


def test_clipping_and_spectral_norm_bound_what_they_say():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    losses.clip_weights(net, 0.01)
    assert max(float(p.abs().max()) for p in net.parameters()) == pytest.approx(0.01)
    for p in net.parameters():
        nn.init.normal_(p)
    losses.spectral_normalise(net)
    net(torch.randn(1, 2, 4, 4))
    for _ in range(200):  # one power iteration each
        net(torch.randn(1, 2, 4, 4))
    for layer in (net[0], net[2]):
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert float(largest) == pytest.approx(1, rel=1e-3)


def test_equilibrium_moves_towards_the_ratio_and_stays_in_the_unit_interval():
    assert losses.equilibrium(0.5, 2.0, 1.0, ratio=0.75, rate=0.1) == pytest.approx(0.55)
    assert losses.equilibrium(0.0, 1.0, 5.0) == 0
    assert losses.equilibrium(1.0, 9.0, 0.0) == 1
