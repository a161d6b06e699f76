"""Loops run where numba is missing, or where nothing can be kept on disk."""

import ctypes
import errno
import json
import os
import pathlib
import shutil
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
exact = aeot.solve_semidiscrete(sources[0], sites[2], tol=0.05)
codes = torch.randn(40, 5, generator=generator)
solution = aeot.solve_semidiscrete(aeot.UniformBox(dim=5), codes, tol=0.2)
assert solution.map().cell(torch.zeros(1, 5)).shape == (1,)
try:
    aeot.solve_semidiscrete(aeot.UniformBox(dim=5), codes, tol=0.2, engine="numba")
    refused = ""
except ImportError as error:
    refused = str(error)
found = [(s.converged, s.engine) for s in (exact, solution)]
print(json.dumps([masses, found, refused]))
"""


def test_without_numba_everything_works_and_says_the_same(capsys):
    command = [sys.executable, "-c", BLOCKED + SCRIPT]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    blocked = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert blocked.returncode == 0, blocked.stderr
    exec(SCRIPT, {})
    found = [json.loads(text) for text in (blocked.stdout, capsys.readouterr().out)]
    (masses, *without), (compiled, *beside) = found
    assert without[0] == [[True, "geometry"], [True, "torch"]]
    assert "pip install numba" in without[1]
    assert beside == [[[True, "geometry"], [True, "numba"]], ""]
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


def test_a_disk_that_refuses_compiled_code_costs_nothing_but_the_next_compilation(
    tmp_path, monkeypatch
):
    caching = pytest.importorskip("numba.core.caching")
    place = tmp_path / "loops.py"
    place.write_text("def twice(x):\n    return 2 * x\n")

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def twice():
        space = {}
        exec(compile(place.read_text(), place, "exec"), space)
        return _compile.njit()(space["twice"])

    with monkeypatch.context() as patch:
        patch.setattr(caching.IndexDataCacheFile, "_save_data", refuse)
        assert twice()(3) == 6
    assert twice()(3) == 6  # an index without data
    kept = twice()
    assert kept(3) == 6
    assert sum(kept.stats.cache_hits.values()) == 1
    for file in (tmp_path / "__pycache__").iterdir():
        file.write_bytes(file.read_bytes()[:3])  # cut
    assert twice()(3) == 6


STRANGE = """
import pwd
def nobody(*_):
    raise KeyError("uid not found")
pwd.getpwuid = nobody
import contextlib, io, os
import aeot
import aeot.search.numba_engine
try:
    open(os.path.join(os.path.dirname(aeot.__file__), "x"), "w")
except OSError:
    print("package is read-only")
from aeot import cli
print(cli.main(["doctor"]), cli.main(["fit", "--data", "mnist"]))
print(cli.main(["fit", "--data", "~nobody/data"]), os.listdir("."))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="drops a right of root as Linux does")
@pytest.mark.parametrize("home", [None, pytest.param("/nonexistent", marks=pytest.mark.slow)])
def test_the_package_and_the_home_may_be_read_only_or_missing(tmp_path, home):
    package = tmp_path / "site" / "aeot"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(pathlib.Path(_compile.__file__).parent, package, ignore=ignored)
    for folder, _, _ in os.walk(package):
        os.chmod(folder, 0o555)  # noqa: S103
    (tmp_path / "here").mkdir()
    homes = ("HOME", "USER", "LOGNAME", "USERNAME", "LNAME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in homes}
    environment |= {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    if home is not None:
        environment["HOME"] = home
    done = subprocess.run(
        [sys.executable, "-c", STRANGE],
        cwd=tmp_path / "here",
        env=environment,
        capture_output=True,
        text=True,
        # CAP_DAC_OVERRIDE, by which root writes everywhere.
        preexec_fn=lambda: ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) if os.getuid() == 0 else None,
    )
    assert done.returncode == 0, done.stderr
    first, *report, last = done.stdout.splitlines()
    assert first == "package is read-only"
    assert any(line.startswith("  mnist         not found; looked in data") for line in report)
    assert report[-1] == "0 2"
    assert last == "2 []"
    mnist, nobody = (x for x in done.stderr.splitlines() if x.startswith("aeot: error"))
    assert "data set 'mnist' was not found; looked in data" in mnist
    assert (f"{home}/.cache" in mnist) == (home is not None)
    assert "data must" in nobody
    for folder, _, _ in os.walk(package):
        os.chmod(folder, 0o755)  # noqa: S103
