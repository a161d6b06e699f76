"""Linear systems of graph Laplacians: factors, conjugate gradients, and a coarser graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
import torch

from aeot import _ranks
from aeot._compile import njit
from aeot.geometry.diagram import pair_sums, with_degrees
from aeot.solvers.torch_laplacian import TorchLaplacian

# Sites from which each rank holds the rows of some; with fewer all of it takes 0.4 GB at most.
DIVIDED = 100_000
_SMALL = 2000  # vertices up to which a dense-ish factor is nothing
_COARSE = 20_000  # vertices of a plane from which a coarser graph beats a factor
_DAMPED = 2 / 3  # of a Jacobi sweep: the Laplacian over its diagonal has no eigenvalue above 2


def own_rows(n: int) -> range | None:
    """Return which rows of a Laplacian of n sites this rank holds; None: it holds all of them."""
    return _ranks.part(range(n)) if n >= DIVIDED and _ranks.size() > 1 else None


@dataclass(frozen=True)
class DividedLaplacian:
    """A graph Laplacian of which every rank holds some rows: the bits of one process.

    Attributes:
        rows: (k, n), those of this rank (`own_rows`).
    """

    rows: sp.csr_matrix

    @classmethod
    def of_pairs(
        cls, first: np.ndarray, second: np.ndarray, weight: np.ndarray, n: int
    ) -> DividedLaplacian:
        """Sum the weights of pairs; see `aeot.geometry.diagram.laplacian`.

        Args:
            first: (k,) int32, rows of this rank.
            second: (k,) int32.
            weight: (k,) float64.
            n: Number of sites.
        """
        own = _ranks.part(range(n))
        half = pair_sums(first - own.start, second, weight, (len(own), n))
        row = np.repeat(np.arange(own.start, own.stop, dtype=np.int32), np.diff(half.indptr))
        column = half.indices.astype(np.int32, copy=False)
        row, column, data = to_rows(n, column, row, half.data)
        both = half + pair_sums(row - own.start, column, data, half.shape)
        del half, row, column, data
        return cls(with_degrees(both, own.start))

    @property
    def first(self) -> int:
        """The number of the first row."""
        return _ranks.part(range(self.rows.shape[1])).start

    @property
    def data(self) -> np.ndarray:
        """See `scipy.sparse.csr_matrix`: of the rows of this rank."""
        return self.rows.data

    @property
    def indices(self) -> np.ndarray:
        """See `data`."""
        return self.rows.indices

    @property
    def indptr(self) -> np.ndarray:
        """See `data`."""
        return self.rows.indptr

    def diagonal(self) -> np.ndarray:
        """Return the degrees, (n,)."""
        return _everyones(self.rows.diagonal(self.first))

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        """Return the product with a vector (n,)."""
        return _everyones(self.rows @ x)

    def __add__(self, other: DividedLaplacian) -> DividedLaplacian:
        """Return the sum of two graphs on the same vertices."""
        return DividedLaplacian(self.rows + other.rows)

    def __mul__(self, factor: float) -> DividedLaplacian:
        """Return a multiple, > 0."""
        return DividedLaplacian(self.rows * factor)

    def __truediv__(self, divisor: float) -> DividedLaplacian:
        """Return a part, > 0."""
        return DividedLaplacian(self.rows / divisor)


# Where a GPU makes them they stay there; all know @, +, *, / and `diagonal`.
Laplacian: TypeAlias = sp.csr_matrix | DividedLaplacian | TorchLaplacian


def to_rows(n: int, row: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Give entries of n rows to the ranks that hold these (`own_rows`), in the order of ranks.

    Args:
        n: Number of rows.
        row: (k,), of each entry.
        others: (k,) each, what else there is of them.

    Returns:
        The same of the entries in this rank's rows.
    """
    ends = np.array([part.stop for part in _ranks.parts(range(n))], row.dtype)
    owner = np.searchsorted(ends, row, side="right").astype(np.uint16)
    lengths = np.bincount(owner, minlength=len(ends)).tolist()
    order = np.argsort(owner, kind="stable")
    given = (torch.from_numpy(x[order]) for x in (row, *others))
    return tuple(_ranks.exchanged(x, lengths)[0].numpy() for x in given)


def _everyones(own: np.ndarray) -> np.ndarray:
    return _ranks.joined(torch.from_numpy(own))[0].numpy()


def beside(laplacian: Laplacian, x: torch.Tensor) -> Any:  # noqa: ANN401
    """Return a vector (n,) as the Laplacian multiplies it: of numpy, or of torch on its device."""
    if isinstance(laplacian, TorchLaplacian):
        return x.to(laplacian.data.device)
    return x.detach().cpu().numpy()


class LaplacianSolver:
    """Solves ``laplacian x = right`` for one connected graph Laplacian after another.

    A planar graph, or a small one, is factorised with one vertex grounded. A large one, and a graph
    of bodies in space, which fills in, goes to conjugate gradients; in the plane with a correction
    on a coarser graph, which is kept while it serves the next matrices as well.
    """

    def __init__(self) -> None:
        self._kept: TwoGrids | None = None

    def __call__(
        self, laplacian: sp.csr_matrix, right: np.ndarray, *, tolerance: float
    ) -> np.ndarray:
        """Solve.

        Args:
            laplacian: (n, n).
            right: (n,), whose mean is taken off.
            tolerance: Relative residual to reach when iterating; capped to [1e-10, 1e-2].

        Returns:
            x (n,) with mean zero.
        """
        n = len(right)
        if n == 1:
            return np.zeros(1)
        right = right - right.mean()
        tolerance = min(max(tolerance, 1e-10), 1e-2)
        plane = laplacian.nnz <= 10 * n
        if n > _SMALL and not plane:
            most = 20 * int(n**0.5) + 200
            x = conjugate_gradient(
                laplacian, np.zeros(n), right, tolerance=tolerance, max_steps=most
            )
        elif n < _COARSE:
            x = _grounded(laplacian)(right)
        else:
            x = self._corrected(laplacian, right, tolerance)
        return x - x.mean()

    def _corrected(
        self, laplacian: sp.csr_matrix, right: np.ndarray, tolerance: float
    ) -> np.ndarray:
        for _ in range(2):
            fresh = self._kept is None
            if self._kept is None:
                self._kept = TwoGrids(laplacian)
            x, steps = preconditioned(laplacian, right, self._kept, tolerance, 60 if fresh else 25)
            if steps is not None:
                return x
            self._kept = None
        return _grounded(laplacian)(right)


class TwoGrids:
    """Smoothed aggregation on two levels, a symmetric preconditioner of a graph Laplacian.

    Args:
        laplacian: (n, n).

    References:
        P. Vanek, J. Mandel, M. Brezina, "Algebraic multigrid by smoothed aggregation for second and
        fourth order elliptic problems", Computing 56 (1996), Algorithm 2.
    """

    def __init__(self, laplacian: sp.csr_matrix) -> None:
        n = laplacian.shape[0]
        groups, count = aggregates(laplacian.indptr, laplacian.indices, laplacian.data)
        ones = sp.csr_matrix((np.ones(n), groups, np.arange(n + 1)), shape=(n, count))
        self.inverse = _DAMPED / np.maximum(laplacian.diagonal(), 1e-300)
        self.up = (ones - sp.diags(self.inverse) @ (laplacian @ ones)).tocsr()
        self.down = self.up.T.tocsr()
        self.laplacian = laplacian
        self.coarse = _grounded((self.down @ laplacian @ self.up).tocsr())

    def __call__(self, residual: np.ndarray) -> np.ndarray:
        """Return about laplacian^-1 residual: a Jacobi sweep, the coarse correction, a sweep."""
        x = self.inverse * residual
        x += self.up @ self.coarse(self.down @ (residual - self.laplacian @ x))
        x += self.inverse * (residual - self.laplacian @ x)
        return x


@njit()
def aggregates(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, int]:
    """Group every vertex of a graph Laplacian with its strongly coupled neighbours.

    Returns:
        The group of each vertex (n,), and how many groups there are.
    """
    n = indptr.shape[0] - 1
    strong = np.zeros(n)  # the strongest coupling of each vertex
    for i in range(n):
        for s in range(indptr[i], indptr[i + 1]):
            if indices[s] != i:
                strong[i] = max(strong[i], -data[s])
    group, count = np.full(n, -1), 0
    for stage in range(3):
        for i in range(n):
            if group[i] >= 0:
                continue
            free, best, joins = True, 0.0, -1
            for s in range(indptr[i], indptr[i + 1]):
                j = indices[s]
                if j == i or -data[s] < 0.1 * min(strong[i], strong[j]):
                    continue
                # Groups of later stages are none to join: they would become chains.
                if group[j] >= 0:
                    free = False
                    if -data[s] > best:
                        best, joins = -data[s], group[j]
            if stage == 1 and joins >= 0:
                group[i] = joins
            elif (stage == 0 and free) or stage == 2:
                group[i] = count
                for s in range(indptr[i], indptr[i + 1]):
                    j = indices[s]
                    if group[j] < 0 and -data[s] >= 0.1 * min(strong[i], strong[j]):
                        group[j] = count
                count += 1
    return group, count


def preconditioned(
    laplacian: sp.csr_matrix,
    right: np.ndarray,
    inverse: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
    max_steps: int,
) -> tuple[np.ndarray, int | None]:
    """Conjugate gradients with a preconditioner: x, and the steps taken, None if too few."""
    x = np.zeros_like(right)
    residual = right.copy()
    direction = np.zeros_like(right)
    rho = 1.0
    first = float(np.linalg.norm(right))
    for step in range(max_steps + 1):
        if float(np.linalg.norm(residual)) <= tolerance * first:
            return x, step
        z = inverse(residual)
        rho, old = float(residual @ z), rho
        direction = z + (rho / old if step else 0.0) * direction
        product = laplacian @ direction
        alpha = rho / float(direction @ product)
        x += alpha * direction
        residual -= alpha * product
    return x, None


def conjugate_gradient(
    laplacian: Laplacian,
    ridge: Any,  # noqa: ANN401
    right: Any,  # noqa: ANN401
    *,
    tolerance: float = 1e-2,
    max_steps: int = 100,
) -> Any:  # noqa: ANN401
    """Solve ``(laplacian + diag(ridge)) x = right`` by Jacobi-preconditioned conjugate gradients.

    Args:
        laplacian: (n, n), symmetric positive semidefinite.
        ridge: (n,), >= 0, of the Laplacian's kind (`beside`).
        right: (n,), the same.
        tolerance: Residual norm to reach, relative to that of `right` (in the preconditioned norm).
        max_steps: The most iterations.

    Returns:
        x (n,).
    """
    # Not scipy.sparse.linalg.cg: on the solver's systems of 600 to 60 000 sites, five to seven
    # iterations each, it takes 1.4 to 2.3 times as long for its operators in Python.
    inverse = 1 / (laplacian.diagonal() + ridge).clip(1e-300)
    x = 0 * right
    residual = 1 * right
    direction = inverse * residual
    rho = first = float(residual @ direction)
    for _ in range(max_steps):
        if rho <= tolerance**2 * first or rho <= 0:
            break
        product = laplacian @ direction + ridge * direction
        alpha = rho / float(direction @ product)
        x += alpha * direction
        residual -= alpha * product
        z = inverse * residual
        rho, old = float(residual @ z), rho
        direction = z + (rho / old) * direction
    return x


def _grounded(laplacian: sp.csr_matrix) -> Callable[[np.ndarray], np.ndarray]:
    """Factorise with one vertex grounded; the function that solves, zero there."""
    n = laplacian.shape[0]
    ground = int(np.argmax(laplacian.diagonal()))
    keep = np.delete(np.arange(n), ground)
    minor = laplacian[keep][:, keep].tocsc()
    options = {"SymmetricMode": True}

    def factorised(matrix: sp.csc_matrix) -> scipy.sparse.linalg.SuperLU:
        return scipy.sparse.linalg.splu(
            matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options
        )

    try:
        factor = factorised(minor)
    except RuntimeError:  # facets without mass have torn the graph: a little ridge mends it
        ridge = 1e-10 * float(laplacian.diagonal().max())
        factor = factorised(minor + ridge * sp.eye(n - 1, format="csc"))

    def solve(right: np.ndarray) -> np.ndarray:
        x = np.zeros(n)
        x[keep] = factor.solve(right[keep])
        return x

    return solve
