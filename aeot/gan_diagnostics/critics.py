"""What a critic has learned: distances, directions, slopes, and where it saturates."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.sparse.csgraph import dijkstra
from torch import nn
from torch.nn.functional import softplus

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot._rng import forked, generator
from aeot.gan import losses
from aeot.networks.discriminators import MLPCritic
from aeot.training import Diverged

Draw = Callable[[int, torch.Generator], torch.Tensor]


@plain_torch(grad=True)
def fit_critic(
    real: Draw,
    fake: Draw,
    *,
    objective: str = "wasserstein",
    penalty: float = 10.0,
    where: str | Draw = "mixed",
    clip: float | None = None,
    steps: int = 1000,
    batch_size: int = 256,
    hidden: int = 128,
    leak: float = 0.0,
    rate: float = 1e-3,
    seed: int = 0,
) -> MLPCritic:
    """Train a critic between two fixed distributions.

    Args:
        real: ``draw(n, stream)`` returns points (n, d), each time others.
        fake: The same for the other side.
        objective: "wasserstein" or "logistic" (a GAN's discriminator).
        penalty: Weight of the two-sided gradient penalty; 0 for none, as with `clip`. It grows to
            this value over the first half: under a strong penalty a slope that begins with the
            wrong sign would keep it, because on its way it has to be flat.
        where: Where slopes are penalised: "mixed", "real", "fake", or a sampler of such points.
        clip: Bound on the weights instead of a penalty, or None; it takes ``penalty=0``.
        steps: Updates; Adam's rate falls to zero along a half cosine.
        batch_size: Points of each side per update.
        hidden: Width of the three hidden layers.
        leak: Slope of its units below zero.
        rate: Adam's first rate.
        seed: Of weights and points.

    Returns:
        The critic, in eval mode, larger on `real`.

    Raises:
        ValueError: If an argument is wrong, or the two sides differ in dimension.
        aeot.training.Diverged: If the loss or the critic is no longer finite.
    """
    _check.choice("objective", objective, ("wasserstein", "logistic"))
    _check.real("penalty", penalty, minimum=0, maximum=1e12)
    if not callable(where):
        _check.choice("where", where, ("mixed", "real", "fake"))
    if clip is not None:
        _check.real("clip", clip, above=0)
        if penalty:
            raise _check.fail("clip", "be None beside a penalty", f"{clip:g}", "pass penalty=0")
    _check.integer("steps", steps, minimum=0)
    _check.integer("batch_size", batch_size)
    _check.integer("hidden", hidden)
    _check.real("leak", leak, minimum=0, maximum=1e6)
    _check.real("rate", rate, above=0, maximum=1e6)
    _check.seed("seed", seed)
    for name, draw in (("real", real), ("fake", fake)):
        way_out = "for points x write lambda n, s: x[torch.randint(len(x), (n,), generator=s)]"
        _check.function(name, draw, "draw(n, stream)", way_out)
    stream = generator(seed, "fit critic")
    first = _check.points("real(n, stream)", real(1, stream)).float()
    dim = first.shape[1]

    def drawn(name: str, draw: Draw, n: int, stream: torch.Generator) -> torch.Tensor:
        return _check.points(f"{name}(n, stream)", draw(n, stream), dim=dim).float()

    drawn("fake", fake, 1, generator(seed, "first fake"))
    way_out = "choose a smaller one"
    _check.rows("hidden", hidden, 8 * hidden + 4 * dim, way_out=way_out)
    _check.rows("batch_size", batch_size, 4 * max(dim, hidden), way_out=way_out)
    with forked(seed, "critic"):
        critic = MLPCritic(first.shape[1], hidden=hidden, leak=leak)
    mover = torch.optim.Adam(critic.parameters(), lr=rate, betas=(0.5, 0.9))
    wasserstein = objective == "wasserstein"
    loss_of = losses.wasserstein_critic_loss if wasserstein else losses.logistic_critic_loss
    for step in range(steps):
        mover.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        x = drawn("real", real, batch_size, stream)
        y = drawn("fake", fake, batch_size, stream)
        loss = loss_of(critic(x), critic(y))
        if penalty:
            if callable(where):
                points = drawn("where", where, batch_size, stream)
            else:
                points = losses.interpolate(x, y, where=where, generator=stream)
            weight = penalty * min(1.0, max(2 * step / steps, 0.05)) ** 2
            norms = losses.gradient_norms(critic, points)
            loss = loss + losses.slope_penalty(norms, weight=weight)
        value = float(loss.detach())
        if not math.isfinite(value):
            way_out = "lower rate or penalty, or check what real and fake draw"
            raise Diverged(f"the critic's loss became {value} at step {step}; {way_out}")
        mover.zero_grad()
        loss.backward()
        mover.step()
        if clip is not None:
            losses.clip_weights(critic, clip)
    if not bool(torch.isfinite(critic(first)).all()):
        raise Diverged("the critic became NaN or infinite in its last step; lower rate or penalty")
    return critic.eval()


@plain_torch()
def estimate(critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> float:
    """Return mean critic(real) - mean critic(fake): the estimate of the Wasserstein-1 distance.

    With a two-sided penalty of weight lambda the optimum is not W. In one dimension, with D the
    difference of the distribution functions and r the density of the penalised points, the best
    slope is 1 + |D| / (2 lambda r) and the estimate W + integral of D^2 / (2 lambda r). That is at
    least W (1 + W / (2 lambda)), which is reached where r is |D| / W, as between two points.

    Raises:
        ValueError: If a side holds no finite points, or `critic` cannot be called.
    """
    real, fake = _given("real", real, critic), _given("fake", fake, critic)
    with torch.no_grad():
        return float(critic(real).double().mean() - critic(fake).double().mean())


def _given(name: str, value: ArrayLike, critic: nn.Module) -> torch.Tensor:
    """Return points as the critic takes them, of its type and on its device."""
    _check.function("critic", critic, "critic(points)")
    found = _check.array(name, value).detach()
    if found.ndim < 2 or found.numel() == 0:
        got = f"shape {tuple(found.shape)}"
        raise _check.fail(name, "have shape (m, d), at least one row", got)
    like = next(critic.parameters(), found) if isinstance(critic, nn.Module) else found
    return found.to(like.device, like.dtype)


def corrected(value: float, penalty: float) -> float:
    """Return the W that solves ``W (1 + W / (2 penalty)) = value``.

    An upper bound of W for any place of the penalty, and exact for the best one (see `estimate`).

    Example:
        >>> round(corrected(1.16663 * (1 + 1.16663 / 20), 10.0), 5)
        1.16663
    """
    value, penalty = _check.real("value", value), _check.real("penalty", penalty, above=0)
    return penalty * (math.sqrt(1 + 2 * max(value, 0.0) / penalty) - 1)


@plain_torch(grad=True)
def slopes(critic: nn.Module, points: torch.Tensor) -> torch.Tensor:
    """Return the gradients of the critic at points (m, d), shape (m, d).

    Raises:
        ValueError: If there are no finite points, or `critic` cannot be called.
    """
    points = _given("points", points, critic).clone().requires_grad_()
    return torch.autograd.grad(critic(points).sum(), points)[0]


@plain_torch(grad=True)
def alignment(critic: nn.Module, points: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Return the cosine between minus the critic's gradient and given directions.

    The critic grows towards the data, so that for data moved onto samples by a vector t minus its
    gradient points along t: the cosine tends to 1.

    Args:
        critic: Maps (m, d) to scores.
        points: (m, d).
        directions: (d,) or (m, d).

    Returns:
        (m,), each in [-1, 1].

    Raises:
        ValueError: If there are no finite points, `critic` cannot be called, or the directions have
            another shape.
    """
    points = _given("points", points, critic)
    directions = _check.array("directions", directions).detach().to(points)
    if directions.shape not in (points.shape, points.shape[1:]):
        must = f"have shape {tuple(points.shape[1:])} or {tuple(points.shape)}"
        raise _check.fail("directions", must, f"shape {tuple(directions.shape)}")
    return torch.cosine_similarity(-slopes(critic, points), directions.expand_as(points), dim=1)


def _shares(p: ArrayLike, q: ArrayLike) -> list[torch.Tensor]:
    """Return two histograms of one shape in float64, each with sum 1."""
    shares = []
    for name, value in (("p", p), ("q", q)):
        mass = _check.array(name, value).double()
        if not (bool((mass >= 0).all()) and float(mass.sum()) > 0):
            got = f"a least value of {float(mass.min()):g}" if mass.numel() else "none"
            raise _check.fail(name, "hold masses >= 0, at least one of them positive", got)
        shares.append(mass / mass.sum())
    if shares[0].shape != shares[1].shape:
        way_out = "count both in the same bins"
        raise _check.fail(
            "q", f"have the shape of p, {tuple(shares[0].shape)}", tuple(shares[1].shape), way_out
        )
    return shares


@plain_torch()
def jensen_shannon(p: ArrayLike, q: ArrayLike) -> float:
    """Return the Jensen-Shannon divergence of two histograms, in nats; log 2 if disjoint.

    Args:
        p: (k,), >= 0, any positive scale.
        q: (k,), in the same bins.

    Raises:
        ValueError: If one of them holds no mass or a negative one, or their shapes differ.

    Example:
        >>> round(jensen_shannon([1.0, 0.0], [0.0, 1.0]), 6)
        0.693147
    """
    p, q = _shares(p, q)
    middle = (p + q) / 2
    parts = [torch.special.xlogy(a, a / middle.clamp(min=1e-300)).sum() for a in (p, q)]
    return float(sum(parts)) / 2


@plain_torch(grad=True)
def saturation(critic: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
    """Measure how far a GAN's discriminator has stopped to teach.

    Args:
        critic: A discriminator's scores, before the sigmoid.
        real: (m, d).
        fake: (m, d).

    Returns:
        ``jensen_shannon``: the divergence its loss implies, at most log 2 (then it separates the
        sides perfectly). ``minimax_slope`` and ``nonsaturating_slope``: mean length of the
        gradient that a sample receives from each generator loss.

    Raises:
        ValueError: If a side holds no finite points, or `critic` cannot be called.
    """
    real, fake = _given("real", real, critic), _given("fake", fake, critic)
    good, bad = critic(real), critic(fake)
    loss = float((softplus(-good).mean() + softplus(bad).mean()).detach())
    lengths = slopes(critic, fake).norm(dim=1)
    share = torch.sigmoid(bad.detach())
    return {
        "jensen_shannon": math.log(2) - loss / 2,
        "minimax_slope": float((share * lengths).mean()),
        "nonsaturating_slope": float(((1 - share) * lengths).mean()),
    }


@plain_torch()
def parallel_lines(gap: float, dim: int = 2, *, lines: int = 1) -> tuple[Draw, Draw]:
    """Segments {k} x [0, 1], k < `lines`, and the same moved by `gap`: at distance |gap|.

    Their Jensen-Shannon divergence is log 2 whatever the gap, unless lines fall on lines: at a
    whole gap below `lines` it is |gap| / `lines` of that.

    Args:
        gap: How far the second set is moved along the first axis.
        dim: At least 2.
        lines: Segments on each side, at distance 1 from each other.

    Returns:
        Samplers of the two sets.

    Raises:
        ValueError: If `gap` is not finite, `dim` below 2 or `lines` below 1.

    References:
        M. Arjovsky, S. Chintala, L. Bottou, "Wasserstein GAN", 2017, example 1, for one line.
    """
    _check.real("gap", gap)
    _check.integer("dim", dim, minimum=2)
    _check.integer("lines", lines)

    def moved(by: float) -> Draw:
        def draw(n: int, stream: torch.Generator) -> torch.Tensor:
            points = torch.rand(n, dim, generator=stream)
            points[:, 0] = (points[:, 0] * lines).long().clamp(max=lines - 1) + by
            return points

        return draw

    return moved(0.0), moved(gap)


def _graph(n: int, edges: ArrayLike, lengths: ArrayLike) -> tuple[torch.Tensor, torch.Tensor]:
    """Return checked edges, int64 (k, 2), and their lengths, float64 (k,)."""
    pairs = _check.points("edges", edges, dim=2, min_rows=0)
    bad = ((pairs < 0) | (pairs >= n) | (pairs != pairs.round())).any(1)
    if bool(bad.any()):
        raise _check.fail("edges", f"hold indices from 0 to {n - 1}", pairs[bad][0].tolist())
    lengths = _check.array("lengths", lengths).double()
    if lengths.shape != (len(pairs),):
        got = f"shape {tuple(lengths.shape)}"
        raise _check.fail("lengths", f"have shape ({len(pairs)},), one per edge", got)
    if not bool((lengths > 0).all()):
        raise _check.fail("lengths", "be positive", float(lengths.min()))
    return pairs.long(), lengths


@plain_torch()
def shortest_paths(n: int, edges: ArrayLike, lengths: ArrayLike) -> torch.Tensor:
    """Return all distances along an undirected graph, float64 (n, n); infinity if unconnected.

    Args:
        n: Number of nodes.
        edges: (k, 2) node indices; of several edges between two nodes the shortest counts.
        lengths: (k,), positive.

    Raises:
        ValueError: If a length is not positive, an index out of range, or their numbers differ.

    Example:
        >>> shortest_paths(2, [[0, 1], [1, 0]], [3.0, 1.0])
        tensor([[0., 1.],
                [1., 0.]], dtype=torch.float64)
    """
    way_out = "all distances are n x n numbers: choose a smaller graph"
    n = _check.rows("n", n, 2 * _check.integer("n", n), way_out=way_out)
    edges, lengths = _graph(n, edges, lengths)
    graph = torch.full((n * n,), math.inf, dtype=torch.float64)  # no edge
    graph.scatter_reduce_(0, edges @ torch.tensor([n, 1]), lengths, "amin")
    return torch.from_numpy(dijkstra(graph.view(n, n).numpy(), directed=False))


@plain_torch(grad=True)
def graph_critic(
    p: ArrayLike,
    q: ArrayLike,
    edges: ArrayLike,
    lengths: ArrayLike,
    *,
    penalty: float = 1000.0,
    steps: int = 4000,
    rate: float = 0.02,
) -> torch.Tensor:
    """Train a critic on the nodes of a graph, Lipschitz for its shortest-path distance.

    Only edges are penalised, where they are too steep: that bounds the critic along every path.

    Args:
        p: Mass of each node in the data, (n,), >= 0, any positive scale.
        q: Mass of each node in the samples, (n,).
        edges: (k, 2) node indices of a connected graph.
        lengths: (k,), positive.
        penalty: Weight of the penalty; the estimate exceeds the distance by O(1 / penalty).
        steps: Updates of Adam; its rate falls to zero along a half cosine.
        rate: Its first rate, in units of the longest edge.

    Returns:
        Critic values (n,), float64; ``<p - q, values>`` estimates the Wasserstein-1 distance.

    Raises:
        ValueError: If an argument is wrong or the graph is not connected.
        aeot.training.Diverged: If a value is no longer finite.
    """
    _check.real("penalty", penalty, above=0, maximum=1e12)
    _check.integer("steps", steps, minimum=0)
    _check.real("rate", rate, above=0, maximum=1e6)
    p, q = _shares(p, q)
    if p.ndim != 1:
        raise _check.fail("p", "have shape (n,), one mass per node", f"shape {tuple(p.shape)}")
    edges, lengths = _graph(len(p), edges, lengths)
    distances = shortest_paths(len(p), edges, lengths)
    if not bool(torch.isfinite(distances).all()):
        raise _check.fail("edges", "connect all nodes", "a graph in several pieces")
    values = nn.Parameter(torch.zeros_like(p))
    mover = torch.optim.Adam([values])
    for step in range(steps):
        fade = 0.5 * (1 + math.cos(math.pi * step / steps))
        mover.param_groups[0]["lr"] = rate * float(lengths.max()) * fade
        loss = values @ (q - p) + losses.edge_penalty(values, edges, lengths, weight=penalty)
        mover.zero_grad()
        loss.backward()
        mover.step()
    if not bool(torch.isfinite(values).all()):
        raise Diverged("the values became NaN or infinite; lower rate or penalty")
    return values.detach() - values.detach().mean()
