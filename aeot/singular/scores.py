"""How likely the middle of two codes lies off the data: a score of pairs, without labels or scale.

Each code is first replaced by its *place*, the mean of itself and its nearest codes: that shrinks
the noise of single codes, which in many dimensions hides gaps, and leaves what separates groups.
Two codes are as far apart for the score as the directions in which their places lie, seen from the
middle of all: autoencoders spread what they keep apart around the origin, and groups far out are
wide. What such a distance means is asked of the codes themselves: the middle of two places counts
as *off the data* if it is lonelier than 95 % of the places are, in units of how lonely they are
around it, and a logistic curve through facets and random pairs turns the distance into the chance
of that. Middles of a convex cloud lie where places are dense, and chances stay near 5 %; those of
pairs across a gap lie in the void.

References:
    J. Platt, "Probabilistic outputs for support vector machines and comparisons to regularized
    likelihood methods", 1999 (a logistic curve through a score, and its smoothed targets).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit

from aeot._rng import generator as _generator
from aeot.geometry.facets import jump
from aeot.search.nearest import nearest

_SMOOTH = 20  # nearest codes in a place; fewer where there are fewer than ten times as many
_LONELY = 0.95  # share of places that are less lonely than a middle off the data
_NEXT = 3  # nearest places that say how lonely a point is
_AROUND = 5  # places around it that say how lonely codes are there
_NEAR = 0.25  # of the RMS distance to the mean: within, a direction says little
_ASKED = 3000  # facets, and random pairs, whose middles are looked at


@dataclass(frozen=True)
class Chances:
    """What turns a pair of codes into the chance that their middle lies off the data.

    Attributes:
        directions: Of the place of every code, seen from the mean of all places (n, d): of length
            one, shorter near the mean, where a direction says little.
        slope: Of the log odds against the log of the distance of two directions, > 0.
        intercept: Of the log odds.
    """

    directions: torch.Tensor = field(repr=False)
    slope: float
    intercept: float

    def of(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the chance of every pair, float64; zero where both are one code."""
        distance = jump(self.directions, first, second).clamp(min=1e-12)
        odds = self.intercept + self.slope * distance.log()
        return torch.where(first == second, 0.0, odds.sigmoid())


def chances(codes: torch.Tensor, pairs: torch.Tensor, *, seed: int, engine: str) -> Chances:
    """Learn from the codes what distances between them mean.

    Args:
        codes: (n, d), n >= 2.
        pairs: Those whose chances are wanted (k, 2); some of them are looked at, and others.
        seed: Which.
        engine: Of the search for near codes.
    """
    n = len(codes)
    _, near = nearest(codes, codes, 1 + max(1, min(_SMOOTH, n // 10)), engine=engine)
    places = torch.cat([codes[block].mean(1) for block in near.split(4096)])
    lonely = nearest(places, places, min(n, 1 + _AROUND), engine=engine)
    away = places - places.mean(0)
    square = away.square().sum(1, keepdim=True)
    directions = away / (square + _NEAR**2 * square.mean()).sqrt().clamp(min=1e-300)
    draw = _generator(seed, "middles")
    some = pairs[torch.randperm(len(pairs), generator=draw)[:_ASKED].to(pairs.device)]
    any_two = torch.randint(n, (_ASKED, 2), generator=draw).to(pairs)
    asked = torch.cat([some, any_two[any_two[:, 0] != any_two[:, 1]]])
    off = lonelier(places, asked, lonely, engine) > _LONELY
    distance = jump(directions, *asked.T).clamp(min=1e-12)
    slope, intercept = _curve(distance.log().cpu().numpy(), off.cpu().numpy())
    return Chances(directions, slope, intercept)


def lonelier(
    places: torch.Tensor,
    pairs: torch.Tensor,
    near: tuple[torch.Tensor, torch.Tensor],
    engine: str,
) -> torch.Tensor:
    """Return the share of places (n, d) that are less lonely than the middle of each pair (k, 2).

    Loneliness is the RMS distance of the nearest places, without those of the pair itself, over
    what it is on average of the places around. ``near`` are the nearest places of all of them, as
    `aeot.search.nearest` finds them, themselves first.
    """
    n = len(places)
    alone = near[0][:, 1 : 1 + _NEXT].square().mean(1).sqrt()
    among = near[1][:, 1 : 1 + _AROUND]
    usual = (alone / alone[among].mean(1).clamp(min=1e-300)).sort().values
    i, j = pairs.T
    middle = (places[i].double() + places[j].double()) / 2
    distance, found = nearest(middle, places, min(n, 2 + _AROUND), engine=engine)
    other = (found != i[:, None]) & (found != j[:, None])
    rank = other.cumsum(1)

    def mean(values: torch.Tensor, most: int) -> torch.Tensor:
        kept = other & (rank <= most)
        return torch.where(kept, values, 0.0).sum(1) / kept.sum(1).clamp(min=1)

    ratio = mean(distance.square(), _NEXT).sqrt() / mean(alone[found], _AROUND).clamp(min=1e-300)
    return torch.searchsorted(usual, ratio).double() / n


def _curve(x: np.ndarray, off: np.ndarray) -> tuple[float, float]:
    """Fit slope > 0 and intercept of the log odds of `off` (k,) over x (k,).

    Platt's targets, one count more on either side, keep both finite where all are on one.
    """
    count = off.sum()
    y = np.where(off, (count + 1) / (count + 2), 1 / (len(off) - count + 2))
    middle, spread = x.mean(), x.std() or 1.0
    z = (x - middle) / spread

    def loss(parts: np.ndarray) -> tuple[float, np.ndarray]:
        odds = parts[0] * z + parts[1]
        slack = expit(odds) - y
        value = float((np.logaddexp(0, odds) - y * odds).mean())
        return value, np.array([(slack * z).mean(), slack.mean()])

    # The least slope keeps the order of pairs where the chance does not depend on the distance.
    fitted = minimize(loss, [1.0, 0.0], jac=True, bounds=[(0.01, 100), (-100, 100)]).x
    slope = float(fitted[0] / spread)
    return slope, float(fitted[1] - slope * middle)
