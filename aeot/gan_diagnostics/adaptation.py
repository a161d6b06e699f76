"""Translation as domain adaptation: how well must a classifier carry over?

References:
    S. Ben-David, J. Blitzer, K. Crammer, A. Kulesza, F. Pereira, J. Vaughan, "A theory of learning
    from different domains", 2010, theorem 2 (bound) and section 4 (proxy distance).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aeot import _check
from aeot._environment import plain_torch


@dataclass(frozen=True)
class Adaptation:
    """The bound of every hypothesis of a finite class: ``target <= source + distance + joint``.

    Attributes:
        source: (k,) error of each hypothesis on the source domain, in [0, 1].
        target: (k,) error on the target domain.
        distance: Largest change between the domains of how often two hypotheses disagree: half the
            H-delta-H distance. Matching the domains' distributions makes it small.
        joint: Least sum of both errors over the class: how far one rule can serve both domains.
            Matching distributions does nothing for it; keeping images' meaning does.
        bound: (k,) source + distance + joint.
    """

    source: np.ndarray
    target: np.ndarray
    distance: float
    joint: float
    bound: np.ndarray


@plain_torch()
def adaptation_bound(
    source_predictions: np.ndarray,
    source_labels: np.ndarray,
    target_predictions: np.ndarray,
    target_labels: np.ndarray,
) -> Adaptation:
    """Evaluate the domain-adaptation bound exactly on a finite class of hypotheses.

    Args:
        source_predictions: (k, n) what each of k hypotheses says on n source points.
        source_labels: (n,) the truth there.
        target_predictions: (k, m) what the same hypotheses say on m target points.
        target_labels: (m,) the truth there.

    Returns:
        The errors and the three terms, for the two samples' empirical distributions; the bound
        holds for them without exception.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> import numpy as np
        >>> says = np.array([[0, 0, 1, 1], [0, 1, 1, 1]])
        >>> result = adaptation_bound(says, np.array([0, 0, 1, 1]), says, np.array([0, 1, 1, 1]))
        >>> result.distance, result.joint, result.target
        (0.0, 0.25, array([0.25, 0.  ]))
    """
    predictions: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for name, said, truth in (
        ("source", source_predictions, source_labels),
        ("target", target_predictions, target_labels),
    ):
        said = _classes(f"{name}_predictions", said)
        truth = _classes(f"{name}_labels", truth)
        if said.ndim != 2 or said.size == 0:
            must = "have shape (k, n), a row for each hypothesis"
            raise _check.fail(f"{name}_predictions", must, f"shape {said.shape}")
        if truth.shape != said.shape[1:]:
            must = f"have shape ({said.shape[1]},), one for each column of predictions"
            raise _check.fail(f"{name}_labels", must, f"shape {truth.shape}")
        predictions.append(said)
        labels.append(truth)
    if len(predictions[0]) != len(predictions[1]):
        got = f"{len(predictions[0])} and {len(predictions[1])}"
        raise _check.fail("target_predictions", "come from the same hypotheses", got)
    source, target = (
        (said != truth).mean(axis=1) for said, truth in zip(predictions, labels, strict=True)
    )
    disagree = [np.stack([(said != row).mean(axis=1) for row in said]) for said in predictions]
    distance = float(np.abs(disagree[0] - disagree[1]).max())
    joint = float((source + target).min())
    return Adaptation(source, target, distance, joint, source + distance + joint)


def _classes(name: str, value: object) -> np.ndarray:
    """Return classes of any kind, names or numbers, as an array."""
    if isinstance(value, torch.Tensor):
        return _check.tensor(name, value).detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of several lengths
        raise _check.fail(name, "be an array of classes", _check.shown(value)) from error


@plain_torch()
def proxy_distance(first: torch.Tensor, second: torch.Tensor, *, seed: int = 0) -> float:
    """Estimate how well a linear classifier can tell two samples of features apart.

    Args:
        first: (n, d) features of one domain.
        second: (m, d) features of the other.
        seed: Shuffles the folds.

    Returns:
        2 (1 - 2 err), err the balanced error of a logistic regression under five-fold
        cross-validation: 0 for domains that it cannot tell apart (slightly negative by chance), 2
        for domains that it never confuses.

    Raises:
        ValueError: If a sample has fewer than ten rows or the widths differ.
    """
    first = _check.points("first", first, min_rows=10)
    second = _check.points("second", second, dim=first.shape[1], min_rows=10)
    features = torch.cat([first, second]).detach().cpu().double().numpy()
    domain = np.repeat([0, 1], [len(first), len(second)])
    order = np.random.default_rng(_check.seed("seed", seed)).permutation(len(domain))
    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    said = cross_val_predict(model, features[order], domain[order], cv=5)
    return 2 * (2 * float(balanced_accuracy_score(domain[order], said)) - 1)
