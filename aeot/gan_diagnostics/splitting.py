"""One input, several right answers: what a deterministic translator cannot do.

Transport may need to split mass: half of a point goes here, half there. A function cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from aeot import _check
from aeot._check import ArrayLike, fail, points
from aeot._environment import plain_torch
from aeot.metrics.plans import PAIRS, REPEATED, cheapest_plan


@dataclass(frozen=True)
class Splitting:
    """How much of an optimal plan no map can follow.

    Attributes:
        plan: (n, m) optimal plan between the atoms, masses summing to one.
        plan_cost: Mean squared distance it pays (W2 squared).
        split: Share of source atoms whose mass goes to more than one target atom.
        map_error: Squared W2 distance that remains between the target and the image of the
            source under the plan's barycentric map, the best one-valued summary of the plan.
        map_points: (n, d) where that map sends the source atoms.
    """

    plan: torch.Tensor
    plan_cost: float
    split: float
    map_error: float
    map_points: torch.Tensor


@plain_torch()
def mass_splitting(
    source: torch.Tensor,
    target: torch.Tensor,
    source_masses: ArrayLike | None = None,
    target_masses: ArrayLike | None = None,
) -> Splitting:
    """Find the optimal plan between two sets of atoms and what a map must miss of it.

    Args:
        source: (n, d) atoms.
        target: (m, d) atoms; n m must not exceed 250 000, or, of equal masses, lcm(n, m) 2000.
        source_masses: (n,), positive, summing to one; None: all alike.
        target_masses: (m,), the same.

    Returns:
        The plan and the two measures of splitting.

    Raises:
        ValueError: If the widths differ, masses do not fit, or there are too many atoms.

    Example:
        >>> import torch
        >>> found = mass_splitting(torch.zeros(1, 1), torch.tensor([[-1.0], [1.0]]))
        >>> found.plan.tolist(), found.split, found.map_error
        ([[0.5, 0.5]], 1.0, 1.0)
    """
    source = points("source", source).detach().cpu().double()
    target = points("target", target, dim=source.shape[1]).detach().cpu().double()
    n, m = len(source), len(target)
    mu = _check.masses(source_masses, n, name="source_masses").cpu()
    nu = _check.masses(target_masses, m, name="target_masses").cpu()
    alike = source_masses is None and target_masses is None
    if n * m > PAIRS and not (alike and math.lcm(n, m) <= REPEATED):
        must = f"have n m <= {PAIRS} atoms, or equal masses and lcm(n, m) <= {REPEATED}"
        raise fail("source and target", must, f"{n} and {m}")
    cost = torch.cdist(source, target).square()
    plan = cheapest_plan(cost, mu, nu)
    mapped = (plan @ target) / mu[:, None]
    again = torch.cdist(mapped, target).square()  # the image of the source keeps its masses
    remaining = float((cheapest_plan(again, mu, nu) * again).sum())
    split = float(((plan > 1e-9 * plan.max()).sum(dim=1) > 1).double().mean())
    return Splitting(plan, float((plan * cost).sum()), split, remaining, mapped)


@plain_torch(grad=False)
def diversity(
    draw: Callable[[torch.Tensor, int], torch.Tensor],
    x: torch.Tensor,
    *,
    n_draws: int = 8,
) -> float:
    """Measure how much a stochastic translator's answers to one input differ.

    Args:
        draw: `(images, seed) -> images`; a fresh answer for each seed.
        x: (B, C, H, W) inputs.
        n_draws: Answers per input, at least two.

    Returns:
        E|G(x, z) - G(x, z')|, the mean absolute difference per pixel over inputs and pairs of
        draws: 0 when the noise is ignored.

    Raises:
        ValueError: If `draw` cannot be called or `x` holds no images, or there are too few or too
            many draws.
    """
    _check.function("draw", draw, "draw(images, seed)")
    x = _check.images("x", x)
    way_out = "choose fewer"
    n_draws = _check.rows("n_draws", n_draws, 2 * x.numel(), minimum=2, way_out=way_out)
    answers = torch.stack(
        [_check.array("draw(images, seed)", draw(x, seed)).double() for seed in range(n_draws)]
    )
    # Sorting gives the mean over pairs in one pass: sum_i (2i - n + 1) sorted_i.
    rank = 2 * torch.arange(n_draws, dtype=torch.float64, device=answers.device) - n_draws + 1
    spread = torch.tensordot(rank, answers.sort(dim=0).values, dims=1)
    return float(spread.mean() / (n_draws * (n_draws - 1) / 2))
