"""Which part of a sum is ours, and how the parts add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


def _identity(part: torch.Tensor) -> torch.Tensor:
    return part


@dataclass(frozen=True)
class Shard:
    """Shard `index` of `count`: it takes blocks b with b = index mod count.

    Attributes:
        index: Which shard this is, 0 <= index < count.
        count: How many there are.
        sum: Adds a tensor over all shards and gives every shard the total.
    """

    index: int = 0
    count: int = 1
    sum: Callable[[torch.Tensor], torch.Tensor] = _identity

    def blocks(self, start: int, stop: int) -> range:
        """Return the blocks of ``range(start, stop)`` that belong to this shard."""
        return range(start + (self.index - start) % self.count, stop, self.count)
