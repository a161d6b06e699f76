"""Generated codes: which points of the source are kept, and how every mode gets its share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch

from aeot import _check

if TYPE_CHECKING:
    from aeot.transport.brenier import BrenierMap

METHODS = ("affine", "linear", "pair", "inverse-distance")
_MOST = 1 << 16  # points drawn at once
_PATIENCE = 64, 1 << 18  # points drawn for one code, and at least, before all are kept
_HITS = 6  # expected points in a stratum, at most


class Cut(Protocol):
    """What the extended map asks of a singular set; `SingularSet` answers it."""

    components: torch.Tensor

    def crosses(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Whether the map separates the cells of each pair."""
        ...


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

    @property
    def acceptance(self) -> float:
        """Share of all drawn points that was not rejected."""
        return 1 - self.n_rejected / max(self.n_drawn, 1)


def draw(
    brenier: BrenierMap,
    n: int,
    singular: Cut | None,
    method: str,
    boundary: str,
    balance: bool,
    generator: torch.Generator | None,
) -> Draw:
    """Draw n codes; the arguments are those of `BrenierMap.draw`."""
    _check.integer("n", n, minimum=0)
    _check.choice("boundary", boundary, ("reject", "reassign"))
    _check.choice("method", method, METHODS)
    labels = torch.zeros_like(brenier.heights, dtype=torch.int64)
    labels = labels if singular is None else singular.components
    modes = int(labels.max()) + 1
    want = torch.tensor([n])
    if balance:
        strata, quota = _shares(brenier, labels.cpu(), n, generator)
        mode = torch.zeros_like(quota).scatter_(0, strata, labels.cpu())
        # Twice as many as are needed, so that most strata find their share among them.
        want = 2 * torch.zeros(modes, dtype=torch.int64).index_add_(0, mode, quota)
    apart = balance  # whether every mode is waited for
    share = torch.zeros(modes, dtype=torch.float64)
    share = share.index_add_(0, labels.cpu(), brenier.masses.cpu())
    seen = torch.zeros(modes, dtype=torch.int64)
    refused = torch.zeros(modes, dtype=torch.int64)
    taken = torch.zeros_like(want)
    pool: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    while True:
        size, lacking = int(taken.sum()), bool((taken < want).any())
        # A cut through nearly every cell would have us draw for ever; nor is a share worth that.
        tired = int(seen.sum()) >= max(_PATIENCE[0] * n, _PATIENCE[1])
        if size >= n and (tired or not lacking):
            break
        if tired or not lacking:
            apart, want, taken = False, torch.tensor([n]), torch.tensor([size])
        # Enough for the mode that lacks most at its rate so far.
        usable = seen - refused if apart else (seen - refused).sum()[None]
        rate = (usable + 1) / (seen.sum() + len(want))
        need = float(((want - taken) / rate).max())
        x = brenier.source.sample(int(min(max(1024, 1.1 * need), _MOST)), generator=generator).to(
            brenier.sites.device
        )
        _, best = brenier.top(x, min(2, len(brenier.sites)))
        owner = best[:, 0]
        label = labels[owner]
        border = torch.zeros_like(owner, dtype=torch.bool)
        good = ~border
        if singular is not None and boundary == "reject":
            # A mode that is nearly all border is served from its own side rather than never.
            hopeless = (seen >= 256) & (seen - refused < 0.02 * seen) | tired
            border = singular.crosses(owner, best[:, -1])
            good = ~border | hopeless.to(label.device)[label]
        seen += torch.bincount(label.cpu(), minlength=modes)
        refused += torch.bincount(label[~good].cpu(), minlength=modes)
        kind = (label if apart else torch.zeros_like(label))[good]
        rank = _rank_within(kind, len(want)) + taken.to(kind.device)[kind]
        room = rank < want.to(kind.device)[kind]
        chosen = good.nonzero()[:, 0][room]
        taken += torch.bincount(kind[room].cpu(), minlength=len(want))
        pool.append((x[chosen], owner[chosen], border[chosen]))
        if apart:  # modes with cells (nearly) empty are not waited for
            expected = share * seen.sum()
            void = (expected > 30) & (seen < expected / 20)
            want = torch.where(void, torch.minimum(want, taken), want)
    pool = pool or [(brenier.sites[:0], labels[:0], labels[:0] > 0)]
    points, owners, border = (torch.cat(parts) for parts in zip(*pool, strict=True))
    if balance:
        order = _selected(owners.cpu(), strata, mode, quota)
        # The order of arrival favours the common modes; a shuffle forgets it.
        device = torch.device("cpu") if generator is None else generator.device
        order = order[torch.randperm(n, generator=generator, device=device).cpu()]
        order = order.to(points.device)
        points, owners, border = points[order], owners[order], border[order]
    codes = brenier.extend(points, singular, method, generator=generator)
    drawn, lost, conceded = int(seen.sum()), int(refused.sum()), int(border.sum())
    accepted = 1 - refused / seen.clamp(min=1)
    alone = int((torch.bincount(labels)[labels[owners]] == 1).sum())
    return Draw(codes, points, owners, drawn, lost, drawn - lost - n, conceded, accepted, alone)


def _shares(
    brenier: BrenierMap, labels: torch.Tensor, n: int, generator: torch.Generator | None
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
        below = masses[part].cumsum(0)
        if len(part) == 1 or n * float(below[-1]) <= _HITS:
            strata[part] = count
            count += 1
            continue
        values = codes[part]
        part = part[values[:, values.var(0).argmax()].argsort(stable=True)]
        below = masses[part].cumsum(0)
        middle = int(torch.searchsorted(below, below[-1] / 2).clamp(1, len(part) - 1))
        parts += [part[middle:], part[:middle]]
    device = torch.device("cpu") if generator is None else generator.device
    start = torch.rand(1, generator=generator, device=device, dtype=torch.float64).cpu()
    share = torch.zeros(count, dtype=torch.float64).index_add_(0, strata, masses)
    ends = n * share.cumsum(0) / share.sum() + start
    ends[-1] = n + start
    return strata, ends.floor().diff(prepend=start.new_zeros(1)).long()


def _selected(
    owners: torch.Tensor, strata: torch.Tensor, mode: torch.Tensor, quota: torch.Tensor
) -> torch.Tensor:
    """Choose n = sum(quota) of the points in these cells, in the order they came.

    First those that belong to the share of their stratum, then to what its mode still lacks, then
    any.
    """
    stratum = strata[owners]
    spare = _rank_within(stratum, len(quota)) >= quota[stratum]
    modes = int(mode.max()) + 1
    lacking = torch.zeros(modes, dtype=torch.int64).index_add_(0, mode, quota)
    lacking -= torch.bincount(mode[stratum[~spare]], minlength=modes)
    late = spare.clone()
    kind = mode[stratum[spare]]
    late[spare.clone()] = _rank_within(kind, modes) >= lacking[kind]
    turn = spare.long() + late
    return turn.argsort(stable=True)[: int(quota.sum())]


def _rank_within(labels: torch.Tensor, count: int) -> torch.Tensor:
    # 0, 1, 2, ... among the entries of the same label, in order.
    order = labels.argsort(stable=True)
    sizes = torch.bincount(labels, minlength=count)
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(labels.numel(), device=labels.device) - starts[labels[order]]
    return rank
