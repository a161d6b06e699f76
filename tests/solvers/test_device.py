"""A solve that stays where the samples are, made to do so on the CPU by the torch engine."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import aeot
from aeot import generator
from aeot.measures import Gaussian, UniformBall, UniformBox
from aeot.solvers import certificate

OPTIONS = {"progress": False, "threads": 1}
# Source, sites, tolerance, and how far heights may be apart, of their spread. Scores are rounded
# otherwise, and weights of facets are whole numbers. Of the many samples of the first problem some
# tie for float32; one of them, counted elsewhere, moves all steps that follow a little.
PROBLEMS = {
    "halves": (UniformBox(dim=10), 600, 0.08, 1e-3),
    "whole points": (UniformBall(dim=5), 150, 0.05, 3e-6),
    "uneven": (Gaussian(dim=7), 200, 0.06, 1e-6),
}


def sites_of(source, n):
    return torch.randn(n, source.dim, generator=generator(n), dtype=torch.float64)


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_finds_the_heights_that_numba_finds_from_the_same_points(name):
    source, n, tol, apart = PROBLEMS[name]
    y, masses = sites_of(source, n), None
    if name == "uneven":
        masses = torch.rand(n, generator=generator(1), dtype=torch.float64) + 0.2
        masses /= masses.sum()
    a, b = (
        aeot.solve_semidiscrete(source, y, masses, tol=tol, engine=engine, **OPTIONS)
        for engine in ("numba", "torch")
    )
    assert a.converged
    assert b.converged
    assert (a.engine, b.engine) == ("numba", "torch")
    spread = float(a.heights.max() - a.heights.min())
    assert float((a.heights - b.heights).abs().max()) < apart * spread
    assert torch.allclose(a.cell_centroids, b.cell_centroids, atol=30 * apart)
    assert a.cell_variance == pytest.approx(b.cell_variance, rel=30 * apart)
    assert (a.cell_masses - b.cell_masses).abs().sum() < 30 * apart


def test_no_more_than_vectors_of_the_sites_cross_to_the_host(monkeypatch):
    """Who asks torch for numbers, and for how many: counts, samples, facets stay where they are."""
    source, n = UniformBox(dim=10), 520
    crossed = {}

    def watched(name):
        method = getattr(torch.Tensor, name)

        def call(self, *args, **kwargs):
            frame = sys._getframe(1)
            while "aeot" not in Path(frame.f_code.co_filename).parts:
                frame = frame.f_back
                if frame is None:
                    return method(self, *args, **kwargs)
            place = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
            crossed[place] = max(crossed.get(place, 0), self.numel())
            return method(self, *args, **kwargs)

        return call

    for name in ("cpu", "numpy", "tolist", "__array__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, watched(name))
    s = aeot.solve_semidiscrete(source, sites_of(source, n), tol=0.1, engine="torch", **OPTIONS)
    assert s.converged
    stages = {r["stage"] for r in s.history}
    assert stages >= {"coarse", "settle", "grow", "stream"}
    large = {place for place, numel in crossed.items() if numel > n}
    # The sites as the caller gave them are looked at before anything is drawn; clusters of sites,
    # of which there are few, are put right on the host; and on a CPU numpy compares the batches.
    # Of these comparisons comes a number for every two batches, however many sites there are.
    assert crossed["certificate.<genexpr>"] == max(certificate.BATCHES**2, n)
    assert large <= {
        "solve.solve_semidiscrete",
        "solve._composed",
        "arrays._table",
        "_io.digest",
        "clusters.<genexpr>",
        "certificate._between",
        "certificate.<genexpr>",
    }, crossed


def test_what_a_gpu_makes_of_the_counts_is_what_numpy_makes(monkeypatch):
    g = generator(0)
    counts = torch.randint(50, (certificate.BATCHES, 300), generator=g)
    masses = torch.rand(300, generator=g, dtype=torch.float64)
    masses = (masses / masses.sum()).numpy()
    products, mean, noise = certificate._between(counts, masses)
    share = counts.numpy() / counts.numpy().sum(1, keepdims=True)
    root = np.sqrt(masses)
    scaled = (share - masses) * np.sqrt(root.sum() / root)
    assert np.allclose(products, scaled @ scaled.T, rtol=1e-12)
    assert np.allclose(mean, scaled.mean(0), rtol=1e-12)
    assert noise == pytest.approx(share.var(0, ddof=1).sum() / certificate.BATCHES, rel=1e-12)


def test_a_stopped_solve_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path):
    source, n = UniformBox(dim=10), 600
    y = sites_of(source, n)
    options = {"tol": 0.08, "engine": "torch", "checkpoint": tmp_path / "s", **OPTIONS}
    whole = aeot.solve_semidiscrete(source, y, **(options | {"checkpoint": None}))
    for stage in ("settle", "stream"):  # stopped twice
        aeot.solve_semidiscrete(source, y, **options, on_step=lambda r, s=stage: r["stage"] == s)
    again = aeot.solve_semidiscrete(source, y, **options)
    assert torch.equal(again.heights, whole.heights)
    assert torch.equal(again.cell_centroids, whole.cell_centroids)


@pytest.mark.slow
@pytest.mark.parametrize("k", range(10))
def test_it_certifies_random_problems(k):
    """Ten problems as `benchmarks/bench_transport.py tolerances` makes them, of fewer sites."""
    rng = np.random.default_rng([20, k])
    d = round(float(np.exp(rng.uniform(np.log(4), np.log(64)))))
    n = round(float(np.exp(rng.uniform(np.log(100), np.log(1000)))))
    modes = int(rng.integers(1, 20))
    centres = rng.uniform(0, 3) * rng.normal(size=(modes, d))
    sites = centres[rng.integers(modes, size=n)] + rng.normal(size=(n, d)) * rng.uniform(0.2, 1)
    masses = rng.dirichlet(np.ones(n)) + 1e-3 / n if k % 2 else np.ones(n)
    masses = torch.from_numpy(masses / masses.sum())
    source = UniformBox(dim=d) if rng.uniform() < 0.5 else Gaussian(dim=d)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = aeot.solve_semidiscrete(
            source, sites, masses, tol=0.05, method="newton", engine="torch", seed=k, **OPTIONS
        )
    assert s.converged
    cells = aeot.BrenierMap(source, torch.from_numpy(sites), s.heights).cell(
        source.sample(60 * n, generator=generator(k, "judge"))
    )
    error = (cells.bincount(minlength=n) / (60 * n) - masses).abs().sum() / 2
    assert float(error) < 0.05 + 0.4 / 60**0.5 * 1.5  # and what 60 points a site are off by
