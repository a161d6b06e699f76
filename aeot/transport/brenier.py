"""The Brenier map of given heights: cells, potential, costs, the extended map, sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from aeot import _check
from aeot._rng import generator as _generator
from aeot.measures import Measure
from aeot.transport import affine, cells, estimates, extension, generation, triangulation
from aeot.transport.estimates import Costs
from aeot.transport.generation import METHODS, Cut, Draw
from aeot.transport.geometry import power_diagram


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
        # (cut, neighbours, scale, usual length of a displacement), as `_matched` found them
        self._scales: list[tuple[Cut | None, int, float, torch.Tensor]] = []
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
        return estimates.costs(self, _check.integer("n_points", n_points, minimum=2), seed)

    # The extended map

    def estimate_moments(self, n_points: int | None = None, *, seed: int = 0) -> None:
        """Fill in the cells' centroids and their mean spread from points of the source.

        Cells that no point hits get the centroid that a linear fit on the others predicts.

        Args:
            n_points: How many points; 32 per cell if left out, at least 2**16.
            seed: Which points.
        """
        if n_points is None:
            n_points = max(32 * len(self.sites), 1 << 16)
        centroids, self.spread = estimates.moments(self, _check.integer("n_points", n_points), seed)
        if self.centroids is None:
            self.centroids = centroids.to(self.sites)

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
                self.centroids = estimates.filled(mean, hit, self.sites).to(self.sites)
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
        points = _check.points("points", points, dim=self.dim, min_rows=0)
        owner = self.cell(points)
        if method == "affine":
            matched, usual = self._matched(singular, neighbours)
            scale = matched if scale is None else scale
            start, move = self._affine(points, owner, singular, neighbours)
            return start + scale * affine.limited(move, usual[self._cut(singular)[0][owner]])
        self._moments()
        owners, slot = owner.unique(return_inverse=True)
        lists = self._members(owners, singular, neighbours)
        labels, cut = self._cut(singular)
        out = torch.empty(points.shape, dtype=self.sites.dtype, device=self.sites.device)
        for rows in torch.arange(len(points), device=out.device).split(1024):
            x, own, near = points[rows].to(out.dtype), owner[rows], lists[slot[rows]]
            if method == "pair":
                _, order = self.top(points[rows], min(20, len(self.sites)))
                mix = self._weights(len(rows), weight, generator)
                out[rows] = extension.pair(order, near[:, 0], self.sites, mix, cut)
            elif method == "inverse-distance":
                out[rows] = extension.inverse_distance(
                    x, own, near[:, 0], self.centroids, self.sites, cut
                )
            else:
                out[rows] = extension.barycentric(x, own, near, self.centroids, self.sites)
        if method == "linear" and self.dim <= 3:
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
        `held_out` codes or, without them, to 0.92 of that from a site to the next one.

        Args:
            singular: Where the map is cut.
            neighbours: As in `extend`.
            held_out: Codes (m, d) of data that are not among the sites.

        Returns:
            s, in [0, 8].
        """
        if held_out is not None:
            held_out = _check.points("held_out", held_out, dim=self.dim).to(self.sites)
        return self._matched(singular, neighbours, held_out)[0]

    def _matched(
        self, singular: Cut | None, neighbours: int, held_out: torch.Tensor | None = None
    ) -> tuple[float, torch.Tensor]:
        for known, count, *found in self._scales:
            if held_out is None and known is singular and count == neighbours:
                return found[0], found[1]
        x = self.source.sample(2048, generator=_generator(0, "scale")).to(self.sites.device)
        owner = self.cell(x)
        if held_out is not None:
            target = float(extension.nearest(held_out, self.sites, 1)[0].median())
        elif self.sites.shape[0] < 2:
            target = 0.0
        else:
            apart = extension.nearest(self.sites[owner], self.sites, 2)[0][:, 1]
            target = affine.NEWNESS * float(apart.median())
        start, move = self._affine(x, owner, singular, neighbours)
        labels = self._cut(singular)[0]
        components = int(labels.max()) + 1
        if self._moments().ndim == 0:
            usual = affine.usual_length(move, labels[owner], components)
        else:
            usual = move.new_full((components,), float("inf"))
        move = affine.limited(move, usual[labels[owner]])
        scale = affine.match_scale(start, move, self.sites, target)
        if held_out is None:
            self._scales.append((singular, neighbours, scale, usual))
        return scale, usual

    def _cut(self, singular: Cut | None) -> tuple[torch.Tensor, Callable | None]:
        if singular is None:
            return torch.zeros_like(self.heights, dtype=torch.int64), None
        return singular.components, singular.crosses

    def _members(self, owners: torch.Tensor, singular: Cut | None, neighbours: int) -> torch.Tensor:
        labels, cut = self._cut(singular)
        return extension.members(owners, self.sites, labels, neighbours, cut)

    def _affine(
        self, points: torch.Tensor, owner: torch.Tensor, singular: Cut | None, neighbours: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Where a point is sent at scale 0, and the displacement that a scale adds.
        spread = self._moments()
        owners, slot = owner.unique(return_inverse=True)
        lists = self._members(owners, singular, neighbours)
        moved = points.to(self.sites.dtype) - self.centroids[owner]
        start = self.sites[owner]
        if spread.ndim == 0:
            start = start + affine.lean(moved, slot, owners, self.sites, lists, float(spread))
        return start, affine.local_affine(moved, owners, slot, self.sites, lists, spread)

    def _weights(
        self, n: int, weight: float | None, generator: torch.Generator | None
    ) -> torch.Tensor:
        if weight is not None:
            return self.sites.new_full((n, 1), _check.real("weight", weight, minimum=0, maximum=1))
        device = torch.device("cpu") if generator is None else generator.device
        return torch.rand(n, 1, generator=generator, device=device).to(self.sites)

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
        return generation.draw(self, n, singular, method, boundary, balance, generator)
