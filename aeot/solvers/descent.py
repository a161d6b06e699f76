"""The other minimisers on the same samples: L-BFGS on lists, Adam."""

from __future__ import annotations

from typing import Any

import torch

from aeot.scores.heights import center
from aeot.solvers.certificate import certificate_size
from aeot.solvers.minimize import Trust, lbfgs
from aeot.solvers.oracles import sampled
from aeot.solvers.problem import Problem
from aeot.solvers.scorer import Scorer
from aeot.solvers.stages import GROW, Stages, State

_LONGEST = 1 << 24  # lists kept at once: about 2 GiB
_ADAM_STEPS = 50  # per round


class Descent(Stages):
    """Coarse and settled like `Stages`, then rounds of descent, each followed by a check.

    "lbfgs" solves on the lists of a sample that grows fourfold with every failed check.
    "adam" skips all that: it steps on fresh samples from the start, 50 steps a round, with twice
    the samples and half the rate where the energy has stopped falling.

    Args:
        problem: In standard coordinates.
        scorer: Of the problem.
        tol: Total variation to certify.
        method: "lbfgs" or "adam".
        state: Where to start or go on.

    References:
        D. An, Y. Guo, N. Lei, Z. Luo, S.-T. Yau, X. Gu, "AE-OT: a new generative model based on
        extended semi-discrete optimal transport", ICLR 2020, algorithm 1 (Adam, beta_2 = 0.5).
    """

    def __init__(
        self, problem: Problem, scorer: Scorer, tol: float, method: str, state: State
    ) -> None:
        super().__init__(problem, scorer, tol, lbfgs, state)
        self.method = method
        if method == "adam" and state.phase == "coarse":
            state.phase = "adam"

    def planned(self) -> float:
        """Return how many samples are still to come, if nothing goes wrong."""
        check = certificate_size(self.nu.numpy(), self.tol, self.state.inflation)
        return max(self._wanted() - self.state.weight, 0) + check

    def _grow(self, state: State) -> dict[str, Any]:
        size = GROW * 4**state.step * self.nu.shape[0]
        wanted = 1.2 * self._wanted()
        m = min(max(size, 8192), max(wanted, 8192), _LONGEST)
        key = f"grow {state.step}"
        radius = 3 * state.unit
        bank = self._lists(key, m, radius=radius, least=4, longest=16)
        trust = Trust(state.unit, 0.6 * radius)
        record = self._newton(state, bank, trust, 0.2, 200)
        state.heights = center(state.heights)
        record.pop("chi2")
        state.step += 1
        state.weight = bank.n_samples
        self._certify(state, record)
        return record

    def _adam(self, state: State) -> dict[str, Any]:
        if state.step == 0:
            first = self._lists("unit", 1, radius=1e20, least=1, longest=4)
            state.unit = first.gap_scale(state.heights)
            state.weight = max(2 * self.nu.shape[0], 4096)
        halvings = state.returns
        per_step = self.scorer.blocks_for(state.weight)
        rate = 0.3 * state.unit / 2**halvings
        first, second = torch.zeros_like(state.heights), torch.zeros_like(state.heights)
        energies, mean = [], torch.zeros_like(state.heights)
        for k in range(_ADAM_STEPS):
            oracle = sampled(self.scorer, f"adam {state.step}.{k}", range(per_step))
            now = oracle(state.heights)
            energies.append(now.energy)
            first = 0.9 * first + 0.1 * now.gradient
            second = 0.5 * second + 0.5 * now.gradient.square()
            unbiased = first / (1 - 0.9 ** (k + 1)), second / (1 - 0.5 ** (k + 1))
            step = rate * unbiased[0] / (unbiased[1].sqrt() + 1e-12)
            state.heights = center(state.heights - step)
            if 2 * k >= _ADAM_STEPS:
                mean += state.heights / (_ADAM_STEPS // 2)
        state.n_samples += _ADAM_STEPS * per_step * self.scorer.block_samples
        state.heights = mean
        state.step += 1
        half = torch.tensor(energies).view(2, -1).mean(1)
        noise = torch.tensor(energies).view(2, -1).std(1).mean() / (_ADAM_STEPS / 2) ** 0.5
        record = {"error": None}
        if float(half[0] - half[1]) < 2 * float(noise):
            state.returns += 1
            state.weight *= 2
            self._certify(state, record)
        return record

    def _certify(self, state: State, record: dict[str, Any]) -> None:
        """Certify the heights, or leave them for another round."""
        m = certificate_size(self.nu.numpy(), self.tol, state.inflation)
        c, _ = self._check(state, f"check {state.phase} {state.step}", m, edges=False)
        record |= {"error": c.mass_error, "upper": c.mass_error_upper, "empty": c.empty}
