"""Drawing from a map: points are redrawn where it tears, so that each mode gets its share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from aeot import _loop
from aeot._rng import device_of
from aeot.maps.extension import Cut, Sides, sides_of
from aeot.measures import Measure

_DRAWN_AT_ONCE = 1 << 16  # points of the source
_MAX_DRAWS = 64, 1 << 18  # points drawn for one code, and at least, before all are kept
_MIN_ACCEPTED = 0.02  # of the points of a mode; with less of them its border points are kept, too
_MIN_EXPECTED = 3  # points in a stratum


@dataclass(frozen=True)
class Draw:
    """Generated codes and how they came about.

    Attributes:
        codes: (n, d).
        points: The points of the source they are the images of, (n, d).
        owners: The cells of those points, (n,).
        n_drawn: Points drawn in all.
        n_rejected: Points next to the singular set that were redrawn.
        n_surplus: Points left out so that every mode, and every part of it, gets its share.
        n_conceded: Points next to the singular set that were kept all the same, each on its owner's
            side: where (nearly) all of a mode is next to it, redrawing would not end.
        accepted: Share of the points of each mode that was not rejected, (modes,).
        n_alone: Codes returned bare because their site is alone in its component.
        labels: Of a conditional map, the number of each code's class (n,).
    """

    codes: torch.Tensor
    points: torch.Tensor = field(repr=False)
    owners: torch.Tensor = field(repr=False)
    n_drawn: int
    n_rejected: int
    n_surplus: int
    n_conceded: int
    accepted: torch.Tensor = field(repr=False)
    n_alone: int
    labels: torch.Tensor | None = field(default=None, repr=False)

    @property
    def acceptance(self) -> float:
        """Share of all drawn points that was not rejected."""
        return 1 - self.n_rejected / max(self.n_drawn, 1)


class Extended(Protocol):
    """What is drawn from: a `BrenierMap`."""

    @property
    def source(self) -> Measure:
        """The source measure."""
        ...

    sites: torch.Tensor
    masses: torch.Tensor

    def top(self, points: torch.Tensor, k: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the k highest planes at every point: values and indices (m, k)."""
        ...

    def extend(
        self,
        points: torch.Tensor,
        singular: Cut | None = None,
        method: str = "affine",
        *,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Return the codes of points (m, d)."""
        ...


def draw(
    brenier: Extended,
    n: int,
    *,
    singular: Cut | None,
    method: str,
    boundary: str,
    balance: bool,
    generator: torch.Generator | None,
) -> Draw:
    """Return n codes of a map; `BrenierMap.draw` explains and checks the arguments."""
    sides = sides_of(singular, len(brenier.sites), brenier.sites.device)
    labels = sides.labels
    pool = _Pool(brenier, sides if boundary == "reject" else Sides(labels, None), n, generator)
    # Groups of cells and how many points of each are wanted: first of every stratum, then what
    # is missing of every mode, then any.
    if balance:
        strata, quota = _shares(brenier, labels.cpu(), n, generator)
        mode = torch.zeros_like(quota).scatter_(0, strata, labels.cpu())
        pool.fill(strata.to(labels.device), quota, exempt=True)
        pool.fill(labels, torch.zeros_like(pool.seen).index_add_(0, mode, quota), exempt=True)
    pool.fill(torch.zeros_like(labels), torch.tensor([n]), exempt=False)
    points, owners, border = (torch.cat(parts[1:] or parts) for parts in pool.kept)
    if balance:  # the order of arrival favours the common modes; a shuffle forgets it
        order = torch.randperm(n, generator=generator, device=device_of(generator))
        order = order.to(points.device)
        points, owners, border = points[order], owners[order], border[order]
    return Draw(
        codes=brenier.extend(points, singular, method, generator=generator),
        points=points,
        owners=owners,
        n_drawn=pool.n_seen,
        n_rejected=int(pool.refused.sum()),
        n_surplus=pool.n_seen - int(pool.refused.sum()) - n,
        n_conceded=int(border.sum()),
        accepted=1 - pool.refused / pool.seen.clamp(min=1),
        n_alone=int((torch.bincount(labels)[labels[owners]] == 1).sum()),
    )


class _Pool:
    """Points of the source that are drawn until every group of cells has what it shall get.

    Args:
        brenier: The map.
        sides: Whose separated pairs have no point between them.
        n: How many points are wanted in all.
        generator: Source of all randomness.

    Attributes:
        seen: Points drawn in each mode (modes,), int64.
        refused: Those of them next to the singular set that were drawn anew (modes,), int64.
        kept: Blocks of points, of their cells, and of whether they lie next to the singular set;
            the first of each is empty.
    """

    def __init__(
        self, brenier: Extended, sides: Sides, n: int, generator: torch.Generator | None
    ) -> None:
        self.brenier, self.sides, self.generator = brenier, sides, generator
        self.most = max(_MAX_DRAWS[0] * n, _MAX_DRAWS[1])
        self.seen = torch.zeros(int(sides.labels.max()) + 1, dtype=torch.int64)
        self.refused = torch.zeros_like(self.seen)
        none = sides.labels[:0]
        self.kept: tuple[list[torch.Tensor], ...] = ([brenier.sites[:0]], [none], [none > 0])

    @property
    def n_seen(self) -> int:
        return int(self.seen.sum())

    def fill(self, group: torch.Tensor, quota: torch.Tensor, *, exempt: bool) -> None:
        """Draw until each group of cells has its quota of points.

        Args:
            group: Group of every cell (n,).
            quota: How many points of each group there shall be, those already kept included.
            exempt: Whether a group whose cells hardly any usable point hits may get less, and all
                of them once `most` points are drawn.
        """
        count, begun = len(quota), self.n_seen
        share = torch.zeros(count, dtype=torch.float64)
        share = share.index_add_(0, group.cpu(), self.brenier.masses.cpu())
        want = quota.clone()
        taken = torch.bincount(group[torch.cat(self.kept[1])].cpu(), minlength=count)
        usable = torch.zeros(count, dtype=torch.int64)
        while bool((taken < want).any()) and not (exempt and self.n_seen >= self.most):
            _loop.beat()
            # Enough for the group that lacks most at its rate so far.
            drawn = self.n_seen - begun
            need = float(((want - taken) * (drawn + count) / (usable + 1)).max())
            x, owner, near, good = self._drawn(int(min(max(1024, 1.1 * need), _DRAWN_AT_ONCE)))
            kind = group[owner[good]]
            room = _rank_within(kind, count) + taken.to(kind.device)[kind]
            room = room < want.to(kind.device)[kind]
            chosen = good.nonzero()[:, 0][room]
            taken += torch.bincount(kind[room].cpu(), minlength=count)
            usable += torch.bincount(kind.cpu(), minlength=count)
            for parts, part in zip(self.kept, (x, owner, near), strict=True):
                parts.append(part[chosen])
            if exempt:
                expected = share * (self.n_seen - begun)
                void = (expected > 30) & (usable < expected / 50)
                want = torch.where(void, torch.minimum(want, taken), want)

    def _drawn(self, n: int) -> tuple[torch.Tensor, ...]:
        # Points, their cells, whether they lie next to the singular set, and which may be kept.
        brenier, (labels, separated) = self.brenier, self.sides
        # A mode that is nearly all border is served from its own side rather than never; and if
        # most pairs of cells are separated, drawing anew would not end.
        all_border = (self.seen >= 256) & (self.seen - self.refused < _MIN_ACCEPTED * self.seen)
        all_border |= torch.tensor(self.n_seen >= self.most)
        x = brenier.source.sample(n, generator=self.generator).to(brenier.sites.device)
        _, best = brenier.top(x, min(2, len(brenier.sites)))
        owner = best[:, 0]
        label = labels[owner]
        near = torch.zeros_like(owner, dtype=torch.bool)
        if separated is not None:
            near = separated(owner, best[:, -1])
        good = ~near | all_border.to(label.device)[label]
        self.seen += torch.bincount(label.cpu(), minlength=len(self.seen))
        self.refused += torch.bincount(label[~good].cpu(), minlength=len(self.seen))
        return x, owner, near, good


def _shares(
    brenier: Extended, labels: torch.Tensor, n: int, generator: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the stratum of every cell, and how many of n points each stratum shall get.

    Strata are codes next to each other, of one mode, that n points hit at most six times.
    Counts are those of systematic sampling: a stratum's share of n, rounded up or down such that it
    is right on average, and so that of any strata in a row, modes for one.
    """
    codes, masses = brenier.sites.detach().cpu().double(), brenier.masses.cpu()
    centred = codes - codes.mean(0)
    codes = centred @ torch.linalg.eigh(centred.mT @ centred)[1]  # its spread along the axes
    strata, count = torch.zeros_like(labels), 0
    parts = [(labels == label).nonzero()[:, 0] for label in labels.unique().flip(0)]
    while parts:
        part = parts.pop()
        middle = 0
        if len(part) > 1 and n * float(masses[part].sum()) >= 2 * _MIN_EXPECTED:
            values = codes[part]
            part = part[values[:, values.var(0).argmax()].argsort(stable=True)]
            below = n * masses[part].cumsum(0)
            # Where halves are most equal with enough in either, if there is such a place.
            may = (below >= _MIN_EXPECTED) & (below[-1] - below >= _MIN_EXPECTED)
            may = may.nonzero()[:, 0]
            if len(may):
                middle = int(may[(below[may] - below[-1] / 2).abs().argmin()]) + 1
        if middle:
            parts += [part[middle:], part[:middle]]
        else:
            strata[part] = count
            count += 1
    device = device_of(generator)
    start = torch.rand(1, generator=generator, device=device, dtype=torch.float64).cpu()
    share = torch.zeros(count, dtype=torch.float64).index_add_(0, strata, masses)
    ends = n * share.cumsum(0) / share.sum() + start
    ends[-1] = n + start
    return strata, ends.floor().diff(prepend=start.new_zeros(1)).long()


def _rank_within(labels: torch.Tensor, count: int) -> torch.Tensor:
    # 0, 1, 2, ... among the entries of the same label, in order.
    order = labels.argsort(stable=True)
    sizes = torch.bincount(labels, minlength=count)
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(labels.numel(), device=labels.device) - starts[labels[order]]
    return rank
