"""Facets between power cells, and how far apart the two sides of one are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

_CHUNK = 1 << 16  # pairs of sites held at once


@dataclass(frozen=True)
class Facets:
    """Facets between adjacent power cells: where the map jumps.

    Attributes:
        pairs: The two sites of each facet, the lower index first, each pair once (k, 2), int64.
        angles: Angle between the normals (y_i, -1) and (y_j, -1) of the planes, radians (k,),
            float64. It depends on the scale and the origin of the sites: those of the caller.
        jumps: Length |y_i - y_j| of the map's jump, in the units of the sites (k,), float64.
        mass: Mass of the source on each facet, (k,), float64: for a uniform source its length or
            area (on the line: 1) times the density.
        exact: Whether they are all the facets, exactly, or those that points walked to.
        endpoints: Of exact ones, end points (k, 2, 2) in the plane or positions (k, 1) on the
            line; else None.
    """

    pairs: torch.Tensor
    angles: torch.Tensor
    jumps: torch.Tensor
    mass: torch.Tensor
    exact: bool
    endpoints: torch.Tensor | None = None

    @classmethod
    def between(
        cls,
        sites: torch.Tensor,
        pairs: torch.Tensor,
        mass: torch.Tensor,
        *,
        exact: bool,
        endpoints: torch.Tensor | None = None,
    ) -> Facets:
        """Facets between the given pairs of sites (n, d), with their angles and jumps."""
        i, j = pairs.T
        return cls(pairs, angle(sites, i, j), jump(sites, i, j), mass, exact, endpoints)

    def to(self, device: torch.device) -> Facets:
        """The same on another device."""
        moved: dict[str, Any] = {
            k: v.to(device) for k, v in vars(self).items() if torch.is_tensor(v)
        }
        return replace(self, **moved)


def jump(sites: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Return |y_i - y_j| for sites (n, d) and index tensors of equal shape, in float64."""
    return _of_pairs(lambda a, b: (a - b).norm(dim=1), sites, i, j)


def angle(sites: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Return the angle between the normals (y, -1) of two planes, in radians in [0, pi).

    Args:
        sites: (n, d).
        i: Indices of any shape.
        j: Indices of the same shape.

    Returns:
        Angles of that shape, float64.

    References:
        W. Kahan, "How futile are mindless assessments of roundoff in floating-point computation?",
        2006, section 12: right to rounding for small angles and large ones.

    Example:
        >>> sites = torch.tensor([[0.0], [1.0]])
        >>> angle(sites, torch.tensor(0), torch.tensor(1))  # (0, -1) and (1, -1): 45 degrees
        tensor(0.7854, dtype=torch.float64)
    """
    return _of_pairs(_angle, sites, i, j)


def _angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    one, other = (
        torch.nn.functional.normalize(torch.nn.functional.pad(y, (0, 1), value=-1.0), dim=1)
        for y in (a, b)
    )
    return 2 * torch.atan2((one - other).norm(dim=1), (one + other).norm(dim=1))


def _of_pairs(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    sites: torch.Tensor,
    i: torch.Tensor,
    j: torch.Tensor,
) -> torch.Tensor:
    parts = zip(i.reshape(-1).split(_CHUNK), j.reshape(-1).split(_CHUNK), strict=True)
    found = [function(sites[a].double(), sites[b].double()) for a, b in parts]
    return torch.cat(found).reshape(i.shape)
