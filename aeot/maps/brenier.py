"""The Brenier map of given heights: cells, potential, costs, the extended map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from aeot import _check, _io
from aeot._check import ArrayLike
from aeot._environment import plain_methods, resolve_device
from aeot._estimator import Saved
from aeot._rng import device_of
from aeot._rng import generator as _generator
from aeot.geometry.diagram import power_diagram
from aeot.geometry.location import Location
from aeot.geometry.tessellation import has_geometry, support
from aeot.maps import drawing, extension, triangulation
from aeot.maps.drawing import Draw
from aeot.maps.extension import Cut, Near, sides_of
from aeot.measures import Measure, check_source, restored, stored
from aeot.search import heights as conversions
from aeot.search.engines import ENGINES, cell, installed, top_k
from aeot.search.nearest import nearest
from aeot.search.planes import scores_of

if TYPE_CHECKING:
    from typing_extensions import Self

METHODS = ("affine", "linear", "pair", "inverse-distance")
_BLOCK = 8192  # points per block of a stream; part of its definition
_FEW_SITES, _MANY_POINTS = 200, 1 << 14  # scored one by one, against all sites, sooner than located


@dataclass(frozen=True)
class Costs:
    """Transport cost and dual value, measured on the same points of the source.

    Attributes:
        cost: E |x - T(x)|^2 / 2, and its standard error.
        cost_error: Standard error of `cost`.
        semidual: E psi^c(x) + <nu, psi>: equal to the cost at the optimum, else either sign.
        semidual_error: Standard error of `semidual`.
        w2: sqrt(2 cost), the 2-Wasserstein distance if the heights are optimal.
        w2_error: Standard error of `w2`.
        n_points: How many points.
    """

    cost: float
    cost_error: float
    semidual: float
    semidual_error: float
    w2: float
    w2_error: float
    n_points: int


@dataclass(frozen=True)
class Subgradients:
    """The subdifferential of a Brenier potential at m points: convex hulls of sites.

    Attributes:
        vertices: Indices of the sites that span each hull (m, k), the nearest plane first, padded
            with -1; one where the map is continuous.
        dimension: Dimension of each hull (m,): 0 inside a cell, 1 on a facet between two cells,
            and so on; points of dimension k are the set Sigma_k.
    """

    vertices: torch.Tensor
    dimension: torch.Tensor


@plain_methods
class BrenierMap(Saved, nn.Module):
    """The semi-discrete optimal transport map x -> y_i on the power cell W_i.

    Its state is buffers only. Results have the dtype of the points for values (`potential`,
    `c_transform`) and that of the sites for codes; everything happens on the device of the sites.
    Points and sites that are numbers, lists or whole numbers are float64, and heights stay so
    whatever the module is cast to. Cells are decided, and values computed, as in float64.

    Args:
        source: The source measure mu.
        sites: (n, d).
        heights: (n,).
        masses: Target masses (n,); equal if left out.
        centroids: Mean of the source inside each cell (n, d); estimated when first needed if left
            out.
        spread: Mean of |x - c_i|^2 / d over the source, c_i the centroid of the cell of x;
            estimated when first needed if left out.
        engine: What finds the cell of a point and the codes near another one (see
            `aeot.search.engines.top_k`).

    Raises:
        ValueError: For shapes that do not match, or an unknown engine.

    References:
        N. Lei et al., "A geometric understanding of deep learning", Engineering 6 (2020),
        eq. 18-22.

    Example:
        >>> import aeot, torch
        >>> sites = torch.tensor([[0.0, 0.5], [1.0, 0.5]])
        >>> brenier = BrenierMap(aeot.UniformBox(dim=2), sites, torch.tensor([0.15, -0.15]))
        >>> brenier(torch.tensor([[0.2, 0.9], [0.4, 0.9]]))  # cut at x = 0.3
        tensor([[0.0000, 0.5000],
                [1.0000, 0.5000]])
    """

    sites: torch.Tensor
    heights: torch.Tensor
    masses: torch.Tensor
    centroids: torch.Tensor | None
    spread: torch.Tensor | None

    def __init__(
        self,
        source: Measure,
        sites: torch.Tensor,
        heights: torch.Tensor,
        *,
        masses: torch.Tensor | None = None,
        centroids: torch.Tensor | None = None,
        spread: float | torch.Tensor | None = None,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        check_source(source)
        sites = _check.points("sites", sites, dim=source.dim)
        n = sites.shape[0]
        heights = _check.array("heights", heights)
        if heights.shape != (n,):
            raise _check.fail("heights", f"have shape ({n},)", f"shape {tuple(heights.shape)}")
        if centroids is not None:
            centroids = _check.points("centroids", centroids, dim=source.dim, min_rows=n)
            if len(centroids) > n:
                raise _check.fail("centroids", f"be {n}, one for each site", len(centroids))
            centroids = centroids.to(sites)
        if spread is not None:
            spread = _check.real("spread", spread, minimum=0.0)
            spread = torch.as_tensor(spread, dtype=torch.float64, device=sites.device)
        self.source, self.engine = source, _check.choice("engine", engine, ENGINES)
        self.register_buffer("sites", sites)
        self.register_buffer("heights", heights.to(sites.device, torch.float64))
        self.register_buffer("masses", _check.masses(masses, n).to(sites.device))
        self.register_buffer("centroids", centroids)
        self.register_buffer("spread", spread)
        # (cut, neighbours, scale, usual length of a displacement), as `_matched` found them
        self._scales: list[tuple[Cut | None, int, float, torch.Tensor]] = []
        self._covariances: torch.Tensor | None = None  # (n, d, d), where geometry gives them
        self._location: Location | None = None  # what finds cells in the plane

    def extra_repr(self) -> str:
        """What `print` shows: source, sites and engine."""
        n, d = self.sites.shape
        return f"source={self.source!r}, {n} sites in {d} dimensions, engine={self.engine!r}"

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> BrenierMap:  # noqa: ANN401
        exact = {name: getattr(self, name) for name in ("heights", "masses", "spread")}
        super()._apply(fn, *args, **kwargs)
        for name, before in exact.items():  # follow the device, keep float64
            if before is not None:
                setattr(self, name, before.to(getattr(self, name).device))
        self._scales, self._covariances, self._location = [], None, None
        return self

    @property
    def dim(self) -> int:
        """Dimension d."""
        return self.sites.shape[1]

    def state(self) -> dict[str, Any]:
        """Return what makes it up: ``buffers`` by name, ``source`` and ``engine``."""
        buffers = dict(self.state_dict())
        return {"buffers": buffers, "source": stored(self.source), "engine": self.engine}

    @classmethod
    def from_state(
        cls,
        state: dict[str, Any],
        *,
        device: str | torch.device | None = None,
        source: Measure | None = None,
    ) -> Self:
        """Make the map of which `state` returned the parts.

        Args:
            state: What `state` returned.
            device: Where to compute; None: the first GPU, else the CPU.
            source: The source, where it is a function and so is in no file.

        Raises:
            ValueError: If `source` is needed and missing, or another one.
            aeot._io.Damaged: If these are no parts of a map.
        """
        where, buffers = resolve_device(device), state.get("buffers")
        whole = isinstance(buffers, dict) and _io.fits(buffers, dict[str, torch.Tensor])
        if not isinstance(buffers, dict) or not whole or not isinstance(state.get("engine"), str):
            raise _io.Damaged("it has no buffers and engine of a map")
        mu = restored(state.get("source"), source)
        try:
            return cls(mu, engine=state["engine"], **buffers).to(where)
        except (TypeError, ValueError) as error:
            raise _io.Damaged(f"a map must be whole, got {error}") from error

    def _page(self) -> dict[str, dict[str, Any]]:
        n, d = self.sites.shape
        data = {"sites": n, "dimension": d, "dtype": str(self.sites.dtype), "source": self.source}
        data["hash_of_sites"] = _io.digest({"sites": self.sites})[:16]
        return {"Data": data, "Arguments": {"engine": self.engine}}

    # The map and its potential

    def top(self, points: ArrayLike, k: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the k highest planes at every point: values (m, k) and indices (m, k)."""
        return top_k(points, self.sites, self.heights, k, engine=self.engine)

    def cell(self, points: ArrayLike) -> torch.Tensor:
        """Return the power cell of every point, (m,) int64."""
        x, n = _check.array("points", points), len(self.sites)
        plane = x.ndim == 2 and x.shape[1] == self.dim == 2 and n >= _FEW_SITES
        here = x.device.type == self.sites.device.type == "cpu"
        if self.engine != "auto" or not (plane and here and installed("numba")):
            return cell(points, self.sites, self.heights, engine=self.engine)
        owner = self._located(x.detach().cpu().to(torch.float64).contiguous())
        beyond = owner < 0
        if bool(beyond.any()):
            owner[beyond] = cell(x[beyond], self.sites, self.heights, engine=self.engine)
        return owner

    def _located(self, x: torch.Tensor) -> torch.Tensor:
        """Cells of points (m, 2), float64; -1 where a location in the plane does not tell."""
        sites = self.sites.detach().to(torch.float64).numpy()
        planes = np.c_[sites, self.heights.detach().numpy()]
        if self._location is None or not np.array_equal(self._location.planes, planes):
            self._location = None
            if len(x) < _MANY_POINTS or not bool(x.isfinite().all()):
                return torch.full((len(x),), -1)
            if has_geometry(self.source):
                where = support(self.source)
                low, high = where.center - where.half, where.center + where.half
            else:  # those far out would make the boxes large
                low, high = np.quantile(x.numpy(), [1e-3, 1 - 1e-3], axis=0)
            self._location = Location(planes, low, high)
        return torch.from_numpy(self._location(x.numpy()))

    def forward(self, points: ArrayLike) -> torch.Tensor:
        """Return T(x) = y_i, the gradient of the potential, (m, d)."""
        return self.sites[self.cell(points)]

    def subgradient(self, points: ArrayLike, *, tol: float | None = None) -> Subgradients:
        """Return the subdifferential of the potential: the hull of the sites whose planes meet.

        Where one plane is highest the potential is differentiable and the map continuous;
        elsewhere the map jumps between the vertices of the hull.

        Args:
            points: (m, d).
            tol: Planes within so much of the highest one meet there, in units of the potential,
                >= 0. None: rounding, 64 units in the last place of the largest |x| |y| + |h|.

        Returns:
            The vertices and the dimension of each hull.

        Raises:
            ValueError: For a negative `tol`, or points of another width.

        References:
            N. Lei et al., "A geometric understanding of deep learning", Engineering 6 (2020),
            section 4: the singular sets Sigma_k.

        Example:
            >>> import aeot, torch
            >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
            >>> brenier = BrenierMap(aeot.UniformBox(dim=2), square, -square.square().sum(1) / 2)
            >>> found = brenier.subgradient([[0.2, 0.1], [0.5, 0.1], [0.5, 0.5]])
            >>> found.dimension.tolist(), found.vertices[1].tolist()
            ([0, 1, 2], [0, 1, -1, -1])
        """
        x = _check.points("points", points, dim=self.dim, min_rows=0).detach().double()
        sites, heights = self.sites.detach().double(), self.heights.detach()
        size = float(x.norm(dim=1).max()) * float(sites.norm(dim=1).max()) if len(x) else 0.0
        rounding = 64 * torch.finfo(torch.float64).eps * (size + float(heights.abs().max()))
        tol = rounding if tol is None else _check.real("tol", tol, minimum=0)
        k = min(self.dim + 2, len(sites))
        while True:  # until nowhere all that were asked for meet
            values, order = self.top(x, k)
            meets = values >= values[:, :1] - tol
            if k == len(sites) or not bool(meets.all(1).any()):
                break
            k = min(2 * k, len(sites))
        vertices = torch.where(meets, order, -1)
        dimension = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for row in (meets.sum(1) > 1).nonzero()[:, 0].tolist():
            corners, rank = _hull(sites[order[row][meets[row]]].cpu())
            keep = order[row][meets[row]][corners.to(order.device)]
            vertices[row] = -1
            vertices[row, : len(keep)] = keep
            dimension[row] = rank
        longest = int((vertices >= 0).sum(1).max()) if len(x) else 1
        return Subgradients(vertices[:, : max(longest, 1)], dimension)

    def potential(self, points: ArrayLike) -> torch.Tensor:
        """Return u(x) = max_i <x, y_i> + h_i, (m,); differentiable in points, sites and heights."""
        points = _check.points("points", points, dim=self.dim, min_rows=0)
        return self._potential(points).to(points.dtype)

    def c_transform(self, points: ArrayLike) -> torch.Tensor:
        """Return psi^c(x) = min_i |x - y_i|^2 / 2 - psi_i = |x|^2 / 2 - u(x), (m,)."""
        points = _check.points("points", points, dim=self.dim, min_rows=0)
        half = points.to(torch.float64).square().sum(1) / 2
        return (half - self._potential(points)).to(points.dtype)

    def _potential(self, points: torch.Tensor) -> torch.Tensor:
        # In float64: far from the origin |x|^2 / 2 and u(x) agree in all digits of a float32.
        owner = self.cell(points.detach())
        return scores_of(points, self.sites, self.heights, owner[:, None])[:, 0]

    def costs(self, n_points: int = 1 << 16, *, seed: int = 0) -> Costs:
        """Measure the transport cost, W2 and the dual value on fresh points, in float64.

        Args:
            n_points: How many points of the source, >= 2.
            seed: Which points.

        Returns:
            The estimates with their standard errors.
        """
        _check.integer("n_points", n_points, minimum=2)
        sites = self.sites.to(torch.float64)
        total = torch.zeros(4, dtype=torch.float64, device=sites.device)
        for x, owner in self._stream(n_points, seed, "costs"):
            y = sites[owner]
            move = (x - y).square().sum(1) / 2
            dual = x.square().sum(1) / 2 - self.heights[owner] - (x * y).sum(1)
            parts = [move.sum(), move.square().sum(), dual.sum(), dual.square().sum()]
            total += torch.stack(parts)
        cost, square, dual, dual_square = (total / n_points).tolist()
        inner = float(self.masses @ conversions.dual_from_heights(self.heights, self.sites))
        cost_error = (max(square - cost**2, 0.0) / (n_points - 1)) ** 0.5
        dual_error = (max(dual_square - dual**2, 0.0) / (n_points - 1)) ** 0.5
        w2 = (2 * cost) ** 0.5
        w2_error = cost_error / w2 if w2 > 0 else 0.0
        return Costs(cost, cost_error, dual + inner, dual_error, w2, w2_error, n_points)

    def _stream(
        self, n_points: int, seed: int, key: str
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        # Points of the source in float64 with their cells, block by block.
        for block, start in enumerate(range(0, n_points, _BLOCK)):
            count = min(_BLOCK, n_points - start)
            x = self.source.sample(count, generator=_generator(seed, key, block))
            x = x.to(self.sites.device)
            yield x.to(torch.float64), self.cell(x)

    # The extended map

    def estimate_moments(self, n_points: int | None = None, *, seed: int = 0) -> None:
        """Fill in the cells' centroids and their mean spread from points of the source.

        Cells that no point hits get the centroid that a linear fit on the others predicts.

        Args:
            n_points: How many points; 32 per cell if left out, at least 2**16.
            seed: Which points.
        """
        n, d = self.sites.shape
        if n_points is None:
            n_points = max(32 * n, 1 << 16)
        _check.integer("n_points", n_points)
        count = torch.zeros(n, dtype=torch.int64, device=self.sites.device)
        total = torch.zeros(n, d, dtype=torch.float64, device=self.sites.device)
        square = torch.zeros((), dtype=torch.float64, device=self.sites.device)
        for x, owner in self._stream(n_points, seed, "moments"):
            count += torch.bincount(owner, minlength=n)
            total.index_add_(0, owner, x)
            square += x.square().sum()
        hit = count > 0
        mean = total / count.clamp(min=1)[:, None]
        inside = square - (count[:, None] * mean.square()).sum()
        # Each mean is fitted to its own points, which hides one part in count of the spread.
        self.spread = inside / (d * (n_points - hit.sum()).clamp(min=1))
        if self.centroids is None:
            self.centroids = _filled(mean, hit, self.sites).to(self.sites)

    def _cells(self) -> tuple[torch.Tensor, torch.Tensor]:
        # Centroids, and what the source is like around them: the covariance of every cell where
        # geometry gives it exactly, else sigma^2.
        if self._covariances is None and has_geometry(self.source):
            diagram = power_diagram(self.source, self.sites, self.heights)
            hit = (diagram.masses > 0).to(self.sites.device)
            mean = diagram.centroids.to(self.sites.device)
            self.centroids = _filled(mean, hit, self.sites).to(self.sites)
            self._covariances = diagram.second_moments.to(self.sites.device)
        elif self._covariances is None and (self.centroids is None or self.spread is None):
            self.estimate_moments()
        spread = self.spread if self._covariances is None else self._covariances
        assert self.centroids is not None
        assert spread is not None
        return self.centroids, spread

    def extend(
        self,
        points: torch.Tensor,
        singular: Cut | None = None,
        method: str = "affine",
        *,
        generator: torch.Generator | None = None,
        neighbours: int = 20,
        scale: float | None = None,
        weight: float | None = None,
    ) -> torch.Tensor:
        """Return new codes: the transport map extended between the sites, cut along `singular`.

        Every method sends the centroid c_i of a cell to its site y_i (except "pair"), and none
        mixes sites that `singular` separates.

        - "affine": y_i + s A_i (x - c_i), A_i the Gaussian optimal map from the source inside
          cell i to the codes around y_i. Without exact cells (d > 3) long displacements are
          shortened and all lean a little towards the mean of these codes.
        - "linear": barycentric weights of x among the centroids near it.
        - "pair": w y_i + (1 - w) y_j, j the first runner-up on the owner's side.
        - "inverse-distance": weights 1 / |x - c_k| over the nearest centroids.

        A site alone in its component has nothing to be mixed with: its bare code is returned.

        Args:
            points: (m, d), of the source.
            singular: Where the map is cut; None: nowhere.
            method: One of the four.
            generator: For the random weights of "pair".
            neighbours: Length of the neighbour lists.
            scale: s of "affine"; None: such that new codes lie nearly as far from the sites as the
                sites from each other (`match_scale`).
            weight: The owner's weight in "pair"; None: uniform in (0, 1).

        Returns:
            (m, d) in the dtype of the sites.

        Raises:
            ValueError: For an unknown method or wrong shapes.
        """
        _check.choice("method", method, METHODS)
        _check.integer("neighbours", neighbours)
        device_of(generator)
        if scale is not None:
            _check.real("scale", scale)
        if weight is not None:
            _check.real("weight", weight, minimum=0, maximum=1)
        for name, value, user in (("scale", scale, "affine"), ("weight", weight, "pair")):
            if method != user:
                idle: dict[str, Any] = {name: (value, None)}
                _check.unused(f"unless method is {user!r}", **idle)
        points = _check.points("points", points, dim=self.dim, min_rows=0)
        sides = sides_of(singular, len(self.sites), self.sites.device)
        owner = self.cell(points)
        near = extension.around(owner, self.sites, sides, neighbours, engine=self.engine)
        centroids, _ = self._cells()
        if method == "affine":
            matched, usual = self._matched(singular, neighbours)
            start, move = self._affine(points, near)
            scale = matched if scale is None else scale
            return start + scale * extension.limited(move, usual[sides.labels[owner]])
        out = torch.empty(points.shape, dtype=self.sites.dtype, device=self.sites.device)
        for rows in torch.arange(len(points), device=out.device).split(1024):
            x, some = points[rows].to(out.dtype), near.of(rows)
            if method == "pair":
                _, order = self.top(points[rows], min(20, len(self.sites)))
                mix = self._weights(len(rows), weight, generator)
                out[rows] = extension.pair(order, some, self.sites, mix, sides.separated)
                continue
            if method == "inverse-distance":
                k = min(self.dim + 1, 20, len(self.sites))
                _, found = nearest(x, centroids, k, engine=self.engine)
                parts = extension.inverse_distance(x, some, found, centroids, sides.separated)
            else:
                parts = extension.barycentric(x, some, centroids)
            out[rows] = extension.mixed(self.sites, *parts)
        if method == "linear" and self.dim <= 3:
            values, valid = triangulation.interpolate(points, owner, centroids, self.sites, sides)
            out = torch.where(valid[:, None], values.to(out), out)
        return out

    def match_scale(
        self,
        singular: Cut | None = None,
        *,
        neighbours: int = 20,
        held_out: torch.Tensor | None = None,
    ) -> float:
        """Return the scale of "affine" at which new codes are as new as unseen data.

        The median distance from a generated code to the nearest site is matched to that of
        `held_out` codes or, without them, to 0.92 of that from a site to the next one.

        Args:
            singular: Where the map is cut.
            neighbours: As in `extend`.
            held_out: Codes (m, d) of data that are not among the sites.

        Returns:
            s, in [0, 8].
        """
        _check.integer("neighbours", neighbours)
        if held_out is not None:
            held_out = _check.points("held_out", held_out, dim=self.dim).to(self.sites)
        return self._matched(singular, neighbours, held_out)[0]

    def _matched(
        self, singular: Cut | None, neighbours: int, held_out: torch.Tensor | None = None
    ) -> tuple[float, torch.Tensor]:
        # The scale of "affine", and the usual length of a displacement in every component.
        for known, count, scale, usual in self._scales:
            if held_out is None and known is singular and count == neighbours:
                return scale, usual
        x = self.source.sample(2048, generator=_generator(0, "scale")).to(self.sites.device)
        owner = self.cell(x)
        if held_out is not None:
            apart, _ = nearest(held_out, self.sites, engine=self.engine)
            target = float(apart.median())
        elif self.sites.shape[0] < 2:
            target = 0.0
        else:
            apart, _ = nearest(self.sites[owner], self.sites, 2, engine=self.engine)
            target = extension.NEWNESS * float(apart[:, 1].median())
        sides = sides_of(singular, len(self.sites), self.sites.device)
        near = extension.around(owner, self.sites, sides, neighbours, engine=self.engine)
        start, move = self._affine(x, near)
        components = int(sides.labels.max()) + 1
        usual = move.new_full((components,), float("inf"))
        if self._covariances is None:
            usual = extension.usual_length(move, sides.labels[owner], components)
        move = extension.limited(move, usual[sides.labels[owner]])
        scale = extension.match_scale(start, move, self.sites, target, engine=self.engine)
        if held_out is None:
            self._scales.append((singular, neighbours, scale, usual))
        return scale, usual

    def _affine(self, points: torch.Tensor, near: Near) -> tuple[torch.Tensor, torch.Tensor]:
        # Where a point is sent at scale 0, and the displacement that a scale adds.
        centroids, spread = self._cells()
        moved = points.to(self.sites.dtype) - centroids[near.owners]
        start = self.sites[near.owners]
        if spread.ndim == 0:
            start = start + extension.lean(moved, near, self.sites, float(spread))
        return start, extension.local_affine(moved, near, self.sites, spread)

    def _weights(
        self, n: int, weight: float | None, generator: torch.Generator | None
    ) -> torch.Tensor:
        if weight is not None:
            return self.sites.new_full((n, 1), weight)
        drawn = torch.rand(n, 1, generator=generator, device=device_of(generator))
        return drawn.to(self.sites)

    # Generation

    def sample(
        self,
        n: int,
        *,
        singular: Cut | None = None,
        method: str = "affine",
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Return n generated codes, (n, d): `draw` with its defaults, without the account."""
        return self.draw(n, singular=singular, method=method, generator=generator).codes

    def draw(
        self,
        n: int,
        *,
        singular: Cut | None = None,
        method: str = "affine",
        boundary: str = "reject",
        balance: bool = True,
        generator: torch.Generator | None = None,
    ) -> Draw:
        """Return n generated codes with an account of what was rejected.

        Args:
            n: How many codes.
            singular: Where the map is cut; None: nowhere, and nothing is rejected.
            method: As in `extend`.
            boundary: What becomes of points next to the singular set: "reject" redraws them (the
                published rule), "reassign" keeps them on their owner's side.
            balance: Give every mode (component), and inside it every group of neighbouring codes,
                its share of the masses, rounded such that it is right on average. Rejection takes
                more from some modes than from others; this puts it back, and leaves less to chance
                than independent draws would. Twice as many points are drawn, more if a mode is
                rare.
            generator: Source of all randomness.

        Returns:
            The codes, where they came from, and the acceptance of every mode.

        Raises:
            ValueError: For unknown options or a negative n.

        Example:
            >>> import aeot, torch
            >>> sites = torch.rand(50, 2, generator=aeot.generator(0))
            >>> heights = -(sites**2).sum(1) / 2
            >>> brenier = BrenierMap(aeot.UniformBox(dim=2), sites, heights)
            >>> brenier.draw(8, generator=aeot.generator(1)).codes.shape
            torch.Size([8, 2])
        """
        _check.rows("n", n, self.dim, minimum=0)
        _check.flag("balance", balance)
        _check.choice("boundary", boundary, ("reject", "reassign"))
        _check.choice("method", method, METHODS)
        options: dict[str, Any] = {"singular": singular, "method": method, "boundary": boundary}
        return drawing.draw(self, n, balance=balance, generator=generator, **options)


def _hull(sites: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return which of some sites (k, d) are vertices of their convex hull, and its dimension."""
    moved = sites - sites.mean(0)
    rank = int(torch.linalg.matrix_rank(moved, rtol=1e-9))
    if rank == len(sites) - 1:  # a simplex
        return torch.ones(len(sites), dtype=torch.bool), rank
    unit = moved / moved.norm(dim=1).max()
    inside = torch.zeros(len(sites), dtype=torch.bool)
    for i in range(len(sites)):  # a vertex is no convex combination of the others
        others = torch.cat([unit[:i][~inside[:i]], unit[i + 1 :]])
        system = torch.nn.functional.pad(others, (0, 1), value=1.0).T.numpy()
        aim = torch.nn.functional.pad(unit[i], (0, 1), value=1.0).numpy()
        inside[i] = nnls(system, aim)[1] < 1e-9
    return ~inside, rank


def _filled(mean: torch.Tensor, hit: torch.Tensor, sites: torch.Tensor) -> torch.Tensor:
    """Give cells without a centroid the one that a linear fit of the others on the sites says."""
    if bool(hit.all()):
        return mean
    design = torch.nn.functional.pad(sites.to(torch.float64), (0, 1), value=1.0)
    fit = torch.linalg.lstsq(design[hit].cpu(), mean[hit].cpu(), driver="gelsd").solution
    return torch.where(hit[:, None], mean, design @ fit.to(mean.device))
