"""Precision and recall of generated data: two shares, and the curve between them.

As in `aeot.metrics.formulas`, the evaluated set comes first and the reference second.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from aeot import _check, _rng
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot.metrics.distances import pair, squares
from aeot.search.nearest import nearest


@plain_torch()
def prdc(
    generated: ArrayLike,
    reference: ArrayLike,
    *,
    k: int = 5,
) -> dict[str, float]:
    """Improved precision and recall, density and coverage.

    A ball around every row reaches to its k-th neighbour in its own set. Precision: generated
    rows inside a reference ball. Recall: reference rows inside a generated ball. Density: how
    many reference balls hold a generated row, over k; may exceed 1. Coverage: reference balls
    that hold a generated row. Inside is strict, as in the package `prdc`.

    For two samples of one distribution, density is 1 and coverage 1 - 2^-k in expectation
    (many rows of equal number); precision and recall stay below 1 and depend on the width.

    Where many distances are equal (pixels, codes on a lattice, copied rows), rounding decides which
    rows are inside, here as in other implementations, unless the values are whole numbers or
    fractions of a power of two: pass such features unscaled.

    Args:
        generated: Evaluated features (m, width), m > k.
        reference: Reference features (n, width), n > k.
        k: Neighbours that set a ball's radius, not counting its centre.

    Returns:
        ``{"precision": ..., "recall": ..., "density": ..., "coverage": ...}``.

    Raises:
        ValueError: If the widths differ or a set has no more than k rows.

    References:
        Kynkäänniemi et al., "Improved precision and recall metric for assessing generative
        models", 2019, eq. 1 and 2; Naeem et al., "Reliable fidelity and diversity metrics for
        generative models", 2020, eq. 3 and 5.

    Example:
        >>> x = [[0.0], [1.0], [2.0], [3.0]]
        >>> prdc([[0.1], [0.25], [0.45]], x, k=1)
        {'precision': 1.0, 'recall': 0.25, 'density': 2.0, 'coverage': 0.5}
    """
    k = _check.integer("k", k)
    generated, reference = pair(generated, reference, min_rows=k + 1)
    radii_generated = nearest(generated, generated, k + 1)[0][:, k]
    radii_reference = nearest(reference, reference, k + 1)[0][:, k]
    holding = torch.zeros(len(generated), dtype=torch.int64, device=generated.device)
    recalled = covered = 0
    for rows, block, own, other in squares(reference, generated):
        centres, doubt = reference[rows], own + other
        inside = _within(block, radii_reference[rows, None], centres, generated, doubt)
        holding += inside.sum(dim=0)
        covered += int(inside.any(dim=1).sum())
        inside = _within(block, radii_generated[None], centres, generated, doubt)
        recalled += int(inside.any(dim=1).sum())
    return {
        "precision": float((holding > 0).double().mean()),
        "recall": recalled / len(reference),
        "density": float(holding.sum()) / (k * len(generated)),
        "coverage": covered / len(reference),
    }


def _within(
    squared: torch.Tensor,
    radii: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    doubt: torch.Tensor,
) -> torch.Tensor:
    """Return which distances (r, c) are below radii (r, 1) or (1, c), ties as radii have them.

    Squared distances may be wrong by `doubt`; where that matters they are computed anew.
    """
    margin = squared - radii.square()
    inside = margin < 0
    i, j = (margin.abs_() <= doubt).nonzero(as_tuple=True)
    for first in range(0, len(i), 1 << 16):
        a, b = i[first : first + (1 << 16)], j[first : first + (1 << 16)]
        exact = torch.linalg.vector_norm(rows[a] - columns[b], dim=-1)
        inside[a, b] = exact < radii.expand_as(squared)[a, b]
    return inside


def _numbers(name: str, value: ArrayLike) -> np.ndarray:
    return _check.array(name, value).detach().double().cpu().numpy()


@plain_torch()
def prd_from_histograms(
    generated: ArrayLike,
    reference: ArrayLike,
    *,
    angles: int = 1001,
) -> tuple[np.ndarray, np.ndarray]:
    """Trade precision against recall for two histograms over the same bins.

    For slopes s = tan(angle): precision sum min(s p, q), recall sum min(p, q / s), with p the
    reference and q the evaluated histogram.

    Args:
        generated: Counts or masses (bins,) of the evaluated set.
        reference: Counts or masses (bins,) of the reference.
        angles: Points on the curve.

    Returns:
        Precision and recall, each (angles,), in [0, 1].

    Raises:
        ValueError: If shapes differ, an entry is negative or a histogram is empty.

    References:
        Sajjadi et al., "Assessing generative models via precision and recall", 2018, theorem 2.

    Example:
        >>> precision, recall = prd_from_histograms([1, 0], [1, 1])  # one of two modes
        >>> f8, f1_8 = prd_scores(precision, recall)
        >>> round(f8, 4), round(f1_8, 4)
        (0.5039, 0.9848)
    """
    histograms = []
    for name, value in (("generated", generated), ("reference", reference)):
        counts = _numbers(name, value)
        least, most = counts.min(initial=0), counts.max(initial=0)
        if counts.ndim != 1 or least < 0 or most <= 0:
            got = f"shape {counts.shape}, from {least:g} to {most:g}"
            must = "be a histogram: non-negative, not all zero, of shape (bins,)"
            raise _check.fail(name, must, got)
        counts = counts / most  # the sum of huge masses would overflow
        histograms.append(counts / counts.sum())
    q, p = histograms
    if p.shape != q.shape:
        raise _check.fail("generated", f"have the reference's {len(p)} bins", str(len(q)))
    edge = 1e-10  # keeps tan finite at both ends
    # Two would be the ends alone.
    angles = _check.rows("angles", angles, 16, minimum=3, way_out="choose fewer")
    slopes = np.tan(np.linspace(edge, math.pi / 2 - edge, angles))
    precision = np.minimum(slopes[:, None] * p, q).sum(axis=1)
    recall = precision / slopes
    return np.clip(precision, 0, 1), np.clip(recall, 0, 1)


@plain_torch()
def prd_curve(
    generated: ArrayLike,
    reference: ArrayLike,
    *,
    clusters: int = 20,
    angles: int = 1001,
    runs: int = 10,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision-recall curve (PRD) of features: k-means bins of the union, averaged over runs.

    Clusterings depend on the order of the rows: in another order the same rows score slightly
    differently.

    Args:
        generated: Evaluated features (n, width).
        reference: Reference features (n, width); equally many, or the bins favour one side.
        clusters: Bins of the common histogram.
        angles: Points on the curve.
        runs: Independent clusterings that are averaged.
        seed: Seed of the clusterings.

    Returns:
        Precision and recall, each (angles,), in [0, 1]; `prd_scores` sums them up.

    Raises:
        ValueError: If the sets differ in size or width, or have fewer rows than clusters.

    References:
        Sajjadi et al., "Assessing generative models via precision and recall", 2018, section 3.3.
    """
    clusters = _check.integer("clusters", clusters)
    runs = _check.integer("runs", runs)
    angles = _check.rows("angles", angles, 16, minimum=3, way_out="choose fewer")
    seed = _check.seed("seed", seed)
    generated, reference = pair(generated, reference, min_rows=clusters)
    if len(generated) != len(reference):
        got = f"{len(generated)} and {len(reference)}"
        raise _check.fail("generated", "have as many rows as reference", got, "cut the longer one")
    union = torch.cat([generated, reference]).cpu().numpy()
    curves = []
    for run in range(runs):
        state = _rng.stream_seed(seed, "prd", run) % 2**32
        means = MiniBatchKMeans(clusters, n_init=10, random_state=state)
        labels = means.fit_predict(union)
        ours, theirs = (
            np.bincount(part, minlength=clusters) for part in np.split(labels, [len(generated)])
        )
        curves.append(prd_from_histograms(ours, theirs, angles=angles))
    precision, recall = np.mean(curves, axis=0)
    return precision, recall


@plain_torch()
def prd_scores(precision: ArrayLike, recall: ArrayLike) -> tuple[float, float]:
    """Sum up a PRD curve by the best F8 (recall) and the best F1/8 (precision) on it.

    Args:
        precision: (angles,).
        recall: (angles,).

    Returns:
        F8 and F1/8.

    Raises:
        ValueError: If the two are not equally long, empty, or not in [0, 1].
    """
    precision, recall = _numbers("precision", precision), _numbers("recall", recall)
    for name, curve in (("precision", precision), ("recall", recall)):
        if curve.ndim != 1 or not curve.size or curve.min() < 0 or curve.max() > 1:
            got = f"shape {curve.shape}"
            got += f" from {curve.min():g} to {curve.max():g}" if curve.size else ""
            raise _check.fail(name, "be a curve (angles,) in [0, 1]", got)
    if len(precision) != len(recall):
        got = f"{len(recall)} and {len(precision)}"
        raise _check.fail("recall", "be as long as precision", got)
    scores = []
    for beta in (8.0, 1 / 8):
        bottom = beta**2 * precision + recall
        top = (1 + beta**2) * precision * recall
        scores.append(float(np.max(np.divide(top, bottom, out=np.zeros_like(top), where=top > 0))))
    return scores[0], scores[1]
