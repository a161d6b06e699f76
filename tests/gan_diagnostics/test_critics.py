"""Critics against distances, directions and slopes that are known."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm

import aeot
from aeot.gan import losses
from aeot.gan_diagnostics import critics
from aeot.training import Diverged

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


def test_draws_of_any_make_are_taken_and_each_is_checked():
    disk = aeot.UniformBall(dim=2)  # in float64

    def narrow(n, stream):
        return np.zeros((n, 2 if n == 1 else 3))

    def numbers(n, stream):
        return torch.rand(n, 2, generator=stream).numpy()

    sampled = lambda n, stream: disk.sample(n, generator=stream).double()  # noqa: E731
    critic = critics.fit_critic(sampled, numbers, steps=2, hidden=8, where=sampled)
    assert next(critic.parameters()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"fake\(n, stream\) must have 2 columns, got 3"):
        critics.fit_critic(sampled, narrow, steps=2, hidden=8)
    with pytest.raises(ValueError, match="penalty must be a finite number > 0, got 0"):
        critics.corrected(1.0, 0.0)


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


@pytest.mark.parametrize("lines", [1, 3, 5])
def test_several_parallel_lines_diverge_unless_they_fall_on_each_other(lines):
    """Moved by t they are at distance t; only whole t below their number let them overlap."""
    for gap in (0.5, 1.0, 2.0):
        first, second = critics.parallel_lines(gap, lines=lines)
        x, y = (
            draw(60_000, torch.Generator().manual_seed(s)) for s, draw in ((0, first), (1, second))
        )
        assert aeot.metrics.wasserstein1(x[:, :1], y[:, :1]) == pytest.approx(gap, abs=0.05)
        p, q = (torch.histc(2 * z[:, 0], 21, -0.5, 20.5) for z in (x, y))  # a bin for each half
        shared = max(lines - gap, 0) / lines if gap == int(gap) else 0
        wanted = math.log(2) * (1 - shared)
        assert critics.jensen_shannon(p, q) == pytest.approx(wanted, abs=1e-3)
        assert float(x[:, 1].mean()) == pytest.approx(0.5, abs=0.01)


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


def unit_square(left):
    box = aeot.UniformBox(low=[left, 0.0], high=[left + 1, 1.0])
    return lambda n, stream: box.sample(n, generator=stream)


def test_slope_is_one_in_the_gap_between_islands_and_clipping_bends_it():
    first, second = unit_square(0.0), unit_square(3.0)  # with a gap of 2 between them
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


def test_of_parallel_edges_the_shortest_counts():
    for edges in ([[0, 1], [0, 1]], [[0, 1], [1, 0]]):
        for lengths in ([1.0, 3.0], [3.0, 1.0]):
            assert critics.shortest_paths(2, edges, lengths)[0, 1] == 1
    # Against Floyd and Warshall, on a graph where most pairs of nodes have several edges.
    stream = torch.Generator().manual_seed(3)
    n = 6
    edges = torch.randint(n, (60, 2), generator=stream)
    lengths = torch.rand(60, generator=stream, dtype=torch.float64) + 0.1
    by_hand = torch.full((n, n), math.inf, dtype=torch.float64).fill_diagonal_(0)
    for (i, j), length in zip(edges.tolist(), lengths.tolist(), strict=True):
        by_hand[i, j] = by_hand[j, i] = min(float(by_hand[i, j]), length)
    for k, i, j in itertools.product(range(n), repeat=3):
        by_hand[i, j] = min(float(by_hand[i, j]), float(by_hand[i, k] + by_hand[k, j]))
    distances = critics.shortest_paths(n, edges, lengths)
    torch.testing.assert_close(distances, by_hand)
    # The penalty on edges knows the same metric: distances cost nothing, steeper values do.
    for values in distances:
        assert float(losses.edge_penalty(values, edges, lengths)) == pytest.approx(0, abs=1e-12)
        assert float(losses.edge_penalty(1.1 * values, edges, lengths)) > 1e-5


def line(n, stream):
    return torch.rand(n, 2, generator=stream)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": -1}, "steps must be a whole number >= 0"),
        ({"penalty": -1.0}, "penalty must be a finite number >= 0"),
        ({"penalty": math.nan}, "penalty must be a finite number >= 0"),
        ({"penalty": 0, "where": "bad"}, "where must be one of"),
        ({"clip": 0.01}, "clip must be None beside a penalty, got 0.01; pass penalty=0"),
        ({"clip": -0.01, "penalty": 0}, "clip must be a finite number > 0"),
        ({"rate": 0.0}, "rate must be a finite number > 0"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1"),
        (
            {"fake": torch.zeros(4, 2)},
            "fake must be callable as draw.*Tensor of.*; for points x",
        ),
        ({"fake": lambda n, stream: torch.zeros(n, 3)}, "fake.* must have 2 columns, got 3"),
    ],
)
def test_a_critic_refuses_what_it_cannot_train_with(wrong, message):
    with pytest.raises(ValueError, match=message):
        critics.fit_critic(**({"real": line, "fake": line, "steps": 2} | wrong))


def test_a_critic_that_diverges_says_so():
    far = lambda n, s: 1e20 * line(n, s)  # noqa: E731 - after one step scores leave float32
    with pytest.raises(Diverged, match="loss became .* at step 1; lower rate"):
        critics.fit_critic(far, far, rate=1e6, steps=5, penalty=0)
    with pytest.raises(Diverged, match="last step"):
        critics.fit_critic(far, far, rate=1e6, steps=1, penalty=0)


def test_toys_refuse_what_their_docstrings_exclude():
    for call, message in [
        (lambda: critics.parallel_lines(math.nan), "gap must be a finite number"),
        (lambda: critics.parallel_lines(1.0, dim=1), "dim must be a whole number >= 2"),
        (lambda: critics.parallel_lines(1.0, lines=0), "lines must be a whole number >= 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_histograms_may_be_lists_and_must_hold_mass():
    p, q = [5, 3, 2], [1, 1, 8]
    assert critics.jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q) ** 2)
    for wrong in (0, [0.0, 0.0, 0.0], [2.0, -1.0, 1.0]):
        with pytest.raises(ValueError, match="p must hold masses >= 0, at least one"):
            critics.jensen_shannon(wrong, q)
    with pytest.raises(ValueError, match=r"q must have the shape of p, \(3,\)"):
        critics.jensen_shannon(p, [1.0])


def test_graph_critic_takes_lists_and_refuses_what_is_no_graph():
    edges, lengths = [[0, 1], [1, 2]], [1.0, 2.0]
    values = critics.graph_critic([1, 0, 0], [0, 0, 1], edges, lengths, steps=1500, rate=0.05)
    assert float(values[0] - values[2]) == pytest.approx(3, rel=0.01)  # all the mass, all the way
    for wrong, message in [
        ({"p": [1.0, -1.0, 0.0]}, "p must hold masses >= 0"),
        ({"q": [1.0, 1.0]}, "q must have the shape of p"),
        ({"lengths": [1.0]}, r"lengths must have shape \(2,\), one per edge"),
        ({"edges": [[0, 1], [1, 3]]}, r"edges must hold indices from 0 to 2, got \[1.0, 3.0\]"),
        ({"edges": [0, 1]}, "edges must have shape"),
        ({"penalty": -1.0}, "penalty must be a finite number > 0"),
    ]:
        right = {"p": [1, 0, 0], "q": [0, 0, 1], "edges": edges, "lengths": lengths, "steps": 1}
        with pytest.raises(ValueError, match=message):
            critics.graph_critic(**(right | wrong))
    with pytest.raises(ValueError, match="lengths must have shape"):
        critics.shortest_paths(3, edges, [1.0])
