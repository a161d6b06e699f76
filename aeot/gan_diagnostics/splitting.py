"""One input, several right answers: what a deterministic translator cannot do.

Transport may need to split mass: half of a point goes here, half there. A function cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

from aeot import _check
from aeot._check import fail, points
from aeot._environment import plain_torch


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


def _assign(cost: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    # Equal masses 1/n against 1/m: both sides repeated to a common count make an assignment.
    n, m = cost.shape
    first, second = linear_sum_assignment(
        cost.repeat_interleave(rows, 0).repeat_interleave(columns, 1).numpy()
    )
    plan = torch.zeros(n, m, dtype=torch.float64)
    flat = torch.as_tensor(first // rows) * m + torch.as_tensor(second // columns)
    plan.view(-1).index_add_(0, flat, torch.full((len(flat),), 1 / len(flat), dtype=torch.float64))
    return plan


@plain_torch()
def mass_splitting(source: torch.Tensor, target: torch.Tensor) -> Splitting:
    """Find the optimal plan between two sets of equal atoms and what a map must miss of it.

    Args:
        source: (n, d) atoms of mass 1 / n.
        target: (m, d) atoms of mass 1 / m; lcm(n, m) must not exceed 2000.

    Returns:
        The plan and the two measures of splitting.

    Raises:
        ValueError: If the widths differ or there are too many atoms.

    Example:
        >>> import torch
        >>> found = mass_splitting(torch.zeros(1, 1), torch.tensor([[-1.0], [1.0]]))
        >>> found.plan.tolist(), found.split, found.map_error
        ([[0.5, 0.5]], 1.0, 1.0)
    """
    source = points("source", source).detach().cpu().double()
    target = points("target", target, dim=source.shape[1]).detach().cpu().double()
    n, m = len(source), len(target)
    common = int(torch.lcm(torch.tensor(n), torch.tensor(m)))
    if common > 2000:
        raise fail("source and target", "have lcm(n, m) <= 2000 atoms", f"{n} and {m}")
    rows, columns = common // n, common // m
    cost = torch.cdist(source, target).square()
    plan = _assign(cost, rows, columns)
    mapped = n * (plan @ target)
    # The image of the source under the map still has n equal atoms.
    again = torch.cdist(mapped, target).square()
    remaining = float((_assign(again, rows, columns) * again).sum())
    split = float(((plan > 1e-12).sum(dim=1) > 1).double().mean())
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
