"""Bad arguments of the whole public face: one ValueError that names the argument, what came, and
where there is one the way out, before any work starts."""

import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import NotFittedError

import aeot
from aeot import metrics
from aeot.comparison.result import merge
from aeot.data import indices, resize, toy
from aeot.features import Classifier, Pixels, describe, extract
from aeot.gan_diagnostics import adaptation, critics, frequency, games, splitting, weights
from aeot.gan_diagnostics import steganography as hidden
from aeot.plotting import comparison, runs, translation, transport
from aeot.plotting import images as pictures
from aeot.plotting import singular as torn
from aeot.report.build import write_page

X = np.random.default_rng(0).normal(size=(12, 2))
X4 = np.random.default_rng(0).normal(size=(12, 4))
MASSES = np.full(12, 1 / 12)
BOX, BOX4 = aeot.UniformBox(dim=2), aeot.UniformBox(dim=4)
HEIGHTS = -(X**2).sum(1) / 2
MAP = aeot.BrenierMap(BOX, X, HEIGHTS)
MAP4 = aeot.BrenierMap(BOX4, X4, np.zeros(12))
DIAGRAM = aeot.power_diagram(BOX, X, HEIGHTS)
CUT = aeot.find_singularities(MAP, 0.3)
GRAY = np.zeros((4, 1, 8, 8))
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
ROWS = np.random.default_rng(0).normal(size=(30, 3))
NAN = np.where(np.arange(24).reshape(12, 2) == 5, np.nan, X)


def sampled(**options):
    return aeot.solve_semidiscrete(**{"source": BOX4, "sites": X4, "tol": 0.3, **options})


def exact(**options):
    return aeot.solve_exact(**{"source": BOX, "sites": X, **options})


def diagram(**options):
    return aeot.power_diagram(**{"source": BOX, "sites": X, "heights": HEIGHTS, **options})


def on_ball(sites):
    return diagram(source=aeot.UniformBall(dim=3), sites=sites, heights=np.zeros(12))


def tree(**options):
    return aeot.solve_hierarchical(**{"source": BOX4, "sites": X4, **options})


def brenier(**options):
    return aeot.BrenierMap(**{"source": BOX, "sites": X, "heights": HEIGHTS, **options})


def found(**options):
    return aeot.find_singularities(**{"brenier": MAP4, **options})


def extended(**options):
    return MAP4.extend(**{"points": torch.rand(3, 4), **options})


def drawn(**options):
    return MAP4.draw(**{"n": 3, **options})


def ot(**options):
    weight = {k: options.pop(k) for k in ("X", "sample_weight") if k in options}
    return aeot.SemiDiscreteOT(**options).fit(**{"X": X, **weight})


def fitted(method, **options):
    return getattr(aeot.SemiDiscreteOT().fit(X), method)(**options)


def tensors(**options):
    return aeot.tensors(**{"array": ROWS, **options})


def estimator(kind):
    """A function of the constructor's options and of those of fit, on rows."""

    steps = 2 if issubclass(kind, aeot.Autoencoder | aeot.AEOT) else 1

    def fit(**options):
        theirs = ("data", "steps", "checkpoint", "on_step", "log", "held_out", "progress")
        given = {k: options.pop(k) for k in theirs if k in options}
        return kind(**options).fit(**{"data": ROWS, "steps": steps, **given})

    fit.__name__ = kind.__name__
    return fit


def batches(**options):
    return next(aeot.loader(**{"data": aeot.tensors(ROWS), "batch_size": 2, **options}))


def rows(**options):
    return next(indices(**{"n": 4, "batch_size": 2, **options}))


def compared(**options):
    data = aeot.tensors(np.repeat(IMAGES, 3, axis=0))
    first = {"models": {"a": data}, "data": data, "features": Pixels(4), "metrics": ["fd"]}
    return aeot.compare(**{**first, **options})


def transported(**options):
    data = aeot.unpaired(GRAY, GRAY)
    return aeot.TransportTranslator(latent_dim=2).fit(**{"data": data, "steps": 2, **options})


def grid(**options):
    return pictures.image_grid(GRAY, **options)


def curves(**options):
    return pictures.training_curves({"a": ([0, 1], [1.0, 0.5])}, **options)


def dual(**options):
    return transport.delaunay(DIAGRAM, **options)


def coded(**options):
    return SMALL.fit_transport(**{"data": ROWS, **options})


def classified(**options):
    fit = {k: options.pop(k) for k in ("data", "test", "on_step") if k in options}
    return Classifier(**{"channels": 2, "width": 4, "epochs": 1, **options}).fit(
        **{"data": LABELLED, **fit}
    )


def critic_between(**options):
    return critics.fit_critic(**{"real": BOX_DRAW, "fake": BOX_DRAW, "steps": 1, **options})


def adapted(**options):
    said, truth = np.array([[0, 1]]), np.array([0, 1])
    usual = dict(zip(ADAPTED, (said, truth, said, truth), strict=True))
    return adaptation.adaptation_bound(**{**usual, **options})


def told_apart(seed):
    return adaptation.proxy_distance(ROWS, ROWS + 1, seed=seed)


def of_pair(function):
    """One of the instruments of translators, on a pair that does nothing."""

    def call(**options):
        return function(**{"to_b": SAME, "to_a": SAME, "x": GRAY, **options})

    return call


def paged(**options):
    return write_page(**{"sources": {"a": SMALL}, "path": "page.html", **options})


def contrast(**options):
    return frequency.contrast_response(**{"function": SAME, "x": GRAY, **options})


def split(**options):
    return frequency.error_split(**{"output": GRAY, "target": GRAY, **options})


def spread(**options):
    return splitting.diversity(**{"draw": lambda x, seed: x, "x": GRAY, **options})


def circling(**options):
    return games.dirac_wgan_gp(**{"rate": 0.1, "steps": 2, **options})


class Doubles:
    def translate(self, x, *, to):
        return x


GAN, VAE, AEOT = estimator(aeot.GAN), estimator(aeot.VAE), estimator(aeot.AEOT)
AE, FLOW = estimator(aeot.Autoencoder), estimator(aeot.FlowMatching)
WHOLE = "whole number"
GLO, GLANN, IMLE = estimator(aeot.GLO), estimator(aeot.GLANN), estimator(aeot.IMLE)
LABELLED = aeot.tensors(IMAGES, labels=[0, 1] * 6)
ADAPTED = ("source_predictions", "source_labels", "target_predictions", "target_labels")


def SAME(x):
    return x


def BOX_DRAW(n, stream):
    return BOX.sample(n, generator=stream)


CRITIC = critics.fit_critic(BOX_DRAW, BOX_DRAW, steps=1, hidden=4, batch_size=4)
SENSITIVE, DROPPED = of_pair(hidden.sensitivity), of_pair(hidden.drops)
HONEST, LOW, SWAPPED = map(of_pair, (hidden.honesty, hidden.low_pass_curve, hidden.swap))
EXAMINED = of_pair(hidden.examine)
SMALL = aeot.AEOT(latent_dim=2, width=4, tol=0.5, device="cpu").fit(ROWS, steps=2)
DRAWN = aeot.GAN(latent_dim=2, hidden=4).fit(ROWS, steps=1)
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
BOX4_TINY = aeot.UniformBox(low=[0.0] * 4, high=[1e-160] * 4)
DOUBLES = Doubles()
BIG = np.random.default_rng(1).uniform(-1, 1, (4, 1, 16, 16))
SHIFTED = aeot.TransportTranslator(latent_dim=2, tol=0.5, device="cpu", seed=10**30)
SHIFTED.fit(aeot.unpaired(BIG, -BIG), steps=2)
PAIRED = aeot.Pix2Pix(filters=2, n_layers=1, device="cpu")
PAIRED.fit(aeot.paired(BIG, -BIG), steps=1)

# (call, argument, bad value, what it must be, how what came is shown, the way out)
CASES = [
    # the sampled solver
    (sampled, "source", None, "a measure", "None", "Sampler"),
    (sampled, "source", "box", "a measure", "'box'", "Sampler"),
    (sampled, "source", torch.rand, "a measure", "built-in", "Sampler"),
    (sampled, "sites", None, "numeric array", "NoneType", ""),
    (sampled, "sites", "x", "numeric array", "str", ""),
    (sampled, "sites", [], "shape", r"\(0,\)", ""),
    (sampled, "sites", X4[0], "shape", r"\(4,\)", r"sites\[None\] makes one row"),
    (sampled, "sites", X, "4 columns", "2", ""),
    (sampled, "sites", X4 * 1j, "real", "complex128", ""),
    (sampled, "sites", X4 * np.inf, "finite", r"index \(0, 0\)", "drop or repair"),
    (sampled, "sites", [[1.0], [2.0, 3.0]], "numeric array", "list", ""),
    (sampled, "sites", [[object()]], "numeric array", "list", ""),
    (sampled, "sites", scipy.sparse.csr_matrix(X4), "dense", "csr_matrix", "toarray"),
    (sampled, "sites", torch.tensor(X4).to_sparse(), "dense", "sparse", "to_dense"),
    (sampled, "sites", np.r_[X4, X4[:1]], "distinct", "sites 0 and 12", "merge"),
    (sampled, "sites", pd.DataFrame({"a": ["b"]}), "numeric array", "DataFrame", ""),
    (sampled, "masses", MASSES[1:], "shape", r"\(11,\)", ""),
    (sampled, "masses", 2 * MASSES, "sum to 1", "2", "divide"),
    (sampled, "masses", -MASSES, "positive", "-0.0833", "drop"),
    (sampled, "masses", MASSES * np.nan, "finite", "12 NaN", "drop"),
    (sampled, "tol", 0, "finite number", "0", ""),
    (sampled, "tol", 1e-320, ">= 1e-15", "1e-320", ""),
    (sampled, "tol", np.nan, "finite number", "nan", ""),
    (sampled, "tol", "0.1", "finite number", "'0.1'", ""),
    (sampled, "tol", True, "finite number", "True", ""),
    (sampled, "method", "nwton", "'newton'", "'nwton'", "did you mean 'newton'"),
    (sampled, "method", None, "one of", "None", ""),
    (sampled, "engine", "trch", "'torch'", "'trch'", "did you mean 'torch'"),
    (sampled, "init", np.zeros(3), "shape", r"\(3,\)", ""),
    (sampled, "seed", -1, WHOLE, "-1", ""),
    (sampled, "seed", 0.5, WHOLE, "0.5", ""),
    (sampled, "max_samples", 0, "finite number", "0", ""),
    (sampled, "memory", 10, WHOLE, "10", ""),
    (sampled, "memory", 10**30, "<= 92", "10+", ""),
    (sampled, "threads", 0, WHOLE, "0", ""),
    (sampled, "on_step", 3, "callable", "3", ""),
    (sampled, "progress", "no", "True or False", "'no'", ""),
    (sampled, "checkpoint", 3, "path", "3", ""),
    (sampled, "checkpoint", "a\0b", "path", r"'a\\x00b'", ""),
    # exact cells
    (exact, "source", aeot.Gaussian(dim=2), "UniformBox", "Gaussian", "solve_semidiscrete"),
    (exact, "sites", np.r_[X, X[:1]], "distinct", "sites 0 and 12", "merge"),
    (exact, "tol", 2, "<= 1", "2", ""),
    (exact, "masses", "x", "numeric array", "str", ""),
    (diagram, "source", BOX4, "dim <= 3", "UniformBox", ""),
    (diagram, "heights", np.zeros(3), "shape", r"\(3,\)", ""),
    (diagram, "heights", NAN[:, 1], "finite", "index", "drop"),
    (diagram, "sites", X[:, :1], "2 columns", "1", ""),
    (DIAGRAM.displaced, "t", 1.5, "<= 1", "1.5", ""),
    (DIAGRAM.semidual, "masses", [1.0], "shape", r"\(1,\)", ""),
    (DIAGRAM.legendre, "points", X4, "2 columns", "4", ""),
    (tree, "source", 3, "a measure", "3", "Sampler"),
    (tree, "clusters", 13, "at most the 12 sites", "13", ""),
    (tree, "seed", "x", WHOLE, "'x'", ""),
    (tree, "max_samples", 0, "a finite number >= 1", "0", ""),
    (tree, "checkpoint", 3, "a path", "3", ""),
    (sampled, "sites", X4 * 1e300, "below 1e150", "e.300", "unit"),
    (exact, "sites", X * 1e300, "below 1e150", "e.300", "unit"),
    (brenier, "sites", X * 1e300, "below 1e150", "e.300", "unit"),
    (exact, "source", aeot.UniformBox(low=[0.0] * 2, high=[1e-300] * 2), "sides", "1e-300", ""),
    (diagram, "source", aeot.UniformBall(dim=2, radius=1e300), "sides", "2e.300", "length"),
    (on_ball, "sites", np.zeros((12, 3)), "far enough apart", "cells", "merge"),
    # measures
    (aeot.UniformBox, "dim", 2.0, WHOLE, "2.0", ""),
    (aeot.UniformBox, "dim", True, WHOLE, "True", ""),
    (aeot.UniformBall, "dim", 0, WHOLE, "0", ""),
    (lambda radius: aeot.Radial(dim=2, radius=radius), "radius", -1.0, "> 0", "-1", ""),
    (lambda radius: aeot.UniformBall(dim=2, radius=radius), "radius", 0, "> 0", "0", ""),
    (lambda center: aeot.UniformBall(dim=2, center=center), "center", [1], "shape", r"\(1,\)", ""),
    (lambda high: aeot.UniformBox(dim=2, high=high), "high", -1, "above low", "axis 0", ""),
    (aeot.Gaussian, "covariance", np.ones((2, 2)), "positive definite", "eigenvalue", "ridge"),
    (aeot.Gaussian, "covariance", [[1.0, 2], [0, 1]], "symmetric", "not", r"\(C \+ C.T\)"),
    (lambda draw: aeot.Sampler(draw, dim=2), "draw", 3, "callable", "3", ""),
    (aeot.Empirical, "points", [1.0, 2.0], "shape", r"\(2,\)", r"points\[:, None\]"),
    (aeot.ConvexPolygon, "vertices", [[0, 0], [1, 1]], "at least 3", "2", ""),
    (aeot.GridDensity, "values", -np.ones((2, 2)), ">= 0", "-1", "clamp"),
    (BOX.sample, "n", -1, WHOLE, "-1", ""),
    (BOX.sample, "n", 2.5, WHOLE, "2.5", ""),
    (aeot.Gaussian(dim=2).sample, "n", 10**30, "<= 92", "10+", ""),
    (lambda generator: BOX.sample(3, generator=generator), "generator", 0, "torch.G", "0", "seed"),
    (aeot.generator, "seed", "x", WHOLE, "'x'", ""),
    (aeot.generator, "seed", -1, WHOLE, "-1", ""),
    (aeot.generator, "seed", np.nan, WHOLE, "nan", ""),
    (lambda keys: aeot.generator(0, keys), "keys", 0.5, WHOLE, "0.5", ""),
    (lambda device: aeot.generator(0, device=device), "device", "abacus", "of this", "'ab", "cpu"),
    # maps and where they tear
    (brenier, "source", "box", "a measure", "'box'", "Sampler"),
    (brenier, "heights", np.zeros((12, 1)), "shape", r"\(12, 1\)", ""),
    (brenier, "spread", "x", "finite number", "'x'", ""),
    (brenier, "centroids", X4, "2 columns", "4", ""),
    (extended, "points", torch.rand(3, 2), "4 columns", "2", ""),
    (extended, "method", "afine", "'affine'", "'afine'", "did you mean 'affine'"),
    (extended, "singular", 3, "SingularSet", "3", "find_singularities"),
    (extended, "neighbours", 0, WHOLE, "0", ""),
    (extended, "scale", "x", "finite number", "'x'", ""),
    (extended, "weight", 2, "<= 1", "2", ""),
    (drawn, "n", -1, WHOLE, "-1", ""),
    (drawn, "boundary", "rejct", "'reject'", "'rejct'", "did you mean 'reject'"),
    (drawn, "balance", "no", "True or False", "'no'", ""),
    (drawn, "generator", 3, "Generator", "3", r"aeot.generator\(seed\)"),
    (MAP.costs, "n_points", 1, WHOLE, "1", ""),
    (lambda seed: MAP.costs(8, seed=seed), "seed", None, WHOLE, "None", ""),
    (found, "brenier", 3, "a BrenierMap", "3", "map"),
    (found, "brenier", None, "a BrenierMap", "None", "map"),
    (found, "max_angle", -1, "> 0", "-1", ""),
    (found, "n_points", 0, WHOLE, "0", ""),
    (found, "seed", "x", WHOLE, "'x'", ""),
    (lambda first: CUT.path(first, 1), "first", 12, "<= 11", "12", ""),
    (lambda first: CUT.path(first, 1), "first", 0.5, WHOLE, "0.5", ""),
    (lambda start: CUT.crossings(start, [0, 1]), "start", [0], r"shape \(2,\)", r"\(1,\)", ""),
    (lambda first: CUT.crosses(first, torch.tensor([0])), "first", 0, "tensor of whole", "0", ""),
    (lambda diagram: aeot.singular_curves(diagram, []), "diagram", 3, "PowerDiag", "3", "power_"),
    (lambda singular: aeot.singular_curves(DIAGRAM, singular), "singular", [1], "mask", "int", ""),
    # scikit-learn's face
    (ot, "source", "bxo", "'box'", "'bxo'", "did you mean 'box'"),
    (ot, "tol", -1, "finite number", "-1", ""),
    (ot, "method", "x", "one of", "'x'", ""),
    (ot, "random_state", -1, WHOLE, "-1", ""),
    (ot, "sample_weight", np.r_[-1, np.ones(11)], ">= 0", "-1 at index 0$", ""),
    (ot, "sample_weight", np.zeros(12), "zero everywhere", "zero", "leave it out"),
    (ot, "sample_weight", np.ones(11), "12 numbers", r"\(11,\)", "one per row"),
    (lambda X: fitted("inverse_transform", X=X), "X", X + 9, "support", "12 of 12", "transform"),
    (lambda n: fitted("sample", n=n), "n", 0, WHOLE, "0", ""),
    (lambda seed: fitted("pairs", n=2, seed=seed), "seed", 0.5, WHOLE, "0.5", ""),
    # data
    (tensors, "array", np.zeros((2, 2, 2, 2, 2)), "shape", r"\(2, 2, 2, 2, 2\)", ""),
    (tensors, "array", ROWS[:0], "at least one row", r"\(0, 3\)", ""),
    (tensors, "labels", [0.5] * 30, WHOLE, r"0\.5", "round"),
    (tensors, "labels", [0], "30 whole", r"\(1,\)", ""),
    (tensors, "classes", "ab", "list of names", "'ab'", ""),
    (tensors, "classes", [1, 2], "text", "1", "names"),
    (tensors, "value_range", (1, 0), "black", r"\(1, 0\)", ""),
    (tensors, "value_range", (0, 1e-320), "black", r"\(0, 1e-320\)", ""),
    (tensors, "value_range", 3, "black", "3", ""),
    (tensors, "name", 3, "text", "3", ""),
    (aeot.images, "folder", 3, "path", "3", ""),
    (aeot.images, "folder", "nowhere", "folder of images", "nowhere", ""),
    (aeot.dataset, "name", "mnits", "'mnist'", "'mnits'", "did you mean 'mnist'"),
    (lambda split: aeot.dataset("digits", split=split), "split", "tset", "'test'", "'ts", "test"),
    (lambda download: aeot.dataset("digits", download=download), "download", 1, "True", "1", ""),
    (lambda b: aeot.unpaired(ROWS, b), "b", X4, "rows of shape", r"\(4,\)", ""),
    (batches, "data", 3, "shape", r"\(\)", ""),
    (batches, "batch_size", 0, WHOLE, "0", ""),
    (batches, "seed", -1, WHOLE, "-1", ""),
    (rows, "start", -1, WHOLE, "-1", ""),
    (aeot.to_uint8, "images", "x", "numeric", "str", ""),
    (lambda images: resize(images, 8), "images", torch.zeros(8, 8), "uint8", r"\(8, 8\)", ""),
    (toy, "name", "grd", "'grid'", "'grd'", "did you mean 'grid'"),
    (lambda n: toy("grid", n), "n", 0, WHOLE, "0", ""),
    # models
    (AEOT, "data", NAN, "finite", r"\(2, 1\)", "drop"),
    (AEOT, "tol", 0, "> 0", "0", ""),
    (AEOT, "extension", "afine", "'affine'", "'afine'", "did you mean 'affine'"),
    (AEOT, "engine", "x", "one of", "'x'", ""),
    (AEOT, "sharpen", "no", "True or False", "'no'", ""),
    (AEOT, "max_angle", -1, "> 0", "-1", ""),
    (AEOT, "device", "abacus", "device", "'abacus'", "cpu"),
    (AE, "architecture", "mpl", "'mlp'", "'mpl'", "did you mean 'mlp'"),
    (AE, "latent_dim", 2.5, WHOLE, "2.5", ""),
    (AE, "steps", "x", WHOLE, "'x'", ""),
    (GAN, "batch_size", 0, WHOLE, "0", ""),
    (GAN, "seed", None, WHOLE, "None", ""),
    (GAN, "steps", -1, WHOLE, "-1", ""),
    (GAN, "learning_rate", 0, "> 0", "0", ""),
    (GAN, "betas", (0.5,), r"two numbers", r"\(0.5,\)", ""),
    (GAN, "precision", "float16", "'bfloat16'", "'float16'", "did you mean"),
    (GAN, "checkpoint", 3, "path", "3", ""),
    (VAE, "latent_dim", 0, WHOLE, "0", ""),
    (FLOW, "data", [], "at least one row", r"\(0,\)", ""),
    (Pixels, "size", 0, WHOLE, "0", ""),
    # measures of quality, and comparisons
    (lambda k: metrics.prdc(ROWS, ROWS, k=k), "k", 0, WHOLE, "0", ""),
    (lambda reference: metrics.prdc(ROWS, reference), "reference", X, "3 columns", "2", ""),
    (lambda generated: metrics.prdc(generated, ROWS), "generated", "x", "numeric", "str", ""),
    (compared, "metrics", "fd", "list of names", "'fd'", ""),
    (compared, "repeats", 0, WHOLE, "0", ""),
    (compared, "features", 3, "Classifier", "3", ""),
    (compared, "facts", [1], "map names", r"\[1\]", ""),
    (compared, "n_samples", -1, WHOLE, "-1", ""),
    # what every fit takes beside its data
    (AE, "checkpoint", 3, "path", "3", ""),
    (AE, "log", b"x", "path", "b'x'", ""),
    (AE, "on_step", 3, "callable", "3", ""),
    (AE, "progress", "no", "True or False", "'no'", ""),
    (AE, "log", "\ud800", "path", "ud800", "whole characters"),
    (AEOT, "on_step", [], "callable", r"\[\]", ""),
    (AEOT, "checkpoint", "a" * 300, "255 bytes", "aaa", "shorter"),
    (GAN, "on_step", 3, "callable", "3", ""),
    (GAN, "log", 3, "path", "3", ""),
    (GAN, "progress", 1, "True or False", "1", ""),
    (FLOW, "on_step", "x", "callable", "'x'", ""),
    (transported, "on_step", 3, "callable", "3", ""),
    (transported, "checkpoint", 3, "path", "3", ""),
    (transported, "autoencoder", 3, "an? Autoencoder", "3", ""),
    (transported, "steps", "x", WHOLE, "'x'", ""),
    (lambda x: SHIFTED.translate(x), "x", GRAY, "rows of shape", r"\(4, 1, 8, 8\)", ""),
    (lambda x: SHIFTED.translate(x), "x", 255 * (BIG + 1), r"\[-1, 1\]", "50", "value_range"),
    (lambda to: SHIFTED.translate(BIG, to=to), "to", "c", "'b'", "'c'", ""),
    (lambda to: PAIRED.translate(BIG, to=to), "to", BIG, "'b'", "array", ""),
    (lambda noise: PAIRED.translate(BIG, noise=noise), "noise", "no", "True or False", "'no'", ""),
    (lambda x: PAIRED.translate(x), "x", GRAY[0], "shape", r"\(1, 8, 8\)", ""),
    (transported, "data", IMAGES, "unpaired", "ndarray", ""),
    # fitted models called with what does not fit them
    (SMALL.sample, "n", 0, WHOLE, "0", ""),
    (SMALL.sample, "n", 2.0, WHOLE, "2.0", ""),
    (SMALL.sample, "n", 10**12, "fill the memory", "10+", "parts"),
    (lambda seed: SMALL.sample(2, seed=seed), "seed", "x", WHOLE, "'x'", ""),
    (SMALL.draw, "n", 10**13, "fill the memory", "10+", "parts"),
    (SMALL.encode, "data", X, "shape", r"\(12, 2\)", ""),
    (SMALL.encode, "data", "x", "numeric", "str", ""),
    (SMALL.decode, "codes", ROWS, "2 columns", "3", ""),
    (SMALL.decode, "codes", NAN, "finite", r"\(2, 1\)", "drop"),
    (coded, "on_step", 3, "callable", "3", ""),
    (coded, "checkpoint", 3, "path", "3", ""),
    (coded, "masses", [1], r"\(30,\)", r"\(1,\)", ""),
    (lambda start: SMALL.interpolate(start, ROWS[0]), "start", X[0], r"\(3,\)", r"\(2,\)", ""),
    (lambda end: SMALL.interpolate(ROWS[0], end), "end", None, "numeric", "None", ""),
    (lambda n: SMALL.interpolate(ROWS[0], ROWS[1], n), "n", 1, WHOLE, "1", ""),
    (SMALL.save, "path", 3, "path", "3", ""),
    (SMALL.save, "path", "a" * 300, "255 bytes", "aaa", "shorter"),
    (SMALL.autoencoder_.error, "data", ROWS[:0], "at least one row", "none", ""),
    (SMALL.autoencoder_.error, "data", None, "numeric", "None", ""),
    (DRAWN.sample, "n", 10**12, "fill the memory", "10+", "parts"),
    (lambda seed: DRAWN.sample(2, seed=seed), "seed", 0.5, WHOLE, "0.5", ""),
    (aeot.GAN.load, "path", "nowhere", "saved model", "nowhere", ""),
    (BOX.sample, "n", 10**12, "fill the memory", "10+", "parts"),
    (lambda n: fitted("sample", n=n), "n", 10**12, "fill the memory", "10+", "parts"),
    (drawn, "n", 10**12, "fill the memory", "10+", "parts"),
    (lambda n: toy("grid", n), "n", 10**12, "fill the memory", "10+", "parts"),
    # sizes beyond float64
    (aeot.ConvexPolygon, "vertices", CORNERS * 1e-300, "span", "1e-300", "length"),
    (aeot.Polygon, "vertices", CORNERS * 1e100, "span", "e.100", "length"),
    (sampled, "source", BOX4_TINY, "more than one point", "1e-149", "length"),
    (sampled, "source", aeot.UniformBall(dim=4, radius=1e300), "1e154", r"e\+299", "length"),
    # pictures
    (pictures.image_grid, "images", None, "numeric", "None", ""),
    (pictures.image_grid, "images", IMAGES, "1 or 3 channels", r"\(12, 8, 8\)", ""),
    (pictures.image_grid, "images", GRAY * np.nan, "finite", "NaN", "drop"),
    (pictures.image_grid, "images", 255 * (GRAY + 1), r"\[-1, 1\]", "255", "uint8"),
    (grid, "columns", 0, WHOLE, "0", ""),
    (grid, "columns", 2.5, WHOLE, "2.5", ""),
    (grid, "title", 3, "text", "3", ""),
    (grid, "path", 3, "path", "3", ""),
    (grid, "path", "picture", "end in", "'picture'", ""),
    (grid, "path", "picture.mp3", "end in", "mp3", ""),
    (pictures.side_by_side, "groups", [GRAY], "map names", "array", ""),
    (pictures.side_by_side, "groups", {3: GRAY}, "text", "3", ""),
    (pictures.point_clouds, "groups", None, "map names", "None", ""),
    (pictures.training_curves, "curves", [1, 2], "map names", r"\[1, 2\]", ""),
    (pictures.training_curves, "curves", {"a": ([1, 2], [1])}, "one length", r"\(1,\)", ""),
    (curves, "marks", {"a": "x"}, "finite number", "'x'", ""),
    (transport.power_diagram, "diagram", 3, "PowerDiagram", "3", "aeot.power_diagram"),
    (lambda ax: transport.power_diagram(DIAGRAM, ax=ax), "ax", 3, "axes", "3", ""),
    (lambda colours: transport.power_diagram(DIAGRAM, colours=colours), "colours", X, "3", "2", ""),
    (dual, "singular", [1], "boolean mask", "int", ""),
    (lambda times: transport.displacement(DIAGRAM, times), "times", [2], "<= 1", "2", ""),
    (lambda times: transport.displacement(DIAGRAM, times), "times", 0.5, "tuple", "0.5", ""),
    (lambda azimuth: transport.potential(DIAGRAM, azimuth=azimuth), "azimuth", "x", "num", "x", ""),
    (lambda cells: transport.cell_hits([1, 2], cells, [1, 2]), "cells", [1], r"2,", r"1,", ""),
    (torn.modes, "singular", 3, "SingularSet", "3", "find_singularities"),
    (torn.jumps, "singular", DIAGRAM, "SingularSet", "PowerDiagram", "find_singularities"),
    (lambda codes: torn.modes(CUT, codes=codes), "codes", X4, "2 columns", "4", ""),
    (lambda breaks: torn.crossing(GRAY, GRAY, breaks=breaks), "breaks", [2], "<= 1", "2", ""),
    (translation.image_rows, "rows", GRAY, "map names", "ndarray", ""),
    (lambda model: translation.translations(model, GRAY), "model", "x", "translate", "'x'", ""),
    (lambda a: translation.translations(DOUBLES, a), "a", "x", "numeric", "str", ""),
    (comparison.prd_curves, "found", {}, "Comparison", r"\{\}", "compare"),
    (comparison.sample_rows, "found", None, "Comparison", "None", "compare"),
    (lambda reports: translation.hiding(reports), "reports", {"a": {}}, "examine", "{}", "examine"),
    (lambda model: runs.by_class(model, LABELLED), "model", 3, "an AEOT", "3", ""),
    (lambda data: runs.by_class(SMALL, data), "data", ROWS, "with labels", "ndarray", ""),
    (lambda hits: transport.cell_hits(hits, [], []), "hits", [], r"shape \(k,\)", r"\(0,\)", ""),
    # what images are measured by
    (describe, "extractor", 3, "Classifier or a module", "3", "Pixels"),
    (lambda extractor: extract(extractor, GRAY), "extractor", "x", "Classifier", "'x'", "Pixels"),
    (lambda images: extract(Pixels(), images), "images", X, "uint8", "ndarray", "uint8"),
    (lambda images: extract(Pixels(), images), "images", torch.rand(4, 3), "C, H, W", r"3,", ""),
    (classified, "data", aeot.tensors(IMAGES), "labelled", "without labels", "Pixels"),
    (classified, "epochs", 0, WHOLE, "0", ""),
    (classified, "learning_rate", 1e300, "<= 1e.06", "1e.300", ""),
    (classified, "channels", 10**12, "memory of this machine", "10+, which", "lower"),
    # sizes that no memory holds, rates that no number holds, images of other sides
    (AE, "latent_dim", 10**12, "memory of this machine", "10+, which", "lower"),
    (AE, "width", 10**15, "memory of this machine", "10+, which", "lower"),
    (AE, "learning_rate", 1e12, "<= 1e.06", "10+", ""),
    (AE, "decoder_rate", 1e300, "<= 1e.06", "1e.300", ""),
    (AEOT, "latent_dim", 10**12, "memory of this machine", "10+, which", "lower"),
    (AEOT, "learning_rate", 1e12, "<= 1e.06", "10+", ""),
    (GAN, "latent_dim", 10**12, "memory of this machine", "10+, which", "lower"),
    (GAN, "hidden", 10**18, "memory of this machine", "10+, which", "lower"),
    (GAN, "batch_size", 10**12, "fill the memory", "10+", "smaller"),
    (VAE, "latent_dim", 10**12, "memory of this machine", "10+, which", "lower"),
    (GLO, "latent_dim", 10**12, "memory of this machine", "10+, which", "lower"),
    (GLO, "code_rate", 1e300, "<= 1e.06", "1e.300", ""),
    (GLO, "data", np.zeros((4, 6, 6)), "divisible by 4", "6 x 6", "resize"),
    (GLANN, "noise_dim", 10**12, "memory of this machine", "10+, which", "lower"),
    (GLANN, "mapping_share", 2, "<= 1", "2", ""),
    (IMLE, "mapping_rate", 0, "> 0", "0", ""),
    (IMLE, "noise_dim", 10**12, "memory of this machine", "10+, which", "lower"),
    (FLOW, "hidden", 10**12, "memory of this machine", "10+, which", "lower"),
    (FLOW, "layers", 10**12, "<= 1000", "10+", ""),
    (FLOW, "integration_steps", 0, WHOLE, "0", ""),
    (FLOW, "data", IMAGES, "vectors", r"\(1, 8, 8\)", "codes"),
    (AE, "data", np.zeros((4, 6, 6)), "divisible by 4", "6 x 6", "resize"),
    (VAE, "data", np.zeros((4, 6, 6)), "divisible by 4", "6 x 6", "resize"),
    (GAN, "data", np.zeros((4, 6, 6)), "divisible by 4", "6 x 6", "resize"),
    (estimator(aeot.CycleGAN), "enlarge", 10**30, "<= 8", "10+", ""),
    (lambda batch_size: next(indices(4, batch_size)), "batch_size", 10**12, "fill", "10+", "small"),
    # formulas
    (lambda std: metrics.mode_coverage(ROWS, ROWS, std), "std", GRAY, "number or 3", "4, 1", ""),
    (partial(metrics.sliced_wasserstein, ROWS, ROWS), "projections", 10**12, "fill", "10+", "few"),
    (partial(metrics.class_divergence, [0], [0]), "classes", 10**12, "fill", "10+", "fewer"),
    (partial(metrics.prd_from_histograms, [1], [1]), "angles", 10**12, "fill", "10+", "fewer"),
    # comparisons and pages
    (compared, "facts", X, "map names", "ndarray of", ""),
    (compared, "features", X, "Classifier", "ndarray of", "leave it out"),
    (merge, "comparisons", X, "list", "ndarray", ""),
    (merge, "comparisons", [3], "a Comparison", "3", "compare"),
    (paged, "sources", X, "map names", "ndarray", ""),
    (paged, "sources", {"a": 3}, "AEOT or a Comparison", "3", "fit"),
    (paged, "training", {"a": ROWS}, "a Dataset", "ndarray", "tensors"),
    (paged, "title", 3, "text", "3", ""),
    (paged, "picture", "tsn", "'tsne'", "'tsn'", "did you mean"),
    (paged, "shown", 0, WHOLE, "0", ""),
    (paged, "path", 3, "path", "3", ""),
    # what theory predicts of adversarial models
    (adapted, "source_predictions", [0, 1], r"\(k, n\)", r"\(2,\)", ""),
    (adapted, "source_labels", [0], r"\(2,\)", r"\(1,\)", ""),
    (adapted, "target_predictions", [[0], [1, 2]], "array of classes", "", ""),
    (adapted, "target_labels", torch.zeros(2, device="meta"), "values", "meta", ""),
    (told_apart, "seed", -1, WHOLE, "-1", ""),
    (critic_between, "real", 3, "callable as draw", "3", "randint"),
    (critic_between, "rate", 1e300, "<= 1e.06", "1e.300", ""),
    (critic_between, "leak", 10**30, "<= 1e.06", "10+", ""),
    (critic_between, "hidden", 10**12, "fill the memory", "10+", "smaller"),
    (critic_between, "batch_size", 10**12, "fill the memory", "10+", "smaller"),
    (lambda critic: critics.slopes(critic, X), "critic", 3, "callable", "3", ""),
    (lambda real: critics.estimate(CRITIC, real, X), "real", "x", "numeric", "str", ""),
    (lambda fake: critics.saturation(CRITIC, X, fake), "fake", NAN, "finite", "index", "drop"),
    (lambda points: critics.slopes(CRITIC, points), "points", X[0], "shape", r"\(2,\)", ""),
    (lambda directions: critics.alignment(CRITIC, X, directions), "directions", [1.0], r"\(2,\)",
     r"\(1,\)", ""),
    (lambda value: critics.corrected(value, 1.0), "value", None, "finite number", "None", ""),
    (lambda n: critics.shortest_paths(n, [[0, 1]], [1.0]), "n", 10**9, "fill", "10+", "smaller"),
    (frequency.spectrum, "images", ROWS, "B, C, H, W", r"\(30, 3\)", ""),
    (partial(frequency.spectrum, GRAY), "n_bands", 10**12, "fill", "10+", "fewer"),
    (split, "target", BIG, r"\(4, 1, 8, 8\)", r"\(4, 1, 16, 16\)", ""),
    (contrast, "function", 3, "callable", "3", ""),
    (contrast, "gain", "x", "finite number", "'x'", ""),
    (lambda gain: contrast(gain=gain, offset=0), "gain", 1, "change", "1, and offset 0", "another"),
    (games.flow_matrix, "alpha", None, "finite number", "None", ""),
    (games.spectral_radius, "matrix", X, "square", r"\(12, 2\)", ""),
    (circling, "rate", "x", "finite number", "'x'", ""),
    (circling, "steps", 10**12, "fill the memory", "10+", "fewer"),
    (circling, "critic_steps", -1, WHOLE, "-1", ""),
    (spread, "draw", 3, "callable", "3", ""),
    (spread, "n_draws", 10**12, "fill the memory", "10+", "fewer"),
    (SENSITIVE, "to_b", 3, "callable", "3", ""),
    (SENSITIVE, "levels", [2, 1], "rise", r"\[2.0, 1.0\]", "sort"),
    (SENSITIVE, "seed", "x", WHOLE, "'x'", ""),
    (DROPPED, "x", None, "numeric", "None", ""),
    (DROPPED, "sigma", 0, "> 0", "0", ""),
    (lambda y: HONEST(y=y), "y", GRAY[:2], "4 partners", "2", ""),
    (LOW, "cutoffs", ["x"], "numeric", "list", ""),
    (LOW, "cutoffs", [-1], ">= 0", r"-1", ""),
    (lambda other: SWAPPED(other=other), "other", BIG, "shape of x", "16, 16", ""),
    (EXAMINED, "x", GRAY[:1], "2 image", "1", ""),
    (EXAMINED, "partners", GRAY[:2], "as many", "2", ""),
    (hidden.cheating_pair, "amplitude", 3, "<= 1", "3", ""),
    (hidden.linear_pair, "matrix", np.zeros((2, 2)), "inverse", r"\(2, 2\)", ""),
    (lambda wanted: weights.identity_shift(wanted, 1.0), "wanted", "x", "finite", "'x'", ""),
]  # fmt: skip


def name_of(case):
    value = case[2]
    short = str(value)[:12] if isinstance(value, (int, float, str)) else type(value).__name__
    call = getattr(case[0], "func", case[0])  # of a partial
    return f"{getattr(call, '__name__', type(call).__name__)}-{case[1]}-{short}"


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_one_error_names_argument_value_and_remedy(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, argument, value, must, got, way_out = case
    with pytest.raises(ValueError, match=rf"^{re.escape(argument)}(\[\S+\])? ") as caught:
        call(**{argument: value})
    message = str(caught.value)
    requirement, came = message.split(", got ", 1)
    assert re.search(must, requirement), message
    assert re.search(got, came.split("; ")[0]), message
    assert re.search(way_out, message.split(", got ", 1)[1]), message
    assert "\n" not in message
    assert len(message) < 400
    assert not list(tmp_path.iterdir()), "a refused call leaves nothing behind"


UNFITTED = [
    lambda: aeot.SemiDiscreteOT().transform(X),
    lambda: aeot.SemiDiscreteOT().sample(),
    lambda: aeot.AEOT().sample(1),
    lambda: aeot.AEOT().encode(ROWS),
    lambda: aeot.AEOT().fit_transport(ROWS),
    lambda: aeot.Autoencoder().decode(ROWS),
    lambda: aeot.GAN().sample(1),
    lambda: aeot.VAE().count_parameters(),
    lambda: aeot.CycleGAN().translate(IMAGES, to="b"),
    lambda: aeot.TransportTranslator().translate(IMAGES),
    lambda: Classifier().save("nowhere"),
]


@pytest.mark.parametrize("call", UNFITTED)
def test_unfitted_estimators_say_so(call):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        call()


def test_the_corpus_is_large():
    assert len(CASES) + len(UNFITTED) >= 330


def test_tensors_with_gradients_are_taken_as_numbers():
    sites = torch.tensor(X, requires_grad=True)
    masses = torch.tensor(MASSES, requires_grad=True)
    assert aeot.solve_exact(BOX, sites, masses).converged
    heights = torch.tensor(HEIGHTS, requires_grad=True)
    cut = aeot.find_singularities(aeot.BrenierMap(BOX, sites, heights))
    assert torch.equal(cut.components, aeot.find_singularities(MAP).components)
    rows = torch.tensor(ROWS, requires_grad=True)
    for model in (aeot.VAE(latent_dim=2, width=4), aeot.GAN(latent_dim=2, hidden=4)):
        assert not model.fit(rows, steps=1).sample(2).requires_grad


def test_vectors_have_the_likelihood_that_fits_them_unless_another_was_asked_for():
    assert aeot.VAE(latent_dim=2, width=4).fit(ROWS, steps=1).sample(2).shape == (2, 3)
    with pytest.raises(ValueError, match="likelihood must be 'gaussian' for vectors, got 'bern"):
        aeot.VAE(latent_dim=2, likelihood="bernoulli").fit(ROWS, steps=1)


def test_a_small_set_of_labelled_images_needs_no_test_set_of_its_own():
    data = aeot.tensors(IMAGES, labels=[0, 1] * 6)  # a tenth of it is one image, of one class
    assert Classifier(channels=2, width=4, epochs=1).fit(data).accuracy_ in (0.0, 1.0)


@pytest.mark.parametrize("answer", [None, torch.zeros(3), torch.full((4, 1, 8, 8), torch.nan)])
def test_a_translator_that_returns_no_images_is_named(answer):
    for way in ("to_b", "to_a"):
        with pytest.raises(ValueError, match=rf"^{way}\(images\) must "):
            SENSITIVE(**{way: lambda images: answer})


def test_instruments_take_any_numbers():
    lists, tensor = X.tolist(), torch.tensor(X, dtype=torch.float32, requires_grad=True)
    for points in (lists, pd.DataFrame(X), tensor, np.asfortranarray(X)):
        torch.testing.assert_close(critics.slopes(CRITIC, points), critics.slopes(CRITIC, tensor))
    said = torch.tensor([[0, 1, 1], [1, 1, 0]])
    names = np.array(["cat", "dog"])[said.numpy()]
    bounds = [adaptation.adaptation_bound(s, s[0], s, s[1]).bound for s in (said, names)]
    assert np.array_equal(*bounds)


def test_labels_without_names_have_a_row_for_each_class():
    model = aeot.AEOT(latent_dim=2, tol=0.5, device="cpu").fit(LABELLED, steps=2)
    assert runs.by_class(model, LABELLED, columns=2).axes


def test_dollars_in_the_names_of_pictures_are_no_mathematics():
    odd = "$\\nothing$ \N{PILE OF POO}"
    pictures.image_grid(GRAY, title=odd).canvas.draw()
    pictures.point_clouds({odd: X}).canvas.draw()
    pictures.training_curves({odd: ([0, 1], [1.0, 0.5])}, marks={odd: 1}).canvas.draw()
    figure = translation.image_rows({odd: GRAY}, title=odd)
    figure.canvas.draw()
    assert {text.get_text() for text in figure.texts} == {odd}


@pytest.mark.parametrize("kind", [aeot.AEOT, aeot.VAE, aeot.CycleGAN, aeot.Autoencoder])
def test_a_model_of_another_kind_is_not_loaded(kind, tmp_path):
    DRAWN.save(tmp_path / "m \N{PILE OF POO} \xe9")
    with pytest.raises(ValueError, match=rf"holds a 'GAN', not a '{kind.__name__}'"):
        kind.load(tmp_path / "m \N{PILE OF POO} \xe9")
