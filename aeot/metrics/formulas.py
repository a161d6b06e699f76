"""How far generated data are from real data: pure formulas on features.

Every function takes the evaluated set first and the reference second, as (rows, width) arrays
of features, computes in float64, and depends on nothing but its arguments. Which features, how
many rows and whether they were training or held-out images decides what a number means: keep
that with it, as `aeot.compare` does. Only with Inception features is a Fréchet distance an FID.
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import linear_sum_assignment

from aeot import _check, _rng
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot.metrics.distances import BLOCK, pair
from aeot.metrics.distances import features as _features
from aeot.metrics.plans import PAIRS, cheapest_plan
from aeot.search.nearest import PLAIN, nearest

_ASSIGNED = 5000  # rows of an exact assignment: 200 MB and some seconds


@plain_torch()
def frechet_distance(generated: ArrayLike, reference: ArrayLike) -> float:
    """Squared 2-Wasserstein distance of the two Gaussians with the data's moments (FD).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) with unbiased covariances. The last trace is the
    nuclear norm of R1 R2^T, where R1 and R2 are the triangular factors of the centred data: it
    is real, and accurate where a covariance is singular (a collapsed generator, a dead unit).

    The estimate is biased upward: for one common standard normal in `width` dimensions its mean
    is about width (width + 5) / (2 n) with n rows on each side. Compare only numbers of equal n.

    Args:
        generated: Evaluated features (m, width), m > width.
        reference: Reference features (n, width), n > width.

    Returns:
        The distance, >= 0. Called FID only for Inception features.

    Raises:
        ValueError: If there are no more rows than columns: the covariance has no full rank then,
            and the number would say more about n than about the images.

    References:
        Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash
        equilibrium", 2017, eq. 6.

    Example:
        >>> import torch
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x + torch.tensor([3.0, 4.0]), x), 6)
        25.0
    """
    generated, reference = pair(generated, reference)
    width = generated.shape[1]
    for name, rows in (("generated", len(generated)), ("reference", len(reference))):
        if rows <= width:
            must = f"have more rows than its {width} columns for a Fréchet distance"
            way_out = f"take at least {width + 1} samples or narrower features"
            raise _check.fail(name, must, f"{rows} rows", way_out)
    means, factors = [], []
    for features in (generated, reference):
        mean = features.mean(dim=0)
        means.append(mean)
        centred = (features - mean) / math.sqrt(len(features) - 1)
        factors.append(torch.linalg.qr(centred, mode="r").R)
    first, second = factors
    cross = torch.linalg.svdvals(first @ second.T).sum()
    spread = first.square().sum() + second.square().sum() - 2 * cross
    return max(0.0, float((means[0] - means[1]).square().sum() + spread))


@plain_torch()
def kernel_distance(generated: ArrayLike, reference: ArrayLike) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (<x, y> / width + 1)^3 (KD, KID).

    Over all pairs of rows at once, which is what an average over random subsets estimates: no
    seed, and less noise. It may be negative, as an unbiased estimate of zero must.

    Args:
        generated: Evaluated features (m, width), m >= 2.
        reference: Reference features (n, width), n >= 2.

    Returns:
        The discrepancy. Called KID only for Inception features.

    Raises:
        ValueError: If the widths differ or there are fewer than two rows.

    References:
        Binkowski et al., "Demystifying MMD GANs", 2018, eq. 4 and section 4.

    Example:
        >>> kernel_distance([[0.0], [0.0]], [[1.0], [1.0]])  # 1 + 8 - 2
        7.0
    """
    # Not shift invariant, so without the common centre of the other metrics.
    generated = _features("generated", generated, min_rows=2)
    width = generated.shape[1]
    reference = _features("reference", reference, width, min_rows=2)

    def total(first: torch.Tensor, second: torch.Tensor) -> float:
        step = max(1, BLOCK // len(second))
        return sum(float((b @ second.T / width + 1).pow_(3).sum()) for b in first.split(step))

    def within(features: torch.Tensor) -> float:
        self_pairs = float((features.square().sum(dim=1) / width + 1).pow(3).sum())
        return (total(features, features) - self_pairs) / (len(features) * (len(features) - 1))

    across = total(generated, reference) / (len(generated) * len(reference))
    return within(generated) + within(reference) - 2 * across


@plain_torch()
def sliced_wasserstein(
    generated: ArrayLike,
    reference: ArrayLike,
    *,
    projections: int = 500,
    seed: int = 0,
) -> float:
    """Sliced 2-Wasserstein distance: root of the mean squared W2 along random directions.

    Exact along each direction for any two numbers of rows. A shift by t costs |t| / sqrt(width)
    in expectation over the directions.

    Args:
        generated: Evaluated features (m, width).
        reference: Reference features (n, width).
        projections: Random directions.
        seed: Seed of the directions.

    Returns:
        The distance, in units of the features.

    Raises:
        ValueError: If the widths differ.

    References:
        Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015, eq. 9.

    Example:
        >>> round(sliced_wasserstein([[3.0], [1.0]], [[0.0]]) ** 2, 9)
        5.0
    """
    generated, reference = pair(generated, reference)
    return math.sqrt(_along(generated, reference, projections, seed, power=2))


def _along(
    generated: torch.Tensor, reference: torch.Tensor, projections: int, seed: int, *, power: int
) -> float:
    """Return the mean over random directions of the integral of |difference of quantiles|^power."""
    m, n = len(generated), len(reference)
    directions = torch.randn(
        generated.shape[1],
        _check.rows("projections", projections, 2, way_out="choose fewer"),
        generator=_rng.generator(_check.seed("seed", seed), "sliced"),
        dtype=torch.float64,
    ).to(generated.device)
    directions /= torch.linalg.vector_norm(directions, dim=0)
    # Both quantile functions are steps; between two breaks (in units of 1 / mn) both are flat.
    ends = torch.cat([n * torch.arange(m + 1), m * torch.arange(n + 1)]).unique()
    lengths = (ends.diff().double() / (m * n)).to(generated.device)
    rows_m, rows_n = (ends[:-1] // n).to(generated.device), (ends[:-1] // m).to(generated.device)
    total = 0.0
    for part in directions.split(50, dim=1):
        ours = (generated @ part).sort(dim=0).values
        theirs = (reference @ part).sort(dim=0).values
        total += float((lengths @ (ours[rows_m] - theirs[rows_n]).abs().pow(power)).sum())
    return total / directions.shape[1]


@plain_torch()
def wasserstein1(
    generated: ArrayLike,
    reference: ArrayLike,
    *,
    projections: int | None = None,
    seed: int = 0,
) -> float:
    """1-Wasserstein distance of two sets of rows, exact, or sliced along random directions.

    Of samples of two laws it is too large: two samples of n rows of one law lie about n^(-1/2)
    apart in one dimension, n^(-1/width) in more than two. Take the same numbers of rows wherever
    values are compared, and print beside them the distance of two samples of the reference.

    Args:
        generated: Evaluated rows (m, width).
        reference: Reference rows (n, width).
        projections: None: the distance itself, for width 1 by quantiles, else by an assignment of
            lcm(m, n) rows, or a linear program where these were more than 5 000. A number: the mean
            of the one-dimensional distances along so many random directions; at most the distance
            itself, and of a shift by t the part
            |t| E|cos| of it (2 / pi in the plane, sqrt(2 / (pi width)) in many dimensions).
        seed: Seed of the directions.

    Returns:
        The distance, in units of the rows.

    Raises:
        ValueError: If the widths differ, or the rows are too many for an exact distance: more than
            5 000 in an assignment and more than 250 000 pairs in a linear program.

    References:
        C. Villani, "Optimal Transport: Old and New", 2009, definition 6.1. N. Fournier,
        A. Guillin, "On the rate of convergence in Wasserstein distance of the empirical measure",
        2015, theorem 1.

    Example:
        >>> wasserstein1([[0.0], [1.0]], [[2.0], [2.0]])
        1.5
        >>> round(wasserstein1([[0.0, 0.0], [1.0, 0.0]], [[1.0, 3.0], [0.0, 3.0]]), 9)
        3.0
    """
    generated, reference = pair(generated, reference)
    if generated.shape[1] == 1 or projections is not None:
        count = 1 if projections is None else projections  # in one dimension all are the same
        return _along(generated, reference, count, seed, power=1)
    m, n = len(generated), len(reference)
    common = math.lcm(m, n)
    if common > _ASSIGNED and m * n > PAIRS:
        way_out = "take equally many rows of both, fewer of them, or projections=500"
        must = f"have lcm(m, n) <= {_ASSIGNED} or m n <= {PAIRS} rows for an exact distance"
        raise _check.fail("generated and reference", must, f"m = {m}, n = {n}", way_out)
    cost = torch.cdist(generated, reference, compute_mode="donot_use_mm_for_euclid_dist").cpu()
    if common > _ASSIGNED:
        mu, nu = (torch.full((k,), 1 / k, dtype=torch.float64) for k in (m, n))
        return float((cheapest_plan(cost, mu, nu) * cost).sum())
    cost = cost.repeat_interleave(common // m, 0).repeat_interleave(common // n, 1)
    return float(cost[linear_sum_assignment(cost.numpy())].mean())


@plain_torch()
def inception_score(probabilities: ArrayLike) -> float:
    """Inception score: exp of the mean divergence of each sample's classes from those of all.

    1 where a classifier sees the same in every sample, the number of classes where it is sure of
    each and sees all equally often. It knows no reference: copies of one image a class score best.
    Only with the Inception network's 1000 classes is it the published score.

    Args:
        probabilities: Class probabilities of samples (m, classes), >= 0, rows summing to one.

    Returns:
        The score, in [1, classes].

    Raises:
        ValueError: If the rows are no probabilities.

    References:
        Salimans et al., "Improved techniques for training GANs", 2016, section 4.

    Example:
        >>> inception_score([[1.0, 0.0], [0.0, 1.0]]), inception_score([[0.5, 0.5], [0.5, 0.5]])
        (2.0, 1.0)
    """
    p = _check.points("probabilities", probabilities).detach().double()
    sums = p.sum(dim=1)
    if bool((p < 0).any()) or bool(((sums - 1).abs() > 1e-4).any()):
        got = f"a least entry of {float(p.min()):g} and sums from {float(sums.min()):g} to "
        way_out = "pass softmax of the classifier's outputs"
        must = "have rows >= 0 that sum to one"
        raise _check.fail("probabilities", must, f"{got}{float(sums.max()):g}", way_out)
    p = p / sums[:, None]
    mean = p.mean(dim=0)
    divergence = torch.special.entr(mean).sum() - torch.special.entr(p).sum(dim=1).mean()
    return float(divergence.clamp(min=0).exp())


@plain_torch()
def class_divergence(
    generated: ArrayLike,
    reference: ArrayLike,
    *,
    classes: int,
) -> float:
    """Kullback-Leibler divergence KL(q | p) of class frequencies, q generated and p reference.

    Args:
        generated: Labels (m,) a classifier gives the generated images, whole numbers.
        reference: Labels (n,) of the reference; every class must occur.
        classes: How many there are; labels lie in [0, classes).

    Returns:
        The divergence in nats: 0 for equal frequencies, ln(classes) for one class of a balanced
        reference. A perfect sampler still shows about (classes - 1) / (2 m) on m draws.

    Raises:
        ValueError: If a label is out of range or the reference lacks a class.

    Example:
        >>> round(class_divergence([0, 0], [0, 1], classes=2), 6)
        0.693147
    """
    classes = _check.rows("classes", classes, 4, way_out="choose fewer")
    frequencies = []
    for name, value in (("generated", generated), ("reference", reference)):
        labels = _check.tensor(name, value)
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        whole = whole and labels.ndim == 1 and len(labels) > 0
        labels = labels.long() if whole else labels
        if not whole or int(labels.min()) < 0 or int(labels.max()) >= classes:
            got = f"{labels.dtype} of shape {tuple(labels.shape)}"
            if whole:
                got = f"labels from {int(labels.min())} to {int(labels.max())}"
            raise _check.fail(name, f"be whole labels (rows,) in [0, {classes})", got)
        frequencies.append(labels.bincount(minlength=classes).double() / len(labels))
    q, p = frequencies
    if not bool((p > 0).all()):
        missing = int((p == 0).nonzero()[0])
        raise _check.fail("reference", "hold every class", f"none of class {missing}")
    return max(0.0, float(torch.xlogy(q, q / p).sum()))


@plain_torch()
def memorisation(
    generated: ArrayLike,
    training: ArrayLike,
    heldout: ArrayLike,
) -> dict[str, float]:
    """Compare how near generated and held-out data lie to the training data.

    Args:
        generated: Evaluated features (m, width).
        training: Features (n, width) of the data the generator was fitted to.
        heldout: Features (l, width) of real data it has not seen.

    Returns:
        ``ratio``: median distance of generated rows to their nearest training row over the same
        median for held-out rows; 1 like new data, 0 for copies. ``copied``: the share of
        generated rows nearer to a training row than all but 1 % of the held-out rows; 0.01 like
        new data, 1 for copies. (Training data with duplicates make both understate copying.)

    Raises:
        ValueError: If the widths differ, or held-out rows themselves are copies (median 0).

    Example:
        >>> training = [[0.0], [1.0], [2.0]]
        >>> memorisation(training, training, [[0.4], [1.5]])
        {'ratio': 0.0, 'copied': 1.0}
    """
    training = _features("training", training)
    ours, theirs = (
        nearest(_features(name, rows, training.shape[1]), training)[0][:, 0]
        for name, rows in (("generated", generated), ("heldout", heldout))
    )
    ours_median, theirs_median = float(ours.quantile(0.5)), float(theirs.quantile(0.5))
    if theirs_median == 0:
        must = "be data that are not in training"
        raise _check.fail("heldout", must, "a median distance of 0", "split anew")
    threshold = theirs.quantile(0.01)
    copied = (ours < threshold) | (ours == 0)
    return {"ratio": ours_median / theirs_median, "copied": float(copied.double().mean())}


@plain_torch()
def mode_coverage(
    samples: ArrayLike,
    modes: ArrayLike,
    std: ArrayLike,
    *,
    reference: ArrayLike | None = None,
    count: str = "all",
) -> dict[str, float]:
    """Measure how a sample covers the modes of a known Gaussian mixture.

    A sample is of high quality if its nearest mode is nearer than 3 standard deviations (radial,
    in units of the deviation per axis). An exact sampler of a 2-D mixture has 98.889 % of these:
    more means that the modes have been shrunk, which the variance ratio shows. Its divergence is
    (modes - 1) / (2 samples) on average, not 0.

    Args:
        samples: (m, d); published tables use 2500.
        modes: Centres (k, d).
        std: Standard deviation of a mode: a number, or one per axis (d,).
        reference: Mass of each mode in the data, (k,), any scale; None: all alike.
        count: Which samples make the histogram of modes: "all", as published, or "high-quality".

    Returns:
        ``modes``: how many have a high-quality sample. ``high_quality``: their share of the
        samples. ``reverse_kl``: KL(samples || reference) over modes, in nats. ``variance_ratio``:
        variance inside a mode over the true one, averaged over axes and covered modes; samples
        beyond 6 standard deviations are left out, as they belong to no mode. It is 1 for an exact
        sampler, 2/3 for segments between pairs of samples of one mode, and NaN if no covered mode
        has two samples; so is ``reverse_kl`` of the high-quality samples if there is none.

    Raises:
        ValueError: If shapes do not fit, or `std` or `reference` is not positive.

    References:
        Lin, Khetan, Fanti, Oh, PacGAN: the power of two samples in generative adversarial
        networks, 2018, section 4.1.

    Example:
        >>> import torch
        >>> modes = torch.tensor([[0.0], [10.0]])
        >>> scores = mode_coverage([[0.1], [0.2], [0.3], [5.0]], modes, 1.0)
        >>> scores["modes"], scores["high_quality"], round(scores["reverse_kl"], 4)  # log 2
        (1.0, 0.75, 0.6931)
    """
    centres = _features("modes", modes)
    k, dim = centres.shape
    values = _features("samples", samples, dim).to(centres)
    scale = _check.array("std", std).detach().to(centres)
    _check.choice("count", count, ("all", "high-quality"))
    if scale.ndim > 1 or scale.numel() not in (1, dim) or not bool((scale > 0).all()):
        raise _check.fail("std", f"be positive, one number or {dim}", _check.shown(scale))
    scale = scale.expand(dim)
    masses = torch.ones(k) if reference is None else reference
    masses = _check.array("reference", masses).detach().to(centres)
    if masses.shape != (k,) or not bool((masses > 0).all()):
        raise _check.fail(
            "reference", f"be {k} positive numbers, one per mode", _check.shown(masses)
        )
    away = torch.cdist(values / scale, centres / scale, compute_mode=PLAIN)
    distance, owner = away.min(1)
    good = distance < 3
    counted = torch.ones_like(good) if count == "all" else good
    share = owner[counted].bincount(minlength=k).double() / counted.sum().clamp(min=1)
    divergence = torch.special.xlogy(share, share * masses.sum() / masses).sum()
    ratios = []
    for mode in owner[good].unique():
        inside = values[(owner == mode) & (distance < 6)]
        if len(inside) > 1:
            ratios.append((inside.var(0) / scale.square()).mean())
    return {
        "modes": float(owner[good].unique().numel()),
        "high_quality": float(good.double().mean()),
        "reverse_kl": float(divergence) if bool(counted.any()) else math.nan,
        "variance_ratio": float(torch.stack(ratios).mean()) if ratios else math.nan,
    }
