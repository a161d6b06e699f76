"""Which engine scores points against sites, and the highest planes at every point."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import in_parts, plain_torch
from aeot.search import kdtree_engine, torch_engine
from aeot.search.planes import (
    Block,
    CandidateLists,
    Edges,
    Listed,
    Planes,
    Winners,
    scores_of,
)

T = TypeVar("T")

ENGINES = ("auto", "numba", "triton", "torch", "keops", "kdtree")


def choose_engine(
    n: int, d: int, device: torch.device | str, *, has_numba: bool, has_triton: bool = False
) -> str:
    """Return the engine that ``engine="auto"`` stands for.

    ======  =============  =====  =====  ======  =======================
    device  there          d      n      engine  measured by
    ======  =============  =====  =====  ======  =======================
    cpu     numba          any    any    numba   bench_engines.py
    cpu     no numba       any    any    torch   bench_engines.py
    cuda    Triton         any    any    triton  not measured on a card
    cuda    no Triton      any    any    torch   not measured on a card
    other   any            any    any    torch   not measured
    ======  =============  =====  =====  ======  =======================

    The kd-tree is up to 2.4 times faster on Voronoi-like cells (d <= 6), but many times slower
    on the transport cells of 10 000 clustered codes, and nothing in n and d tells the two apart;
    KeOps is slower on a CPU from 1000 sites on, and on a card it was not measured, either.
    ``benchmarks/bench_engines.py`` makes the figures, ``docs/engines.md`` shows them;
    ``benchmarks/bench_gpu.py`` will, on a card.

    Args:
        n: Number of sites.
        d: Dimension.
        device: Where the sites are.
        has_numba: Whether numba can be imported.
        has_triton: Whether Triton can be imported.

    Returns:
        "numba", "triton" or "torch".

    Example:
        >>> choose_engine(5000, 2, "cpu", has_numba=True)
        'numba'
    """
    del n, d  # no rule needs them yet
    kind = torch.device(device).type
    if kind == "cpu" and has_numba:
        return "numba"
    return "triton" if kind == "cuda" and has_triton else "torch"


def installed(package: str) -> bool:
    """Whether a package can be imported (it is not imported to find out)."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # ValueError: blocked by sys.modules[package] = None
        return False


class Engine(Protocol):
    """What the module of every engine has: for callers with points, and for a solve in blocks.

    A solve calls `arrange` once, `raised` for every vector of heights, and then the others for
    every block of samples. Heights that are `raised` are the engine's own affair.

    Attributes:
        NAME: Of the engine.
        HALVES: Whether blocks of shared half points save it anything.
        HOST: Whether facets are summed on the host, in order; else where the samples are.
    """

    NAME: str
    HALVES: bool
    HOST: bool

    def top_k(
        self,
        points: torch.Tensor,
        sites: torch.Tensor,
        heights: torch.Tensor,
        k: int,
        edges: np.ndarray | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the k highest planes at every point (m, d), best first: indices (m, k) int64.

        With `edges`, the best of each range of consecutive sites follows, or one within rounding:
        range g holds the sites from edges[g] to edges[g + 1].

        Also whether rounding cannot have changed which planes are the highest, the two highest,
        and so on (m, k), without those that are known, as there are no others: all true where the
        points are float64, whose products decide.
        """

    def arrange(
        self, sites: torch.Tensor, *, split: int, rows: int, memory: int, threads: int = 1
    ) -> Planes:
        """Hold the sites for a solve.

        Args:
            sites: (n, d) float32, columns in the order of the coordinates of blocks.
            split: Second halves that each first half meets; 1 for whole points.
            rows: Rows of a block.
            memory: Bytes that the scores in flight may take.
            threads: How many threads work on blocks.
        """

    def raised(self, planes: Planes, heights: torch.Tensor) -> Any:  # noqa: ANN401
        """Prepare heights (n,) for the passes over blocks that follow."""

    def each(self, work: Callable[[int], T], blocks: Sequence[int], threads: int) -> Iterator[T]:
        """Yield ``work(block)`` for every block in turn, the same bits for any `threads`."""

    def winners(
        self,
        planes: Planes,
        heights: Any,  # noqa: ANN401
        block: Block,
        *,
        runners: bool,
        slack: torch.Tensor | None = None,
    ) -> Winners:
        """Find the best site of every sample of a block.

        Args:
            planes: The sites.
            heights: Raised.
            block: The samples.
            runners: Find the next best, too.
            slack: (rows,) float32; name the samples of each row that have another score within
                so much of the best.
        """

    def candidates(
        self,
        planes: Planes,
        heights: Any,  # noqa: ANN401
        block: Block,
        *,
        radius: float,
        least: int,
        longest: int,
    ) -> list[Listed]:
        """List, for every sample of a block, the sites within a radius of the best.

        Args:
            planes: The sites.
            heights: Raised.
            block: The samples.
            radius: How far below the best score a listed site may be.
            least: Double the radius, at most `planes.WIDER` times, where less is in reach: groups
                of sixteen sites, or sites, as the engine counts.
            longest: The most entries of a list; one that is full keeps the highest scores.

        Returns:
            Lists of consecutive parts of the block.
        """

    def cluster_maxima(
        self,
        planes: Planes,
        heights: Any,  # noqa: ANN401
        block: Block,
        edges: np.ndarray,
    ) -> torch.Tensor:
        """Find every sample's best score in each cluster of consecutive sites, (rows, clusters).

        Cluster g holds the sites from edges[g] to edges[g + 1]; the block is of whole points.
        """

    def relist(
        self, lists: CandidateLists, shift: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """Find winner and runner-up (-1 for none), (m,) int32, of every list at other heights.

        Also the gap between them, (m,) float32, and the sum of the winners' values. The heights are
        told by `CandidateLists.shift`, once for all lists.
        """

    def close_pairs(
        self,
        sites: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
        gap: torch.Tensor,
        window: torch.Tensor,
        near: float,
    ) -> Edges:
        """Collect the samples in the band along their facet.

        Args:
            sites: (n, d) float32.
            first: (m,) int32, winners.
            second: (m,) int32, runners-up, -1 for none.
            gap: (m,) float32.
            window: (n,) float64, width of the band for the winners of each site.
            near: The band is at most this times the distance of the two sites.

        Returns:
            The samples in it, each with weight 1 / (2 band).
        """

    def count(self, site: torch.Tensor, first: int, per_group: int, counts: torch.Tensor) -> None:
        """Count winners, groups of samples going to the rows of `counts` in turn.

        Args:
            site: (m,) int32.
            first: Index of the first group.
            per_group: Samples per group.
            counts: (batches, n) int64, added to.
        """

    def add_points(self, block: Block, site: torch.Tensor, sums: torch.Tensor) -> None:
        """Add every sample of a block to the row of its cell in `sums` (n, d) int64: `add_rows`."""


class PartsEngine(Engine, Protocol):
    """An engine that finds among parts of the sites what it finds among all: numba's."""

    def part_winners(
        self,
        planes: Planes,
        heights: Any,  # noqa: ANN401
        block: Block,
        first: int,
    ) -> torch.Tensor:
        """Find what `won` has to know of the sites from `first` on."""

    def won(
        self,
        block: Block,
        parts: list[torch.Tensor],
        columns: int,
        runners: bool,
        slack: torch.Tensor | None,
    ) -> Winners:
        """Return `winners` of a block from the `part_winners` of all parts, in their order."""

    def part_candidates(
        self,
        planes: Planes,
        heights: Any,  # noqa: ANN401
        block: Block,
        first: int,
        *,
        radius: float,
        least: int,
        longest: int,
    ) -> list[torch.Tensor]:
        """Find what `listed` has to know of the sites from `first` on, one behind the other."""

    def listed(
        self,
        m: int,
        parts: list[torch.Tensor],
        columns: int,
        *,
        radius: float,
        least: int,
        longest: int,
    ) -> Listed:
        """Return `candidates` of m samples from the `part_candidates` of all parts."""


def bind(engine: str, sites: torch.Tensor) -> Engine:
    """Return the module of an engine, chosen for sites (n, d) where it is "auto".

    Raises:
        ValueError: If there is no such engine, or it does not work on the device.
        ImportError: If its package is missing.
    """
    name = _check.choice("engine", engine, ENGINES)
    device = sites.device
    if name == "auto":
        n, d = sites.shape
        there = {f"has_{package}": installed(package) for package in ("numba", "triton")}
        name = choose_engine(n, d, device, **there)
    if name in ("numba", "kdtree") and device.type != "cpu":
        raise _check.fail("engine", f"be 'triton', 'torch' or 'keops' on {device}", repr(name))
    if name == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        way_out = "move the sites to a GPU, or leave the engine out"
        raise _check.fail("engine", f"be none that needs a GPU on {device}", repr(name), way_out)
    package = {"numba": "numba", "triton": "triton", "keops": "pykeops"}.get(name)
    if package and not installed(package):
        raise ImportError(f"engine={name!r} needs {package}: pip install {package}")
    if name == "numba":
        from aeot.search import numba_engine

        return numba_engine
    if name == "triton":
        from aeot.search import triton_engine

        return triton_engine
    if name == "keops":
        from aeot.search import keops_engine

        return keops_engine
    return kdtree_engine if name == "kdtree" else torch_engine


@plain_torch()
def top_k(
    points: ArrayLike,
    sites: torch.Tensor,
    heights: torch.Tensor,
    k: int = 1,
    *,
    engine: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k highest planes <x, y_i> + h_i at every point, best first.

    The first column is the potential and the power cell. Points are decided as by products in
    float64 of the sites and heights as given, whatever their own precision; ties are decided by
    its rounding, so compare engines by the values. The score matrix (m, n) is never held: memory is
    a few MiB beside the result, and a point's answer does not depend on the other points.

    Args:
        points: (m, d) floating; its dtype is that of the values.
        sites: (n, d), on the same device.
        heights: (n,).
        k: How many planes, 1 <= k <= n.
        engine: "auto" (see `choose_engine`), "numba" (CPU), "triton" (GPU), "torch", "keops" (needs
            pykeops and a C++ compiler) or "kdtree" (CPU; for small d).

    Returns:
        values (m, k) in the dtype of the points and indices (m, k) int64.

    Raises:
        ValueError: For wrong shapes, k, devices or an unknown engine.
        ImportError: For an engine whose package is missing.

    Example:
        >>> import torch
        >>> sites = torch.tensor([[0.0], [1.0]])
        >>> top_k(torch.tensor([[0.2], [0.9]]), sites, torch.tensor([0.25, -0.25]))[1].T
        tensor([[0, 1]])
    """
    points = _checked(points, sites)
    if _check.integer("k", k) > len(sites):
        raise _check.fail("k", f"be at most the number of sites {len(sites)}", k)
    indices = _decided(points.detach(), sites.detach(), heights.detach(), k, engine)
    # From the winners alone and in float64: the same for every engine, block and thread count.
    return scores_of(points, sites, heights, indices).to(points.dtype), indices


@plain_torch()
def cell(
    points: ArrayLike, sites: torch.Tensor, heights: torch.Tensor, *, engine: str = "auto"
) -> torch.Tensor:
    """Return the highest plane at every point, its power cell, (m,) int64: see `top_k`."""
    points = _checked(points, sites)
    return _decided(points.detach(), sites.detach(), heights.detach(), 1, engine)[:, 0]


def _checked(points: ArrayLike, sites: torch.Tensor) -> torch.Tensor:
    points, d = _check.array("points", points), sites.shape[1]
    if points.ndim != 2 or points.shape[1] != d:
        raise _check.fail("points", f"have shape (rows, {d})", f"shape {tuple(points.shape)}")
    if points.device != sites.device:
        got = f"{points.device} against {sites.device}"
        raise _check.fail("points", "be on the device of the sites", got)
    return points


@plain_torch()
def leaders(
    points: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    k: int,
    edges: np.ndarray | None = None,
    *,
    engine: str = "auto",
) -> torch.Tensor:
    """Return the k highest planes at every point, as `top_k` does, and the best of each range.

    Args:
        points: (m, d).
        sites: (n, d), on the same device.
        heights: (n,).
        k: How many planes, 1 <= k <= n.
        edges: (ranges + 1,) rising; range g holds the sites from edges[g] to edges[g + 1], and its
            best is known up to rounding in the dtype of the points. None: there are no ranges.
        engine: See `top_k`.

    Returns:
        Indices (m, k + ranges).
    """
    x = _checked(points, sites)
    return _decided(x.detach(), sites.detach(), heights.detach(), k, engine, edges)


@plain_torch()
def cell_or(
    points: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    known: torch.Tensor,
    *,
    engine: str = "auto",
) -> torch.Tensor:
    """Return the highest plane at every point, as `cell` does, where it is none of two known ones.

    At a point where two planes meet products in float64 would have to tell which of them is
    higher; whether any other one is, is mostly seen without.

    Args:
        points: (m, d).
        sites: (n, d), n >= 2, on the same device.
        heights: (n,).
        known: (m, 2), two planes for every point.
        engine: See `top_k`.

    Returns:
        (m,) int64, the first known one where one of the two is the highest.
    """
    points, found = _checked(points, sites), bind(engine, sites)
    x = points if points.dtype == torch.float64 else points.to(torch.float32)
    indices, sure = highest(found, x, sites, heights, 2)
    best = indices[:, 0]
    both = (indices[:, :, None] == known[:, None]).any(2).all(1)
    again = (~(sure[:, 0] | (both & sure[:, 1:].all(1)))).nonzero()[:, 0]
    if len(again):
        best[again] = highest(found, x[again].to(torch.float64), sites, heights, 1)[0][:, 0]
    return torch.where((best[:, None] == known).any(1), known[:, 0], best)


def _decided(
    points: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    k: int,
    engine: str,
    edges: np.ndarray | None = None,
) -> torch.Tensor:
    # Where a point belongs, for callers and for certificates alike. Fast arithmetic first; a point
    # that its rounding may have sent to another plane is decided again by products in float64.
    found = bind(engine, sites)
    if points.shape[0] == 0:
        ranges = 0 if edges is None else len(edges) - 1
        return torch.empty(0, k + ranges, dtype=torch.int64, device=points.device)
    if sites.shape[1] == 1 and k == 1:
        from aeot.search import line

        return line.owners(points[:, 0], sites[:, 0], heights)[:, None]
    x = points if points.dtype == torch.float64 else points.to(torch.float32)
    indices, sure = highest(found, x, sites, heights, k, edges)
    again = (~sure.all(1)).nonzero()[:, 0]
    if len(again):
        exact = x[again].to(torch.float64)
        indices[again, :k] = highest(found, exact, sites, heights, k)[0]
    return indices


def highest(
    engine: Engine,
    points: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    k: int,
    edges: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `Engine.top_k`, of fewer points at a time where memory does not suffice."""
    return in_parts(lambda some: engine.top_k(some, sites, heights, k, edges), points)
