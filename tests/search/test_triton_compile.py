"""The GPU engine's kernels, compiled for cards that are not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.interpreter
SCRIPT = Path(__file__).with_name("compiled_kernels.py")
SHARED = {80: 163 << 10, 90: 227 << 10}  # bytes that one program may have
SPILLED = {80: 16, 90: 0}  # bytes of a thread; a few of the widest search for lists on sm_80
MATRIX = {80: "HMMA", 90: "HGMMA"}  # instructions of the tensor cores; wgmma is the latter
PLAIN = {"refined", "expanded", "relisted", "halves of products"}  # no matrix is multiplied
FEW = ["best_chunks certify", "halves", "halves of products", "maxima certify wide", "refined"]


def compiled(arch, cases=()):
    run = subprocess.run(
        [sys.executable, SCRIPT, str(arch), *cases],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def check(row):
    assert row["stack"] <= SPILLED[row["arch"]], row
    assert row["registers"] <= 255, row
    assert row["shared"] <= SHARED[row["arch"]], row
    assert (row[MATRIX[row["arch"]]] > 0) == (row["case"] not in PLAIN), row


def test_kernels_fit_a_card_and_use_its_matrix_units():
    rows = compiled(90, FEW)
    assert [row["case"] for row in rows] == FEW
    for row in rows:
        check(row)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_every_kernel_fits_either_card(arch):
    rows = compiled(arch)
    if arch == 80:  # `halves_tile` takes products of torch there
        rows = [row for row in rows if row["case"] not in ("halves", "halves for lists")]
    assert len(rows) > len(FEW)
    for row in rows:
        check(row)
