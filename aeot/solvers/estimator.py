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

from aeot import _check, _io, _ranks
from aeot._environment import plain_methods, resolve_device
from aeot._estimator import Saved
from aeot._rng import generator
from aeot.maps.conditional import ConditionalMap, Label, class_numbers, classes_of
from aeot.measures import (
    ConvexPolygon,
    Gaussian,
    GridDensity,
    Measure,
    Polygon,
    Radial,
    UniformBall,
    UniformBox,
    stored,
)
from aeot.search.nearest import nearest
from aeot.solvers.conditional import ConditionalSolution, solve_conditional
from aeot.solvers.solution import Solution
from aeot.solvers.solve import METHODS, solve_semidiscrete

if TYPE_CHECKING:
    from typing_extensions import Self

SOURCES = ("box", "ball", "gaussian")
_SLACK = 1e-6  # of the support's size: points on its edge may be rounded


@plain_methods
class SemiDiscreteOT(Saved, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Optimal transport of a simple source onto a data set, in scikit-learn's manner.

    The rows of X are the sites. Equal rows are merged and their masses added. With
    ``conditional=True`` the classes y have a transport each, and rows are merged within a class.

    Two directions, each with methods of its own: `transform` takes rows of data to coordinates in
    the source, which are multivariate ranks (for the unit ball centre-outward ones);
    `inverse_transform` and `predict` take points of the source to the data.

    Args:
        source: "box" (unit cube), "ball" (unit ball), "gaussian" (standard), or a measure.
        tol: Total variation to certify; see `solve_semidiscrete`.
        method: "auto", "newton", "lbfgs", "adam" or "exact".
        engine: "auto", "numba", "triton", "torch", "keops" or "kdtree"; see `solve_semidiscrete`.
        device: Where to solve; None: the first GPU, else the CPU.
        max_samples: Sample budget; see `solve_semidiscrete`.
        conditional: Solve one transport for each class in the y of `fit`. Without it y is ignored,
            as pipelines pass it to every step.
        random_state: Seed of all samples, a whole number >= 0. As everywhere in scikit-learn, None
            draws it from NumPy's global generator, a `RandomState` from that.

    Attributes:
        solution_: The `Solution`, on the distinct sites; a `ConditionalSolution` if conditional.
        certificate_: What the solver promises: ``converged``, ``mass_error``,
            ``mass_error_upper``, ``message``, ``n_samples``, ``method``, ``engine``; if conditional
            also ``classes``, the bound of each.
        brenier_: The `BrenierMap`; a `ConditionalMap` if conditional.
        sites_: (k, d) distinct sites in lexicographic order, whatever the order of the rows of X;
            class by class if conditional.
        classes_: If conditional, the classes, sorted.
        class_of_site_: If conditional, the class of every site (k,).
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
        device: str | None = None,
        max_samples: float | None = None,
        conditional: bool = False,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.source = source
        self.tol = tol
        self.method = method
        self.engine = engine
        self.device = device
        self.max_samples = max_samples
        self.conditional = conditional
        self.random_state = random_state

    @_ranks.together("SemiDiscreteOT.fit")
    def fit(
        self,
        X: Any,  # noqa: ANN401, N803 - scikit-learn's name
        y: Any = None,  # noqa: ANN401
        sample_weight: Any = None,  # noqa: ANN401
    ) -> SemiDiscreteOT:
        """Solve the transport problem whose sites are the rows of X.

        Args:
            X: (n, d).
            y: Classes (n,), whole numbers or texts, if `conditional`; else ignored.
            sample_weight: (n,) masses, >= 0, scaled to sum to one; rows of mass zero are left
                out. Equal if not given.

        Returns:
            The fitted estimator.

        Raises:
            ValueError: If an argument is out of range or the weights do not fit.
        """
        _check.choice("method", self.method, METHODS)
        _check.flag("conditional", self.conditional)
        device = resolve_device(self.device)
        X = _checked(X, partial(validate_data, self))  # noqa: N806
        weight = _weights(sample_weight, len(X))
        options: dict[str, Any] = {"tol": self.tol, "method": self.method, "engine": self.engine}
        options |= {"seed": _seed(self.random_state), "max_samples": self.max_samples}
        measure = self._measure(X.shape[1])
        solution: Solution | ConditionalSolution
        if self.conditional:
            if y is None:
                way_out = "pass fit(X, y), or leave conditional out"
                raise _check.fail("y", "hold the class of every row", "none", way_out)
            found = classes_of("y", _column(y), len(X))
            sites, masses, site_of_row, labels = _merged_by_class(X, weight, *found)
            targets, nu = torch.from_numpy(sites).to(device), torch.from_numpy(masses)
            solution = solve_conditional(measure, targets, labels, nu, **options)
        else:
            sites, masses, site_of_row = merge_duplicates(X, weight)
            targets, nu = torch.from_numpy(sites).to(device), torch.from_numpy(masses)
            solution = solve_semidiscrete(measure, targets, nu, **options)
        # All at once: a fit that was stopped leaves what was learned before.
        self.site_of_row_ = site_of_row
        return self._learn(solution)

    def _learn(self, solution: Solution | ConditionalSolution) -> Self:
        """Take over a solution on the distinct sites."""
        # Whatever the device of the solve, rows and answers are NumPy's: the map works beside them.
        self.solution_, self.certificate_ = solution, solution.certificate
        brenier: Any = solution.map(engine=self._host_engine()).to("cpu")
        self.brenier_ = brenier
        self.sites_, self.masses_ = brenier.sites.numpy(), brenier.masses.numpy()
        self.heights_ = brenier.heights.numpy()
        if isinstance(brenier, ConditionalMap):
            self.classes_ = np.array(brenier.classes)
            self.class_of_site_ = self.classes_[brenier.labels.numpy()]
        assert brenier.centroids is not None
        self.centroids_ = brenier.centroids.numpy().astype(self.sites_.dtype)
        self._n_features_out = self.sites_.shape[1]
        return self

    def _host_engine(self) -> str:
        return "auto" if self.engine == "triton" else self.engine

    def transform(self, X: Any, y: Any = None) -> np.ndarray:  # noqa: ANN401, N803
        """Return the source coordinates of rows of data (m, d): their multivariate ranks, (m, d).

        A row has those of its site, the centroid of the site's cell; a row that `fit` has not seen
        has those of the nearest site. If conditional, they are ranks within the class of the row in
        y, or without y within that of the nearest site of any class.
        """
        X = self._data(X)  # noqa: N806
        if y is None:
            _, rows = nearest(X, self.sites_, engine=self._host_engine())
            return self.centroids_[rows[:, 0].numpy()]
        numbers, out = self._numbers(y, len(X)).numpy(), np.empty_like(X)
        for k in np.unique(numbers):
            own = np.flatnonzero(self.class_of_site_ == self.classes_[k])
            _, rows = nearest(X[numbers == k], self.sites_[own], engine=self._host_engine())
            out[numbers == k] = self.centroids_[own[rows[:, 0].numpy()]]
        return out

    def inverse_transform(self, X: Any, y: Any = None) -> np.ndarray:  # noqa: ANN401, N803
        """Map points of the source (m, d) to the sites whose cells they lie in, (m, d).

        Args:
            X: Points of the source.
            y: If conditional, the class whose map each point takes, one or (m,).

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
        return self.sites_[self._cells(points, y)]

    def predict(self, X: Any, y: Any = None) -> np.ndarray:  # noqa: ANN401, N803
        """Return the index into `sites_` of the cell of every point of the source, (m,) int64.

        Cells reach beyond the support of the source, but mean nothing there: a UserWarning says
        so. (It is no error because scikit-learn's own checks predict any rows.) If conditional, y
        says the class of each point, one or (m,).
        """
        points = self._data(X)
        if self._outside(points):
            _check.warn(  # without numbers, so that Python shows it once for a loop over rows
                "X has rows outside the source's support; predict takes points of the source, "
                "transform takes rows of data"
            )
        return self._cells(points, y)

    def sample(
        self,
        n: int = 1,
        random_state: int | np.random.RandomState | None = None,
        *,
        y: Any = None,  # noqa: ANN401
    ) -> np.ndarray:
        """Draw rows of data, (n, d): the images of points drawn from the source.

        Args:
            n: How many.
            random_state: Seed of the draw; None: another one each time, as in scikit-learn.
            y: If conditional, the class of the rows, one or (n,). None: each class as often as its
                mass says, rounded such that it is right on average.
        """
        check_is_fitted(self, "brenier_")
        return self.pairs(n, seed=_seed(random_state), y=y)[1]

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

    def pairs(
        self,
        n: int,
        *,
        seed: int = 0,
        y: Any = None,  # noqa: ANN401
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw source points and their images: coupled pairs, for flow matching for instance.

        Args:
            n: How many.
            seed: Of the draw.
            y: As in `sample`.

        Returns:
            Points (n, d) and images (n, d).
        """
        check_is_fitted(self, "brenier_")
        n = _check.rows("n", n, self.sites_.shape[1])
        seed = _check.seed("seed", seed)
        stream = generator(seed, "pairs")
        drawn = self.solution_.source.sample(n, generator=stream)
        points = drawn.numpy().astype(self.sites_.dtype)
        if self.conditional and y is None:
            y = self.classes_[self.brenier_.shared_out(n, generator=stream).numpy()]
        return points, self.sites_[self._cells(points, y)]

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
        kind: type[Any] = ConditionalSolution if arguments["conditional"] is True else Solution
        solution = kind.from_state(state.get("solution", {}), device="cpu", source=source)
        if not isinstance(arguments["source"], str):
            arguments = {**arguments, "source": solution.source}
        n, d = solution.map().sites.shape
        if not isinstance(rows, torch.Tensor) or rows.dtype != torch.int64 or rows.ndim != 1:
            raise _io.Damaged("site_of_row must be whole numbers")
        if not bool(((rows >= -1) & (rows < n)).all()):
            raise _io.Damaged(f"site_of_row must be numbers of {n} sites")
        if names is not None and (not _io.fits(names, list[str]) or len(names) != d):
            raise _io.Damaged(f"feature_names must be {d} names")
        if solution.map().centroids is None:
            raise _io.Damaged("it has no centroids")
        self = cls(**arguments)
        self.site_of_row_, self.n_features_in_ = rows.numpy(), d
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        try:
            return self._learn(solution)
        except ValueError as error:
            raise _io.Damaged(f"it must be whole, got {error}") from error

    def _page(self) -> dict[str, dict[str, Any]]:
        facts = {"Arguments": self.get_params(deep=False)}
        return facts | self.solution_._page()

    def _data(self, X: Any) -> np.ndarray:  # noqa: ANN401, N803
        """Return rows like those `fit` had, checked."""
        check_is_fitted(self, "brenier_")
        return _checked(X, partial(validate_data, self, reset=False))

    def _cells(self, points: np.ndarray, y: Any) -> np.ndarray:  # noqa: ANN401
        x = torch.from_numpy(np.require(points, None, ["C", "W"]))
        if isinstance(self.brenier_, ConditionalMap):
            if y is None:
                raise _check.fail("y", "say the class of the points", "none")
            named = self.classes_[self._numbers(y, len(points)).numpy()]
            return self.brenier_.cell(x, named).numpy()
        if y is not None:
            self._numbers(y, len(points))
        return self.brenier_.cell(x).numpy()

    def _numbers(self, y: Any, n: int) -> torch.Tensor:  # noqa: ANN401
        """Return the number in `classes_` of one class or n."""
        if not isinstance(self.brenier_, ConditionalMap):
            way_out = "fit with conditional=True and y to have classes"
            raise _check.fail("y", "be left out without classes", _check.shown(y), way_out)
        return class_numbers("y", _column(y), self.brenier_.classes, n)

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
        told = told.split("\n[")[0]  # without the array that may follow
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


def _column(y: Any) -> Any:  # noqa: ANN401
    """Return a table of one column as the column."""
    shape: tuple[int, ...] = getattr(y, "shape", ())
    return np.asarray(y)[:, 0] if len(shape) == 2 and shape[1] == 1 else y


def _merged_by_class(
    sites: np.ndarray, weight: np.ndarray, classes: tuple[Label, ...], numbers: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Do what `merge_duplicates` does in each class; classes of weight zero lose their sites.

    Returns:
        Distinct sites (k, d), masses (k,), the site of every row (n,), and the sites' classes (k,).
    """
    kept: list[np.ndarray] = []
    masses, labels, place = [], [], np.full(len(sites), -1)
    for k, label in enumerate(classes):
        own = np.flatnonzero(numbers.numpy() == k)
        total = weight[own].sum()
        if total == 0:
            continue
        found, mass, site = merge_duplicates(sites[own], weight[own])
        place[own] = np.where(site < 0, -1, site + sum(map(len, kept)))
        kept.append(found)
        masses.append(mass * (total / weight.sum()))
        labels += [label] * len(found)
    return np.concatenate(kept), np.concatenate(masses), place, np.array(labels)


def _seed(random_state: Any) -> int:  # noqa: ANN401
    if random_state is None or isinstance(random_state, np.random.RandomState):
        drawn = int(check_random_state(random_state).randint(2**31 - 1))
        return _ranks.everyones(drawn)[0]
    return _check.seed("random_state", random_state)


def outside(source: Measure, points: torch.Tensor) -> torch.Tensor:
    """Return which points (m, d) lie outside the support of a source, by more than rounding.

    That of a sphere is taken with what it encloses, where the centroids of its cells lie. Sources
    without a border, and those that are only sampled, have no outside.
    """
    if isinstance(source, (UniformBox, GridDensity)):
        low, high = source.low.to(points), source.high.to(points)
        slack = _SLACK * (high - low)
        return ((points < low - slack) | (points > high + slack)).any(1)
    radius = source.radius if isinstance(source, (UniformBall, Radial)) else None
    if isinstance(source, (UniformBall, Radial)) and isinstance(radius, (int, float)):
        away = (points - source.center.to(points)).norm(dim=1)
        return away > radius * (1 + _SLACK)  # of a sphere its ball
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
