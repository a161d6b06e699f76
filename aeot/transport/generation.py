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
        n_surplus: Points redrawn so that every mode gets its share.
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
    device = torch.device("cpu") if generator is None else generator.device
    share = torch.zeros(modes, dtype=torch.float64, device=labels.device)
    share = share.index_add_(0, labels, brenier.masses).to(device)
    balance = balance and modes > 1
    quota = torch.full((modes,), n)
    if balance:
        quota = _counts(share, n, generator)
    seen = torch.zeros(modes, dtype=torch.int64)
    refused = torch.zeros(modes, dtype=torch.int64)
    taken = torch.zeros(modes, dtype=torch.int64)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    size = conceded = 0
    while size < n:
        # A cut through nearly every cell would have us draw for ever; nor is a share worth that.
        tired = int(seen.sum()) >= max(_PATIENCE[0] * n, _PATIENCE[1])
        if tired:
            quota = torch.full((modes,), n)
        # Enough for the mode that lacks most at its rate so far.
        rate = (seen - refused + 1) / (seen.sum() + modes)
        need = (n - size) if tired else float(((quota - taken) / rate).max())
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
        rank = _rank_within(label[good], modes) + taken.to(label.device)[label[good]]
        room = rank < quota.to(label.device)[label[good]]
        room &= torch.cumsum(room, 0) <= n - size
        chosen = good.nonzero()[:, 0][room]
        taken += torch.bincount(label[chosen].cpu(), minlength=modes)
        kept.append((x[chosen], owner[chosen]))
        conceded += int(border[chosen].sum())
        size += chosen.numel()
        # Modes with cells (nearly) empty are not waited for: the others share what they lack.
        expected = share.cpu() * seen.sum()
        void = (expected > 30) & (seen < expected / 20) & (quota > taken) & balance
        if bool(void.any()):
            share[void.to(device)] = 0
            lacking = int((quota - taken)[void].sum())
            quota[void] = taken[void]
            quota += _counts(share, lacking, generator)
    points = torch.cat([x for x, _ in kept]) if kept else brenier.sites[:0]
    owners = torch.cat([o for _, o in kept]) if kept else labels[:0]
    if modes > 1:  # the order of arrival favours the common modes; a shuffle forgets it
        order = torch.randperm(n, generator=generator, device=device).to(points.device)
        points, owners = points[order], owners[order]
    codes = brenier.extend(points, singular, method, generator=generator)
    drawn, lost = int(seen.sum()), int(refused.sum())
    accepted = 1 - refused / seen.clamp(min=1)
    alone = int((torch.bincount(labels)[labels[owners]] == 1).sum())
    return Draw(codes, points, owners, drawn, lost, drawn - lost - n, conceded, accepted, alone)


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
