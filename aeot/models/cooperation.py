"""Cooperation instead of competition: the next generator in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aeot import _check, _rng
from aeot._environment import plain_torch
from aeot.measures import Measure, Sampler
from aeot.solvers.solution import Solution
from aeot.solvers.solve import solve_semidiscrete

Generator = Callable[[torch.Tensor], torch.Tensor]


@plain_torch()
def cooperative_update(
    generator: Generator,
    latent: Measure,
    data: Any,  # noqa: ANN401 - array-like
    *,
    tol: float = 0.05,
    seed: int = 0,
) -> tuple[Generator, Solution]:
    """Return grad u ∘ g: the generator carried onto the data by one solved transport problem.

    phi is the potential of the cost |x - y|^2 / 2 between what the generator makes of `latent` and
    the data, and u(x) = |x|^2 / 2 - phi(x), so that (id - grad phi) ∘ g = grad u ∘ g. A WGAN
    critic is the potential of another cost, |x - y|, and cannot take the place of phi.

    Every value of the new generator is one of `data`, each as often as the others up to `tol`; the
    solution's ``map().extend`` gives new points instead.

    Args:
        generator: g, from latent points (m, k) to data space (m, d); a network should be in
            evaluation mode, for its samples must not depend on each other.
        latent: Where its latent points come from.
        data: (n, d).
        tol: As for `solve_semidiscrete`.
        seed: Of all samples drawn.

    Returns:
        The new generator, and the solution that it composes with the old one.

    Raises:
        ValueError: If an argument is wrong: among others if the generator's values are not finite,
            differ from the data in dimension, or are all one point (no map takes that to several).

    References:
        N. Lei et al., "A geometric understanding of deep learning", Engineering 6 (2020),
        eq. 16 and 33.

    Example:
        >>> import aeot, torch
        >>> data = torch.tensor([[0.0, 0.5], [1.0, 0.5]])
        >>> update, _ = cooperative_update(lambda z: z / 2, aeot.UniformBox(dim=2), data)
        >>> update(torch.tensor([[0.1, 0.9], [0.9, 0.9]]))  # of [0, 1/2]^2 each gets a half
        tensor([[0.0000, 0.5000],
                [1.0000, 0.5000]])
    """
    data = _check.points("data", data)
    if not callable(generator):
        raise _check.fail("generator", "be callable", type(generator).__name__)
    if not callable(getattr(latent, "sample", None)):
        way_out = "for latent points z write Empirical(z)"
        requirement = "be a measure such as Gaussian(dim=8)"
        raise _check.fail("latent", requirement, type(latent).__name__, way_out)

    def draw(n: int, stream: torch.Generator | None) -> torch.Tensor:
        made = generator(latent.sample(n, generator=stream))
        return _check.points("generator(latent points)", made, dim=data.shape[1])

    with torch.no_grad():
        first = draw(256, _rng.generator(seed, "first"))
    if len(data) > 1 and bool((first == first[0]).all()):
        way_out = "no map takes that to several data: perturb it, or add noise to its values"
        got = f"{[round(x, 6) for x in first[0].tolist()[:4]]} for each of {len(first)}"
        raise _check.fail("generator", "send latent points to more than one value", got, way_out)
    source = Sampler(draw, dim=data.shape[1])
    solution = solve_semidiscrete(source, data, tol=tol, seed=seed)
    brenier = solution.map()
    return lambda z: brenier(generator(z)), solution
