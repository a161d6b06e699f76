"""Generating small graphs
=======================

A graph of six nodes is a symmetric table of zeros and ones in which the order of nodes means
nothing. A critic must not see that order, or the generator has to learn all orders of each graph:
this one sums over nodes and over paths, so that it is invariant by construction. Two penalties
hold it. One is of its slopes in the table, as for any other critic. The other is that of a graph's
edges: graphs are the nodes of a graph themselves, those that differ in one edge are neighbours, and
along ways from data to samples the critic may change by 1 a step and no more, so that it is
1-Lipschitz for how many edges have to be changed. Statistics that no loss mentions tell whether
graphs are right: degrees, triangles and squares; and whether both kinds of the data come, each as
often as there. In which order their nodes stand this critic does not ask, and the generator keeps
to a few. By slopes it learns both kinds on each of five seeds; by edges, of which each step sees
one a table, on none in the same steps. A critic of the table as it stands does ask for the order,
and takes longer to get graphs right.

A few steps train nothing: the whole script was run apart, and what it gave is shown below.

Seeds: 0, of graphs; 0 to 4, of generators, critics and batches.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import aeot
from aeot.gan import losses
from aeot.networks.generators import MLPGenerator

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps
N = 6
UPPER = torch.triu_indices(N, N, 1)


# %%
# Data: a ring of six nodes, or two rings of three, in random order.
def table(edges):
    """Symmetric (m, N, N) tables of edge values (m, N (N - 1) / 2)."""
    out = edges.new_zeros(len(edges), N, N)
    out[:, UPPER[0], UPPER[1]] = edges
    return out + out.mT


def graphs(n, seed):
    g = aeot.generator(seed, "graphs")
    out = torch.zeros(n, N, N)
    for graph, two in zip(out, torch.randint(2, (n,), generator=g).tolist(), strict=True):
        size = N // 2 if two else N
        for k in range(N):
            i = k // size * size + (k + 1) % size
            graph[i, k] = graph[k, i] = 1
    order = torch.rand(n, N, generator=g).argsort(1)
    rows = torch.arange(n)[:, None, None]
    return out[rows, order[:, :, None], order[:, None, :]]


def slope_penalty(critic, real, fake, weight=10.0):
    """Penalise slopes other than 1 in tables between real and fake ones, as WGAN-GP does."""
    return losses.gradient_penalty(critic, losses.interpolate(real, fake), weight=weight)[0]


def graph_penalty(critic, real, fake, weight=10.0):
    """Penalise steps above 1 between tables that differ in one edge, between real and fake ones.

    A table on a shortest way between two has each edge from one or the other; in such a one an
    edge is once taken out and once put in.
    """
    real, fake = (side[:, UPPER[0], UPPER[1]] for side in (real, fake))
    edges = torch.where(torch.rand(real.shape) < torch.rand(len(real), 1), real, fake)
    one = torch.randint(edges.shape[1], (len(edges), 1))
    ends = table(torch.cat([edges.scatter(1, one, 0.0), edges.scatter(1, one, 1.0)]))
    pairs = torch.arange(len(ends)).view(2, -1).T
    return losses.edge_penalty(critic(ends), pairs, torch.ones(len(pairs)), weight=weight)


class GraphCritic(nn.Module):
    """Three rounds of messages between nodes, summed: one score a graph, whatever the order."""

    def __init__(self, hidden=64):
        super().__init__()
        self.first = nn.Linear(3, hidden)
        self.rounds = nn.ModuleList(nn.Linear(2 * hidden, hidden) for _ in range(2))
        self.last = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, a):
        """Score tables (m, N, N): (m,)."""
        square = a @ a
        closed = [square.diagonal(dim1=1, dim2=2), (square @ a).diagonal(dim1=1, dim2=2)]
        closed.append((square @ square).diagonal(dim1=1, dim2=2) / N)
        nodes = torch.relu(self.first(torch.stack(closed, 2)))
        for step in self.rounds:
            nodes = torch.relu(step(torch.cat([nodes, a @ nodes], 2)))
        return self.last(nodes.mean(1))[:, 0]


class TableCritic(nn.Module):
    """The same task by the table as it stands, order and all."""

    def __init__(self, hidden=128):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(N * N, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 1),
        )  # fmt: skip

    def forward(self, a):
        """Score tables (m, N, N): (m,)."""
        return self.body(a.flatten(1))[:, 0]


def statistics(a):
    """Shares of degrees 0 to 5 and more, mean numbers of triangles and of squares."""
    degrees = torch.bincount(a.sum(2).long().clamp(max=5).flatten(), minlength=6)
    triangles, squares = rings(a)
    return degrees.double() / a[:, 0].numel(), float(triangles.mean()), float(squares.mean())


def rings(a):
    """Triangles and squares of each table, from how many closed walks there are."""
    a = a.double()
    cube, d = a @ a @ a, a.sum(2)
    triangles = cube.diagonal(dim1=1, dim2=2).sum(1) / 6
    closed = (cube @ a).diagonal(dim1=1, dim2=2).sum(1)
    return triangles, (closed - 2 * (d * (d - 1)).sum(1) - a.sum((1, 2))) / 8


def kinds(a):
    """Shares of graphs that are one ring of all nodes, or two triangles.

    With two edges at each of six nodes nothing else is left.
    """
    right, (triangles, _) = (a.sum(2) == 2).all(1), rings(a)
    return [float((right & (triangles == k)).double().mean()) for k in (0, 2)]


def different(a):
    """How many tables differ, and how many graphs: tables whose spectra differ."""
    spectra = torch.linalg.eigvalsh(a.double()).mul(1e4).round()
    return len(a.flatten(1).unique(dim=0)), len(spectra.unique(dim=0))


# %%
# A permutation changes nothing for one critic, and everything for the other.
data = graphs(4000, 0)
torch.manual_seed(0)
order = torch.randperm(N)
for critic in (GraphCritic(), TableCritic()):
    with torch.no_grad():
        change = (critic(data[:100]) - critic(data[:100][:, order][:, :, order])).abs().max()
    print(f"{type(critic).__name__}: reordered nodes change the score by up to {float(change):.1e}")


# %%
def trained(kind, penalty, steps, seed):
    """What a generator draws after so many steps against a critic of this class, so held."""
    torch.manual_seed(seed)
    critic = kind()
    generator = MLPGenerator(16, len(UPPER[0]), hidden=128, layers=3, batch_norm=False)
    options = {"lr": 1e-3, "betas": (0.5, 0.9)}
    movers = [torch.optim.Adam(net.parameters(), **options) for net in (generator, critic)]

    def drawn(n):
        # Near 0 or 1 where the generator is sure.
        return table(torch.sigmoid(generator(torch.randn(n, 16)) / 0.3))

    for _ in range(steps):
        for _ in range(3):
            real, fake = data[torch.randint(len(data), (64,))], drawn(64).detach()
            loss = losses.wasserstein_critic_loss(critic(real), critic(fake))
            loss = loss + penalty(critic, real, fake)
            movers[1].zero_grad()
            loss.backward()
            movers[1].step()
        loss = losses.wasserstein_generator_loss(critic(drawn(64)))
        movers[0].zero_grad()
        loss.backward()
        movers[0].step()
    with torch.no_grad():
        return (drawn(2000) > 0.5).float()


chance = (torch.rand(2000, len(UPPER[0])) < data.sum((1, 2)).mean() / (N * (N - 1))).float()
found = {"data": [data], "edges by chance": [table(chance)]}
steps, seeds = (4, range(1)) if quick else (1500, range(5))
for kind, penalty in (
    (GraphCritic, slope_penalty),
    (GraphCritic, graph_penalty),
    (TableCritic, slope_penalty),
):
    sees, by = kind.__name__.removesuffix("Critic").lower(), penalty.__name__.split("_")[0]
    drawn = [trained(kind, penalty, steps, seed) for seed in seeds]
    found[f"critic of {sees}s, {by} penalty"] = drawn
wanted = statistics(data)[0]


def told(a):
    """Numbers of one set of tables: see what is printed of them."""
    degrees, triangles, squares = statistics(a)
    off = float((degrees - wanted).abs().sum() / 2)
    return [off, triangles, squares, *(100 * k for k in kinds(a[:2000])), *different(a[:2000])]


print(f"means of {len(seeds)} trainings and their standard errors")
for name, sets in found.items():
    rows = np.array([told(a) for a in sets])
    mean, error = rows.mean(0), rows.std(0, ddof=len(rows) > 1) / len(rows) ** 0.5
    off, triangles, squares, one, two, tables, shapes = (
        f"{m:.{digits}f}" + (f" ± {e:.{digits}f}" if len(rows) > 1 else "")
        for m, e, digits in zip(mean, error, (3, 2, 2, 1, 1, 0, 0), strict=True)
    )
    print(f"{name}: degrees off by {off}; {triangles} triangles, {squares} squares a graph")
    print(f"    {one} % are one ring, {two} % two triangles, ", end="")
    print(f"each a tenth or more in {(rows[:, 3:5].min(1) >= 10).sum()} of {len(rows)};")
    print(f"    of 2000 tables {tables} differ, {shapes} in more than the order of their nodes")

# %%
figure = Figure(figsize=(10, 4.2), layout="constrained")
ring = torch.arange(N) * 2 * torch.pi / N
place = torch.stack([ring.cos(), ring.sin()], 1)
for axes, (name, sets) in zip(figure.subplots(len(found), 8), found.items(), strict=True):
    for axis, graph in zip(axes, sets[0], strict=False):
        for i, j in (graph.triu() > 0).nonzero().tolist():
            axis.plot(*place[[i, j]].T, color="#0b62c4", lw=0.8)
        axis.scatter(*place.T, s=6, color="#1f2933", zorder=3)
        axis.set_aspect("equal")
        axis.set_axis_off()
    axes[0].set_title(name, fontsize=8, loc="left")
figure.savefig(OUT / "69_graphs.png", dpi=130)
