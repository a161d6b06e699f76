"""Two-player games with known dynamics: why adversarial training rotates, and what damps it.

The game is g d with regularisers: the generator descends in g, the critic ascends in d,

    L(g, d) = g d + alpha g^2 / 2 - beta d^2 / 2.

Its flow is linear, so that every update rule has a matrix whose largest eigenvalue says all.
"""

from __future__ import annotations

import torch

from aeot import _check
from aeot._check import ArrayLike, choice, real
from aeot._environment import plain_torch

METHODS = ("simultaneous", "alternating", "extragradient")


@plain_torch()
def flow_matrix(*, alpha: float = 0.0, beta: float = 0.0) -> torch.Tensor:
    """Return the matrix A of the flow d(g, d)/dt = A (g, d), float64 (2, 2).

    Its eigenvalues are -(alpha + beta) / 2 +- sqrt((alpha - beta)^2 / 4 - 1): stable exactly if
    alpha + beta > 0 and alpha beta > -1, a pure rotation without regularisers. With beta alone the
    flow spirals inward below beta = 2, which is critical damping, and does not turn from there on.

    Args:
        alpha: Strength of the generator's regulariser.
        beta: Strength of the critic's, such as a zero-centred gradient penalty.

    Example:
        >>> torch.linalg.eigvals(flow_matrix()).imag.sort().values
        tensor([-1.,  1.], dtype=torch.float64)
    """
    alpha, beta = real("alpha", alpha), real("beta", beta)
    return torch.tensor([[-alpha, -1.0], [1.0, -beta]], dtype=torch.float64)


@plain_torch()
def step_matrix(method: str, rate: float, *, alpha: float = 0.0, beta: float = 0.0) -> torch.Tensor:
    """Return the matrix that one update applies to (g, d), float64 (2, 2).

    Args:
        method: "simultaneous" descent and ascent, "alternating" (the critic answers the
            generator's new move), or "extragradient" (steps with the slope found half-way).
        rate: Step size, > 0.
        alpha: Strength of the generator's regulariser.
        beta: Strength of the critic's.

    Returns:
        The matrix. Without regularisers its eigenvalues have modulus sqrt(1 + rate^2), 1 (for
        rate < 2), and sqrt(1 - rate^2 + rate^4).

    Raises:
        ValueError: For an unknown method or a rate <= 0.

    References:
        L. Mescheder, A. Geiger, S. Nowozin, "Which training methods for GANs do actually
        converge?", 2018, section 2.
    """
    choice("method", method, METHODS)
    rate = real("rate", rate, above=0)
    eye = torch.eye(2, dtype=torch.float64)
    flow = flow_matrix(alpha=alpha, beta=beta)
    if method == "simultaneous":
        return eye + rate * flow
    if method == "extragradient":
        return eye + rate * flow @ (eye + rate * flow)
    first, second = eye.clone(), eye.clone()
    first[0] += rate * flow[0]
    second[1] += rate * flow[1]
    return second @ first


@plain_torch()
def spectral_flow_matrix(critic: ArrayLike) -> torch.Tensor:
    """Return the flow's matrix where the critic <d / |d|, x> is normalised and meets its data.

    The game is <g, d> / |d| in k dimensions, g the generator's place relative to the data. Spectral
    normalisation bounds the critic's slope by 1 and so scales the turning, to +-i / |d|; it adds no
    real part: unlike a penalty it damps nothing.

    Args:
        critic: d, (k,), not zero.

    Returns:
        The Jacobian in (g, d) at g = 0, float64 (2 k, 2 k).

    Raises:
        ValueError: If d is zero or no vector.

    Example:
        >>> torch.linalg.eigvals(spectral_flow_matrix([0.0, 2.0])).abs().max()
        tensor(0.5000, dtype=torch.float64)
    """
    d = _check.array("critic", critic).double()
    if d.ndim != 1 or not bool(d.any()):
        must = "be a vector that is not zero"
        raise _check.fail("critic", must, _check.shown(d))
    length = d.norm()
    across = torch.eye(len(d), dtype=torch.float64) - torch.outer(d, d) / length**2
    zero = torch.zeros_like(across)
    turned = torch.cat([torch.cat([zero, -across], 1), torch.cat([across, zero], 1)])
    return turned / length


@plain_torch()
def spectral_radius(matrix: torch.Tensor) -> float:
    """Return the largest modulus of an eigenvalue: below 1 the update converges.

    Raises:
        ValueError: If the matrix is not square.
    """
    matrix = _check.points("matrix", matrix)
    if len(matrix) != matrix.shape[1]:
        raise _check.fail("matrix", "be square", f"shape {tuple(matrix.shape)}")
    return float(torch.linalg.eigvals(matrix).abs().max())


@plain_torch(grad=True)
def dirac_wgan_gp(
    rate: float, steps: int, *, critic_steps: int = 1, penalty: float = 1.0
) -> torch.Tensor:
    """Train WGAN-GP on data at 0 against a generator at g, with the critic f(x) = d x.

    The penalty (|d| - 1)^2 pulls the critic's slope to 1 although 0 is the equilibrium: with
    finitely many critic steps the generator circles the data for ever (a weak penalty), or comes
    to rest beside them, at the distance 2 `penalty` where both pulls on the critic cancel.

    Args:
        rate: Step size of both players.
        steps: Generator updates.
        critic_steps: Critic updates before each.
        penalty: Weight of the penalty.

    Returns:
        Path of (g, d), (steps + 1, 2), float64, from (1, 0.5).

    Raises:
        ValueError: If an argument is no number or negative.

    References:
        Mescheder, Geiger, Nowozin, 2018, lemma 2.4: this does not converge.
    """
    rate, penalty = real("rate", rate, above=0), real("penalty", penalty, minimum=0)
    steps = _check.rows("steps", steps, 4, minimum=0, way_out="choose fewer")
    critic_steps = _check.integer("critic_steps", critic_steps)
    g, d = 1.0, 0.5
    path = [(g, d)]
    for _ in range(steps):
        for _ in range(critic_steps):  # the critic ascends -g d - penalty (|d| - 1)^2
            d += rate * (-g - 2 * penalty * (d - (1 if d > 0 else -1)))
        g += rate * d  # the generator ascends f(g) = d g
        path.append((g, d))
    return torch.tensor(path, dtype=torch.float64)
