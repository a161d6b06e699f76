"""The state of a solve, and the checkpoint that holds it whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import scipy.sparse
import torch

from aeot import _check, _io, _ranks
from aeot._rng import generator
from aeot.measures import Empirical
from aeot.solvers.certificate import Certificate
from aeot.solvers.laplacian import DividedLaplacian, Laplacian, own_rows
from aeot.solvers.problem import Problem
from aeot.solvers.torch_laplacian import TorchLaplacian

_PROBES = 256  # points of the source that stand for it in a checkpoint
Compressed: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # data, indices, indptr


@dataclass(frozen=True)
class Drawn:
    """How the candidate lists in use are drawn, as often as need be.

    Attributes:
        key: Stage key of their samples.
        heights: (n,) float64, at which they are made.
        radius: See `Engine.candidates`.
        split: Half points that share a block.
        n_samples: Samples in them; 0 until they are drawn for the first time.
    """

    key: str
    heights: torch.Tensor
    radius: float
    split: int
    n_samples: int = 0


@dataclass(frozen=True)
class State:
    """Everything that a later step depends on.

    Attributes:
        phase: The next step's stage, or "done".
        heights: (n,) float64, standard coordinates.
        split: Half points that share a block (`Scorer.split`).
        sums: (n, d) int64, sum of the samples in each cell (`planes.add_rows`), columns in the
            scorer's order, where the samples are.
        counts: (n,) int64, how many they are.
        step: How many steps of this stage were made.
        unit: Mean gap between the best score and the next.
        local: (n,), the unit of each height; see `Bank.units`.
        lowest: Least chi2 of this stage so far.
        stalled: Steps since `lowest` fell by a tenth.
        weight: Samples that the heights are worth.
        lists: The lists that the streaming stage measures curvature on.
        returns: How often the streaming stage went back to the lists.
        looks: Certificates so far that were thought to be the last.
        inflation: Variance of the masses relative to independent samples.
        facets: Laplacian of the facets between cells, summed over `edged` samples: data, indices
            and indptr of its compressed rows; of many sites those of this rank (`own_rows`).
        edged: See `facets`.
        n_samples: Samples drawn in all.
        seconds: Spent in all, those of processes that were stopped among them.
        best: The best certificate so far.
        best_heights: (n,), what it certifies.
        history: One dict per step.
    """

    phase: str
    heights: torch.Tensor
    split: int
    sums: torch.Tensor
    counts: torch.Tensor
    step: int = 0
    unit: float = 1.0
    local: torch.Tensor | None = None
    lowest: float = 1e300
    stalled: int = 0
    weight: float = 0.0
    lists: Drawn | None = None
    returns: int = 0
    looks: int = 0
    inflation: float = 1.25
    facets: Compressed | None = None
    edged: float = 0
    n_samples: int = 0
    seconds: float = 0.0
    best: Certificate | None = None
    best_heights: torch.Tensor | None = None
    history: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def units(self) -> torch.Tensor:
        """The unit of each height, (n,) float64, where the heights are."""
        return torch.full_like(self.heights, self.unit) if self.local is None else self.local

    def entering(self, phase: str) -> State:
        """Return the state before the first step of another stage."""
        return replace(self, phase=phase, step=0, lowest=1e300, stalled=0)

    def with_facets(self, matrix: Laplacian, samples: float) -> State:
        """Return the state with another Laplacian, of so many samples."""
        data, indices, indptr = map(torch.as_tensor, (matrix.data, matrix.indices, matrix.indptr))
        return replace(self, facets=(data, indices, indptr), edged=samples)

    def laplacian(self, host: bool) -> Laplacian:
        """Return the Laplacian of the facets, (n, n); nothing where none was seen.

        Args:
            host: `Engine.HOST`; else it is one of torch, where the samples are.
        """
        n = len(self.heights)
        if not host:
            if self.facets is not None:
                return TorchLaplacian(*self.facets)
            none = torch.zeros(0, dtype=torch.int64, device=self.sums.device)
            return TorchLaplacian.of_pairs(none, none, none.to(torch.float64), n)
        own = own_rows(n)
        shape = (n if own is None else len(own), n)
        arrays = shape if self.facets is None else tuple(x.numpy() for x in self.facets)
        rows = scipy.sparse.csr_matrix(arrays, shape=shape)
        return rows if own is None else DividedLaplacian(rows)


@dataclass
class Parts:
    """How far a start is that is put together from the solutions of parts of the problem.

    A start that goes on is put together anew, and finds here what was solved before. A part is
    named by its place, such as "1.2" for the second inside the first.

    Attributes:
        done: By name the heights (k,) of every part that is solved, in standard coordinates of its
            own, and the samples drawn in all by then.
        part: The part in the making, or "".
        state: Its state; None before its first step.
        history: One dict per step of any part.
        seconds: Spent in all.
    """

    done: dict[str, tuple[torch.Tensor, int]] = field(default_factory=dict)
    part: str = ""
    state: State | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def _of_rank(facets: Compressed) -> Compressed:
    """Return the rows of this rank; copies, so that the rest is let go."""
    data, indices, indptr = facets
    own = own_rows(len(indptr) - 1)
    # Torch's, which is weights alone, all above 0, is held whole.
    if own is None or not len(data) or float(data.min()) > 0:
        return facets
    first, last = int(indptr[own.start]), int(indptr[own.stop])
    rows = indptr[own.start : own.stop + 1] - first
    return data[first:last].clone(), indices[first:last].clone(), rows


def with_all_rows(state: State) -> State:
    """Return a state with the rows of all ranks, on the first; on the others it holds none.

    Every rank has to call it.
    """
    n, facets = len(state.heights), state.facets
    if facets is None or len(facets[2]) == n + 1:
        return state
    own, none = (*facets[:2], facets[2].diff()), [0] * (_ranks.size() - 1)
    data, indices, lengths = (_ranks.exchanged(x, [len(x), *none])[0] for x in own)
    indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(facets[2])
    return replace(state, facets=(data, indices, indptr))


def fingerprint(problem: Problem, **options: float | str) -> dict[str, Any]:
    """Return what a checkpoint must share with a solve to be taken up by it.

    SHA-256 of sites, masses and of points drawn from the source, or of all where it is points;
    the seed and the options.
    """
    problem.supply.drawn += _PROBES
    points = problem.source.sample(_PROBES, generator=generator(0, "transport", "fingerprint"))
    if isinstance(problem.source, Empirical):
        points = torch.cat([points, problem.source.points.to(points)])
    arrays = {"source": points, "sites": problem.caller_sites, "masses": problem.masses}
    parts = {name: _io.digest({name: x}) for name, x in arrays.items()}
    return {**parts, "shape": [*problem.sites.shape], "seed": problem.seed, **options}


def save(path: str | os.PathLike, state: State | Parts, problem: dict[str, Any]) -> None:
    """Write a checkpoint of the problem with this `fingerprint`."""
    tensors, skeleton = _io.pack(_io.take_apart(state))
    config = {"problem": problem, "state": skeleton}
    _io.save(path, tensors, config, kind="transport", keep_previous=True)


def load(path: str | os.PathLike, problem: dict[str, Any], device: torch.device) -> State | Parts:
    """Read a checkpoint: that of the first rank.

    Raises:
        ValueError: If it is of another problem than the one with this `fingerprint`.
        aeot._io.Damaged: If it is no state of a solve.
    """
    tensors, config = _ranks.first(lambda: _io.load(path, kind="transport"))
    theirs = config.get("problem")
    if isinstance(theirs, dict) and problem != theirs:
        # The digest of the sites speaks of their shape, too.
        names = [k for k in problem if problem[k] != theirs.get(k) and k != "shape"]
        raise _check.fail(
            "checkpoint",
            "belong to the same problem",
            f"another {', '.join(names)} in {path}",
            "choose another directory",
        )
    kinds = {"State": State, "Parts": Parts, "Drawn": Drawn, "Certificate": Certificate}
    with _io.using(path):
        if not isinstance(theirs, dict):
            raise _io.Damaged("it names no problem")
        state = _io.put_together(_io.unpack(tensors, config.get("state")), kinds)
        if isinstance(state, State):
            return placed(state, problem["shape"], device)
        if not isinstance(state, Parts):
            raise _io.Damaged("it holds no state")
    return state


def placed(state: State, shape: Sequence[int], device: torch.device) -> State:
    """Return a state that was read, on a device.

    Args:
        state: What was read.
        shape: Number of sites and dimension of the problem.
        device: Where the sites are.

    Raises:
        aeot._io.Damaged: If it is none of such a problem.
    """
    n, d = shape
    shapes = {"heights": (n,), "sums": (n, d), "counts": (n,), "best_heights": (n,)}
    shapes["local"] = (n,)
    for name, wanted in shapes.items():
        got = getattr(state, name)
        if got is not None and got.shape != wanted:
            raise _io.Damaged(f"{name} must have shape {wanted}, got {_check.shown(got)}")
    if state.sums.dtype != torch.int64:
        raise _io.Damaged(f"sums must be int64, got {_check.shown(state.sums)}")
    try:
        parts = tuple(x.numpy() for x in state.facets or ())
        scipy.sparse.csr_matrix(parts or (n, n), shape=(n, n)).check_format(full_check=True)
    except (TypeError, ValueError) as error:
        raise _io.Damaged(f"its Laplacian is none ({error})") from error
    lists, best, facets = state.lists, state.best_heights, state.facets
    if facets is not None:
        facets = _of_rank(facets)
        facets = facets[0].to(device), facets[1].to(device), facets[2].to(device)
    return replace(
        state,
        heights=state.heights.to(device),
        local=None if state.local is None else state.local.to(device),
        sums=state.sums.to(device),
        facets=facets,
        lists=lists and replace(lists, heights=lists.heights.to(device)),
        best_heights=None if best is None else best.to(device),
    )
