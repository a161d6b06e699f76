"""Starting heights of the Monte-Carlo solver, from what is known of source and sites."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.stats
import torch
from sklearn.exceptions import ConvergenceWarning

from aeot.measures import GridDensity
from aeot.search.heights import center
from aeot.solvers.exact import solve_exact
from aeot.solvers.problem import Problem, times

PICTURE_SITES = 1 << 16  # more cells than a picture of the source has pixels
_PIXELS = 256
_SHOWN = _PIXELS**2 // 4  # pixels that the source should fill
_REACH = 6.0  # half a side of the picture of a normal law: 2e-9 of the mass lies beyond
_BLOCK = 1 << 18
_WIDE = 1024  # dimensions up to which a covariance costs nothing


def gaussian_heights(sites: torch.Tensor, scale: float = 0.6) -> torch.Tensor:
    """Return the heights of the map from a standard Gaussian to one fitted to the sites.

    Args:
        sites: (n, d), standard coordinates, so that the source has covariance one.
        scale: Contraction, > 0; 1 is the Legendre dual of the Gaussian map's potential.

    Returns:
        (n,) float64: ``-scale/2 y' Cov(y)^(-1/2) y``, mean zero.
    """
    y = sites.to(torch.float64)
    y = y - y.mean(0)
    n, d = y.shape
    if d > max(n, _WIDE):  # the same by the products of the sites, a smaller matrix
        values, vectors = torch.linalg.eigh(y @ y.T / n)
        along = vectors.square() * (n * values.clamp(min=0))
    else:
        values, vectors = torch.linalg.eigh(y.T @ y / n)
        along = (y @ vectors).square()
    values = values.clamp(min=max(float(values[-1]) * 1e-6, 1e-300))
    return center(-scale / 2 * (along / values.sqrt()).sum(1))


def radial_heights(sites: torch.Tensor, masses: torch.Tensor) -> torch.Tensor:
    """Return the heights of the map from a standard Gaussian to sites as if these were round.

    The plane of each site is the highest where the source has as much mass further in as the sites
    have: a start for heavy tails, which no covariance tells of.

    Args:
        sites: (n, d), standard coordinates.
        masses: (n,), of the sites.

    Returns:
        (n,) float64, mean zero.
    """
    y = sites.to("cpu", torch.float64)
    radius, order = (y - y.median(0).values).norm(dim=1).sort()
    nu = masses[order].to(torch.float64)
    inside = (nu.cumsum(0) - nu / 2).numpy()
    reach = torch.from_numpy(scipy.stats.chi.ppf(inside, y.shape[1]))
    steps = reach * torch.diff(radius, prepend=radius.new_zeros(1))
    heights = torch.empty_like(radius)
    heights[order] = -steps.cumsum(0)
    return center(heights).to(sites.device)


def picture_heights(problem: Problem, samples: int) -> torch.Tensor | None:
    """Return the heights in the plane that are exact for a picture of the source.

    In the plane, mass has to pass through few neighbours, and steps that trust a sample's lists
    take long; exact cells of a density on pixels do not care. A Gaussian is drawn by its formula,
    anything else by counting samples.

    Args:
        problem: Of d = 2, in standard coordinates.
        samples: Drawn for the picture of a source without a formula.

    Returns:
        (n,) float64, mean zero, on the device of the sites; None where the cells of the picture
        cannot be found.

    Raises:
        OutOfSamples: If a picture takes more than half of those that are left.
    """
    y = times(problem.caller_sites, problem.factor)
    y = (y - y.mean(0)) / problem.scale
    if problem.law == "normal":
        t = torch.linspace(-_REACH, _REACH, _PIXELS + 1, dtype=torch.float64)
        f = torch.exp(-t.square() / 2)
        picture = GridDensity(f[:, None] * f, low=-_REACH, high=_REACH, interpolation="linear")
    else:
        picture = _counted(problem, samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solution = solve_exact(picture, y, problem.masses, tol=1e-3)
    if not solution.mass_error < 0.01:
        return None
    return center(solution.heights).to(problem.sites.device)


def _counted(problem: Problem, samples: int) -> GridDensity:
    blocks = -(-samples // _BLOCK)
    problem.supply.take(blocks * _BLOCK, share=0.5)
    low = high = np.zeros(2)
    side, counts = _PIXELS, np.zeros(0)
    for block in range(blocks):
        z = problem.draw(_BLOCK, "picture", block).cpu().double().numpy()
        if block == 0:
            # Stragglers beyond are counted at the edge of the picture.
            low, high = np.quantile(z, [5e-4, 1 - 5e-4], axis=0)
            # A source on a line may leave an axis without any width.
            margin = np.maximum(0.05 * (high - low), 1e-3)
            low, high = low - margin, high + margin
            # Clumps far apart fill few pixels: finer ones until they show.
            while side < 4 * _PIXELS and len(np.unique(_pixel(z, low, high, side))) < _SHOWN:
                side *= 2
            counts = np.zeros(side**2)
        counts += np.bincount(_pixel(z, low, high, side), minlength=counts.size)
    # Where nothing was seen a little is assumed: cells must not reach across nothing at all.
    counts += 1e-4 * counts.mean()
    picture = counts.reshape(side, side)[::-1].copy()
    return GridDensity(picture, low=low, high=high)


def _pixel(z: np.ndarray, low: np.ndarray, high: np.ndarray, side: int) -> np.ndarray:
    place = ((z - low) / (high - low) * side).astype(np.int64).clip(0, side - 1)
    return place[:, 1] * side + place[:, 0]
