"""Source measures: what is transported onto the sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch

from aeot import _check


@runtime_checkable
class Measure(Protocol):
    """A probability measure on R^d that can be sampled."""

    dim: int

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent points, (n, dim), on the generator's device."""
        ...


def _device(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _vector(name: str, value: Any, dim: int) -> torch.Tensor:  # noqa: ANN401 - array-like
    tensor = _check.array(name, value)
    if tensor.ndim == 0:
        return tensor.expand(dim).clone()
    if tensor.shape != (dim,):
        got = f"shape {tuple(tensor.shape)}"
        raise _check.fail(name, f"be a number or have shape ({dim},)", got)
    return tensor


class UniformBox:
    """The uniform measure on an axis-parallel box; the unit cube by default.

    Args:
        dim: Dimension of the unit cube [0, 1]^dim; leave out when `low` and `high` are given.
        low: Lower corner, shape (dim,) or a number.
        high: Upper corner, shape (dim,) or a number; above `low` on every axis.

    Attributes:
        dim: Dimension.
        low: Lower corner (dim,).
        high: Upper corner (dim,).
        mean: Centre (dim,).
        covariance: (dim, dim), diagonal.

    Raises:
        ValueError: If neither dim nor corners are given, or high <= low somewhere.

    Example:
        >>> UniformBox(dim=3).sample(2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """

    def __init__(self, *, dim: int | None = None, low: Any = None, high: Any = None) -> None:  # noqa: ANN401
        if dim is None:
            corners = [
                _check.array(k, v) for k, v in (("low", low), ("high", high)) if v is not None
            ]
            shapes = [c.shape[0] for c in corners if c.ndim == 1]
            if not shapes:
                raise _check.fail("dim", "be given, or low and high as vectors", "neither")
            dim = shapes[0]
        self.dim = _check.integer("dim", dim)
        self.low = _vector("low", 0.0 if low is None else low, self.dim)
        self.high = _vector("high", 1.0 if high is None else high, self.dim)
        dtype = torch.promote_types(self.low.dtype, self.high.dtype)
        self.low, self.high = self.low.to(dtype), self.high.to(dtype)
        if not bool((self.high > self.low).all()):
            axis = int((self.high <= self.low).nonzero()[0])
            got = f"low {float(self.low[axis]):g}, high {float(self.high[axis]):g} on axis {axis}"
            raise _check.fail("high", "be above low on every axis", got)

    def __repr__(self) -> str:
        return f"UniformBox(low={self.low.tolist()}, high={self.high.tolist()})"

    @property
    def mean(self) -> torch.Tensor:
        """Centre of the box, (dim,)."""
        return (self.low + self.high) / 2

    @property
    def covariance(self) -> torch.Tensor:
        """Diagonal matrix of side**2 / 12, (dim, dim)."""
        return torch.diag((self.high - self.low) ** 2 / 12)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent points, (n, dim), on the generator's device."""
        device = _device(generator)
        unit = torch.rand(n, self.dim, generator=generator, dtype=self.low.dtype, device=device)
        low, high = self.low.to(device), self.high.to(device)
        return low + (high - low) * unit


class UniformBall:
    """The uniform measure on a Euclidean ball (a disk for dim=2).

    Args:
        dim: Dimension.
        center: Centre, shape (dim,) or a number.
        radius: Radius, > 0.

    Attributes:
        dim: Dimension.
        center: Centre (dim,).
        radius: Radius.
        mean: The centre (dim,).
        covariance: radius**2 / (dim + 2) times the identity, (dim, dim).
    """

    def __init__(self, *, dim: int, center: Any = 0.0, radius: float = 1.0) -> None:  # noqa: ANN401
        self.dim = _check.integer("dim", dim)
        self.center = _vector("center", center, self.dim)
        self.radius = _check.real("radius", radius, above=0.0)

    def __repr__(self) -> str:
        return f"UniformBall(dim={self.dim}, center={self.center.tolist()}, radius={self.radius:g})"

    @property
    def mean(self) -> torch.Tensor:
        """The centre, (dim,)."""
        return self.center

    @property
    def covariance(self) -> torch.Tensor:
        """radius**2 / (dim + 2) times the identity, (dim, dim)."""
        return torch.eye(self.dim, dtype=self.center.dtype) * self.radius**2 / (self.dim + 2)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent points, (n, dim), on the generator's device."""
        device, dtype = _device(generator), self.center.dtype
        x = torch.randn(n, self.dim, generator=generator, dtype=dtype, device=device)
        u = torch.rand(n, 1, generator=generator, dtype=dtype, device=device)
        x = x / x.norm(dim=1, keepdim=True) * u ** (1 / self.dim)
        return self.center.to(device) + self.radius * x


class Gaussian:
    """A normal measure with any covariance; the standard one by default.

    Args:
        dim: Dimension; leave out when a mean or a covariance is given.
        mean: Shape (dim,) or a number; 0 by default.
        covariance: Shape (dim, dim), symmetric positive definite; the identity by default.

    Attributes:
        dim: Dimension.
        mean: (dim,).
        covariance: (dim, dim).
        factor: Lower Cholesky factor L of the covariance; a point is mean + L z.

    Raises:
        ValueError: If nothing fixes the dimension or the covariance is not positive definite.
    """

    def __init__(self, *, dim: int | None = None, mean: Any = None, covariance: Any = None) -> None:  # noqa: ANN401
        matrix = None if covariance is None else _check.points("covariance", covariance)
        if dim is None and matrix is not None:
            dim = matrix.shape[0]
        if dim is None and mean is not None and _check.array("mean", mean).ndim == 1:
            dim = len(mean)
        if dim is None:
            raise _check.fail("dim", "be given, or a mean vector or a covariance", "none of them")
        self.dim = _check.integer("dim", dim)
        self.mean = _vector("mean", 0.0 if mean is None else mean, self.dim)
        if matrix is None:
            matrix = torch.eye(self.dim, dtype=self.mean.dtype)
        if matrix.shape != (self.dim, self.dim):
            got = f"shape {tuple(matrix.shape)}"
            raise _check.fail("covariance", f"have shape ({self.dim}, {self.dim})", got)
        if not torch.allclose(matrix, matrix.T, rtol=1e-5, atol=1e-7 * float(matrix.abs().max())):
            raise _check.fail(
                "covariance", "be symmetric", "a matrix that is not", "use (C + C.T) / 2"
            )
        dtype = torch.promote_types(self.mean.dtype, matrix.dtype)
        self.mean, self.covariance = self.mean.to(dtype), matrix.to(dtype)
        factor, info = torch.linalg.cholesky_ex(self.covariance.to(torch.float64))
        if int(info):
            least = float(torch.linalg.eigvalsh(self.covariance.to(torch.float64))[0])
            got = f"least eigenvalue {least:.3g}"
            raise _check.fail("covariance", "be positive definite", got, "add a small ridge")
        self.factor = factor.to(dtype)

    def __repr__(self) -> str:
        return f"Gaussian(dim={self.dim})"

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent points, (n, dim), on the generator's device."""
        device = _device(generator)
        z = torch.randn(n, self.dim, generator=generator, dtype=self.mean.dtype, device=device)
        return self.mean.to(device) + z @ self.factor.to(device).T


class Sampler:
    """Any source that can be sampled: a function of a count and a generator.

    Args:
        draw: ``draw(n, generator)`` returns n independent points (n, dim). It must take all its
            randomness from the generator, so that the same seed gives the same points.
        dim: Dimension.

    Attributes:
        dim: Dimension.
    """

    def __init__(
        self, draw: Callable[[int, torch.Generator | None], torch.Tensor], *, dim: int
    ) -> None:
        if not callable(draw):
            raise _check.fail("draw", "be callable as draw(n, generator)", repr(draw))
        self.draw = draw
        self.dim = _check.integer("dim", dim)

    def __repr__(self) -> str:
        return f"Sampler({self.draw!r}, dim={self.dim})"

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n points, (n, dim).

        Raises:
            ValueError: If the function returns another shape or values that are not finite.
        """
        with torch.no_grad():  # a network may be the source, and points carry no graph
            drawn = self.draw(n, generator)
        x = _check.points("draw(n, generator)", drawn, dim=self.dim)
        if x.shape[0] != n:
            raise _check.fail("draw(n, generator)", f"return {n} rows", str(x.shape[0]))
        return x


class Empirical:
    """The uniform measure on given points; sampling draws rows with replacement.

    Args:
        points: Shape (m, dim).

    Attributes:
        dim: Dimension.
        points: (m, dim).
        mean: (dim,).
        covariance: (dim, dim), normalised by m.
    """

    def __init__(self, points: Any) -> None:  # noqa: ANN401 - array-like
        self.points = _check.points("points", points)
        self.dim = self.points.shape[1]

    def __repr__(self) -> str:
        return f"Empirical({self.points.shape[0]} points, dim={self.dim})"

    @property
    def mean(self) -> torch.Tensor:
        """Mean of the points, (dim,)."""
        return self.points.mean(dim=0)

    @property
    def covariance(self) -> torch.Tensor:
        """Covariance of the points normalised by their number, (dim, dim)."""
        centred = self.points - self.mean
        return centred.T @ centred / self.points.shape[0]

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n rows with replacement, (n, dim), on the generator's device."""
        device = _device(generator)
        rows = torch.randint(self.points.shape[0], (n,), generator=generator, device=device)
        return self.points.to(device)[rows]
