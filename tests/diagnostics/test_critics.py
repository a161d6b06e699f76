"""Critics against distances, directions and slopes that are known."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from aeot.diagnostics import critics

X = torch.linspace(-9, 11, 4001, dtype=torch.float64)
GAP = torch.from_numpy(norm.cdf(X) - norm.cdf(X, 1, 2)).abs()  # of the distribution functions
W_GAUSSIANS = float(torch.trapezoid(GAP, X))  # between N(0, 1) and N(1, 4): 1.16663


def gaussian(mean, std):
    return lambda n, stream: mean + std * torch.randn(n, 1, generator=stream)


def along_the_gap(n, stream):
    """Points of density |D| / W, where the penalty inflates least."""
    mass = GAP.cumsum(0) / GAP.sum()
    at = torch.searchsorted(mass, torch.rand(n, 1, generator=stream, dtype=torch.float64))
    return X[at.clamp(max=len(X) - 1)].float()


def fitted(penalty, where, **size):
    real, fake = gaussian(1, 2), gaussian(0, 1)
    critic = critics.fit_critic(
        real, fake, penalty=penalty, where=where, steps=500, batch_size=256, leak=0.2, **size
    )
    stream = torch.Generator().manual_seed(1)
    return critics.estimate(critic, real(400_000, stream), fake(400_000, stream))


@pytest.mark.parametrize("penalty", [10.0, 100.0])
def test_penalty_inflates_the_estimate_by_the_known_amount(penalty):
    value = fitted(penalty, along_the_gap, hidden=32, rate=1e-2)
    inflated = W_GAUSSIANS * (1 + W_GAUSSIANS / (2 * penalty))
    assert value == pytest.approx(inflated, rel=0.03)
    assert critics.corrected(value, penalty) == pytest.approx(W_GAUSSIANS, rel=0.03)
    if penalty == 100.0:
        assert value == pytest.approx(W_GAUSSIANS, rel=0.05)


@pytest.mark.parametrize("penalty", [10.0, 100.0])
def test_penalty_on_random_pairs_inflates_more(penalty):
    # The density of a X + (1 - a) Y is a mixture of normals over a.
    a = torch.linspace(0, 1, 401, dtype=torch.float64)
    density = norm.pdf(X[:, None], a, torch.sqrt(4 * a**2 + (1 - a) ** 2))
    density = torch.trapezoid(torch.from_numpy(density), a, dim=1)
    optimum = W_GAUSSIANS + float(torch.trapezoid(GAP**2 / density, X)) / (2 * penalty)
    assert optimum > W_GAUSSIANS * (1 + W_GAUSSIANS / (2 * penalty))
    value = fitted(penalty, "mixed", hidden=64, rate=5e-3)
    assert value == pytest.approx(optimum, rel=0.04)
    if penalty == 100.0:
        assert value == pytest.approx(W_GAUSSIANS, rel=0.05)


def test_translation_turns_the_critic_against_the_shift():
    shift = torch.tensor([3.0, 4.0])
    cloud = lambda n, stream: torch.randn(n, 2, generator=stream)  # noqa: E731
    moved = lambda n, stream: cloud(n, stream) + shift  # noqa: E731
    critic = critics.fit_critic(cloud, moved, steps=300, hidden=64, rate=3e-3)
    points = moved(500, torch.Generator().manual_seed(1))
    # Larger on the data, which lie behind the samples: minus the slope points along the shift.
    assert float(critics.alignment(critic, points, shift).mean()) > 0.99
    lengths = critics.slopes(critic, points).norm(dim=1)
    assert float(lengths.mean()) == pytest.approx(1 + 5 / 20, abs=0.1)


def test_alignment_of_a_linear_critic_is_exact():
    critic = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        critic.weight[:] = torch.tensor([[0.0, -2.0]])
    cosine = critics.alignment(critic, torch.randn(5, 2), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(cosine, torch.ones(5))


def test_jensen_shannon_is_log_two_on_parallel_lines_whatever_the_gap():
    for gap in (0.1, 1.0, 5.0):
        first, second = critics.parallel_lines(gap)
        x, y = (draw(4000, torch.Generator().manual_seed(0)) for draw in (first, second))
        bins = np.linspace(-1, 6, 701)
        p, q = (torch.from_numpy(np.histogram(s[:, 0], bins)[0]) for s in (x, y))
        assert critics.jensen_shannon(p, q) == pytest.approx(math.log(2))
    p = torch.tensor([0.2, 0.3, 0.5])
    assert critics.jensen_shannon(p, 7 * p) == pytest.approx(0, abs=1e-12)


def test_discriminator_saturates_where_the_critic_reports_the_gap():
    stream = torch.Generator().manual_seed(1)
    estimates, slopes = [], []
    for gap in (1.0, 3.0):
        line, other = critics.parallel_lines(gap)
        judge = critics.fit_critic(
            line, other, objective="logistic", penalty=0, steps=150, hidden=32, rate=1e-2
        )
        state = critics.saturation(judge, line(2000, stream), other(2000, stream))
        assert state["jensen_shannon"] == pytest.approx(math.log(2), abs=0.01)
        slopes.append(state["minimax_slope"])
        critic = critics.fit_critic(line, other, penalty=10, steps=200, hidden=32, rate=3e-3)
        estimates.append(critics.estimate(critic, line(2000, stream), other(2000, stream)))
    assert max(slopes) < 0.02  # the minimax generator learns nothing from either
    for gap, value in zip((1.0, 3.0), estimates, strict=True):
        assert value == pytest.approx(gap * (1 + gap / 20), rel=0.06)


def test_slope_is_one_in_the_gap_between_islands_and_clipping_bends_it():
    first, second = critics.two_islands(2.0)
    across = torch.stack([torch.linspace(1.1, 2.9, 50), torch.full((50,), 0.5)], dim=1)
    critic = critics.fit_critic(first, second, penalty=10, steps=300, hidden=64, rate=3e-3)
    lengths = critics.slopes(critic, across).norm(dim=1)
    # W = 3, so that the penalised optimum has slope 1 + 3 / 20 there.
    assert float(lengths.mean()) == pytest.approx(1.15, abs=0.1)
    stream = torch.Generator().manual_seed(0)
    clipped = critics.fit_critic(first, second, clip=0.01, penalty=0, steps=300, hidden=64)
    x, y = first(2000, stream), second(2000, stream)
    assert critics.estimate(clipped, x, y) < 0.1 * 3
    assert critics.estimate(critic, x, y) == pytest.approx(3.45, rel=0.05)


def test_graph_critic_finds_the_distance_of_the_shortest_path_metric():
    ot = pytest.importorskip("ot")
    stream = torch.Generator().manual_seed(0)
    n = 12
    tree = torch.tensor([[i, int(torch.randint(i, (1,), generator=stream))] for i in range(1, n)])
    edges = torch.cat([tree, torch.randint(n, (6, 2), generator=stream)])
    edges = edges[edges[:, 0] != edges[:, 1]]
    lengths = torch.rand(len(edges), generator=stream) + 0.2
    p, q = torch.rand(2, n, generator=stream)
    values = critics.graph_critic(p, q, edges, lengths, steps=1500, rate=0.05)
    p, q = p.double() / p.sum(), q.double() / q.sum()
    exact = ot.emd2(p.numpy(), q.numpy(), critics.shortest_paths(n, edges, lengths).numpy())
    assert float((p - q) @ values) == pytest.approx(exact, rel=0.02)
    steep = (values[edges[:, 0]] - values[edges[:, 1]]).abs() / lengths
    assert float(steep.max()) < 1.05


def test_shortest_paths_by_hand():
    edges, lengths = torch.tensor([[0, 1], [1, 2], [0, 2], [2, 3]]), torch.tensor([1.0, 1, 5, 2])
    distances = critics.shortest_paths(5, edges, lengths)
    assert distances[0, :4].tolist() == [0, 1, 2, 4]
    assert distances[3, 0] == 4
    assert math.isinf(distances[0, 4])
    with pytest.raises(ValueError, match="several pieces"):
        critics.graph_critic(torch.ones(5), torch.ones(5), edges, lengths)
    with pytest.raises(ValueError, match="lengths must be positive"):
        critics.shortest_paths(4, edges, lengths - 1)
