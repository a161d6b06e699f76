"""Loops run where numba is missing, or where nothing can be kept on disk."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from aeot import _compile

BLOCKED = 'import sys\nsys.modules["numba"] = None\n'
SCRIPT = """
import json
import torch
import aeot
generator = aeot.generator(0)
sites = {d: torch.rand(7, d, generator=generator, dtype=torch.float64) for d in (2, 3)}
sources = [
    aeot.UniformBox(dim=2), aeot.UniformBall(dim=2, center=0.5, radius=0.4),
    aeot.GridDensity([[1.0, 2.0], [3.0, 0.5]]), aeot.UniformBox(dim=3),
    aeot.UniformBall(dim=3, center=0.5, radius=0.5),
]
masses = [aeot.power_diagram(s, sites[s.dim], torch.zeros(7)).masses.tolist() for s in sources]
codes = torch.randn(40, 5, generator=generator)
converged = aeot.solve_semidiscrete(aeot.UniformBox(dim=5), codes, tol=0.2).converged
print(json.dumps([masses, converged]))
"""


def test_without_numba_everything_works_and_says_the_same(capsys):
    command = [sys.executable, "-c", BLOCKED + SCRIPT]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    blocked = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert blocked.returncode == 0, blocked.stderr
    exec(SCRIPT, {})
    found = [json.loads(text) for text in (blocked.stdout, capsys.readouterr().out)]
    (masses, converged), (compiled, also) = found
    assert converged
    assert also
    # The compiler may join a product and a sum, so the last bits may differ.
    np.testing.assert_allclose(masses, compiled, rtol=0, atol=1e-14)


def test_without_a_folder_for_compiled_code_the_loops_are_compiled_all_the_same(monkeypatch):
    caching = pytest.importorskip("numba.core.caching")
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])

    def twice(x):
        return 2 * x

    compiled = _compile.njit()(twice)
    assert compiled is not twice
    assert compiled(3) == 6
    monkeypatch.setattr(_compile, "numba", None)
    assert _compile.njit(fastmath=True)(twice) is twice
