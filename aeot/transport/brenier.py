"""The Brenier map of given heights: cells, potential, costs, the extended map, sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from aeot import _check
from aeot._rng import generator as _generator
from aeot.measures import Measure
from aeot.transport import cells, extension
from aeot.transport import heights as _heights

METHODS = ("affine", "linear", "pair", "inverse-distance")
_BLOCK = 8192  # points per block of an estimate; part of the stream's definition
_DRAW = 1 << 16  # the most points drawn at once


class Cut(Protocol):
    """What the extended map asks of a singular set; `SingularSet` answers it."""

    components: torch.Tensor

    def crosses(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Whether the map separates the cells of each pair."""
        ...


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
class Draw:
    """Generated codes and how they came about.

    Attributes:
        codes: (n, d).
        points: The points of the source they are the images of, (n, d).
        owners: The cells of those points, (n,).
        n_drawn: Points drawn in all.
        n_rejected: Points next to the singular set that were redrawn.
        n_surplus: Points redrawn so that every mode gets its share.
        accepted: Share of the points of each mode that was not rejected, (modes,).
        n_alone: Codes returned bare because their site is alone in its component.
    """

    codes: torch.Tensor
    points: torch.Tensor = field(repr=False)
    owners: torch.Tensor = field(repr=False)
    n_drawn: int
    n_rejected: int
    n_surplus: int
    accepted: torch.Tensor = field(repr=False)
    n_alone: int

    @property
    def acceptance(self) -> float:
        """Share of all drawn points that was not rejected."""
        return 1 - self.n_rejected / max(self.n_drawn, 1)


@dataclass(frozen=True)
class _Neighbours:
    singular: Cut | None
    count: int
    lists: torch.Tensor
    lengths: torch.Tensor
    scale: float


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
        self._neighbours: _Neighbours | None = None

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> BrenierMap:  # noqa: ANN401
        exact = {name: getattr(self, name) for name in ("heights", "masses", "spread")}
        super()._apply(fn, *args, **kwargs)
        for name, before in exact.items():  # follow the device, keep float64
            if before is not None:
                setattr(self, name, before.to(getattr(self, name).device))
        self._neighbours = None
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
        for x, owner in self._stream(n_points, seed, "moments"):
            count += torch.bincount(owner, minlength=n)
            total.index_add_(0, owner, x)
            square += x.square().sum()
        hit = count > 0
        mean = total / count.clamp(min=1)[:, None]
        if not bool(hit.all()):
            design = torch.nn.functional.pad(self.sites.to(torch.float64), (0, 1), value=1.0)
            fit = torch.linalg.lstsq(design[hit], mean[hit], driver="gelsd").solution
            mean[~hit] = design[~hit] @ fit
        inside = square - (count[:, None] * mean.square()).sum()
        # Each mean is fitted to its own points, which hides one part in count of the spread.
        self.spread = inside / (self.dim * (n_points - hit.sum()).clamp(min=1))
        if self.centroids is None:
            self.centroids = mean.to(self.sites)

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
        known = self._lists(singular, neighbours)
        if method == "affine":
            owner = self.cell(points)
            factor = self.match_scale(singular, neighbours=neighbours) if scale is None else scale
            return self.sites[owner] + factor * self._affine(points, owner, known)
        out = torch.empty(points.shape, dtype=self.sites.dtype, device=self.sites.device)
        for start in range(0, points.shape[0], 1024):
            block = points[start : start + 1024]
            if method == "pair":
                new = self._pair(block, singular, known, weight, generator)
            else:
                new = self._mixed(block, singular, known, method)
            out[start : start + 1024] = new
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
        """
        known = self._lists(singular, neighbours)
        if held_out is None and known.scale >= 0:
            return known.scale
        x = self.source.sample(2048, generator=_generator(0, "scale")).to(self.sites.device)
        owner = self.cell(x)
        if held_out is not None:
            held_out = _check.points("held_out", held_out, dim=self.dim).to(self.sites)
            target = float(extension.nearest(held_out, self.sites, 1)[0].median())
        elif self.sites.shape[0] < 2:
            target = 0.0
        else:
            target = float(extension.nearest(self.sites[owner], self.sites, 2)[0][:, 1].median())
        move = self._affine(x, owner, known)
        scale = extension.match_scale(move, owner, self.sites, target)
        if held_out is None:
            self._neighbours = _Neighbours(singular, neighbours, known.lists, known.lengths, scale)
        return scale

    def _lists(self, singular: Cut | None, neighbours: int) -> _Neighbours:
        known = self._neighbours
        if known is None or known.singular is not singular or known.count != neighbours:
            if self.centroids is None or self.spread is None:
                self.estimate_moments()
            labels = torch.zeros_like(self.heights, dtype=torch.int64)
            labels = labels if singular is None else singular.components
            cut = None if singular is None else singular.crosses
            lists, lengths = extension.members(self.sites, labels, neighbours, cut)
            known = _Neighbours(singular, neighbours, lists, lengths, -1.0)
            self._neighbours = known
        return known

    def _affine(
        self, points: torch.Tensor, owner: torch.Tensor, known: _Neighbours
    ) -> torch.Tensor:
        moved = points.to(self.sites.dtype) - self.centroids[owner]
        return extension.local_affine(moved, owner, self.sites, known.lists, self.spread)

    def _pair(
        self,
        points: torch.Tensor,
        singular: Cut | None,
        known: _Neighbours,
        weight: float | None,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        _, order = self.top(points, min(20, self.sites.shape[0]))
        owner = order[:, 0]
        # The owner's nearest neighbour (or itself, when alone) stands behind the runners-up.
        others = torch.cat([order[:, 1:], known.lists[owner, :1]], 1)
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

    def _mixed(
        self, points: torch.Tensor, singular: Cut | None, known: _Neighbours, method: str
    ) -> torch.Tensor:
        x = points.to(self.sites.dtype)
        owner = self.cell(points)
        if method == "inverse-distance":
            count = min(self.dim + 1, 20, self.sites.shape[0])
            _, near = extension.nearest(x, self.centroids, count)
            near = torch.cat([owner[:, None], near, known.lists[owner, :1]], 1)
            keep = torch.ones_like(near, dtype=torch.bool)
            keep[:, 1:-1] = near[:, 1:-1] != owner[:, None]
            if singular is not None:
                keep &= extension.compatible(owner, near, singular.crosses)
            # The spare neighbour only helps those who would be left alone.
            keep[:, -1] = (keep[:, :-1].sum(1) == 1) & (near[:, -1] != owner)
            weights = extension.inverse_distance(x, near, keep, self.centroids)
        else:
            near = torch.cat([owner[:, None], known.lists[owner]], 1)
            keep = near != owner[:, None]
            keep[:, 0] = True
            weights = extension.barycentric(x, near, keep, self.centroids)
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
        _check.integer("n", n, minimum=0)
        _check.choice("boundary", boundary, ("reject", "reassign"))
        _check.choice("method", method, METHODS)
        labels = torch.zeros_like(self.heights, dtype=torch.int64)
        labels = labels if singular is None else singular.components
        modes = int(labels.max()) + 1
        device = torch.device("cpu") if generator is None else generator.device
        share = torch.zeros(modes, dtype=torch.float64, device=labels.device)
        share = share.index_add_(0, labels, self.masses).to(device)
        balance = balance and modes > 1
        quota = torch.full((modes,), n)
        if balance:
            quota = _counts(share, n, generator)
        seen = torch.zeros(modes, dtype=torch.int64)
        refused = torch.zeros(modes, dtype=torch.int64)
        taken = torch.zeros(modes, dtype=torch.int64)
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        size = 0
        while size < n:
            # Enough for the mode that lacks most at its rate so far.
            rate = (seen - refused + 1) / (seen.sum() + modes)
            need = float(((quota - taken) / rate).max())
            x = self.source.sample(int(min(max(1024, 1.1 * need), _DRAW)), generator=generator).to(
                self.sites.device
            )
            _, best = self.top(x, min(2, len(self.sites)))
            owner = best[:, 0]
            label = labels[owner]
            good = torch.ones_like(owner, dtype=torch.bool)
            if singular is not None and boundary == "reject":
                # A mode that is nearly all border is served from its own side rather than never.
                hopeless = (seen >= 256) & (seen - refused < 0.02 * seen)
                good = ~singular.crosses(owner, best[:, -1]) | hopeless.to(label.device)[label]
            seen += torch.bincount(label.cpu(), minlength=modes)
            refused += torch.bincount(label[~good].cpu(), minlength=modes)
            rank = _rank_within(label[good], modes) + taken.to(label.device)[label[good]]
            room = rank < quota.to(label.device)[label[good]]
            room &= torch.cumsum(room, 0) <= n - size
            chosen = good.nonzero()[:, 0][room]
            taken += torch.bincount(label[chosen].cpu(), minlength=modes)
            kept.append((x[chosen], owner[chosen]))
            size += chosen.numel()
            # Modes with cells (nearly) empty are not waited for: the others share what they lack.
            expected = share.cpu() * seen.sum()
            void = (expected > 30) & (seen < expected / 20) & (quota > taken) & balance
            if bool(void.any()):
                share[void.to(device)] = 0
                lacking = int((quota - taken)[void].sum())
                quota[void] = taken[void]
                quota += _counts(share, lacking, generator)
        points = torch.cat([x for x, _ in kept]) if kept else self.sites[:0]
        owners = torch.cat([o for _, o in kept]) if kept else labels[:0]
        if modes > 1:  # the order of arrival favours the common modes; a shuffle forgets it
            order = torch.randperm(n, generator=generator, device=device).to(points.device)
            points, owners = points[order], owners[order]
        codes = self.extend(points, singular, method, generator=generator)
        lengths = self._lists(singular, 20).lengths
        drawn, lost = int(seen.sum()), int(refused.sum())
        accepted = 1 - refused / seen.clamp(min=1)
        alone = int((lengths[owners] == 0).sum())
        return Draw(codes, points, owners, drawn, lost, drawn - lost - n, accepted, alone)

    def _stream(self, n_points: int, seed: int, key: str):  # noqa: ANN202 - (x float64, cell)
        for block, start in enumerate(range(0, n_points, _BLOCK)):
            x = self.source.sample(
                min(_BLOCK, n_points - start), generator=_generator(seed, key, block)
            ).to(self.sites.device)
            yield x.to(torch.float64), self.cell(x)


def _counts(share: torch.Tensor, n: int, generator: torch.Generator | None) -> torch.Tensor:
    pick = torch.multinomial(share, n, replacement=True, generator=generator) if n else share[:0]
    return torch.bincount(pick.cpu().to(torch.int64), minlength=share.numel())


def _rank_within(labels: torch.Tensor, count: int) -> torch.Tensor:
    # 0, 1, 2, ... among the entries of the same label, in order.
    order = labels.argsort(stable=True)
    sizes = torch.bincount(labels, minlength=count)
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(labels.numel(), device=labels.device) - starts[labels[order]]
    return rank
