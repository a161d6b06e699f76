import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from aeot.measures import UniformBox
from aeot.solvers.certificate import BATCHES, Tally, certificate_size, certify, tally
from aeot.solvers.clusters import cluster, correct
from aeot.solvers.oracles import Bank, best_gaps, sampled
from aeot.solvers.problem import standardise
from aeot.solvers.scorer import Scorer


def bank_of(sites, masses=None, m=1 << 17, radius=1e9, split=1):
    n, d = sites.shape
    masses = torch.full((n,), 1 / n, dtype=torch.float64) if masses is None else masses
    p = standardise(UniformBox(dim=d), sites, masses, 0)
    scorer = Scorer(p, split=split)
    h = torch.zeros(n, dtype=torch.float64)
    blocks = range(scorer.blocks_for(m))
    lists = scorer.candidates(h, "t", blocks, radius=radius, least=1, longest=n)
    return p, scorer, Bank(p, scorer.engine, lists, sum(x.n_samples for x in lists))


def test_masses_and_energy_of_lists_are_those_of_fresh_scores():
    sites = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, scorer, bank = bank_of(sites, m=1 << 14)
    h = 0.3 * torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    listed = bank.evaluate(h)
    fresh = sampled(scorer, "t", range(scorer.blocks_for(1 << 14)))(h)
    # The same samples: only ties and float32 rounding differ.
    assert float((listed.masses - fresh.masses).abs().sum()) < 1e-3
    assert listed.energy == pytest.approx(fresh.energy, abs=1e-5)


def test_gradient_is_the_slope_of_the_energy():
    sites = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, _, bank = bank_of(sites)
    g = torch.Generator().manual_seed(2)
    h = 0.2 * torch.randn(20, generator=g, dtype=torch.float64)
    v = torch.randn(20, generator=g, dtype=torch.float64)
    t = 1e-2
    slope = (bank.evaluate(h + t * v).energy - bank.evaluate(h - t * v).energy) / (2 * t)
    exact = float(bank.evaluate(h).gradient @ v)
    # The energy is quadratic up to O(t^2) between two samples' kinks.
    assert slope == pytest.approx(exact, abs=5e-3)


def test_laplacian_is_the_facet_mass_over_the_distance():
    # Two slabs of the unit cube: the facet is a unit square, d w_0 / d h_1 = -1 / |y_0 - y_1|.
    sites = torch.tensor([[0.0, 0, 0, 0], [0.8, 0, 0, 0]], dtype=torch.float64)
    p, _, bank = bank_of(sites)
    h = p.to_standard(torch.tensor([0.2, -0.2], dtype=torch.float64))
    matrix = bank.evaluate(h, 0.2).hessian.toarray() / p.scale
    expected = np.array([[1, -1], [-1, 1]]) / 0.8
    assert np.abs(matrix - expected).max() < 0.02 * 1.25  # 2 % of counting noise


def test_laplacian_predicts_the_change_of_the_masses():
    sites = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, _, bank = bank_of(sites, m=1 << 19)
    h = -0.3 * bank.problem.sites.double().square().sum(1)
    v = torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = 0.05
    change = (bank.evaluate(h + t * v).masses - bank.evaluate(h - t * v).masses) / (2 * t)
    matrix = bank.evaluate(h, 0.1).hessian
    predicted = matrix @ v.numpy()
    assert np.abs(change.numpy() - predicted).sum() < 0.1 * np.abs(predicted).sum()
    assert abs(matrix.sum(1)).max() < 1e-12
    assert (abs(matrix - matrix.T)).max() < 1e-12


def test_near_duplicates_get_a_narrow_band():
    base = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sites = torch.cat([base, base[:1] + 1e-2])
    _, _, bank = bank_of(sites, m=1 << 16)
    h = -0.3 * bank.problem.sites.double().square().sum(1)
    apart = float((bank.problem.sites[0] - bank.problem.sites[30]).norm())
    facet = -bank.evaluate(h, 0.5).hessian[0, 30] * apart
    # The two share a facet through the middle of their cell, of surface about one; a band of
    # 0.5 would count the whole cell, whose gap is below 0.05, as if it were spread over 0.5.
    wide = -bank.evaluate(h, 1e-9 + 0.87 * apart).hessian[0, 30] * apart
    assert facet == pytest.approx(wide, rel=0.05)


def test_cells_with_wide_gaps_have_units_of_their_own():
    # Two near sites and a far one in R^4: gaps are wide where the far one wins.
    sites = torch.tensor([[0.0, 0, 0, 0], [0.5, 0, 0, 0], [0, 60.0, 0, 0]], dtype=torch.float64)
    p, scorer, bank = bank_of(sites, m=1 << 14)
    h = p.to_standard(torch.tensor([0.25, 0.0, -40.0], dtype=torch.float64))
    unit = bank.gap_scale(h)
    z = torch.cat([scorer.draw("t", k).points() for k in range(scorer.blocks_for(1 << 14))])
    best = (z.double() @ p.sites.double().T + h).sort(1, descending=True)
    gap = best.values[:, 0] - best.values[:, 1]
    means = torch.stack([gap[best.indices[:, 0] == k].mean() for k in range(3)])
    units = bank.units(h, unit)
    assert units[:2].tolist() == [unit, unit]
    assert float(means[2]) > 8 * unit
    assert float(units[2]) == pytest.approx(float(means[2]) / 4, rel=0.01)


def test_a_band_may_be_wider_for_one_cell_than_for_another():
    sites = torch.tensor([[0.0, 0, 0, 0], [0.8, 0, 0, 0]], dtype=torch.float64)
    p, _, bank = bank_of(sites)
    h = p.to_standard(torch.tensor([0.2, -0.2], dtype=torch.float64))
    widths = torch.tensor([0.2, 0.05], dtype=torch.float64)
    matrix = bank.evaluate(h, widths).hessian.toarray() / p.scale
    assert np.abs(matrix - np.array([[1, -1], [-1, 1]]) / 0.8).max() < 0.03 * 1.25


PIECES = """
import torch
from aeot.measures import UniformBox
from aeot.search.engines import bind
from aeot.search.planes import CandidateLists
from aeot.solvers.oracles import Bank
from aeot.solvers.problem import standardise
def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024
def bank(n, pieces, m):
    generator = torch.Generator().manual_seed(0)
    sites = torch.rand(n, 2, dtype=torch.float64, generator=generator)
    p = standardise(UniformBox(dim=2), sites, torch.full((n,), 1 / n).double(), 0)
    value = torch.tensor([0.0, -1e-4]).repeat(m)
    arrays = torch.arange(m + 1) * 2, value, torch.full((m,), -1.0)
    listed = [torch.randperm(n, generator=generator)[: 2 * m].int() for _ in range(pieces)]
    h = torch.zeros(n, dtype=torch.float64)
    lists = [CandidateLists(h, arrays[0], site, *arrays[1:], 0.0) for site in listed]
    return Bank(p, bind("numba", p.sites), lists, pieces * m), h
few, h = bank(100, 2, 40)
few.evaluate(h, 0.1)
many, h = bank(1_000_000, 150, 2000)
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts from here
many.evaluate(h, 0.1)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_no_vector_of_all_sites_stays_behind_in_the_heap_for_each_piece_of_lists():
    """150 pieces, of a million sites: 8 MB each if one were made between what is kept."""
    pytest.importorskip("numba")
    found = subprocess.run([sys.executable, "-c", PIECES], check=True, capture_output=True)
    assert int(found.stdout) < 400e6


def test_best_gaps_lift_a_site_to_its_share():
    sites = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, scorer, _ = bank_of(sites, m=1)
    h = -0.3 * p.sites.double().square().sum(1)
    h[[3, 17]] -= 5.0
    blocks = range(scorer.blocks_for(1 << 14))
    counts = tally(scorer, h, "t", blocks).cell_counts
    assert counts[3] == counts[17] == 0
    for k in (3, 17):
        gaps = best_gaps(scorer, h, np.array([k]), "t", blocks, rank=np.array([4]))
        lifted = h.clone()
        lifted[k] += float(gaps) + 1e-5
        assert 3 <= tally(scorer, lifted, "t", blocks).cell_counts[k] <= 5


def test_far_sites_are_clusters_of_their_own():
    g = torch.Generator().manual_seed(0)
    sites = torch.randn(300, 5, generator=g)
    assert len(set(cluster(sites, 10, seed=0).tolist())) <= 10  # no tails, no more than asked for
    sites[[7, 90]] *= 1000
    labels = cluster(sites, 10, seed=0)
    assert (labels == labels[7]).sum() == (labels == labels[90]).sum() == 1


def test_clusters_cover_and_correction_balances_them():
    g = torch.Generator().manual_seed(0)
    sites = torch.cat([torch.randn(60, 5, generator=g), 30 + torch.randn(20, 5, generator=g)])
    p, scorer, _ = bank_of(sites.double(), m=1)
    labels = cluster(p.sites, 8, seed=0)
    assert set(labels) == set(range(labels.max() + 1))
    assert not set(labels[:60]) & set(labels[60:])
    h, before = correct(scorer, torch.zeros(80, dtype=torch.float64), labels, stage="c")
    counts = tally(scorer, h, "check", range(scorer.blocks_for(1 << 14))).cell_counts
    far = counts[60:].sum() / counts.sum()
    assert before > 0.2
    assert far == pytest.approx(0.25, abs=0.03)


def fake_tally(rng, truth, m, inflate=1):
    """Multinomial counts; `inflate` copies of every draw stand for dependent samples."""
    counts = rng.multinomial(m // inflate // BATCHES, truth, size=BATCHES) * inflate
    return Tally(torch.from_numpy(counts.astype(np.int64)), None)


@pytest.mark.parametrize("inflate", [1, 4])
def test_certificate_is_unbiased_and_its_bound_holds(inflate):
    rng = np.random.default_rng(0)
    n = 400
    target = np.full(n, 1 / n)
    truth = target * (1 + 0.1 * rng.normal(size=n))
    truth /= truth.sum()
    exact = np.abs(truth - target).sum() / 2
    found = [certify(fake_tally(rng, truth, 40_000, inflate), target) for _ in range(200)]
    square = n * float(((truth - target) ** 2).sum())
    squares = np.array([c.square for c in found])
    assert abs(squares.mean() - square) < 4 * squares.std() / 200**0.5
    assert np.mean([c.mass_error_upper >= exact for c in found]) >= 0.93
    assert np.mean([c.mass_error for c in found]) == pytest.approx(exact, rel=0.1)
    assert np.mean([c.inflation for c in found]) == pytest.approx(inflate, rel=0.1)


def test_certificate_of_uneven_masses_covers():
    rng = np.random.default_rng(1)
    target = np.exp(rng.uniform(-9, 0, 300))
    target /= target.sum()
    truth = target * np.exp(0.3 * rng.normal(size=300))
    truth /= truth.sum()
    exact = np.abs(truth - target).sum() / 2
    found = [certify(fake_tally(rng, truth, 64_000), target) for _ in range(100)]
    assert np.mean([c.mass_error_upper >= exact for c in found]) >= 0.93


def test_certificate_names_empty_cells_and_is_sharp_enough():
    counts = torch.full((BATCHES, 10), 100)
    counts[:, 3] = 0
    assert certify(Tally(counts, None), np.full(10, 0.1)).empty == 1
    rng = np.random.default_rng(2)
    n, tol = 1000, 0.05
    target = np.full(n, 1 / n)
    m = certificate_size(target, tol)
    found = [certify(fake_tally(rng, target, m), target).mass_error_upper for _ in range(50)]
    # Nine of ten estimates of nothing are below 1.3 standard errors, a ninth of (2 tol)^2 each, and
    # the bound adds 1.7 of those at the bound.
    assert np.quantile(found, 0.9) < 0.65 * tol
