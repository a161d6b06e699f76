"""Minimisers of a convex energy given by an oracle. They know no sites, samples or devices."""

from __future__ import annotations

from dataclasses import dataclass

import scipy.sparse
import scipy.sparse.linalg
import torch


@dataclass(frozen=True)
class Evaluation:
    """What an oracle says of one vector of heights.

    Attributes:
        energy: E(h).
        masses: Cell masses (n,), float64; the gradient is ``masses - target``.
        gradient: (n,), float64, sums to zero.
        hessian: Symmetric positive semidefinite Laplacian (n, n), or None if not asked for.
    """

    energy: float
    masses: torch.Tensor
    gradient: torch.Tensor
    hessian: scipy.sparse.csr_matrix | None = None


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
    heights, length, calls = start, 1.0, 1
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
        step = laplacian_solve(now.hessian, -now.gradient.cpu().numpy(), tolerance=error)
        step = torch.from_numpy(step).to(heights)
        length = min(1.0, 2 * length)
        while length > 1e-9:
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


def laplacian_solve(
    laplacian: scipy.sparse.csr_matrix, right: np.ndarray, *, tolerance: float
) -> np.ndarray:
    """Solve ``laplacian x = right`` for a connected graph Laplacian and a `right` of sum zero.

    A planar graph, or a small one, is factorised with one vertex grounded; a graph of bodies in
    space fills in and goes to conjugate gradients.

    Args:
        laplacian: (n, n).
        right: (n,).
        tolerance: Relative residual to reach when iterating; capped to [1e-10, 1e-2].

    Returns:
        x (n,) with mean zero.
    """
    n = len(right)
    if n == 1:
        return np.zeros(1)
    right = right - right.mean()
    if n <= 2000 or laplacian.nnz <= 10 * n:
        ground = int(np.argmax(laplacian.diagonal()))
        keep = np.delete(np.arange(n), ground)
        minor = laplacian[keep][:, keep].tocsc()
        options = {"SymmetricMode": True}
        factor = scipy.sparse.linalg.splu(
            minor, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options
        )
        x = np.zeros(n)
        x[keep] = factor.solve(right[keep])
    else:
        tolerance = min(max(tolerance, 1e-10), 1e-2)
        x = conjugate_gradient(
            laplacian, np.zeros(n), right, tolerance=tolerance, max_steps=20 * int(n**0.5) + 200
        )
    return x - x.mean()
