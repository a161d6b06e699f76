"""Groups of sites that lie much nearer to each other than to the rest: merged, then told apart.

Near-duplicates, tight clusters among wide ones, and everything but a far outlier have scales of
their own, which no list, band or bound in one unit for all sites serves. A tight group acts on the
rest like one site of its whole mass. So the merged problem is solved first, and the source inside
each merged cell then goes to the members of its group, in their own unit: for two of them at a
quantile of <x, y_j - y_i>, for a few on stored scores, for many as a problem of its own, which may
have groups inside groups. What this neglects is small, and the steps on all sites mend it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse.csgraph
import torch
from scipy.spatial import cKDTree

from aeot import _ranks
from aeot._rng import stream_seed
from aeot.measures import Gaussian, Measure, Sampler
from aeot.solvers.clusters import balanced
from aeot.solvers.problem import Problem, Supply, standardise
from aeot.solvers.scorer import Scorer

TIGHT = 0.03  # the extent of a group over its distance to all others, at most
_NEAREST = 6  # neighbours, in a projection, among which the nearest sites are sought
_FEW = 32  # members up to which scores are stored
_CORES = 3  # nested cores that are solved one after the other; with more, tails are heavy
_NEARLY_ALL = 0.99  # mass from which a group's cell is as good as the whole source
_THIN = 3  # dimensions up to which flat sites are solved in their span
_OFFSET = 4096  # points on which the mean height of a group is measured
_AT_ONCE = 1 << 14  # edges whose lengths are found together
_POOL = 64  # points of the source per site that groups are told apart on, at least

# From a part of a problem, and the mass that it holds, to its heights in standard coordinates.
Solve = Callable[[Problem, float], torch.Tensor]


def tight_groups(sites: np.ndarray) -> np.ndarray | None:
    """Find the largest groups of sites that lie much nearer to each other than to the rest.

    Args:
        sites: (n, d) float64, in the coordinates that scores are computed in.

    Returns:
        (n,) int64 labels 0 .. k - 1, k < n, of groups and of single sites; None if no site is in
        a group.
    """
    n = len(sites)
    if n < 3:
        return None
    y = sites - np.median(sites, axis=0)
    first, second, length = _spanning(y)
    if length.min() > TIGHT * length.max():
        return None
    order = np.argsort(length, kind="stable")
    # Single linkage, the shortest edges first: a component that is short against the edge that
    # ends it is tight; one inside another is given up for it.
    top, extent = list(range(n)), [0.0] * n
    tight: list[list[int]] = []
    members = [[i] for i in range(n)]

    def root(i: int) -> int:
        while top[i] != i:
            top[i] = top[top[i]]
            i = top[i]
        return i

    for e in order:
        a, b = root(int(first[e])), root(int(second[e]))
        for part in (a, b):
            if len(members[part]) > 1 and extent[part] <= TIGHT * length[e]:
                tight.append(list(members[part]))
        if len(members[a]) < len(members[b]):
            a, b = b, a
        apart = float(np.linalg.norm(y[a] - y[b]))
        top[b], extent[a] = a, max(extent[a], apart + extent[b])
        members[a] += members[b]
        members[b] = []
    if not tight:
        return None
    label = np.arange(n)
    for group in tight:  # the larger come later
        label[group] = min(group)
    return np.unique(label, return_inverse=True)[1].reshape(-1)


def has_heavy_tails(sites: np.ndarray, labels: np.ndarray | None) -> bool:
    """Whether groups are nothing but ever smaller cores, each with a few sites far around it.

    Then no level is easier than the whole.

    Args:
        sites: (n, d) float64.
        labels: (n,), from `tight_groups`.
    """
    for _ in range(_CORES):
        if labels is None:
            return False
        size = np.bincount(labels)
        main = int(size.argmax())
        if size[main] < 0.9 * len(labels):
            return False
        sites = sites[labels == main]
        labels = tight_groups(sites)
    return labels is not None


def _spanning(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the edges of a nearly minimal spanning tree: two ends and a length."""
    # Neighbours in a projection on four axes: what is near is near there, whatever d.
    rng = np.random.default_rng(0)
    d = y.shape[1]
    axes = np.linalg.qr(rng.standard_normal((d, min(d, 4))))[0]
    low = y @ axes
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    chosen = np.arange(len(y))
    while len(chosen) > 1:
        k = min(_NEAREST, len(chosen))
        near = cKDTree(low[chosen]).query(low[chosen], k)[1][:, 1:]
        i, j = np.repeat(chosen, k - 1), chosen[near.ravel()]
        ends.append((i, j))
        first, second = (np.concatenate(part) for part in zip(*ends, strict=True))
        graph = _graph(y, first, second)
        parts, label = scipy.sparse.csgraph.connected_components(graph, directed=False)
        if parts == 1:
            break
        chosen = np.unique(label, return_index=True)[1]
    tree = scipy.sparse.csgraph.minimum_spanning_tree(graph).tocoo()
    return tree.row, tree.col, tree.data


def _graph(y: np.ndarray, first: np.ndarray, second: np.ndarray) -> scipy.sparse.csr_matrix:
    low, high = np.minimum(first, second), np.maximum(first, second)
    pair = np.unique(low.astype(np.int64) * len(y) + high)
    i, j = pair // len(y), pair % len(y)
    parts = (slice(k, k + _AT_ONCE) for k in range(0, len(i), _AT_ONCE))
    apart = [np.linalg.norm(y[i[part]] - y[j[part]], axis=1) for part in parts]
    length = np.maximum(np.concatenate([*apart, np.zeros(0)]), 1e-300)
    keep = i != j
    shape = len(y), len(y)
    return scipy.sparse.csr_matrix((length[keep], (i[keep], j[keep])), shape=shape)


def grouped_heights(
    scorer: Scorer, labels: np.ndarray, samples: float, solve: Solve
) -> torch.Tensor:
    """Solve for merged groups first, and then inside each of their cells.

    Args:
        scorer: Of the problem.
        labels: (n,), from `tight_groups`.
        samples: How many the heights should be worth.
        solve: What solves the merged problem, and those of large groups.

    Returns:
        (n,) float64 heights, standard coordinates.

    Raises:
        OutOfSamples: If there are too few to begin.
    """
    problem, supply = scorer.problem, scorer.problem.supply
    nu, y = problem.masses.numpy(), problem.caller_sites
    n, k = len(nu), int(labels.max()) + 1
    mass = np.bincount(labels, nu)
    centre = torch.zeros(k, y.shape[1], dtype=torch.float64)
    anchor = y[torch.from_numpy(np.unique(labels, return_index=True)[1])]
    within = y - anchor[torch.from_numpy(labels)]  # rounding is that of the group, not of the whole
    share = torch.from_numpy(nu / mass[labels])
    centre.index_add_(0, torch.from_numpy(labels), share[:, None] * within)
    device = problem.sites.device
    size = np.bincount(labels)
    with supply.sparing(0.6):
        merged = standardise(
            problem.source,
            (centre + anchor).to(device),
            torch.from_numpy(mass),
            stream_seed(problem.seed, "merged"),
            supply=supply,
        )
        raised = solve(merged, 1.0)
    above = merged.from_standard(raised.cpu())
    heights = above[torch.from_numpy(labels)].clone()
    order = np.argsort(labels, kind="stable")
    starts = np.r_[0, np.cumsum(size)]
    groups = set(np.flatnonzero(size > 1).tolist())
    main = int(mass.argmax())
    wide = groups & ({main} if mass[main] >= _NEARLY_ALL and size[main] > _FEW else set())
    # As many points as the heights are to be worth, as far as members are many; twice where they
    # are drawn again.
    lost = sum(size[g] - 1 for g in groups - wide)
    m = samples * (1 + any(size[g] > _FEW for g in groups - wide))
    m = max(_POOL * n, min(1.0, 2 * lost / n) * m) if lost else 0
    m = int(min(m, scorer.memory / (8 * y.shape[1])))
    points = _inside(scorer, merged, raised, m, wanted=groups - wide)
    for g in sorted(groups):
        own = order[starts[g] : starts[g + 1]]
        part = within[own] - centre[g], torch.from_numpy(nu[own] / mass[g])
        seed = stream_seed(problem.seed, "group", g)
        if g in wide:
            with supply.sparing(0.4):
                given = problem.source, part[0].to(device), part[1], seed
                inner = standardise(*given, supply=supply)
                h = inner.from_standard(solve(inner, mass[g]).cpu())
                supply.take(_OFFSET)
            x = inner.drawn(_OFFSET, "offset").to("cpu", torch.float64)
            h -= _potential(x, part[0], h)
        else:
            pool = torch.from_numpy(points.get(g, np.zeros((0, y.shape[1]))))
            if len(pool) < 2 * len(own):
                continue
            if len(own) == 2:
                h = _halved(pool.numpy(), *part)
            elif len(own) <= _FEW:
                h = _few(pool.numpy(), *part)
            else:
                source = Sampler(_again(pool), dim=y.shape[1])
                enough = Supply(8 * len(pool) + 256 * len(own) + (1 << 14))
                inner = standardise(source, part[0].to(device), part[1], seed, supply=enough)
                h = inner.from_standard(solve(inner, mass[g]).cpu())
                h -= _potential(pool[:_OFFSET], part[0], h)
        heights[torch.from_numpy(own)] += h
    return problem.to_standard(heights).to(device)


def _inside(
    scorer: Scorer,
    merged: Problem,
    raised: torch.Tensor,
    m: int,
    *,
    wanted: set[int],
) -> dict[int, np.ndarray]:
    """Return points in the cells of merged groups, of m of the source or half of those left."""
    chosen = np.isin(np.arange(len(merged.sites)), list(wanted))
    search = Scorer(
        merged,
        engine=scorer.engine.NAME,
        split=scorer.split,
        memory=scorer.memory,
        threads=scorer.threads,
    )
    m = int(min(m, merged.supply.left / 2)) // search.block_samples * search.block_samples
    if m <= 0:
        return {}
    kept = [torch.zeros(0, scorer.problem.caller_sites.shape[1], dtype=torch.float64)]
    where = [torch.zeros(0, dtype=torch.int64)]
    for won in search.winners(raised, "inside", range(search.blocks_for(m))):
        site = won.site.cpu().numpy()
        rows = np.flatnonzero(chosen[site])
        index = torch.from_numpy(rows).to(won.block.left.device)
        kept.append(search.points(won.block, index).cpu())
        where.append(torch.from_numpy(site[rows]).long())
    x, label = (found.numpy() for found in _ranks.joined(torch.cat(kept), torch.cat(where)))
    order = np.argsort(label, kind="stable")
    found, start = np.unique(label[order], return_index=True)
    return dict(zip(found.tolist(), np.split(x[order], start[1:]), strict=True))


def _halved(x: np.ndarray, sites: torch.Tensor, masses: torch.Tensor) -> torch.Tensor:
    # The second wins where <x, y_1 - y_0> > h_0 - h_1.
    along = x @ (sites[1] - sites[0]).numpy()
    q = float(np.quantile(along, float(masses[0])))
    h = torch.tensor([q, 0.0], dtype=torch.float64)
    best = np.maximum(along, q).mean() + float((torch.from_numpy(x) @ sites[0]).mean())
    return h - best


def _few(x: np.ndarray, sites: torch.Tensor, masses: torch.Tensor) -> torch.Tensor:
    scores = torch.from_numpy(x) @ sites.T
    unit = float(scores.std()) or 1.0
    middle = scores.mean(0)
    spread = (scores - middle) / unit
    h, _ = balanced(spread, masses, torch.zeros(len(masses), dtype=torch.float64))
    h = h * unit - middle
    return h - float((scores + h).max(1).values.mean())


def _potential(x: torch.Tensor, sites: torch.Tensor, h: torch.Tensor) -> float:
    return float(torch.cat([(part @ sites.T + h).max(1).values for part in x.split(256)]).mean())


def _again(points: torch.Tensor) -> Callable[[int, torch.Generator | None], torch.Tensor]:
    def draw(n: int, generator: torch.Generator | None) -> torch.Tensor:
        return points[torch.randint(len(points), (n,), generator=generator)]

    return draw


def flat(problem: Problem) -> tuple[Measure, torch.Tensor] | None:
    """Return the problem on the affine span of the sites, if that has few dimensions.

    Scores are <x, y> + <B'x, c_i> + h_i for sites y + B c_i: the heights are those of sites c_i
    and of the source projected by the orthonormal B.

    Returns:
        The projected source, and the sites (n, r) there.
    """
    y = problem.caller_sites
    y = y - y[0]
    d, size = y.shape[1], float(y.abs().max())
    if size == 0:
        return None
    if len(y) > d:  # else they lie flat
        values = torch.linalg.eigvalsh((y / size).T @ (y / size))
        if values[0] > 1e-12 * values[-1]:  # squares: no direction is thin enough to look closer
            return None
    _, values, axes = torch.linalg.svd(y / size, full_matrices=False)
    rank = int((values > 1e-13 * values[0] * max(y.shape)).sum())
    if rank > min(_THIN, d - 1):
        return None
    across = axes[:rank].T.contiguous()
    source = problem.source
    if type(source) is Gaussian:
        mean, factor = source.mean.to("cpu", torch.float64), source.factor
        half = across.T @ factor.to("cpu", torch.float64)
        projected: Measure = Gaussian(mean=across.T @ mean, covariance=half @ half.T)
    else:

        def draw(n: int, generator: torch.Generator | None) -> torch.Tensor:
            x = source.sample(n, generator=generator)
            return x.to(torch.float64) @ across.to(x.device)

        projected = Sampler(draw, dim=rank)
    return projected, y @ across
