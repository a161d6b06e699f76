"""What a transport solver returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch

from aeot import _check, _io
from aeot._environment import plain_methods, resolve_device
from aeot._estimator import Saved
from aeot.maps.brenier import BrenierMap
from aeot.measures import Measure, restored, stored

if TYPE_CHECKING:
    from typing_extensions import Self


class Outcome(Enum):
    """How a solve ended, each with a sentence: what happened, and what to change."""

    CONVERGED = "the certificate holds"
    UNMET = "the masses asked for were not met: raise tol"
    EMPTY = "a cell is empty, or lighter than the last place of its height: merge close sites"
    STOPPED = "stopped by on_step"
    OUT_OF_SAMPLES = "out of samples: raise max_samples or tol"


def promised(solution: object) -> dict[str, Any]:
    """Return what a solution, of one problem or of several, says of itself, by name."""
    names = "converged mass_error mass_error_upper message n_samples method engine"
    return {name: getattr(solution, name) for name in names.split()}


@plain_methods
@dataclass(frozen=True)
class Solution(Saved):
    """Heights with their certificate.

    `save` keeps all of it, `load` gives it back bit by bit. Of a source that is a function it keeps
    a hash of points only; such a one is passed again as ``load(path, source=...)``.

    Attributes:
        source: The source measure mu.
        sites: (n, d), the caller's, in the caller's dtype and on the caller's device.
        masses: Target masses (n,), float64, summing to one.
        heights: (n,), float64, mean zero.
        mass_error: Total variation sum|cell_masses - masses| / 2. Exact solvers: of the exact
            masses. Monte-Carlo solvers: measured on points the solver did not optimise on, with
            the sampling noise of that check removed.
        mass_error_upper: The 95 % upper bound of `mass_error`; equal to it where it is exact.
        outcome: How the solve ended.
        message: One sentence: what was reached, or what to change.
        history: One plain dict per iteration or stage, the same keys each time.
        n_samples: Source points drawn in all; 0 for exact geometry.
        method: The method used: "exact", "newton", "lbfgs" or "adam".
        engine: What scored samples against sites: "numba", "triton", "torch", "keops" or "kdtree";
            "geometry" for exact cells.
        cell_masses: What the heights give each site, (n,), as measured by the certificate.
        cell_centroids: Mean of the source inside each cell, (n, d), or None if not estimated.
        cell_variance: Mean of |x - c(x)|^2 / d over the source, c(x) the centroid of the cell of
            x: its variance per axis inside a cell; None if not estimated.
        tol: What `mass_error_upper` was to be at most; None of exact solvers.
    """

    source: Measure
    sites: torch.Tensor
    masses: torch.Tensor
    heights: torch.Tensor
    mass_error: float
    mass_error_upper: float
    outcome: Outcome
    message: str
    method: str
    engine: str
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    n_samples: int = 0
    cell_masses: torch.Tensor | None = field(default=None, repr=False)
    cell_centroids: torch.Tensor | None = field(default=None, repr=False)
    cell_variance: float | None = field(default=None, repr=False)
    tol: float | None = field(default=None, repr=False)  # saves of 0.2.0 have none

    def __repr__(self) -> str:
        n, d = self.sites.shape
        return f"Solution({n} sites in {d} dimensions, {self.message})"

    @property
    def converged(self) -> bool:
        """Whether the promise of the solver holds.

        For Monte Carlo ``mass_error_upper <= tol`` and no empty cell, for exact geometry every
        relative cell error at most `tol` (or 1e-14 absolute).
        """
        return self.outcome is Outcome.CONVERGED

    @property
    def certificate(self) -> dict[str, Any]:
        """What the solver promises, as plain values; estimators keep it as ``certificate_``."""
        return promised(self)

    def map(self, *, engine: str = "auto") -> BrenierMap:
        """Return the transport map, an nn.Module that holds sites, heights and source.

        Args:
            engine: What finds the cell of a point there; see `BrenierMap`.
        """
        return BrenierMap(
            self.source,
            self.sites,
            self.heights,
            masses=self.masses,
            centroids=self.cell_centroids,
            spread=self.cell_variance,
            engine=engine,
        )

    def state(self) -> dict[str, Any]:
        """Return what makes it up, as nested dicts of tensors and plain values."""
        parts = _io.take_apart(self)
        return parts | {"source": stored(self.source), "outcome": self.outcome.name}

    @classmethod
    def from_state(
        cls,
        state: dict[str, Any],
        *,
        device: str | torch.device | None = None,
        source: Measure | None = None,
    ) -> Self:
        """Make the solution of which `state` returned the parts.

        Args:
            state: What `state` returned.
            device: Where sites and heights shall lie; None: the first GPU, else the CPU.
            source: The source, where it is a function and so is in no file.

        Raises:
            ValueError: If `source` is needed and missing, or another one.
            aeot._io.Damaged: If these are no parts of a solution.
        """
        where = resolve_device(device)
        if not isinstance(state, dict) or state.get("outcome") not in Outcome.__members__:
            raise _io.Damaged("it has no outcome of a solve")
        mu, outcome = restored(state.get("source"), source), Outcome[state["outcome"]]
        found = _io.put_together(state, {"Solution": cls}, source=mu, outcome=outcome)
        try:
            found._check_stored()
        except ValueError as error:
            raise _io.Damaged(str(error)) from error
        for name, value in vars(found).items():
            if isinstance(value, torch.Tensor):
                object.__setattr__(found, name, value.to(where))
        return found

    def _check_stored(self) -> None:
        """Raise an error if what was stored does not fit together."""
        n, d = _check.points("sites", self.sites, dim=self.source.dim).shape
        shapes = {
            "sites": (n, d),
            "heights": (n,),
            "masses": (n,),
            "cell_masses": (n,),
            "cell_centroids": (n, d),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and _check.array(name, value).shape != shape:
                raise _io.Damaged(f"{name} must have shape {shape}, got {_check.shown(value)}")
            if value is not None and not value.is_floating_point():
                raise _io.Damaged(f"{name} must be floating, got {value.dtype}")
            if name in ("heights", "masses") and value.dtype != torch.float64:
                raise _io.Damaged(f"{name} must be float64, got {value.dtype}")
        _check.masses(self.masses, n)
        _check.integer("n_samples", self.n_samples, minimum=0)
        for name in ("mass_error", "mass_error_upper", "tol"):
            value = getattr(self, name)
            if value is not None:
                _check.real(name, value, minimum=0, maximum=1)
        if not all(_io.fits(record, dict[str, Any]) for record in self.history):
            raise _io.Damaged("history must be records by name")

    def _page(self) -> dict[str, dict[str, Any]]:
        n, d = self.sites.shape
        data = {"sites": n, "dimension": d, "dtype": str(self.sites.dtype), "source": self.source}
        data["hash_of_sites"] = _io.digest({"sites": self.sites})[:16]
        return {"Data": data, "Certificate": self.certificate}
