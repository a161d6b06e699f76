"""The scikit-learn face of the transport solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from aeot import _check
from aeot._environment import plain_methods
from aeot._rng import generator
from aeot.measures import Gaussian, Measure, UniformBall, UniformBox
from aeot.solvers.solve import METHODS, solve_semidiscrete

SOURCES = ("box", "ball", "gaussian")


@plain_methods
class SemiDiscreteOT(TransformerMixin, BaseEstimator):
    """Optimal transport of a simple source onto a data set, in scikit-learn's manner.

    The rows of X are the sites. Equal rows are merged and their masses added.

    Args:
        source: "box" (unit cube), "ball" (unit ball), "gaussian" (standard), or a measure.
        tol: Total variation to certify; see `solve_semidiscrete`.
        method: "auto", "newton", "lbfgs", "adam" or "exact".
        engine: "auto", "numba", "torch", "keops" or "kdtree"; see `solve_semidiscrete`.
        max_samples: Sample budget; see `solve_semidiscrete`.
        random_state: Seed of all samples, a whole number >= 0.

    Attributes:
        solution_: The `Solution`, on the distinct sites.
        brenier_: The `BrenierMap`.
        sites_: (k, d) distinct sites in lexicographic order, whatever the order of the rows of X.
        masses_: (k,) their masses.
        site_of_row_: (n,) the distinct site of every row of X.
        heights_: (k,) float64.
        n_features_in_: d.

    Example:
        >>> import numpy as np
        >>> codes = np.random.default_rng(0).normal(size=(30, 2))
        >>> model = SemiDiscreteOT().fit(codes)
        >>> model.transform([[0.5, 0.5]]).shape
        (1, 2)
        >>> points, images = model.pairs(8, seed=1)
        >>> points.shape, images.shape
        ((8, 2), (8, 2))
    """

    def __init__(
        self,
        *,
        source: str | Measure = "box",
        tol: float = 0.02,
        method: str = "auto",
        engine: str = "auto",
        max_samples: float | None = None,
        random_state: int = 0,
    ) -> None:
        self.source = source
        self.tol = tol
        self.method = method
        self.engine = engine
        self.max_samples = max_samples
        self.random_state = random_state

    def fit(
        self,
        X: Any,  # noqa: ANN401, N803 - scikit-learn's name
        y: None = None,
        sample_weight: Any = None,  # noqa: ANN401
    ) -> SemiDiscreteOT:
        """Solve the transport problem whose sites are the rows of X.

        Args:
            X: (n, d).
            y: Ignored.
            sample_weight: (n,) masses, >= 0, scaled to sum to one; rows of mass zero are left
                out. Equal if not given.

        Returns:
            The fitted estimator.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=1)  # noqa: N806
        _check.choice("method", self.method, METHODS)
        weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
        if weight.shape != (len(X),) or not np.isfinite(weight).all() or (weight < 0).any():
            raise _check.fail("sample_weight", f"be {len(X)} numbers >= 0", f"{weight!r}")
        if not weight.sum() > 0:
            raise _check.fail("sample_weight", "not be zero everywhere", "all weights zero")
        self.sites_, self.masses_, self.site_of_row_ = merge_duplicates(X, weight)
        solution = solve_semidiscrete(
            self._measure(X.shape[1]),
            torch.from_numpy(self.sites_),
            torch.from_numpy(self.masses_),
            tol=self.tol,
            method=self.method,
            engine=self.engine,
            seed=self.random_state,
            max_samples=self.max_samples,
        )
        self.solution_, self.brenier_ = solution, solution.map(engine=self.engine)
        self.heights_ = solution.heights.numpy()
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: ANN401, N803
        """Map source points (m, d) to the sites their cells belong to, (m, d)."""
        cells = self.predict(X)
        return self.sites_[cells]

    def predict(self, X: Any) -> np.ndarray:  # noqa: ANN401, N803
        """Return the index into `sites_` of the cell of every source point, (m,) int64."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])  # noqa: N806
        return self.brenier_.cell(torch.from_numpy(np.require(X, None, ["C", "W"]))).numpy()

    def pairs(self, n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Draw source points and their images: coupled pairs, for flow matching for instance.

        Args:
            n: How many.
            seed: Of the draw.

        Returns:
            Points (n, d) and images (n, d).
        """
        check_is_fitted(self)
        n = _check.integer("n", n)
        points = self.solution_.source.sample(n, generator=generator(seed, "pairs"))
        cells = self.brenier_.cell(points.to(torch.from_numpy(self.sites_[:1]).dtype))
        return points.numpy().astype(self.sites_.dtype), self.sites_[cells.numpy()]

    def _measure(self, dim: int) -> Measure:
        if not isinstance(self.source, str):
            return self.source
        _check.choice("source", self.source, SOURCES)
        makers = {"box": UniformBox, "ball": UniformBall, "gaussian": Gaussian}
        return makers[self.source](dim=dim)


def merge_duplicates(
    sites: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge equal rows and add their weights.

    Args:
        sites: (n, d).
        weight: (n,), >= 0, with a positive sum; rows of weight zero lose their site unless an
            equal row keeps it.

    Returns:
        Distinct sites (k, d) in lexicographic order, masses (k,) that sum to one, and the site of
        every row (n,), -1 where it has none.
    """
    unique, inverse = np.unique(sites, axis=0, return_inverse=True)
    total = np.bincount(inverse.reshape(-1), weights=weight, minlength=len(unique))
    kept = total > 0
    place = np.where(kept, np.cumsum(kept) - 1, -1)
    return unique[kept], total[kept] / total.sum(), place[inverse.reshape(-1)]
