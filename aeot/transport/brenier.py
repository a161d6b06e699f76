"""The Brenier map of given heights: cells, potential, costs, the extended map, sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from aeot import _check
from aeot._rng import generator as _generator
from aeot.measures import Measure
from aeot.transport import affine, cells, extension, generation, triangulation
from aeot.transport import heights as _heights
from aeot.transport.generation import METHODS, Cut, Draw
from aeot.transport.geometry import power_diagram

_BLOCK = 8192  # points per block of an estimate; part of the stream's definition


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


class BrenierMap(nn.Module):
    """The semi-discrete optimal transport map x -> y_i on the power cell W_i.

    Its state is buffers only. Results have the dtype of the points for values (`potential`,
    `c_transform`) and that of the sites for codes; everything happens on the device of the sites.
    Heights stay float64 whatever the module is cast to.

    Args:
        source: The source measure mu.
        sites: (n, d).
        heights: (n,).
        masses: Target masses (n,); equal if left out.
        centroids: Mean of the source inside each cell (n, d); estimated when first needed if left
            out.
        spread: Mean of |x - c_i|^2 / d over the source, c_i the centroid of the cell of x;
            estimated when first needed if left out.

    Raises:
        ValueError: For shapes that do not match.

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

    def __init__(
        self,
        source: Measure,
        sites: torch.Tensor,
        heights: torch.Tensor,
        *,
        masses: torch.Tensor | None = None,
        centroids: torch.Tensor | None = None,
        spread: float | torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        sites = _check.points("sites", sites, dim=source.dim)
        n = sites.shape[0]
        heights = _check.array("heights", heights)
        if heights.shape != (n,):
            raise _check.fail("heights", f"have shape ({n},)", f"shape {tuple(heights.shape)}")
        if centroids is not None:
            centroids = _check.points("centroids", centroids, dim=source.dim, min_rows=n)
            centroids = centroids.to(sites)
        if spread is not None:
            spread = torch.as_tensor(spread, dtype=torch.float64, device=sites.device)
        self.source = source
        self.register_buffer("sites", sites)
        self.register_buffer("heights", heights.to(sites.device, torch.float64))
        self.register_buffer("masses", _check.masses(masses, n).to(sites.device))
        self.register_buffer("centroids", centroids)
        self.register_buffer("spread", spread)
        self._scales: list[tuple[Cut | None, int, float]] = []  # found by match_scale
        self._covariances: torch.Tensor | None = None

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> BrenierMap:  # noqa: ANN401
        exact = {name: getattr(self, name) for name in ("heights", "masses", "spread")}
        super()._apply(fn, *args, **kwargs)
        for name, before in exact.items():  # follow the device, keep float64
            if before is not None:
                setattr(self, name, before.to(getattr(self, name).device))
        self._scales, self._covariances = [], None
        return self

    @property
    def dim(self) -> int:
        """Dimension d."""
        return self.sites.shape[1]

    # The map and its potential

    def top(self, points: torch.Tensor, k: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the k highest planes at every point: values (m, k) and indices (m, k)."""
        return cells.assign(points, self.sites, self.heights, k)

    def cell(self, points: torch.Tensor) -> torch.Tensor:
        """Return the power cell of every point, (m,) int64."""
        return self.top(points)[1][:, 0]

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Return T(x) = y_i, the gradient of the potential, (m, d)."""
        return self.sites[self.cell(points)]

    def potential(self, points: torch.Tensor) -> torch.Tensor:
        """Return u(x) = max_i <x, y_i> + h_i, (m,); differentiable in points, sites and heights."""
        owner = self.cell(points.detach())
        planes = (points * self.sites[owner].to(points.dtype)).sum(1)
        return planes + self.heights[owner].to(points.dtype)

    def c_transform(self, points: torch.Tensor) -> torch.Tensor:
        """Return psi^c(x) = min_i |x - y_i|^2 / 2 - psi_i = |x|^2 / 2 - u(x), (m,)."""
        return points.square().sum(1) / 2 - self.potential(points)

    def costs(self, n_points: int = 1 << 16, *, seed: int = 0) -> Costs:
        """Measure the transport cost, W2 and the dual value on fresh points, in float64.

        Args:
            n_points: How many points of the source, >= 2.
            seed: Which points.

        Returns:
            The estimates with their standard errors.
        """
        _check.integer("n_points", n_points, minimum=2)
        total = torch.zeros(5, dtype=torch.float64, device=self.sites.device)
        for x, owner in self._stream(n_points, seed, "costs"):
            move = (x - self.sites[owner].to(torch.float64)).square().sum(1) / 2
            dual = x.square().sum(1) / 2 - self.heights[owner]
            dual = dual - (x * self.sites[owner].to(torch.float64)).sum(1)
            parts = [move.sum(), move.square().sum(), dual.sum(), dual.square().sum()]
            total += torch.stack([*parts, move.new_tensor(float(len(x)))])
        cost, square, dual, dual_square = (total[:4] / n_points).tolist()
        inner = float(self.masses @ _heights.dual_from_heights(self.heights, self.sites))
        cost_error = max(square - cost**2, 0.0) ** 0.5 / (n_points - 1) ** 0.5
        dual_error = max(dual_square - dual**2, 0.0) ** 0.5 / (n_points - 1) ** 0.5
        w2 = (2 * cost) ** 0.5
        w2_error = cost_error / w2 if w2 > 0 else 0.0
        return Costs(cost, cost_error, dual + inner, dual_error, w2, w2_error, n_points)

    # The extended map

    def estimate_moments(self, n_points: int | None = None, *, seed: int = 0) -> None:
        """Fill in the cells' centroids and their mean spread from points of the source.

        Cells that no point hits get the centroid that a linear fit on the others predicts.

        Args:
            n_points: How many points; 32 per cell if left out, at least 2**16.
            seed: Which points.
        """
        n = self.sites.shape[0]
        n_points = max(32 * n, 1 << 16) if n_points is None else n_points
        count = torch.zeros(n, dtype=torch.int64, device=self.sites.device)
        total = torch.zeros(n, self.dim, dtype=torch.float64, device=self.sites.device)
        square = torch.zeros((), dtype=torch.float64, device=self.sites.device)
        for x, owner in self._stream(_check.integer("n_points", n_points), seed, "moments"):
            count += torch.bincount(owner, minlength=n)
            total.index_add_(0, owner, x)
            square += x.square().sum()
        hit = count > 0
        mean = self._filled(total / count.clamp(min=1)[:, None], hit)
        inside = square - (count[:, None] * mean.square()).sum()
        # Each mean is fitted to its own points, which hides one part in count of the spread.
        self.spread = inside / (self.dim * (n_points - hit.sum()).clamp(min=1))
        if self.centroids is None:
            self.centroids = mean.to(self.sites)

    def _filled(self, mean: torch.Tensor, hit: torch.Tensor) -> torch.Tensor:
        if bool(hit.all()):
            return mean
        design = torch.nn.functional.pad(self.sites.to(torch.float64), (0, 1), value=1.0)
        fit = torch.linalg.lstsq(design[hit].cpu(), mean[hit].cpu(), driver="gelsd").solution
        return torch.where(hit[:, None], mean, design @ fit.to(mean.device))

    def _moments(self) -> torch.Tensor:
        # sigma^2, or the covariance of every cell where geometry gives it exactly; as a side
        # effect the centroids are there.
        if self.dim <= 3 and self._covariances is None:
            try:
                diagram = power_diagram(self.source, self.sites, self.heights)
            except ValueError:  # no exact geometry for this source
                self._covariances = self.sites.new_empty(0)
            else:
                hit = (diagram.masses > 0).to(self.sites.device)
                self._covariances = diagram.second_moments.to(self.sites.device)
                mean = diagram.centroids.to(self.sites.device, torch.float64)
                self.centroids = self._filled(mean, hit).to(self.sites)
        if self._covariances is not None and self._covariances.numel():
            return self._covariances
        if self.centroids is None or self.spread is None:
            self.estimate_moments()
        return self.spread

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
          cell i to the codes around y_i.
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
            scale: s of "affine"; None: such that new codes lie as far from the sites as the sites
                from each other.
            weight: The owner's weight in "pair"; None: uniform in (0, 1).

        Returns:
            (m, d) in the dtype of the sites.

        Raises:
            ValueError: For an unknown method or wrong shapes.
        """
        _check.choice("method", method, METHODS)
        _check.integer("neighbours", neighbours)
        points = _check.points("points", points, dim=self.dim, min_rows=0)
        owner = self.cell(points)
        if method == "affine":
            if scale is None:
                scale = self.match_scale(singular, neighbours=neighbours)
            return self.sites[owner] + scale * self._affine(points, owner, singular, neighbours)
        self._moments()
        owners, slot = owner.unique(return_inverse=True)
        lists = self._members(owners, singular, neighbours)
        out = torch.empty(points.shape, dtype=self.sites.dtype, device=self.sites.device)
        for rows in torch.arange(len(points), device=out.device).split(1024):
            x, own, near = points[rows], owner[rows], lists[slot[rows]]
            if method == "pair":
                out[rows] = self._pair(x, near[:, 0], singular, weight, generator)
            elif method == "inverse-distance":
                out[rows] = self._inverse_distance(x, own, near[:, 0], singular)
            else:
                out[rows] = self._barycentric(x, own, near)
        if method == "linear" and self.dim <= 3:
            labels, cut = self._cut(singular)
            values, valid = triangulation.interpolate(
                points, owner, self.centroids, self.sites, labels, cut
            )
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
        `held_out` codes or, without them, to the median distance from a site to the next one.

        Args:
            singular: Where the map is cut.
            neighbours: As in `extend`.
            held_out: Codes (m, d) of data that are not among the sites.

        Returns:
            s, in [0, 8].
        """
        for known, count, scale in self._scales:
            if held_out is None and known is singular and count == neighbours:
                return scale
        x = self.source.sample(2048, generator=_generator(0, "scale")).to(self.sites.device)
        owner = self.cell(x)
        if held_out is not None:
            held_out = _check.points("held_out", held_out, dim=self.dim).to(self.sites)
            target = float(extension.nearest(held_out, self.sites, 1)[0].median())
        elif self.sites.shape[0] < 2:
            target = 0.0
        else:
            target = float(extension.nearest(self.sites[owner], self.sites, 2)[0][:, 1].median())
        move = self._affine(x, owner, singular, neighbours)
        scale = affine.match_scale(move, owner, self.sites, target)
        if held_out is None:
            self._scales.append((singular, neighbours, scale))
        return scale

    def _cut(self, singular: Cut | None) -> tuple[torch.Tensor, Callable | None]:
        if singular is None:
            return torch.zeros_like(self.heights, dtype=torch.int64), None
        return singular.components, singular.crosses

    def _members(self, owners: torch.Tensor, singular: Cut | None, neighbours: int) -> torch.Tensor:
        labels, cut = self._cut(singular)
        return extension.members(owners, self.sites, labels, neighbours, cut)

    def _affine(
        self, points: torch.Tensor, owner: torch.Tensor, singular: Cut | None, neighbours: int
    ) -> torch.Tensor:
        spread = self._moments()
        owners, slot = owner.unique(return_inverse=True)
        lists = self._members(owners, singular, neighbours)
        moved = points.to(self.sites.dtype) - self.centroids[owner]
        return affine.local_affine(moved, owners, slot, self.sites, lists, spread)

    def _pair(
        self,
        points: torch.Tensor,
        spare: torch.Tensor,
        singular: Cut | None,
        weight: float | None,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        _, order = self.top(points, min(20, self.sites.shape[0]))
        owner = order[:, 0]
        # The owner's nearest neighbour (or itself, when alone) stands behind the runners-up.
        others = torch.cat([order[:, 1:], spare[:, None]], 1)
        allowed = torch.ones_like(others, dtype=torch.bool)
        if singular is not None:
            allowed = ~singular.crosses(owner[:, None].expand_as(others), others)
        allowed[:, -1] = True
        partner = others.gather(1, allowed.to(torch.int8).argmax(1, keepdim=True))[:, 0]
        if weight is None:
            device = torch.device("cpu") if generator is None else generator.device
            w = torch.rand(len(points), 1, generator=generator, device=device).to(self.sites)
        else:
            w = torch.full((len(points), 1), weight).to(self.sites)
        return w * self.sites[owner] + (1 - w) * self.sites[partner]

    def _inverse_distance(
        self, points: torch.Tensor, owner: torch.Tensor, spare: torch.Tensor, singular: Cut | None
    ) -> torch.Tensor:
        x = points.to(self.sites.dtype)
        count = min(self.dim + 1, 20, self.sites.shape[0])
        _, near = extension.nearest(x, self.centroids, count)
        near = torch.cat([owner[:, None], near, spare[:, None]], 1)
        keep = torch.ones_like(near, dtype=torch.bool)
        if singular is not None:
            keep = extension.compatible(owner, near, singular.crosses)
        keep[:, 1:] &= near[:, 1:] != owner[:, None]
        # The spare neighbour only helps those who would be left alone.
        keep[:, -1] &= keep[:, :-1].sum(1) == 1
        weights = extension.inverse_distance(x, near, keep, self.centroids)
        return (weights[:, :, None] * self.sites[near]).sum(1)

    def _barycentric(
        self, points: torch.Tensor, owner: torch.Tensor, lists: torch.Tensor
    ) -> torch.Tensor:
        near = torch.cat([owner[:, None], lists], 1)
        keep = near != owner[:, None]
        keep[:, 0] = True
        weights = extension.barycentric(points.to(self.sites.dtype), near, keep, self.centroids)
        return (weights[:, :, None] * self.sites[near]).sum(1)

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
            balance: Give every mode (component) its share of the masses. Rejection takes more
                from some modes than from others; this puts it back. Counts are drawn from the
                multinomial law of the masses.
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
        return generation.draw(self, n, singular, method, boundary, balance, generator)

    def _stream(
        self, n_points: int, seed: int, key: str
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        # Points of the source in float64, and their cells.
        for block, start in enumerate(range(0, n_points, _BLOCK)):
            x = self.source.sample(
                min(_BLOCK, n_points - start), generator=_generator(seed, key, block)
            ).to(self.sites.device)
            yield x.to(torch.float64), self.cell(x)
