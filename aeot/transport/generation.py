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
_HITS = 3  # expected points in a stratum, at least


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
    # Groups of cells and how many points of each are wanted: first of every stratum, then what is
    # missing of every mode, then any.
    stages = [(torch.zeros_like(labels), torch.tensor([n]))]
    if balance:
        strata, quota = _shares(brenier, labels.cpu(), n, generator)
        mode = torch.zeros_like(quota).scatter_(0, strata, labels.cpu())
        of_modes = torch.zeros(modes, dtype=torch.int64).index_add_(0, mode, quota)
        stages = [(strata.to(labels.device), quota), (labels, of_modes), *stages]
    seen = torch.zeros(modes, dtype=torch.int64)
    refused = torch.zeros(modes, dtype=torch.int64)
    empty = brenier.sites[:0]
    points, owners, border = [empty], [labels[:0]], [labels[:0] > 0]
    for last, (group, quota) in enumerate(stages, 1 - len(stages)):
        count = len(quota)
        share = torch.zeros(count, dtype=torch.float64)
        share = share.index_add_(0, group.cpu(), brenier.masses.cpu())
        want = quota.clone()
        taken = torch.bincount(group[torch.cat(owners)].cpu(), minlength=count)
        usable, begun = torch.zeros(count, dtype=torch.int64), int(seen.sum())
        while bool((taken < want).any()):
            # A cut through nearly every cell would have us draw for ever; nor is a share worth
            # that.
            tired = int(seen.sum()) >= max(_PATIENCE[0] * n, _PATIENCE[1])
            if tired and last < 0:
                break
            # Enough for the group that lacks most at its rate so far.
            drawn = int(seen.sum()) - begun
            need = float(((want - taken) * (drawn + count) / (usable + 1)).max())
            x = brenier.source.sample(
                int(min(max(1024, 1.1 * need), _MOST)), generator=generator
            ).to(brenier.sites.device)
            _, best = brenier.top(x, min(2, len(brenier.sites)))
            owner = best[:, 0]
            label = labels[owner]
            near = torch.zeros_like(owner, dtype=torch.bool)
            good = ~near
            if singular is not None and boundary == "reject":
                # A mode that is nearly all border is served from its own side rather than never.
                hopeless = (seen >= 256) & (seen - refused < 0.02 * seen) | tired
                near = singular.crosses(owner, best[:, -1])
                good = ~near | hopeless.to(label.device)[label]
            seen += torch.bincount(label.cpu(), minlength=modes)
            refused += torch.bincount(label[~good].cpu(), minlength=modes)
            kind = group[owner[good]]
            room = _rank_within(kind, count) + taken.to(kind.device)[kind]
            room = room < want.to(kind.device)[kind]
            chosen = good.nonzero()[:, 0][room]
            taken += torch.bincount(kind[room].cpu(), minlength=count)
            usable += torch.bincount(kind.cpu(), minlength=count)
            points.append(x[chosen])
            owners.append(owner[chosen])
            border.append(near[chosen])
            if last < 0:  # groups whose cells are (nearly) empty, or all border, get less
                expected = share * (int(seen.sum()) - begun)
                void = (expected > 30) & (usable < expected / 50)
                want = torch.where(void, torch.minimum(want, taken), want)
    points, owners, border = (torch.cat(parts[1:] or parts) for parts in (points, owners, border))
    if balance:  # the order of arrival favours the common modes; a shuffle forgets it
        device = torch.device("cpu") if generator is None else generator.device
        order = torch.randperm(n, generator=generator, device=device).to(points.device)
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
        middle = 0
        if len(part) > 1 and n * float(masses[part].sum()) >= 2 * _HITS:
            values = codes[part]
            part = part[values[:, values.var(0).argmax()].argsort(stable=True)]
            below = n * masses[part].cumsum(0)
            # The cut nearest to the middle that leaves enough on either side, if there is one.
            may = ((below >= _HITS) & (below[-1] - below >= _HITS)).nonzero()[:, 0]
            if len(may):
                middle = int(may[(below[may] - below[-1] / 2).abs().argmin()]) + 1
        if middle:
            parts += [part[middle:], part[:middle]]
        else:
            strata[part] = count
            count += 1
    device = torch.device("cpu") if generator is None else generator.device
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
