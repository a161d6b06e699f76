"""Source measures: what is transported onto the sites.

Numbers, lists and whole numbers are kept in float64. Points are float32 unless a measure was given
arrays of float64 or needs them: where float32 would leave fewer than five digits of its width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from aeot import _check, _io
from aeot._check import ArrayLike
from aeot._environment import plain_methods
from aeot._rng import device_of
from aeot._rng import generator as _generator


@runtime_checkable
class Measure(Protocol):
    """A probability measure on R^d that can be sampled."""

    dim: int

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent points, (n, dim), on the generator's device."""
        ...


def check_source(source: object) -> None:
    """Raise a ValueError if `source` is no measure."""
    dim = getattr(source, "dim", None)
    if not isinstance(dim, int) or not callable(getattr(source, "sample", None)):
        must, got = "be a measure such as aeot.UniformBox(dim=8)", _check.shown(source)
        way_out = "for a function of (n, generator) write aeot.Sampler(function, dim=...)"
        raise _check.fail("source", must, got, way_out)


_UNIT = "use another unit"


def _vector(name: str, value: ArrayLike | float | None, dim: int, default: float) -> torch.Tensor:
    if value is None:
        return torch.full((dim,), default, dtype=torch.float32)
    if isinstance(value, bool):
        raise _check.fail(name, f"be a number or have shape ({dim},)", str(value))
    tensor = _check.array(name, value).detach()
    if tensor.ndim == 0:
        return tensor.expand(dim).clone()
    if tensor.shape != (dim,):
        got = f"shape {tuple(tensor.shape)}"
        raise _check.fail(name, f"be a number or have shape ({dim},)", got)
    return tensor


def _dimension(value: int) -> int:
    """Return a dimension of which this machine's memory holds some points."""
    way_out = "a measure keeps vectors of that length: take fewer dimensions"
    return _check.rows("dim", value, 16, way_out=way_out)


def _told(*, dim: int, **vectors: torch.Tensor) -> str:
    """Return arguments of a constructor: a vector of equal numbers as one of them."""
    parts = [f"dim={dim}"]
    for name, vector in vectors.items():
        same = bool((vector == vector[0]).all())
        few = _check.shown(vector.tolist() if dim <= 4 else vector[:5].tolist())
        parts.append(f"{name}={float(vector[0]):g}" if same else f"{name}={few}")
    return ", ".join(parts)


def _square(dim: int) -> int:
    """Return a dimension of which this machine's memory holds a covariance."""
    way_out = "mean and points need none"
    with _check.renamed("dim", "covariance"):
        return _check.rows("dim", dim, 2 * dim, way_out=way_out)


def _dtype(given: tuple[object, ...], size: torch.Tensor, width: torch.Tensor) -> torch.dtype:
    """Choose the dtype of points for what was given, their size (dim,) and their width (dim,)."""
    doubles = (torch.float64, np.float64)
    strong = any(getattr(value, "dtype", None) in doubles for value in given)
    strong = strong or bool(((size > 100 * width) | (width < 1e-18) | (width > 1e18)).any())
    return torch.float64 if strong else torch.float32  # which holds no squares beyond


@plain_methods
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
        dtype: Of its points.
        mean: Centre (dim,).
        covariance: (dim, dim), diagonal.

    Raises:
        ValueError: If neither dim nor corners are given, or high <= low somewhere.

    Example:
        >>> UniformBox(dim=3).sample(2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        *,
        dim: int | None = None,
        low: ArrayLike | float | None = None,
        high: ArrayLike | float | None = None,
    ) -> None:
        if dim is None:
            corners = [
                _check.array(k, v) for k, v in (("low", low), ("high", high)) if v is not None
            ]
            shapes = [c.shape[0] for c in corners if c.ndim == 1]
            if not shapes:
                raise _check.fail("dim", "be given, or low and high as vectors", "neither")
            dim = shapes[0]
        self.dim = _dimension(dim)
        self.low = _vector("low", low, self.dim, 0.0)
        self.high = _vector("high", high, self.dim, 1.0)
        dtype = torch.promote_types(self.low.dtype, self.high.dtype)
        self.low, self.high = self.low.to(dtype), self.high.to(dtype)
        if not bool((self.high > self.low).all()):
            axis = int((self.high <= self.low).nonzero()[0])
            got = f"low {float(self.low[axis]):g}, high {float(self.high[axis]):g} on axis {axis}"
            raise _check.fail("high", "be above low on every axis", got)
        self.mean = (self.low + self.high) / 2
        size = torch.maximum(self.low.abs(), self.high.abs())
        if not bool((self.high - self.low).isfinite().all()):
            got = f"low {float(self.low.min()):g}, high {float(self.high.max()):g}"
            raise _check.fail("high", "be no more than 1.8e308 above low", got, _UNIT)
        self.dtype = _dtype((low, high), size, self.high - self.low)

    def __repr__(self) -> str:
        return f"UniformBox({_told(dim=self.dim, low=self.low, high=self.high)})"

    @property
    def covariance(self) -> torch.Tensor:
        """Diagonal matrix of side**2 / 12, (dim, dim)."""
        _square(self.dim)
        return torch.diag((self.high - self.low) ** 2 / 12)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent points, (n, dim), on the generator's device."""
        _check.rows("n", n, self.dim, minimum=0)
        device = device_of(generator)
        unit = torch.rand(n, self.dim, generator=generator, dtype=self.dtype, device=device)
        low, high = (corner.to(unit) for corner in (self.low, self.high))
        return low + (high - low) * unit


@plain_methods
class UniformBall:
    """The uniform measure on a Euclidean ball (a disk for dim=2).

    Args:
        dim: Dimension.
        center: Centre, shape (dim,) or a number; 0 by default.
        radius: Radius, > 0.

    Attributes:
        dim: Dimension.
        center: Centre (dim,).
        radius: Radius.
        dtype: Of its points.
        mean: The centre (dim,).
        covariance: radius**2 / (dim + 2) times the identity, (dim, dim).
    """

    def __init__(
        self, *, dim: int, center: ArrayLike | float | None = None, radius: float = 1.0
    ) -> None:
        self.dim = _dimension(dim)
        self.center = _vector("center", center, self.dim, 0.0)
        self.radius = _check.real("radius", radius, above=0.0)
        self.mean = self.center
        width = torch.full_like(self.center, self.radius, dtype=torch.float64)
        self.dtype = _dtype((center,), self.center.abs(), width)

    def __repr__(self) -> str:
        return f"UniformBall({_told(dim=self.dim, center=self.center)}, radius={self.radius:g})"

    @property
    def covariance(self) -> torch.Tensor:
        """radius**2 / (dim + 2) times the identity, (dim, dim)."""
        _square(self.dim)
        return torch.eye(self.dim, dtype=self.center.dtype) * self.radius**2 / (self.dim + 2)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent points, (n, dim), on the generator's device."""
        _check.rows("n", n, self.dim, minimum=0)
        device, dtype = device_of(generator), self.dtype
        x = torch.randn(n, self.dim, generator=generator, dtype=dtype, device=device)
        u = torch.rand(n, 1, generator=generator, dtype=dtype, device=device)
        x = x / x.norm(dim=1, keepdim=True) * u ** (1 / self.dim)
        return self.center.to(x) + self.radius * x


@plain_methods
class Radial:
    """A measure that looks the same in every direction, such as the uniform one on a sphere.

    Its points are ``center + r u``, u uniform on the unit sphere and r a length that is independent
    of u.

    Args:
        dim: Dimension.
        radius: A number: the radius of a sphere, > 0. Or a function: ``radius(n, generator)``
            returns n independent lengths (n,), >= 0, all of its randomness from the generator.
        center: Centre, shape (dim,) or a number; 0 by default.

    Attributes:
        dim: Dimension.
        radius: As given.
        center: Centre (dim,).
        dtype: Of its points.
        mean: The centre (dim,).

    Example:
        >>> on_sphere = Radial(dim=3, radius=2.0).sample(5)
        >>> bool((on_sphere.norm(dim=1) - 2).abs().max() < 1e-5)
        True
        >>> shell = Radial(dim=3, radius=lambda n, g: 1 + torch.rand(n, generator=g))
        >>> bool((shell.sample(5).norm(dim=1) >= 0.999).all())
        True
    """

    def __init__(
        self,
        *,
        dim: int,
        radius: float | Callable[[int, torch.Generator | None], torch.Tensor] = 1.0,
        center: ArrayLike | float | None = None,
    ) -> None:
        self.dim = _dimension(dim)
        self.center = _vector("center", center, self.dim, 0.0)
        self.radius = radius if callable(radius) else _check.real("radius", radius, above=0.0)
        self.mean = self.center
        width = 1.0 if callable(self.radius) else self.radius
        widths = torch.full_like(self.center, width, dtype=torch.float64)
        self.dtype = _dtype((center,), self.center.abs(), widths)

    def __repr__(self) -> str:
        radius = self.radius if callable(self.radius) else f"{self.radius:g}"
        return f"Radial({_told(dim=self.dim, center=self.center)}, radius={radius})"

    def lengths(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent distances from the centre, (n,), on the generator's device.

        Raises:
            ValueError: If the function returns another shape, or lengths that are negative or not
                finite.
        """
        device = device_of(generator)
        if not callable(self.radius):
            return torch.full((n,), self.radius, dtype=self.dtype, device=device)
        with torch.no_grad():
            drawn = self.radius(n, generator)
        r = _check.array("radius(n, generator)", drawn).to(device)
        if r.shape != (n,):
            got = f"shape {tuple(r.shape)}"
            raise _check.fail("radius(n, generator)", f"return shape ({n},)", got)
        if bool((r < 0).any()):
            raise _check.fail("radius(n, generator)", "be >= 0", f"{float(r.min()):g}")
        return r

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent points, (n, dim), on the generator's device."""
        _check.rows("n", n, self.dim, minimum=0)
        device, dtype = device_of(generator), self.dtype
        x = torch.randn(n, self.dim, generator=generator, dtype=dtype, device=device)
        r = self.lengths(n, generator).to(x)[:, None]
        return self.center.to(x) + x / x.norm(dim=1, keepdim=True) * r


@plain_methods
class Gaussian:
    """A normal measure with any covariance; the standard one by default.

    Args:
        dim: Dimension; leave out when a mean or a covariance is given.
        mean: Shape (dim,) or a number; 0 by default.
        covariance: Shape (dim, dim), symmetric positive definite; the identity by default.

    Attributes:
        dim: Dimension.
        dtype: Of its points.
        mean: (dim,).
        is_round: Whether the covariance is the identity because none was given.

    Raises:
        ValueError: If nothing fixes the dimension or the covariance is not positive definite.
    """

    def __init__(
        self,
        *,
        dim: int | None = None,
        mean: ArrayLike | float | None = None,
        covariance: ArrayLike | None = None,
    ) -> None:
        matrix = None if covariance is None else _check.points("covariance", covariance).detach()
        if dim is None and matrix is not None:
            dim = matrix.shape[0]
        if dim is None and mean is not None and _check.array("mean", mean).ndim == 1:
            dim = len(_check.array("mean", mean))
        if dim is None:
            raise _check.fail("dim", "be given, or a mean vector or a covariance", "none of them")
        self.dim = _dimension(dim)
        self.mean = _vector("mean", mean, self.dim, 0.0)
        self.is_round = matrix is None
        if matrix is None:
            width = torch.ones_like(self.mean)
            self.dtype = _dtype((mean,), self.mean.abs() + width, width)
            return
        if matrix.shape != (self.dim, self.dim):
            got = f"shape {tuple(matrix.shape)}"
            raise _check.fail("covariance", f"have shape ({self.dim}, {self.dim})", got)
        if not torch.allclose(matrix, matrix.T, rtol=1e-5, atol=1e-7 * float(matrix.abs().max())):
            raise _check.fail(
                "covariance", "be symmetric", "a matrix that is not", "use (C + C.T) / 2"
            )
        dtype = torch.promote_types(self.mean.dtype, matrix.dtype)
        self.mean, matrix = self.mean.to(dtype), matrix.to(dtype)
        factor, info = torch.linalg.cholesky_ex(matrix.to(torch.float64))
        if int(info):
            least = float(torch.linalg.eigvalsh(matrix.to(torch.float64))[0])
            got = f"least eigenvalue {least:.3g}"
            raise _check.fail("covariance", "be positive definite", got, "add a small ridge")
        self._covariance, self._factor = matrix, factor.to(dtype)
        size = self.mean.abs() + matrix.diagonal().sqrt()
        self.dtype = _dtype((mean, covariance), size, self._factor.diagonal())

    def __repr__(self) -> str:
        return f"Gaussian(dim={self.dim})"

    @property
    def covariance(self) -> torch.Tensor:
        """Covariance, (dim, dim)."""
        return self._identity() if self.is_round else self._covariance

    @property
    def factor(self) -> torch.Tensor:
        """Lower Cholesky factor of the covariance, (dim, dim)."""
        return self._identity() if self.is_round else self._factor

    def _identity(self) -> torch.Tensor:
        return torch.eye(_square(self.dim), dtype=self.mean.dtype)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent points, (n, dim), on the generator's device."""
        _check.rows("n", n, self.dim, minimum=0)
        device = device_of(generator)
        z = torch.randn(n, self.dim, generator=generator, dtype=self.dtype, device=device)
        return self.mean.to(z) + (z if self.is_round else z @ self._factor.to(z).T)


@plain_methods
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
            raise _check.fail("draw", "be callable as draw(n, generator)", _check.shown(draw))
        self.draw = draw
        self.dim = _check.integer("dim", dim)

    def __repr__(self) -> str:
        return f"Sampler({self.draw!r}, dim={self.dim})"

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n points, (n, dim).

        Raises:
            ValueError: If the function returns another shape or values that are not finite.
        """
        _check.rows("n", n, self.dim, minimum=0)
        device_of(generator)
        with torch.no_grad():  # a network may be the source, and points carry no graph
            drawn = self.draw(n, generator)
        x = _check.points("draw(n, generator)", drawn, dim=self.dim)
        if x.shape[0] != n:
            raise _check.fail("draw(n, generator)", f"return {n} rows", str(x.shape[0]))
        return x


@plain_methods
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

    def __init__(self, points: ArrayLike) -> None:
        self.points = _check.points("points", points).detach()
        self.dim = self.points.shape[1]

    def __repr__(self) -> str:
        return f"Empirical({self.points.shape[0]} points, dim={self.dim})"

    @property
    def mean(self) -> torch.Tensor:
        """Mean of the points, (dim,)."""
        return self.points.mean(dim=0, dtype=torch.float64).to(self.points.dtype)

    @property
    def covariance(self) -> torch.Tensor:
        """Covariance of the points normalised by their number, (dim, dim)."""
        centred = self.points.to(torch.float64) - self.points.mean(dim=0, dtype=torch.float64)
        return (centred.T @ centred / self.points.shape[0]).to(self.points.dtype)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n rows with replacement, (n, dim), on the generator's device."""
        _check.rows("n", n, self.dim, minimum=0)
        device = device_of(generator)
        rows = torch.randint(self.points.shape[0], (n,), generator=generator, device=device)
        return self.points.to(device)[rows]


def _corners(vertices: ArrayLike) -> torch.Tensor:
    """Return the corners of a polygon, (p, 2) float64, of a size that its area can be told of."""
    found = _check.points("vertices", vertices, dim=2, min_rows=3).detach().to(torch.float64)
    extent = float((found.amax(0) - found.amin(0)).max())
    if not 1e-50 <= extent <= 1e50 and extent > 0:
        way_out = "divide source and sites by a common length"
        raise _check.fail("vertices", "span from 1e-50 to 1e50", f"{extent:g}", way_out)
    return found


@plain_methods
class Polygon:
    """The uniform measure on a simple polygon in the plane, with dents or without.

    Args:
        vertices: Corners in order around the polygon, either way, (p, 2) with p >= 3.

    Attributes:
        dim: 2.
        vertices: (p, 2), float64, counter-clockwise.
        triangles: What it is cut into, counter-clockwise (k, 3, 2).
        area: Area of the polygon.
        mean: Centroid (2,).
        covariance: (2, 2).

    Raises:
        ValueError: If the edges cross or touch each other, or the polygon has no area.

    Example:
        >>> ell = Polygon([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]])
        >>> round(ell.area, 9), ell.mean.round(decimals=4).tolist()
        (3.0, [0.8333, 0.8333])
    """

    def __init__(self, vertices: ArrayLike) -> None:
        corners = _corners(vertices)
        corners = corners[(corners != corners.roll(-1, 0)).any(1)]
        meeting = _meeting_edges(corners)
        if meeting is not None:
            got = f"edges {meeting[0]} and {meeting[1]} that cross or touch"
            way_out = "list the corners in order; of several parts make a GridDensity"
            raise _check.fail("vertices", "go once around a simple polygon", got, way_out)
        if float(_cross(corners, corners.roll(-1, 0)).sum()) < 0:
            corners = corners.flip(0)
        self._set(corners, corners[_ears(corners)])

    def _set(self, corners: torch.Tensor, triangles: torch.Tensor) -> None:
        self.dim = 2
        self.vertices, self.triangles = corners, triangles
        fan = triangles - triangles[:, :1]
        a, b = fan[:, 1], fan[:, 2]
        self._areas = (_cross(a, b) / 2).clamp(min=0.0)
        self.area = float(self._areas.sum())
        share = self._areas / self.area
        self.mean = corners[0] + (share[:, None] * (triangles - corners[0]).sum(1) / 3).sum(0)
        a, b, c = (triangles - self.mean).unbind(1)
        sums = a + b + c
        outer = (
            sums[:, :, None] * sums[:, None, :]
            + b[:, :, None] * b[:, None, :]
            + c[:, :, None] * c[:, None, :]
            + a[:, :, None] * a[:, None, :]
        )
        self.covariance = (share[:, None, None] * outer / 12).sum(0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.vertices)} corners, area={self.area:g})"

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent points, (n, 2), on the generator's device."""
        _check.rows("n", n, self.dim, minimum=0)
        device = device_of(generator)
        triangles, areas = self.triangles.to(device), self._areas.to(device)
        which = torch.multinomial(areas, max(n, 1), replacement=True, generator=generator)[:n]
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64, device=device)
        u = torch.where(u.sum(1, keepdim=True) > 1, 1 - u, u)
        a, b, c = triangles[which].unbind(1)
        return a + u[:, :1] * (b - a) + u[:, 1:] * (c - a)


def _cross(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _meeting_edges(corners: torch.Tensor) -> tuple[int, int] | None:
    """Two edges of a polygon (p, 2) that have a point in common, but for neighbours' corner."""
    p = len(corners)
    if p < 3:
        return 0, min(1, p - 1)
    a, b = corners, corners.roll(-1, 0)
    ahead = b.roll(-1, 0) - b
    back = (_cross(b - a, ahead) == 0) & (((b - a) * ahead).sum(1) < 0)
    if bool(back.any()):
        first = int(back.nonzero()[0])
        return first, (first + 1) % p
    for i in range(p - 2):
        # All edges after the next one; the last is a neighbour of the first.
        c, d = a[i + 2 : p - (i == 0)], b[i + 2 : p - (i == 0)]
        along, across = b[i] - a[i], d - c
        one, two = _cross(along, c - a[i]), _cross(along, d - a[i])
        three, four = _cross(across, a[i] - c), _cross(across, b[i] - c)
        near = (torch.minimum(c, d) <= torch.maximum(a[i], b[i])).all(1)
        near &= (torch.maximum(c, d) >= torch.minimum(a[i], b[i])).all(1)
        # Neither lies on one side of the other's line.
        meet = near & (one.sign() * two.sign() <= 0) & (three.sign() * four.sign() <= 0)
        if bool(meet.any()):
            return i, i + 2 + int(meet.nonzero()[0])
    return None


def _ears(corners: torch.Tensor) -> torch.Tensor:
    """Triangles (k, 3), rows of corners, of a simple counter-clockwise polygon: ears cut off.

    References:
        G. Meisters, "Polygons have ears", Amer. Math. Monthly 82 (1975).
    """
    x = corners.numpy()
    left, triangles, k, tried = list(range(len(x))), [], 0, 0
    while len(left) > 2:
        k %= len(left)
        i, j, m = left[k - 1], left[k], left[(k + 1) % len(left)]
        a, b, c = x[i], x[j], x[m]
        turn = _turn(a, b, c)
        others = x[[r for r in left if r not in (i, j, m)]]
        inside = (
            (_turn(a, b, others) >= 0) & (_turn(b, c, others) >= 0) & (_turn(c, a, others) >= 0)
        )
        if turn == 0 or (turn > 0 and not inside.any()) or tried > len(left):
            if turn > 0:
                triangles.append((i, j, m))
            del left[k]
            k, tried = k - 1, 0  # the corner before may be an ear now
        else:
            k, tried = k + 1, tried + 1
    return torch.tensor(triangles).reshape(-1, 3)


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area of triangles with corners (2,) or (k, 2)."""
    return (b[0] - a[0]) * (c[..., 1] - a[1]) - (b[1] - a[1]) * (c[..., 0] - a[0])


@plain_methods
class ConvexPolygon(Polygon):
    """The uniform measure on a convex polygon in the plane.

    Args:
        vertices: Corners in order around the polygon, either way, (p, 2) with p >= 3.

    Attributes:
        dim: 2.
        vertices: (p, 2), float64, counter-clockwise.
        triangles: The fan around the first corner (p - 2, 3, 2).
        area: Area of the polygon.
        mean: Centroid (2,).
        covariance: (2, 2).

    Raises:
        ValueError: If the corners do not go around a convex polygon of positive area.

    Example:
        >>> triangle = ConvexPolygon([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> triangle.area
        0.5
    """

    def __init__(self, vertices: ArrayLike) -> None:
        corners = _corners(vertices)
        edges = corners.roll(-1, 0) - corners
        following = edges.roll(-1, 0)
        turns = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
        if float(turns.sum()) < 0:
            corners, turns = corners.flip(0), -turns.flip(0)
        slack = 1e-12 * float(edges.square().sum())
        headings = torch.atan2(edges[:, 1], edges[:, 0])
        bends = torch.remainder(headings.roll(-1) - headings + torch.pi, 2 * torch.pi) - torch.pi
        once = abs(abs(float(bends.sum())) - 2 * torch.pi) < 1e-6
        if not once or bool((turns < -slack).any()) or float(turns.sum()) <= slack:
            way_out = "list the corners in order; Polygon(vertices) takes dents"
            got = "corners that turn both ways" if once else "corners that cross themselves"
            raise _check.fail("vertices", "go around a convex polygon", got, way_out)
        first = corners[:1].expand(len(corners) - 2, 2)
        self._set(corners, torch.stack([first, corners[1:-1], corners[2:]], dim=1))


@plain_methods
class GridDensity:
    """A density on a rectangle given by a picture: constant on each pixel, or bilinear between.

    Args:
        values: Non-negative, any total, (rows, columns); read as a picture is seen: the first row
            is the top, the columns run along the first coordinate.
        low: Lower left corner, shape (2,) or a number.
        high: Upper right corner, shape (2,) or a number.
        interpolation: "constant": each value fills a pixel. "linear": the values stand at the
            nodes of a grid that spans the rectangle, bilinear in between (at least 2 x 2).

    Attributes:
        dim: 2.
        values: As given, float64.
        low: (2,), float64.
        high: (2,), float64.
        coefficients: (rows, columns, 4), float64, the lowest row first: on a pixel the density,
            which integrates to one, is a + b u + c v + d u v in its coordinates u, v in [0, 1].
        mean: (2,).
        covariance: (2, 2).

    Raises:
        ValueError: If a value is negative, all are zero, or the shapes do not fit.

    Example:
        >>> GridDensity([[0.0, 1.0], [0.0, 1.0]]).mean
        tensor([0.7500, 0.5000], dtype=torch.float64)
    """

    def __init__(
        self,
        values: ArrayLike,
        *,
        low: ArrayLike | float = 0.0,
        high: ArrayLike | float = 1.0,
        interpolation: str = "constant",
    ) -> None:
        linear = _check.choice("interpolation", interpolation, ("constant", "linear")) == "linear"
        table = _check.array("values", values).detach().to(torch.float64)
        if table.ndim != 2 or min(table.shape, default=0) < (2 if linear else 1):
            raise _check.fail("values", "have shape (rows, columns)", f"shape {tuple(table.shape)}")
        if bool((table < 0).any()):
            raise _check.fail("values", "be >= 0", f"{float(table.min()):g}", "clamp them")
        if not bool((table > 0).any()):
            raise _check.fail("values", "be positive somewhere", "only zeros")
        self.dim, self.interpolation, self.values = 2, interpolation, table
        self.low = _vector("low", low, 2, 0.0).to(torch.float64)
        self.high = _vector("high", high, 2, 1.0).to(torch.float64)
        if not bool((self.high > self.low).all()):
            got = f"{self.low.tolist()} and {self.high.tolist()}"
            raise _check.fail("high", "be above low on every axis", got)
        # Only ratios count: by a power of two, which rounds nothing, such that no sum overflows.
        exponent = math.frexp(float(table.max()))[1]
        table = table.flip(0) * 2.0 ** -max(exponent, -1000)
        if linear:
            a, b, c, d = table[:-1, :-1], table[:-1, 1:], table[1:, :-1], table[1:, 1:]
            coefficients = torch.stack([a, b - a, c - a, a - b - c + d], dim=-1)
        else:
            coefficients = torch.nn.functional.pad(table[..., None], (0, 3))
        rows, columns = coefficients.shape[:2]
        self.step = (self.high - self.low) / torch.tensor([columns, rows], dtype=torch.float64)
        means = coefficients @ torch.tensor([1, 0.5, 0.5, 0.25], dtype=torch.float64)
        area = self.step.prod()
        if not 1e-290 < float(area) < 1e290:
            got = f"sides of {_check.shown((self.high - self.low).tolist())}"
            raise _check.fail("high", "leave pixels an area between 1e-290 and 1e290", got, _UNIT)
        total = means.sum() * area
        self.coefficients = coefficients / total
        self._masses = (means / means.sum()).flatten()
        self.mean, self.covariance = self._moments()

    def __repr__(self) -> str:
        rows, columns = self.coefficients.shape[:2]
        corners = f"low={self.low.tolist()}, high={self.high.tolist()}"
        return f"GridDensity({rows} x {columns} {self.interpolation}, {corners})"

    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        # Integrals of u^p v^q over a pixel against 1, u, v, u v.
        c, (rows, columns) = self.coefficients, self.coefficients.shape[:2]
        area = self.step.prod()

        def against(p: int, q: int) -> torch.Tensor:
            weights = [1 / ((p + i + 1) * (q + j + 1)) for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
            return area * (c @ torch.tensor(weights, dtype=torch.float64))

        x = torch.arange(columns, dtype=torch.float64).expand(rows, columns)
        y = torch.arange(rows, dtype=torch.float64)[:, None].expand(rows, columns)
        one, u, v = against(0, 0), against(1, 0), against(0, 1)
        first = torch.stack([(x * one + u).sum(), (y * one + v).sum()])
        xx = (x * x * one + 2 * x * u + against(2, 0)).sum()
        xy = (x * y * one + x * v + y * u + against(1, 1)).sum()
        yy = (y * y * one + 2 * y * v + against(0, 2)).sum()
        second = torch.stack([torch.stack([xx, xy]), torch.stack([xy, yy])])
        central = second - first[:, None] * first[None, :]
        return self.low + self.step * first, central * self.step[:, None] * self.step[None, :]

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n independent points, (n, 2), on the generator's device."""
        _check.rows("n", n, self.dim, minimum=0)
        device = device_of(generator)
        # torch.multinomial takes at most 2^24 categories; a search in the running sum takes any.
        cumulated = self._masses.to(device).cumsum(0)
        draws = torch.rand(n, 3, generator=generator, dtype=torch.float64, device=device)
        which = torch.searchsorted(cumulated, draws[:, 0] * cumulated[-1]).clamp(
            max=len(cumulated) - 1
        )
        # By a power of two, such that squares of what lies in a tiny or huge pixel are numbers.
        shrink = 2.0 ** -math.frexp(float(self.coefficients.abs().max()))[1]
        a, b, c, d = shrink * self.coefficients.to(device).reshape(-1, 4)[which].T
        # The marginal in u has density proportional to p + q u, then v given u likewise.
        u = _linear_quantile(a + c / 2, b + d / 2, draws[:, 1])
        v = _linear_quantile(a + b * u, c + d * u, draws[:, 2])
        columns = self.coefficients.shape[1]
        corner = torch.stack([which % columns, which // columns], dim=1)
        step, low = self.step.to(device), self.low.to(device)
        return low + step * (corner + torch.stack([u, v], dim=1))


def _linear_quantile(p: torch.Tensor, q: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Quantile of the density proportional to p + q t on [0, 1], which is nowhere negative."""
    total = p + q / 2
    root = (p * p + 2 * q * level * total).clamp(min=0).sqrt()
    # The stable root of p t + q t^2 / 2 = level total.
    return (2 * level * total / (p + root).clamp(min=1e-300)).clamp(0, 1)


_PROBES = 256  # points that a measure is known by
# What each measure is made from again; a function is in no file.
_STORED: dict[type, tuple[str, ...]] = {
    UniformBox: ("low", "high"),
    UniformBall: ("dim", "center", "radius"),
    Gaussian: ("mean", "covariance"),
    Empirical: ("points",),
    Polygon: ("vertices",),
    ConvexPolygon: ("vertices",),
    GridDensity: ("values", "low", "high", "interpolation"),
}


def stored(source: Measure) -> dict[str, Any]:
    """Return what `restored` makes a measure of: tensors and plain values by name.

    A `Sampler`, or a class of the caller's, is a function: only its name, its dimension and a hash
    of some of its points are kept.
    """
    parts = {name: getattr(source, name) for name in _STORED.get(type(source), ())}
    if parts and hasattr(source, "dtype"):
        parts["dtype"] = str(source.dtype).removeprefix("torch.")
    return {"kind": type(source).__name__, "dim": source.dim, "mark": _mark(source), **parts}


def _mark(source: Measure) -> str:
    points = source.sample(_PROBES, generator=_generator(0, "stored"))
    return _io.digest({"points": points.to(torch.float64)})[:16]


def restored(parts: Any, source: Measure | None = None) -> Measure:  # noqa: ANN401
    """Make the measure again that `stored` took apart.

    Args:
        parts: What it returned.
        source: The measure itself, where it cannot be stored.

    Raises:
        ValueError: If `source` is needed and not given, or is another measure.
        aeot._io.Damaged: If the parts are none.
    """
    if not _io.fits(parts, dict[str, Any]) or not isinstance(parts.get("kind"), str):
        raise _io.Damaged("it holds no source")
    kinds = {kind.__name__: kind for kind in _STORED}
    name, kind = parts["kind"], kinds.get(parts["kind"])
    if source is not None:
        check_source(source)
        if source.dim != parts.get("dim") or _mark(source) != parts.get("mark"):
            got = f"{_check.shown(source)}, whose points are others"
            raise _check.fail("source", f"be the {name[:80]} that was saved", got)
        return source
    if kind is None:
        way_out = "pass it to load as source="
        got = "a function, which no file holds"
        raise _check.fail("source", f"be given for a {name[:80]}", got, way_out)
    given = {key: parts.get(key) for key in _STORED[kind]}
    for key, value in given.items():
        wanted = {"dim": int, "radius": float, "interpolation": str}.get(key, torch.Tensor)
        if not _io.fits(value, wanted):
            raise _io.Damaged(f"{key} of a {name} must be a {wanted.__name__}")
    try:
        made = kind(**given)
        if hasattr(made, "dtype"):
            made.dtype = {"float32": torch.float32, "float64": torch.float64}[parts["dtype"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _io.Damaged(f"a {name} must be whole, got {error}") from error
    if made.dim != parts.get("dim"):
        raise _io.Damaged(f"a {name} of dimension {made.dim} must say so")
    return made
