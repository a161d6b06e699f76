"""The steps of the other methods: L-BFGS on lists, and Adam, the published rule.

References:
    D. An, Y. Guo, N. Lei, Z. Luo, S.-T. Yau, X. Gu, "AE-OT: a new generative model based on
    extended semi-discrete optimal transport", ICLR 2020, algorithm 1 (Adam, beta_2 = 0.5).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from aeot.search.heights import center
from aeot.solvers.certificate import certificate_size
from aeot.solvers.oracles import sampled
from aeot.solvers.stages import GROW, Step, Task, check, coarse, measured, minimised, settle
from aeot.solvers.state import State

_LONGEST = 1 << 24  # lists kept at once: about 2 GiB
_ADAM_STEPS = 50  # per round


def grow(task: Task, state: State) -> tuple[State, dict[str, Any]]:
    """Minimise on the lists of a sample that grows fourfold with every failed check."""
    size = GROW * 4**state.step * task.n
    m = min(max(size, 8192), max(1.2 * task.wanted(state), 8192), _LONGEST)
    radius, key = 3 * state.unit, f"grow {state.step}"
    scorer = task.scorer(state)
    bank = task.bank(scorer, state.heights, key, m, radius=radius, least=4, longest=16)
    state, record = minimised(task, state, bank, 1.8, 0.2, 200)
    record.pop("chi2")
    heights = center(state.heights)
    state = replace(state, heights=heights, step=state.step + 1, weight=bank.n_samples)
    state, checked = _checked(task, state)
    return state, {**record, **checked}


def adam(task: Task, state: State) -> tuple[State, dict[str, Any]]:
    """Make fifty steps on fresh samples.

    Where the energy has stopped falling the heights are checked, and the next round has twice the
    samples and half the rate.
    """
    if state.step == 0:
        state = replace(measured(task, state), weight=max(2 * task.n, 4096))
    scorer = task.scorer(state)
    per_step = scorer.blocks_for(state.weight)
    rate = 0.3 * state.unit / 2**state.returns
    heights = state.heights
    first, second = torch.zeros_like(heights), torch.zeros_like(heights)
    energies, mean = [], torch.zeros_like(heights)
    for k in range(_ADAM_STEPS):
        now = sampled(scorer, f"adam {state.step}.{k}", range(per_step))(heights)
        energies.append(now.energy)
        first = 0.9 * first + 0.1 * now.gradient
        second = 0.5 * second + 0.5 * now.gradient.square()
        unbiased = first / (1 - 0.9 ** (k + 1)), second / (1 - 0.5 ** (k + 1))
        heights = center(heights - rate * unbiased[0] / (unbiased[1].sqrt() + 1e-12))
        if 2 * k >= _ADAM_STEPS:
            mean += heights / (_ADAM_STEPS // 2)
    state = replace(state, heights=mean, step=state.step + 1)
    halves = torch.tensor(energies, dtype=torch.float64).view(2, -1)
    half, noise = halves.mean(1), halves.std(1).mean() / (_ADAM_STEPS / 2) ** 0.5
    if float(half[0] - half[1]) >= 2 * float(noise):
        return state, {}
    return _checked(task, replace(state, returns=state.returns + 1, weight=2 * state.weight))


def _checked(task: Task, state: State) -> tuple[State, dict[str, Any]]:
    m = certificate_size(task.nu.numpy(), task.tol, state.inflation, state.looks + 1)
    state, c, _ = check(task, state, f"check {state.phase} {state.step}", m, edges=False)
    return state, {"error": c.mass_error, "upper": c.mass_error_upper, "empty": c.empty}


LBFGS: dict[str, Step] = {"coarse": coarse, "settle": settle, "grow": grow}
ADAM: dict[str, Step] = {"adam": adam}
