"""One transport for each class of sites: solved in one call, each with its certificate."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aeot import _check, _io, _loop, _ranks
from aeot._check import ArrayLike
from aeot._environment import plain_methods, plain_torch, resolve_device
from aeot._estimator import Saved
from aeot.maps.conditional import ConditionalMap, Label, class_numbers, classes_of
from aeot.measures import Measure, check_source, stored
from aeot.solvers.assignment import check_enough
from aeot.solvers.exact import reject_duplicates
from aeot.solvers.solution import Solution, promised
from aeot.solvers.solve import is_exact, solve_semidiscrete

if TYPE_CHECKING:
    from typing_extensions import Self


@plain_methods
@dataclass(frozen=True)
class ConditionalSolution(Saved):
    """The solutions of all classes.

    Attributes:
        classes: The classes, sorted: whole numbers or texts.
        labels: The number in `classes` of each site's class, (n,) int64, in the caller's order.
        shares: The mass of each class, (k,) float64, summing to one.
        solutions: Of each class: its sites in the caller's order, their masses summing to one.
    """

    classes: tuple[Label, ...]
    labels: torch.Tensor = field(repr=False)
    shares: torch.Tensor
    solutions: tuple[Solution, ...] = field(repr=False)

    def of(self, label: Label) -> Solution:
        """Return the solution of one class.

        Raises:
            ValueError: If there is no such class.
        """
        return self.solutions[int(class_numbers("label", label, self.classes, 1)[0])]

    def map(self, *, engine: str = "auto") -> ConditionalMap:
        """Return the maps of all classes as one, an nn.Module.

        Args:
            engine: What finds the cell of a point there; see `BrenierMap`.
        """
        maps = [solution.map(engine=engine) for solution in self.solutions]
        return ConditionalMap(maps, self.classes, self.labels, shares=self.shares)

    @property
    def source(self) -> Measure:
        """The source measure, one for all."""
        return self.solutions[0].source

    @property
    def converged(self) -> bool:
        """Whether the promise of the solver holds in every class."""
        return all(solution.converged for solution in self.solutions)

    @property
    def mass_error(self) -> float:
        """Total variation over all classes: the mean of theirs by `shares`."""
        errors = [solution.mass_error for solution in self.solutions]
        return float(self.shares.cpu() @ torch.tensor(errors, dtype=torch.float64))

    @property
    def mass_error_upper(self) -> float:
        """The largest 95 % bound of a class; `mass_error` is below it all the more."""
        return max(solution.mass_error_upper for solution in self.solutions)

    @property
    def n_samples(self) -> int:
        """Source points drawn in all."""
        return sum(solution.n_samples for solution in self.solutions)

    @property
    def method(self) -> str:
        """The method used, or those of all classes."""
        return ", ".join(sorted({solution.method for solution in self.solutions}))

    @property
    def engine(self) -> str:
        """The engine used, or those of all classes."""
        return ", ".join(sorted({solution.engine for solution in self.solutions}))

    @property
    def message(self) -> str:
        """One sentence: what was reached, or which classes were not, and what to change."""
        named = zip(self.classes, self.solutions, strict=True)
        missed = {label: found.message for label, found in named if not found.converged}
        if not missed:
            each = f"in each of {len(self.classes)} classes"
            return f"mass error <= {self.mass_error_upper:.3g} {each}"
        told = "; ".join(f"{label!r}: {message}" for label, message in [*missed.items()][:3])
        return f"{len(missed)} of {len(self.classes)} classes are not certified: {told}"

    @property
    def certificate(self) -> dict[str, Any]:
        """What the solver promises, as of a `Solution`, and ``classes``, the bound of each."""
        named = zip(self.classes, self.solutions, strict=True)
        return promised(self) | {"classes": {str(c): s.mass_error_upper for c, s in named}}

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records of all classes, one after the other, each with its ``class``."""
        named = zip(self.classes, self.solutions, strict=True)
        return [{"class": label, **record} for label, s in named for record in s.history]

    def state(self) -> dict[str, Any]:
        """Return what makes it up: the ``source`` once, and the ``solutions`` without it."""
        parts = [solution.state() for solution in self.solutions]
        for part in parts:
            del part["source"]
        return {
            "classes": list(self.classes),
            "labels": self.labels,
            "shares": self.shares,
            "source": stored(self.source),
            "solutions": parts,
        }

    @classmethod
    def from_state(
        cls,
        state: dict[str, Any],
        *,
        device: str | torch.device | None = None,
        source: Measure | None = None,
    ) -> Self:
        """Make the solutions of which `state` returned the parts.

        Args:
            state: What `state` returned.
            device: Where sites and heights shall lie; None: the first GPU, else the CPU.
            source: The source, where it is a function and so is in no file.

        Raises:
            ValueError: If `source` is needed and missing, or another one.
            aeot._io.Damaged: If these are no parts of solutions.
        """
        where = resolve_device(device)
        kinds: dict[str, Any] = {
            "classes": list[str] | list[int],
            "solutions": list[dict],
            "source": dict,
        }
        kinds |= {"labels": torch.Tensor, "shares": torch.Tensor}
        for name, kind in kinds.items():
            if not _io.fits(state.get(name), kind):
                raise _io.Damaged(f"{name} of a conditional solution must be {kind}")
        parts = []
        for part in state["solutions"]:
            whole = {**part, "source": state["source"]}
            parts.append(Solution.from_state(whole, device=where, source=source))
            source = parts[0].source  # one measure for all
        classes, labels, shares = tuple(state["classes"]), state["labels"], state["shares"]
        try:
            found = cls(classes, labels.to(where), shares.to(where), tuple(parts))
            found.map()
        except (TypeError, ValueError, IndexError) as error:
            raise _io.Damaged(f"a conditional solution must be whole, got {error}") from error
        return found

    def _page(self) -> dict[str, dict[str, Any]]:
        first = self.solutions[0]
        data = {"sites": len(self.labels), "dimension": first.sites.shape[1]}
        named = zip(self.classes, self.solutions, strict=True)
        classes = {
            str(label): f"{len(s.sites)} sites, bound {s.mass_error_upper:.3g}"
            for label, s in named
        }
        return {
            "Data": {**data, "source": self.source},
            "Certificate": promised(self),
            "Classes": classes,
        }


@plain_torch()
@_ranks.together("solve_conditional")
def solve_conditional(
    source: Measure,
    sites: ArrayLike,
    labels: Any,  # noqa: ANN401
    masses: ArrayLike | None = None,
    *,
    tol: float = 0.02,
    method: str = "auto",
    engine: str = "auto",
    seed: int = 0,
    max_samples: float | None = None,
    memory: int = 1 << 28,
    threads: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    on_step: Callable[[dict[str, Any]], bool | None] | None = None,
    progress: bool | None = None,
) -> ConditionalSolution:
    """Transport a source onto each class of sites, and certify every class.

    Each class is the problem that `solve_semidiscrete` would get of its sites alone, with the same
    seed, and so has the same heights, bit by bit, whatever other classes there are. Scoring n sites
    takes the longest, so k equal classes take a k-th of the time of one problem of all sites.

    Args:
        source: The source measure.
        sites: (n, d), different within each class.
        labels: Class of each site (n,): whole numbers or texts.
        masses: (n,), positive, summing to one over all classes; equal if left out. The mass of a
            class is the sum of its sites'.
        tol: Total variation to certify in each class; see `solve_semidiscrete`.
        method: See there.
        engine: See there.
        seed: Of all samples, the same ones for every class.
        max_samples: Of all classes together; each gets what its sites are of all.
        memory: See `solve_semidiscrete`.
        threads: See there.
        checkpoint: Directory in which every class has one of its own; the call goes on from them.
        on_step: Called with every record, its ``class`` added; once it returned True every class
            gets its best certified heights so far, those not begun after a single step.
        progress: Whether to show progress on stderr; by default a bar if that is a terminal, else
            a line a minute.

    Returns:
        The solutions; ``converged`` says whether every certificate holds.

    Raises:
        ValueError: If an argument is wrong, two sites of a class are equal, or a checkpoint is of
            another problem.
        KeyboardInterrupt: If Ctrl-C or SIGTERM came; the same call goes on from `checkpoint`.

    Example:
        >>> import torch, aeot
        >>> sites = torch.randn(60, 4, generator=aeot.generator(0))
        >>> labels = ["cat"] * 20 + ["dog"] * 40
        >>> found = aeot.solve_conditional(aeot.UniformBox(dim=4), sites, labels, tol=0.05)
        >>> found.converged, found.classes, [round(float(x), 3) for x in found.shares]
        (True, ('cat', 'dog'), [0.333, 0.667])
    """
    check_source(source)
    y = _check.points("sites", sites, dim=source.dim)
    nu = _check.masses(masses, len(y))
    classes, numbers = classes_of("labels", labels, len(y))
    _check.callback("on_step", on_step)
    if checkpoint is not None:
        checkpoint = _check.path("checkpoint", checkpoint)
    if progress is not None:
        _check.flag("progress", progress)
    _ranks.agree({"sites": y, "labels": numbers, "classes": classes})
    apart = torch.cat([numbers[:, None].to(y.device, torch.float64), y.to(torch.float64)], 1)
    reject_duplicates(apart)
    rows = [(numbers == k).nonzero()[:, 0] for k in range(len(classes))]
    largest = max(map(len, rows))
    check_enough(source, largest, per="site of a class")
    if max_samples is not None:
        max_samples = _check.real("max_samples", max_samples, minimum=1)
    exact = [is_exact(source, len(some), method) for some in rows]
    if checkpoint is not None and all(exact):
        _check.warn("checkpoint is not used: exact solutions keep no state on the way")
    stopped = False
    solutions: list[Solution] = []
    with _loop.Loop("classes", len(y), unit="site", stops=False, progress=progress) as loop:
        for k, (label, some) in enumerate(zip(classes, rows, strict=True)):

            def step(record: dict[str, Any], label: Label = label) -> bool:
                nonlocal stopped
                stopped |= on_step is not None and on_step({"class": label, **record}) is True
                return stopped

            folder = None
            if checkpoint is not None and not exact[k]:
                folder = Path(checkpoint) / f"class-{k}"
            try:
                found = solve_semidiscrete(
                    source,
                    y[some.to(y.device)],
                    None if masses is None else nu[some] / float(nu[some].sum()),
                    tol=tol,
                    method=method,
                    engine=engine,
                    seed=seed,
                    max_samples=max_samples and max(max_samples * len(some) / len(y), 1),
                    memory=memory,
                    threads=threads,
                    checkpoint=folder,
                    on_step=step,
                )
            except _loop.Stopped as error:
                where = f"class {label!r}, {k + 1} of {len(classes)}"
                kept = "the same call begins anew"
                if folder is not None and any(map(_io.holds_save, folder.parent.glob("class-*"))):
                    kept = f"{checkpoint} holds what was done, and the same call goes on"
                raise _loop.Stopped(error.number, where, kept) from None
            solutions.append(found)
            loop.at(loop.done + len(some))
    shares = torch.stack([nu[some].sum() for some in rows])
    return ConditionalSolution(classes, numbers.to(y.device), shares.to(y.device), tuple(solutions))
