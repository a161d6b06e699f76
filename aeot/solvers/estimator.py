"""The scikit-learn face of the transport solver."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from aeot import _check, _io
from aeot._environment import plain_methods
from aeot._estimator import Saved
from aeot._rng import generator
from aeot.measures import (
    ConvexPolygon,
    Gaussian,
    GridDensity,
    Measure,
    Polygon,
    UniformBall,
    UniformBox,
    stored,
)
from aeot.search.nearest import nearest
from aeot.solvers.solution import Solution
from aeot.solvers.solve import METHODS, solve_semidiscrete

if TYPE_CHECKING:
    from typing_extensions import Self

SOURCES = ("box", "ball", "gaussian")
_SLACK = 1e-6  # of the support's size: points on its edge may be rounded


@plain_methods
class SemiDiscreteOT(Saved, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Optimal transport of a simple source onto a data set, in scikit-learn's manner.

    The rows of X are the sites. Equal rows are merged and their masses added.

    Two directions, each with methods of its own: `transform` takes rows of data to coordinates in
    the source, which are multivariate ranks (for the unit ball centre-outward ones);
    `inverse_transform` and `predict` take points of the source to the data.

    Args:
        source: "box" (unit cube), "ball" (unit ball), "gaussian" (standard), or a measure.
        tol: Total variation to certify; see `solve_semidiscrete`.
        method: "auto", "newton", "lbfgs", "adam" or "exact".
        engine: "auto", "numba", "torch", "keops" or "kdtree"; see `solve_semidiscrete`.
        max_samples: Sample budget; see `solve_semidiscrete`.
        random_state: Seed of all samples, a whole number >= 0. As everywhere in scikit-learn, None
            draws it from NumPy's global generator, a `RandomState` from that.

    Attributes:
        solution_: The `Solution`, on the distinct sites.
        brenier_: The `BrenierMap`.
        sites_: (k, d) distinct sites in lexicographic order, whatever the order of the rows of X.
        masses_: (k,) their masses.
        centroids_: (k, d) centroids of the sites' cells: their coordinates in the source.
        site_of_row_: (n,) the distinct site of every row of X, -1 where its mass is zero.
        heights_: (k,) float64.
        n_features_in_: d.
        feature_names_in_: (d,) names of X's columns, where it has some.

    References:
        V. Chernozhukov, A. Galichon, M. Hallin, M. Henry, "Monge-Kantorovich depth, quantiles,
        ranks and signs", Annals of Statistics 45 (2017).

    Example:
        >>> import numpy as np
        >>> codes = np.random.default_rng(0).normal(size=(30, 2))
        >>> model = SemiDiscreteOT().fit(codes)
        >>> ranks = model.transform(codes)  # in the unit square, spread evenly
        >>> bool((model.inverse_transform(ranks) == codes).all())
        True
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
        random_state: int | np.random.RandomState | None = 0,
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

        Raises:
            ValueError: If an argument is out of range or the weights do not fit.
        """
        _check.choice("method", self.method, METHODS)
        X = _checked(X, partial(validate_data, self))  # noqa: N806
        sites, masses, site_of_row = merge_duplicates(X, _weights(sample_weight, len(X)))
        solution = solve_semidiscrete(
            self._measure(X.shape[1]),
            torch.from_numpy(sites),
            torch.from_numpy(masses),
            tol=self.tol,
            method=self.method,
            engine=self.engine,
            seed=_seed(self.random_state),
            max_samples=self.max_samples,
        )
        # All at once: a fit that was stopped leaves what was learned before.
        self.site_of_row_ = site_of_row
        return self._learn(solution)

    def _learn(self, solution: Solution) -> Self:
        """Take over a solution on the distinct sites."""
        self.sites_, self.masses_ = solution.sites.numpy(), solution.masses.numpy()
        self.solution_, self.brenier_ = solution, solution.map(engine=self.engine)
        self.heights_ = solution.heights.numpy()
        assert solution.cell_centroids is not None
        self.centroids_ = solution.cell_centroids.numpy().astype(self.sites_.dtype)
        self._n_features_out = self.sites_.shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: ANN401, N803
        """Return the source coordinates of rows of data (m, d): their multivariate ranks, (m, d).

        A row has those of its site, the centroid of the site's cell; a row that `fit` has not seen
        has those of the nearest site.
        """
        X = self._data(X)  # noqa: N806
        _, rows = nearest(X, self.sites_, engine=self.engine)
        return self.centroids_[rows[:, 0].numpy()]

    def inverse_transform(self, X: Any) -> np.ndarray:  # noqa: ANN401, N803
        """Map points of the source (m, d) to the sites whose cells they lie in, (m, d).

        Raises:
            ValueError: If a point lies outside the source's support, as rows of data do.
        """
        check_is_fitted(self, "brenier_")
        points = _checked(X, check_array)  # columns of the source do not have the names of data's
        if points.shape[1] != self.n_features_in_:
            raise _check.fail("X", f"have {self.n_features_in_} columns", str(points.shape[1]))
        if told := self._outside(points):
            way_out = "these are points of the source; for rows of data use transform"
            raise _check.fail("X", "lie in the source's support", told, way_out)
        return self.sites_[self._cells(points)]

    def predict(self, X: Any) -> np.ndarray:  # noqa: ANN401, N803
        """Return the index into `sites_` of the cell of every point of the source, (m,) int64.

        Cells reach beyond the support of the source, but mean nothing there: a UserWarning says
        so. (It is no error because scikit-learn's own checks predict any rows.)
        """
        points = self._data(X)
        if self._outside(points):
            _check.warn(  # without numbers, so that Python shows it once for a loop over rows
                "X has rows outside the source's support; predict takes points of the source, "
                "transform takes rows of data"
            )
        return self._cells(points)

    def sample(
        self, n: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> np.ndarray:
        """Draw rows of data, (n, d): the images of points drawn from the source.

        Args:
            n: How many.
            random_state: Seed of the draw; None: another one each time, as in scikit-learn.
        """
        check_is_fitted(self, "brenier_")
        return self.pairs(n, seed=_seed(random_state))[1]

    def score(self, X: Any, y: None = None) -> float:  # noqa: ANN401, N803
        """Return minus the certified error of the masses, `solution_.mass_error_upper`.

        It is what `tol` bounds and what the fits of a grid differ in: methods, engines, budgets of
        samples, tolerances. It does not depend on the rows: the transport cost, which does,
        says how the data lie, not how well the problem was solved.

        Args:
            X: Rows of data (m, d), checked and not used.
            y: Ignored.
        """
        self._data(X)
        return -float(self.solution_.mass_error_upper)

    def pairs(self, n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Draw source points and their images: coupled pairs, for flow matching for instance.

        Args:
            n: How many.
            seed: Of the draw.

        Returns:
            Points (n, d) and images (n, d).
        """
        check_is_fitted(self, "brenier_")
        n = _check.rows("n", n, self.sites_.shape[1])
        seed = _check.seed("seed", seed)
        points = self.solution_.source.sample(n, generator=generator(seed, "pairs"))
        cells = self.brenier_.cell(points.to(torch.from_numpy(self.sites_[:1]).dtype))
        return points.numpy().astype(self.sites_.dtype), self.sites_[cells.numpy()]

    def state(self) -> dict[str, Any]:
        """Return what makes it up, as nested dicts of tensors and plain values.

        Raises:
            NotFittedError: Before `fit`.
        """
        check_is_fitted(self, "brenier_")
        arguments = self.get_params(deep=False)
        if not isinstance(self.source, str):
            arguments["source"] = stored(self.source)
        if isinstance(self.random_state, np.random.RandomState):  # a generator, not a seed
            arguments["random_state"] = None
        names = getattr(self, "feature_names_in_", None)
        return {
            "arguments": arguments,
            "solution": self.solution_.state(),
            "site_of_row": torch.from_numpy(self.site_of_row_),
            "feature_names": None if names is None else [str(name) for name in names],
        }

    @classmethod
    def from_state(
        cls,
        state: dict[str, Any],
        *,
        device: str | torch.device | None = None,
        source: Measure | None = None,
    ) -> Self:
        """Make the fitted estimator of which `state` returned the parts.

        Args:
            state: What `state` returned. A `random_state` that was a generator is None.
            device: "cpu" or None: it computes there.
            source: The source, where it is a function and so is in no file.

        Raises:
            ValueError: If `source` is needed and missing, or another one.
            aeot._io.Damaged: If these are no parts of a fitted estimator.
        """
        if device is not None and torch.device(device).type != "cpu":
            raise _check.fail("device", "be 'cpu' or None", str(device), "it works on NumPy arrays")
        arguments, rows = state.get("arguments"), state.get("site_of_row")
        names = state.get("feature_names")
        known = set(cls().get_params())
        if not isinstance(arguments, dict) or set(arguments) != known:
            raise _io.Damaged(f"it must have the arguments {', '.join(sorted(known))}")
        solution = Solution.from_state(state.get("solution", {}), device="cpu", source=source)
        if not isinstance(arguments["source"], str):
            arguments = {**arguments, "source": solution.source}
        n, d = solution.sites.shape
        inside = isinstance(rows, torch.Tensor) and rows.dtype == torch.int64 and rows.ndim == 1
        if not inside or not bool(((rows >= -1) & (rows < n)).all()):
            raise _io.Damaged(f"site_of_row must be numbers of {n} sites")
        if names is not None and (not _io.fits(names, list[str]) or len(names) != d):
            raise _io.Damaged(f"feature_names must be {d} names")
        if solution.cell_centroids is None:
            raise _io.Damaged("it has no centroids")
        self = cls(**arguments)
        self.site_of_row_, self.n_features_in_ = rows.numpy(), d
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        try:
            return self._learn(solution)
        except ValueError as error:
            raise _io.Damaged(f"it must be whole, got {error}") from error

    def _facts(self) -> dict[str, dict[str, Any]]:
        facts = {"Arguments": self.get_params(deep=False)}
        return facts | self.solution_._facts()

    def _data(self, X: Any) -> np.ndarray:  # noqa: ANN401, N803
        """Return rows like those `fit` had, checked."""
        check_is_fitted(self, "brenier_")
        return _checked(X, partial(validate_data, self, reset=False))

    def _cells(self, points: np.ndarray) -> np.ndarray:
        return self.brenier_.cell(torch.from_numpy(np.require(points, None, ["C", "W"]))).numpy()

    def _outside(self, points: np.ndarray) -> str:
        """Say which points lie outside the support of the source; nothing if none does."""
        out = outside(self.solution_.source, torch.from_numpy(points.astype(np.float64)))
        if not bool(out.any()):
            return ""
        first = int(out.nonzero()[0])
        where = _check.shown([float(f"{v:.3g}") for v in points[first]])
        return f"{int(out.sum())} of {len(points)} rows, the first {where} at index {first}"

    def _measure(self, dim: int) -> Measure:
        if not isinstance(self.source, str):
            return self.source
        _check.choice("source", self.source, SOURCES)
        makers = {"box": UniformBox, "ball": UniformBall, "gaussian": Gaussian}
        return makers[self.source](dim=dim)


def _checked(value: Any, check: Callable[..., np.ndarray]) -> np.ndarray:  # noqa: ANN401
    """Let a function of scikit-learn's check X, and make one line of what it says."""
    if np.ma.is_masked(value):
        raise _check.fail("X", "have no masked entries", f"{np.ma.count_masked(value)} of them")
    if torch.is_tensor(value) and value.layout == torch.strided:  # those with a gradient, too
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    try:
        return check(value, dtype=[np.float64, np.float32])
    except (TypeError, ValueError) as error:
        told = re.sub(r":\narray=.*?\.\n(?=Reshape)", "; ", str(error), flags=re.DOTALL)
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"X: {' '.join(told.split())}") from error


def _weights(sample_weight: Any, n: int) -> np.ndarray:  # noqa: ANN401
    """Return weights (n,), >= 0, the largest one 1, so that no sum overflows."""
    if sample_weight is None:
        return np.ones(n)
    name = "sample_weight"
    weight = _check.array(name, sample_weight).detach().cpu().double().numpy()
    if weight.shape != (n,):
        raise _check.fail(name, f"be {n} numbers >= 0", f"shape {weight.shape}", "one per row of X")
    if (weight < 0).any():
        first = int(np.argmax(weight < 0))
        raise _check.fail(name, f"be {n} numbers >= 0", f"{weight[first]:g} at index {first}")
    if not weight.any():
        raise _check.fail(name, "not be zero everywhere", "all weights zero", "leave it out")
    return weight / weight.max()


def _seed(random_state: Any) -> int:  # noqa: ANN401
    if random_state is None or isinstance(random_state, np.random.RandomState):
        return int(check_random_state(random_state).randint(2**31 - 1))
    return _check.seed("random_state", random_state)


def outside(source: Measure, points: torch.Tensor) -> torch.Tensor:
    """Return which points (m, d) lie outside the support of a source, by more than rounding.

    Sources without a border, and those that are only sampled, have no outside.
    """
    if isinstance(source, (UniformBox, GridDensity)):
        low, high = source.low.to(points), source.high.to(points)
        slack = _SLACK * (high - low)
        return ((points < low - slack) | (points > high + slack)).any(1)
    if isinstance(source, UniformBall):
        away = (points - source.center.to(points)).norm(dim=1)
        return away > source.radius * (1 + _SLACK)
    if isinstance(source, ConvexPolygon):
        corners = source.vertices.to(points)
        edges = corners.roll(-1, 0) - corners
        normals = torch.stack([edges[:, 1], -edges[:, 0]], 1)
        size = corners.amax(0) - corners.amin(0)
        reach = (corners * normals).sum(1) + _SLACK * float(size.norm()) * normals.norm(dim=1)
        return (points @ normals.T > reach).any(1)
    if isinstance(source, Polygon):
        parts = [ConvexPolygon(t) for t in source.triangles]
        return torch.stack([outside(part, points) for part in parts]).all(0)
    return torch.zeros(len(points), dtype=torch.bool)


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
