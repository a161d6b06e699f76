"""How far generated data are from real data: pure formulas on features."""

from aeot.metrics.formulas import (
    class_divergence,
    frechet_distance,
    inception_score,
    kernel_distance,
    memorisation,
    mode_coverage,
    sliced_wasserstein,
    wasserstein1,
)
from aeot.metrics.precision_recall import prd_curve, prd_from_histograms, prd_scores, prdc

__all__ = [
    "class_divergence",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "memorisation",
    "mode_coverage",
    "prd_curve",
    "prd_from_histograms",
    "prd_scores",
    "prdc",
    "sliced_wasserstein",
    "wasserstein1",
]
