"""The stages of a sampled solve: what they draw, and what their heights are worth."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import aeot
from aeot.measures import Gaussian, UniformBox
from aeot.solvers import solve, stages
from aeot.solvers.certificate import certify, tally
from aeot.solvers.problem import Supply, standardise
from aeot.solvers.scorer import Scorer
from aeot.solvers.solve import choose_split, unsolved
from aeot.solvers.stages import GROW, NEWTON, SETTLE, Task, advance
from aeot.solvers.starts import gaussian_heights


def begun(source, n, tol, seed=0):
    """A task of normal sites and its state before the first stage."""
    y = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, source.dim)))
    y = y[np.lexsort(y.numpy().T[::-1])]
    nu = torch.full((n,), 1 / n, dtype=torch.float64)
    problem = standardise(source, y, nu, seed, supply=Supply())
    scorer = Scorer(problem, split=choose_split(problem.law, n, source.dim), threads=1)
    task = Task(problem, scorer, tol, "newton")
    return task, replace(unsolved(task, scorer), heights=gaussian_heights(problem.sites))


def worth(task, state):
    """How many samples would leave the error of the heights, counted on 600 samples a site."""
    scorer = task.scorer(state)
    fresh = tally(scorer, state.heights, "judge", range(scorer.blocks_for(600 * task.n)))
    c = certify(fresh, task.nu.numpy())
    return c.inflation * task.root**2 / c.square


@pytest.mark.parametrize("source", [Gaussian(dim=5), UniformBox(dim=12)], ids=["alone", "shared"])
def test_heights_fitted_to_several_samples_are_worth_them_all(source):
    task, state = begun(source, 1500, 0.05)
    while state.phase != "stream":
        state = advance(task, NEWTON, state)
        if state.phase == "grow" and state.step == 0:
            settled = worth(task, state)
            # What was fitted to few samples far from the solution is worth less than their number.
            assert 0.5 < settled / state.weight < 1.5
            assert state.weight > SETTLE * task.n
    assert 0.7 < worth(task, state) / state.weight < 1.5
    assert state.weight > 1.3 * GROW * task.n


def test_loose_tolerances_take_fewer_samples():
    sites = np.random.default_rng([0, 2000]).normal(size=(2000, 16))

    def per_site(tol):
        s = aeot.solve_semidiscrete(UniformBox(dim=16), sites, tol=tol, progress=False)
        assert s.converged
        return s.n_samples / len(sites)

    loose, medium = per_site(0.2), per_site(0.1)
    assert loose < 0.8 * medium
    assert loose < 60  # of which the certificate takes more than ten


def test_starts_are_compared_on_points_that_count_once(monkeypatch):
    calls, sampled = [], solve.sampled

    def counted(scorer, stage, blocks):
        oracle = sampled(scorer, stage, blocks)

        def energy(heights):
            calls.append(len(blocks) * scorer.block_samples)
            return oracle(heights)

        return energy

    monkeypatch.setattr(solve, "sampled", counted)
    task, _ = begun(Gaussian(dim=5), 300, 0.1)
    solve._started(task, task.first, None, None)
    assert len(calls) >= 4
    assert task.problem.supply.drawn == calls[0]
    assert not task.first._kept


def test_a_certificate_looks_on_for_unseen_cells_little_by_little(monkeypatch):
    counted, tallied = [], stages.tally

    def tally_of(scorer, heights, stage, blocks, **options):
        counted.append(blocks)
        return tallied(scorer, heights, stage, blocks, **options)

    monkeypatch.setattr(stages, "tally", tally_of)
    sites = np.random.default_rng(7).normal(size=(4000, 4))
    s = aeot.solve_semidiscrete(Gaussian(dim=4), sites, tol=0.25, seed=2, progress=False)
    assert s.converged
    assert bool((s.cell_masses > 0).all())
    more = [blocks for blocks in counted if blocks.start]
    assert more  # some cells were not seen at first
    assert all(len(blocks) <= max(blocks.start // 4, 1) for blocks in more)
