"""Clouds of sites, heights and masses for property tests: small, and of every awkward shape."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = ("normal", "lattice", "line", "pair", "clusters", "outlier", "heavy")
SCALES = (1.0, 1e-6, 1e6)
OFFSETS = (0.0, 1.0, -1e3)


def few(part):
    """Fewer examples than the profile has, for what takes a solve or more each."""
    return settings(max_examples=max(1, settings.default.max_examples // part))


def _points(shape, n, d, rng):
    """Pairwise different rows (n, d) of size about one."""
    if shape == "lattice":  # ties, and whole rows of facets that meet in one point
        side = int(np.ceil(n ** (1 / d)))
        cells = rng.permutation(side**d)[:n]
        return np.stack(np.unravel_index(cells, (side,) * d), axis=1).astype(float)
    y = rng.normal(size=(n, d))
    if shape == "line":  # on one line of the space: only a direction matters
        y = rng.normal(size=(n, 1)) * rng.normal(size=d)
    if shape == "pair" and n > 1:  # two sites nearly in one place
        y[1] = y[0] + 1e-4 * rng.normal(size=d)
    if shape == "clusters":
        y = rng.integers(3, size=(n, 1)) * 5.0 + 0.05 * y
    if shape == "outlier":
        y[0] *= 1e3
    if shape == "heavy":
        y = y / np.abs(rng.normal(size=(n, 1)))
    return y


@st.composite
def clouds(draw, least=1, most=12, dims=(1, 2, 3), scales=SCALES, offsets=OFFSETS, shapes=SHAPES):
    """Different sites (n, d), float64: shape, unit and place as drawn."""
    n, d = draw(st.integers(least, most)), draw(st.sampled_from(dims))
    rng = np.random.default_rng(draw(SEEDS))
    y = _points(draw(st.sampled_from(shapes)), n, d, rng)
    size = draw(st.sampled_from(scales))
    return torch.from_numpy(size * (y + draw(st.sampled_from(offsets))))


@st.composite
def masses(draw, n, least=0.02):
    """Masses (n,) that sum to one: equal, or any, none below `least` / n."""
    if draw(st.booleans()):
        return torch.full((n,), 1 / n, dtype=torch.float64)
    share = np.random.default_rng(draw(SEEDS)).dirichlet(np.ones(n))
    return torch.from_numpy((1 - least) * share + least / n)


def heights(sites, seed, wobble=1.0):
    """Heights (n,), float64, near those of a Voronoi diagram: most cells hold something."""
    centred = sites - sites.mean(0)
    size = float(centred.abs().max()) or 1.0
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=len(sites)))
    return -centred.square().sum(1) / (2 * size) + wobble * 0.1 * size * noise
