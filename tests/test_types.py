"""What a type checker sees of the package: mypy on a few lines that a user would write."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import aeot

ROOT = Path(__file__).resolve().parents[1]

USER = """\
import numpy as np
import aeot

data = aeot.dataset("digits")
reveal_type(aeot.AEOT(latent_dim=4).fit(data))
reveal_type(aeot.AEOT().sample(3, seed=1))
reveal_type(aeot.solve_semidiscrete(aeot.UniformBox(dim=2), np.ones((3, 2)), [0.5, 0.25, 0.25]))
reveal_type(aeot.WGANGP(latent_dim=2).fit(data))
reveal_type(aeot.find_singularities)
model: aeot.AEOT = aeot.AEOT.load("faces.model")

aeot.AEOT(latent_dim="sixteen")
aeot.tensors("pixels")
aeot.Gaussian(mean=["a"])
model.sample(3, seeds=1)
aeot.AEOTs
"""
SHOWN = {5: "AEOT", 6: "Tensor", 7: "Solution", 8: "WGANGP", 9: "SingularSet"}
WRONG = {12: "arg-type", 13: "arg-type", 14: "arg-type", 15: "call-arg", 16: "attr-defined"}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """What mypy says of each line of `USER`, by line number."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("types")
    (folder / "user.py").write_text(USER)
    # With the options, and so the cache, of `make lint`: seconds instead of half a minute.
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", str(folder / "user.py")],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": "."},
        capture_output=True,
        text=True,
    )
    assert not run.stderr, run.stderr
    said = {}
    for line in run.stdout.splitlines():
        name, number, message = line.split(":", 2)
        if Path(name).name == "user.py":
            said[int(number)] = said.get(int(number), "") + message
    return said


@pytest.mark.parametrize("line", SHOWN)
def test_what_comes_back_has_a_type(lines, line):
    assert "Revealed type" in lines[line]
    assert SHOWN[line] in lines[line]
    assert '"Any"' not in lines[line]


def test_only_wrong_lines_are_errors(lines):
    wrong = {number for number, said in lines.items() if " error: " in said}
    assert wrong == set(WRONG)
    for number, code in WRONG.items():
        assert f"[{code}]" in lines[number]


def test_checkers_and_programs_see_the_same_names():
    tree = ast.parse(Path(aeot.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module.removeprefix("aeot.")
        for node in block.body
        for alias in node.names
        if node.module != "aeot"
    }
    assert seen == aeot._PUBLIC
