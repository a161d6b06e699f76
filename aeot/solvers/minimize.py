"""Minimisers of a convex energy given by an oracle. They know no sites, samples or devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.sparse
import torch

from aeot.solvers.laplacian import Laplacian, LaplacianSolver, beside, conjugate_gradient


@dataclass(frozen=True)
class Evaluation:
    """What an oracle says of one vector of heights.

    Attributes:
        energy: E(h).
        masses: Cell masses (n,), float64; the gradient is ``masses - target``.
        gradient: (n,), float64, sums to zero.
        hessian: Symmetric positive semidefinite Laplacian (n, n), or None if not asked for.
        even: The same for equal density everywhere, where the true one may vanish; or None.
    """

    energy: float
    masses: torch.Tensor
    gradient: torch.Tensor
    hessian: Laplacian | None = None
    even: scipy.sparse.csr_matrix | None = None


@dataclass(frozen=True)
class Trust:
    """How far the heights may move from the start before an oracle's lists go stale.

    A site that is in no list can only win by rising, so upward moves are bounded tightly and
    downward ones loosely.

    Attributes:
        unit: Mean gap between the best score and the next, the natural unit of heights: one for
            all, or (n,).
        up: The most a height may rise, the same.
        down: The most it may fall, as a multiple of `up`.
    """

    unit: float | torch.Tensor
    up: float | torch.Tensor
    down: float = 6.0


def levenberg(
    oracle: Callable[[torch.Tensor, torch.Tensor | float | None], Evaluation],
    start: torch.Tensor,
    target: torch.Tensor,
    *,
    trust: Trust,
    stop: float,
    max_steps: int = 20,
) -> tuple[torch.Tensor, Evaluation, dict[str, float]]:
    """Minimise by Newton steps with Levenberg damping inside a box around the start.

    Args:
        oracle: ``(heights, window) -> Evaluation`` with a Laplacian where a window is given.
        start: (n,) float64.
        target: (n,) float64, the masses wanted.
        trust: The box and the unit of heights.
        stop: Total variation between masses and target at which to stop.
        max_steps: The most accepted or rejected steps.

    Returns:
        The heights, the evaluation there, and ``{"steps", "bound"}``: steps tried, and the share
        of heights that the box stopped.
    """
    heights, damping, bound, steps = start, 1e-2, 0.0, 0
    now = oracle(start, trust.unit)
    while steps < max_steps:
        error = float(now.gradient.abs().sum()) / 2
        if error <= stop:
            break
        step, touched = _damped_step(now, heights - start, target, damping, trust)
        slope = float(now.gradient @ step)
        assert now.hessian is not None
        along = beside(now.hessian, step)
        model = -slope - 0.5 * float(along @ (now.hessian @ along))
        steps += 1
        if not model > 0:  # the box has bent the step uphill: turn it towards the gradient
            damping = 10 * max(damping, 1e-2)
            if damping > 1e6:
                break
            continue
        window = trust.unit * min(max(2 * error, 0.5), 1.0)
        trial = oracle(heights + step, window)
        gain = (now.energy - trial.energy) / model
        if gain > 0:
            heights, now, bound = heights + step, trial, touched
        if gain < 0.25:
            damping = 4 * max(damping, 1e-2)
            if damping > 1e6:
                break
        elif gain > 0.6:
            damping = max(damping / 5, 1e-3)
    return heights, now, {"steps": steps, "bound": bound}


def _damped_step(
    now: Evaluation, moved: torch.Tensor, target: torch.Tensor, damping: float, trust: Trust
) -> tuple[torch.Tensor, float]:
    assert now.hessian is not None
    degree = torch.as_tensor(now.hessian.diagonal()).to(target)
    ridge = damping * (degree + 0.05 * target / trust.unit)
    # Nothing but the box holds a cell without an edge; left free, its step drowns the others'.
    held = torch.maximum(ridge, now.gradient.abs().to(ridge) / trust.up)
    ridge = torch.where(degree > 0, ridge, held)
    sides = beside(now.hessian, ridge), beside(now.hessian, -now.gradient)
    step = torch.as_tensor(conjugate_gradient(now.hessian, *sides)).to(moved)
    goal = moved + step
    goal = goal - goal.median()
    fall = target / degree.clamp(min=1e-300)
    up = torch.as_tensor(trust.up, dtype=goal.dtype, device=goal.device).expand_as(goal)
    fall = torch.minimum(torch.maximum(fall, up), trust.down * up)
    clipped = torch.minimum(torch.maximum(goal, -fall), up)
    return clipped - moved, float((clipped != goal).double().mean())


def newton(
    oracle: Callable[[torch.Tensor], Evaluation],
    start: torch.Tensor,
    *,
    accept: Callable[[Evaluation, Evaluation, float], bool],
    done: Callable[[Evaluation], bool],
    max_steps: int = 200,
    on_step: Callable[[dict[str, float]], object] | None = None,
) -> tuple[torch.Tensor, Evaluation, list[dict[str, float]]]:
    """Minimise by damped Newton steps, for an oracle without noise.

    A step is halved until `accept` takes it; the next search starts from twice the length that was
    taken, so that a long damped phase does not pay for the same halvings every time.

    Args:
        oracle: ``heights -> Evaluation`` with the Laplacian.
        start: (n,) float64, with finite energy and no empty cell.
        accept: ``(now, trial, length) -> bool``: whether a step of that length may be taken.
        done: Whether an evaluation is good enough.
        max_steps: The most steps.
        on_step: Called with every record of the history.

    Returns:
        The heights, the evaluation there, and one record per step: step, energy, mass_error,
        length of the step taken and evaluations so far. The last length is 0 if no step was
        acceptable: then rounding, or an `accept` that cannot be met, stopped the search.

    References:
        J. Kitagawa, Q. Merigot, B. Thibert, "Convergence of a Newton algorithm for semi-discrete
        optimal transport", J. Eur. Math. Soc. 21 (2019), Algorithm 1.
    """
    heights, length, calls, solve = start, 1.0, 1, LaplacianSolver()
    now = oracle(start)
    history: list[dict[str, float]] = []

    def record(taken: float) -> None:
        error = float(now.gradient.abs().sum()) / 2
        entry = {
            "step": len(history),
            "energy": now.energy,
            "mass_error": error,
            "length": taken,
            "evaluations": calls,
        }
        history.append(entry)
        if on_step is not None:
            on_step(entry)

    record(length)
    while len(history) <= max_steps and not done(now):
        error = float(now.gradient.abs().sum()) / 2
        x = solve(now.hessian, -now.gradient.cpu().numpy(), tolerance=error)
        step = torch.from_numpy(x).to(heights)
        length = min(1.0, 2 * length)
        # Below this the heights would hardly change: only rounding is left.
        shortest = 4e-16 * float(heights.abs().max()) / max(float(step.abs().max()), 1e-300)
        while length > max(shortest, 1e-9):
            trial = oracle(heights + length * step)
            calls += 1
            if accept(now, trial, length):
                break
            length /= 2
        else:
            record(0.0)
            break
        heights, now = heights + length * step, trial
        record(length)
    return heights, now, history


def newton_over_gaps(
    oracle: Callable[[torch.Tensor], Evaluation],
    start: torch.Tensor,
    *,
    mend: Callable[[torch.Tensor, torch.Tensor], torch.Tensor | None],
    done: Callable[[Evaluation], bool],
    residual: Callable[[Evaluation], float],
    max_steps: int = 200,
    on_step: Callable[[dict[str, float]], object] | None = None,
) -> tuple[torch.Tensor, Evaluation, list[dict[str, float]]]:
    """Minimise where the density nearly vanishes, by Newton steps held by another Laplacian.

    There a boundary moves without mass moving, so that the Hessian says nothing about how far.
    Some of the Laplacian of equal density is added: much while steps fail, little where they
    do what was foreseen.

    Args:
        oracle: ``heights -> Evaluation`` with both Laplacians.
        start: (n,) float64, every cell with some area.
        mend: ``(heights, trial) -> trial``: a trial between the two that leaves no cell without
            area; None if the trial leaves none already.
        done: Whether an evaluation is good enough.
        residual: What an evaluation misses, beyond rounding.
        max_steps: The most steps.
        on_step: Called with every record of the history.

    Returns:
        As `newton`; steps not taken show as evaluations, two for each that emptied cells.
    """
    heights, damping, calls, solve = start, 2.0, 1, LaplacianSolver()
    now = oracle(start)
    history: list[dict[str, float]] = []

    def record() -> None:
        error = float(now.gradient.abs().sum()) / 2
        entry = {"step": len(history), "energy": now.energy, "mass_error": error}
        history.append({**entry, "length": 1.0, "evaluations": calls})
        if on_step is not None:
            on_step(history[-1])

    record()
    while len(history) <= max_steps and not done(now) and damping < 1e9 and calls < 3 * max_steps:
        assert now.hessian is not None
        assert now.even is not None
        held = now.hessian + damping * now.even
        x = solve(held, -now.gradient.cpu().numpy(), tolerance=1e-10)
        goal = heights + torch.from_numpy(x).to(heights)
        trial, calls = oracle(goal), calls + 1
        mended = mend(heights, goal)
        if mended is not None:
            goal, trial, calls = mended, oracle(mended), calls + 1
        step = goal - heights
        change = step.cpu().numpy()
        model = -float(now.gradient @ step) - float(change @ (now.hessian @ change)) / 2
        gain = (now.energy - trial.energy) / model if model > 0 else -1.0
        # Near the solution the energy is rounded off, and the residual tells.
        closer = residual(trial) < residual(now) / 2
        if mend(heights, goal) is None and (gain > 1e-2 or closer):
            heights, now = goal, trial
            record()
            if closer:
                damping /= 16
            elif gain > 0.75:
                damping /= 2
            elif gain < 0.25:
                damping *= 4
        else:
            damping *= 4
    return heights, now, history


def lbfgs(
    oracle: Callable[[torch.Tensor, torch.Tensor | float | None], Evaluation],
    start: torch.Tensor,
    target: torch.Tensor,
    *,
    trust: Trust,
    stop: float,
    max_steps: int = 200,
) -> tuple[torch.Tensor, Evaluation, dict[str, float]]:
    """Minimise by limited-memory BFGS inside the box of `trust` (SciPy's L-BFGS-B).

    Takes and returns what `levenberg` does; asks the oracle for no Laplacian.

    References:
        R. Byrd, P. Lu, J. Nocedal, C. Zhu, "A limited memory algorithm for bound constrained
        optimization", SIAM J. Sci. Comput. 16 (1995).
    """
    now = oracle(start, None)
    steps = 0
    # In these units a cell that has lost all its mass asks for a step of about one.
    scale = float(torch.as_tensor(trust.unit, dtype=torch.float64).min()) * start.shape[0]

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal now, steps
        steps += 1
        now = oracle(start + scale * torch.from_numpy(x).to(start), None)
        return now.energy / scale, now.gradient.cpu().numpy()

    def finished(_: np.ndarray) -> None:  # called after a line search, whose last point it took
        if float(now.gradient.abs().sum()) / 2 <= stop:
            raise StopIteration

    if float(now.gradient.abs().sum()) / 2 <= stop:
        return start, now, {"steps": 0, "bound": 0.0}
    high = torch.as_tensor(trust.up, dtype=torch.float64).cpu().expand(start.shape).numpy() / scale
    low = -trust.down * high
    # Rounding ends the search, not SciPy's tolerances: the energy is flat where masses still move.
    options = {"maxfun": max_steps, "maxiter": max_steps, "ftol": 0.0, "gtol": 0.0}
    x = scipy.optimize.minimize(
        value,
        np.zeros(start.shape[0]),
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(low, high),
        callback=finished,
        options=options,
    ).x
    heights = start + scale * torch.from_numpy(x).to(start)
    bound = float(((x == low) | (x == high)).mean())
    return heights, oracle(heights, None), {"steps": steps, "bound": bound}
