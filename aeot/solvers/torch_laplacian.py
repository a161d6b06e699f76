"""Graph Laplacians where the samples are: assembled, added and multiplied by torch on any device.

The weights of a pair are summed as whole numbers, and every row of a product by itself, so that no
order of adding, and no device's scheduling, changes a bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_STEPS = 2.0**20  # of the least weight, in which weights are counted
_MOST = 2.0**22  # a weight is at most so many times the least one


@dataclass(frozen=True)
class TorchLaplacian:
    """A symmetric positive semidefinite graph Laplacian: degrees minus weights.

    Attributes:
        data: (k,) float64, the weights > 0 of all ordered pairs, row by row.
        indices: (k,) int64, their columns, ascending in a row.
        indptr: (n + 1,) int64, where each row begins.
    """

    data: torch.Tensor
    indices: torch.Tensor
    indptr: torch.Tensor

    @classmethod
    def of_pairs(
        cls, first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor, n: int
    ) -> TorchLaplacian:
        """Sum the weights of pairs of n vertices; a pair may come many times, either way round.

        Args:
            first: (k,) int64.
            second: (k,) int64, never the same vertex.
            weight: (k,) float64, > 0; one above 2**22 times the least counts as that.
            n: Number of vertices.

        Example:
            >>> i, j = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 2])
            >>> graph = TorchLaplacian.of_pairs(i, j, torch.ones(3, dtype=torch.float64), 3)
            >>> graph @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
            tensor([ 2., -2.,  0.], dtype=torch.float64)
        """
        if not len(weight):
            empty = weight.new_zeros(0), first.new_zeros(0)
            return cls(*empty, first.new_zeros(n + 1))
        unit = 2.0 ** float(weight.min().log2().floor()) / _STEPS
        steps = (weight / unit).clamp(max=_MOST * _STEPS).round().to(torch.int64)
        pair = torch.minimum(first, second) * n + torch.maximum(first, second)
        pair, place = pair.unique(return_inverse=True)
        total = steps.new_zeros(len(pair)).index_add_(0, place, steps).to(torch.float64) * unit
        low, high = pair // n, pair % n
        return cls._sorted(torch.cat([pair, high * n + low]), torch.cat([total, total]), n)

    @classmethod
    def _sorted(cls, pair: torch.Tensor, weight: torch.Tensor, n: int) -> TorchLaplacian:
        pair, order = pair.sort()
        indptr = torch.searchsorted(pair, n * torch.arange(n + 1, device=pair.device))
        return cls(weight[order], pair % n, indptr)

    def _pairs(self) -> torch.Tensor:
        n = len(self.indptr) - 1
        rows = torch.arange(n, device=self.indptr.device).repeat_interleave(self.indptr.diff())
        return rows * n + self.indices

    def _row_sums(self, values: torch.Tensor) -> torch.Tensor:
        return torch.segment_reduce(values, "sum", offsets=self.indptr, initial=0, unsafe=True)

    def diagonal(self) -> torch.Tensor:
        """Return the degrees, (n,) float64."""
        return self._row_sums(self.data)

    def __matmul__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product with a vector (n,)."""
        return self._row_sums(
            self.data * (x.repeat_interleave(self.indptr.diff()) - x[self.indices])
        )

    def __add__(self, other: TorchLaplacian) -> TorchLaplacian:
        """Return the sum of two graphs on the same vertices."""
        pair = torch.cat([self._pairs(), other._pairs()])
        pair, place = pair.unique(return_inverse=True)
        total = self.data.new_zeros(len(pair))
        # Two numbers at most, added to nothing: in either order the same.
        total.index_add_(0, place, torch.cat([self.data, other.data]))
        return self._sorted(pair, total, len(self.indptr) - 1)

    def __mul__(self, factor: float) -> TorchLaplacian:
        """Return a multiple, > 0."""
        return TorchLaplacian(self.data * factor, self.indices, self.indptr)

    def __truediv__(self, divisor: float) -> TorchLaplacian:
        """Return a part, > 0."""
        return self * (1 / divisor)
