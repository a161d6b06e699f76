"""The transport problem in the solver's own coordinates, and keyed blocks of source samples.

A source point is ``x = mean + factor z``, where z has mean zero and covariance about one, so that

    <x, y_i> + h_i = scale (<z, site_i> + height_i) + (a function of x alone),

with ``site_i = factor' (y_i - mean of y) / scale`` and ``height_i = (h_i + <mean, y_i>) / scale``.
Scores keep their order: this is a change of variables, not another problem. All solver code works
on z, the sites of size one and these heights, which makes it blind to shifts and units.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from aeot import _check
from aeot._rng import generator, stream_seed
from aeot.measures import Gaussian, Measure, Radial, UniformBall, UniformBox
from aeot.search.engines import top_k
from aeot.search.heights import center

_AT_ONCE = 1 << 24  # coordinates of sites that points are decided among together


class OutOfSamples(Exception):
    """A step would draw more points of the source than are left."""


@dataclass
class Supply:
    """How many points of the source may be drawn: one account for a solve and all its parts.

    Attributes:
        limit: In all.
        drawn: So far.
        kept: Of those that are left, how many are out of reach: they are for what comes later.
    """

    limit: float = math.inf
    drawn: int = 0
    kept: float = 0.0

    @classmethod
    def of(cls, max_samples: float | None, *, d: int) -> Supply:
        """Return one of so many samples, and at least of those that the least certificate takes."""
        return cls(math.inf if max_samples is None else max(max_samples, (1 << 14) + 64 * d))

    @property
    def left(self) -> float:
        """How many may still be drawn."""
        return self.limit - self.kept - self.drawn

    def take(self, m: int, *, share: float = 1.0) -> None:
        """Account for m points that are drawn next.

        Args:
            m: How many.
            share: Of those that are left, how many at most.

        Raises:
            OutOfSamples: If they are more; then none is taken.
        """
        if m > share * self.left:
            raise OutOfSamples
        self.drawn += m

    @contextlib.contextmanager
    def sparing(self, share: float) -> Iterator[None]:
        """Keep a share of what is left out of reach."""
        before = self.kept
        if math.isfinite(self.limit):
            self.kept += share * max(self.left, 0.0)
        try:
            yield
        finally:
            self.kept = before

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw points that were drawn before: they cost nothing, however few are left."""
        before = self.limit, self.drawn
        self.limit = math.inf
        try:
            yield
        finally:
            self.limit, self.drawn = before


@dataclass(frozen=True)
class Problem:
    """A source and sites in standard coordinates.

    Attributes:
        source: The caller's source measure.
        law: What z is: "box", "normal" (independent coordinates), "radial" (the same in every
            direction), or "sampler".
        mean: (d,) float64, mean of the source.
        factor: (d, d) float64; (d,) where it is diagonal.
        sites: (n, d) float32, standard coordinates, on the solver's device.
        masses: (n,) float64, target masses.
        scale: Unit of the heights.
        caller_sites: (n, d) float64, the sites as given.
        seed: The seed of every sample.
        place: (n,) int64, where each of the caller's sites, in his order, stands in `sites`.
        supply: How many samples there are; whoever draws blocks takes them from it first.
    """

    source: Measure
    law: str
    mean: torch.Tensor
    factor: torch.Tensor
    sites: torch.Tensor
    masses: torch.Tensor
    scale: float
    caller_sites: torch.Tensor
    seed: int
    place: torch.Tensor
    supply: Supply = field(default_factory=Supply)

    @functools.cached_property
    def _given(self) -> torch.Tensor:
        return self.caller_sites.to(self.sites.device)

    @property
    def given(self) -> torch.Tensor:
        """The sites as given, (n, d) float64, on the solver's device: carried there once."""
        return self.caller_sites if self.sites.device.type == "cpu" else self._given

    def to_standard(self, heights: torch.Tensor) -> torch.Tensor:
        """Carry the caller's heights into standard coordinates, mean zero, (n,) float64."""
        h = heights.to(self.mean)
        return center((h + self.caller_sites @ self.mean) / self.scale)

    def from_standard(self, heights: torch.Tensor) -> torch.Tensor:
        """Carry heights from standard coordinates to the caller's, mean zero, (n,) float64."""
        return center(heights.to(self.mean) * self.scale - self.caller_sites @ self.mean)

    def to_source(self, z: torch.Tensor) -> torch.Tensor:
        """Carry points (m, d) from standard coordinates to the caller's, float64."""
        factor = self.factor.to(z.device)
        return self.mean.to(z.device) + times(z.to(torch.float64), factor, transposed=True)

    def to_z(self, x: torch.Tensor) -> torch.Tensor:
        """Carry points (m, d) of the source to standard coordinates, float32, where the sites are.

        The caller's coordinates are kept in float64 up to here.
        """
        shifted = x.to(self.sites.device, torch.float64) - self.mean.to(self.sites.device)
        factor = self.factor.to(shifted)
        if factor.ndim == 1:
            return (shifted / factor).to(torch.float32)
        return torch.linalg.solve(factor, shifted.T).T.to(torch.float32)

    def target(self, cell_masses: torch.Tensor) -> torch.Tensor:
        """Return the masses wanted (n,), where a sample gives the cells these (n,)."""
        return self.masses.to(cell_masses)

    def decide(
        self, points: torch.Tensor, heights: torch.Tensor, k: int = 1, *, engine: str = "auto"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the k highest planes at points of the source as `BrenierMap` does for the caller.

        Args:
            points: (m, d) float64, in the caller's coordinates.
            heights: (n,) float64, standard coordinates; those that would be returned count.
            k: How many.
            engine: What finds them.

        Returns:
            Scores in units of standard coordinates (m, k) float64, and sites (m, k) int64.
        """
        h, parts = self.from_standard(heights.cpu()).to(points.device), []
        # Some sites at a time: products in float64 ask for copies of them.
        for some in self.place.to(points.device).split(max(k, _AT_ONCE // points.shape[1])):
            near = min(k, len(some))
            values, found = top_k(points, self.given[some], h[some], near, engine=engine)
            parts.append((values, some[found]))
        values, found = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        if len(parts) > 1:
            values, best = values.topk(k, 1)
            found = found.gather(1, best)
        return values / self.scale, found

    def drawn(self, rows: int, *key: int | str) -> torch.Tensor:
        """Draw x (rows, d) from the source, for a law that is known by its samples only."""
        return self.source.sample(rows, generator=generator(self.seed, "transport", *key))

    def draw(self, rows: int, *key: int | str) -> torch.Tensor:
        """Draw z (rows, d) float32 from the stream (seed, *key) alone, on the sites' device."""
        if self.law == "sampler":
            return self.to_z(self.drawn(rows, *key))
        d, device = self.sites.shape[1], self.sites.device
        if device.type == "cpu":
            # numpy's generators keep all 64 bits of the key and are faster than torch's on a CPU.
            bits = np.random.SFC64(stream_seed(self.seed, "transport", *key))
            numbers = np.random.Generator(bits)
            if self.law == "box":
                box = numbers.random((rows, d), dtype=np.float32)
                box -= np.float32(0.5)
                box *= np.float32(12**0.5)
                return torch.from_numpy(box)
            z = torch.from_numpy(numbers.standard_normal((rows, d), dtype=np.float32))
            if self.law == "normal":
                return z
            radii = torch.from_numpy(numbers.random((rows, 1), dtype=np.float32))
        else:
            rng = generator(self.seed, "transport", *key, device=device)
            like: Any = {"generator": rng, "dtype": torch.float32, "device": device}
            if self.law == "box":
                z = torch.rand(rows, d, **like)
                return (z - 0.5) * 12**0.5
            z = torch.randn(rows, d, **like)
            if self.law == "normal":
                return z
            radii = torch.rand(rows, 1, **like)
        if isinstance(self.source, Radial):
            rng = generator(self.seed, "transport", *key, "radii", device=device)
            radii = (self.source.lengths(rows, rng) / self.factor[0]).to(radii)[:, None]
        else:
            radii = radii ** (1 / d) * (d + 2) ** 0.5
        return z / z.norm(dim=1, keepdim=True) * radii


def times(rows: torch.Tensor, factor: torch.Tensor, *, transposed: bool = False) -> torch.Tensor:
    """Return rows (m, d) times a factor (d, d), or a diagonal one (d,), or its transpose."""
    if factor.ndim == 1:
        return rows * factor
    return rows @ (factor.T if transposed else factor)


def standardise(
    source: Measure,
    sites: torch.Tensor,
    masses: torch.Tensor,
    seed: int,
    place: torch.Tensor | None = None,
    *,
    supply: Supply | None = None,
) -> Problem:
    """Put a problem into standard coordinates.

    Args:
        source: The source measure.
        sites: (n, d), already checked.
        masses: (n,) float64, summing to one.
        seed: The seed of every sample the solver will draw.
        place: (n,), where each of the caller's sites stands in `sites`; the same if left out.
        supply: How many samples there are; any number if left out.

    Returns:
        The problem; its sites lie on the device of `sites`.

    Raises:
        ValueError: If the source is one point and there are several sites, or spreads beyond the
            range of float64.
    """
    supply = supply or Supply()
    law, mean, factor = _moments(source, seed, supply)
    spread, least = float(factor.abs().max()), 1e-12 * float(mean.abs().max())
    if len(sites) > 1 and spread <= max(least, 1e-149):  # no factor is below 1e-150
        got = f"a spread of at most {max(least, 1e-149):g} around {_check.shown(mean.tolist())}"
        way_out = (
            "a map sends one point to one site: add noise to the source; if it is that small, "
            "divide source and sites by a common length"
        )
        raise _check.fail("source", "spread over more than one point", got, way_out)
    if not spread < 1e154:  # its square is a variance
        way_out = "divide source and sites by a common length"
        raise _check.fail("source", "spread over less than 1e154", f"{spread:g}", way_out)
    y = sites.detach().to("cpu", torch.float64)
    shifted = times(y - y.mean(0), factor)
    scale = float(shifted.square().mean().sqrt()) or 1.0
    return Problem(
        source=source,
        law=law,
        mean=mean,
        factor=factor,
        sites=(shifted / scale).to(sites.device, torch.float32),
        masses=masses.to("cpu"),
        scale=scale,
        caller_sites=y,
        seed=seed,
        place=torch.arange(len(y)) if place is None else place,
        supply=supply,
    )


def check_fits(source: Measure, n: int) -> None:
    """Raise a ValueError if no memory of this machine holds a problem of so many dimensions."""
    d = source.dim
    # Blocks of 4096 rows in float32, sites and what is summed per site; a full covariance with its
    # eigenvectors.
    needed = 4 * d * (3 * 4096 + 8 * n)
    diagonal = type(source) in (UniformBox, UniformBall, Radial)
    if not (diagonal or (type(source) is Gaussian and source.is_round)):
        needed += 32 * d * d
    if needed > _check.memory():
        got = f"{d}, which take {needed / 1e9:.3g} GB with {n} sites"
        must = f"have dimensions that {_check.memory() / 1e9:.3g} GB of memory hold"
        raise _check.fail("source", must, got, "project source and sites onto fewer")


def _moments(source: Measure, seed: int, supply: Supply) -> tuple[str, torch.Tensor, torch.Tensor]:
    # Exact types only: a subclass may sample something else.
    if source.dim == 1:
        pass  # cells may be narrower than the steps of float32 draws
    elif type(source) is UniformBox:
        side = (source.high - source.low).to("cpu", torch.float64)
        return "box", source.mean.to("cpu", torch.float64), side / 12**0.5
    elif type(source) is Gaussian:
        mean = source.mean.to("cpu", torch.float64)
        if source.is_round:
            return "normal", mean, torch.ones_like(mean)
        return "normal", mean, source.factor.to("cpu", torch.float64)
    elif type(source) is UniformBall:
        mean = source.center.to("cpu", torch.float64)
        return "radial", mean, torch.full_like(mean, source.radius / (source.dim + 2) ** 0.5)
    elif type(source) is Radial:
        mean = source.center.to("cpu", torch.float64)
        r = source.lengths(1 << 14, generator(seed, "transport", "moments"))
        size = float(r.to("cpu", torch.float64).square().mean().sqrt())
        return "radial", mean, torch.full_like(mean, size / source.dim**0.5)
    known = [getattr(source, name, None) for name in ("mean", "covariance")]
    tensors = [x.to("cpu", torch.float64) for x in known if isinstance(x, torch.Tensor)]
    if len(tensors) == 2:
        mean, covariance = tensors
    else:
        n = max(4096, 64 * source.dim)
        supply.take(n)
        x = source.sample(n, generator=generator(seed, "transport", "moments"))
        x = x.to("cpu", torch.float64)
        mean, covariance = x.mean(0), torch.cov(x.T).reshape(source.dim, source.dim)
    values, vectors = torch.linalg.eigh(covariance)
    # A source on a subspace has directions without spread; they get some, z merely stays small.
    values = values.clamp(min=max(float(values[-1]) * 1e-6, 1e-300))
    return "sampler", mean, (vectors * values.sqrt()) @ vectors.T
