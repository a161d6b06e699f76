"""The claims of the table of critics, at a small size and against closed forms."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import scipy.integrate
import scipy.stats
import torch

from aeot.gan_diagnostics import critics

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("bench_critics", ROOT / "benchmarks/bench_critics.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


RESULT = json.loads((ROOT / "benchmarks/results/critics.json").read_text())
TABLE = RESULT["critics"]


def test_the_best_critic_of_a_strong_penalty_reports_the_distance():
    assert bench.optimum(1e6) == pytest.approx(bench.DISTANCE, abs=1e-4)
    assert bench.optimum() == pytest.approx(1.2833, abs=1e-3)  # docs/adversarial.md


def test_what_the_best_critics_of_other_penalties_report():
    """Where data stand alone nothing bounds it; where samples do, by another rule of quadrature."""

    def above(x):
        gap = scipy.stats.norm.cdf(x) - scipy.stats.norm.cdf(x, 1, 2)
        return abs(gap) + gap**2 / (20 * scipy.stats.norm.pdf(x, 1, 2))

    right, _ = scipy.integrate.quad(above, -12, 14, points=[-1], limit=200)
    assert bench.optimum(where="fake") == pytest.approx(right, rel=1e-5)
    assert bench.DISTANCE < right < bench.optimum() < bench.optimum(where="real")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["penalty between (mixed)", "clip 0.01", "clip 0.3"])
def test_a_row_of_the_table_comes_out_again(name):
    found = bench.row(bench.VARIANTS[name], 0)
    assert found["estimate"] == pytest.approx(TABLE[name][0]["estimate"], rel=0.1)


def test_the_table_says_what_its_page_says():
    """No critic's quotient exceeds the distance; small clips are flat, large ones steep."""
    assert set(TABLE) == set(bench.VARIANTS)
    assert {len(rows) for rows in TABLE.values()} == {5}
    quotients = [row["bound"] for rows in TABLE.values() for row in rows]
    assert max(quotients) < 1.02 * bench.DISTANCE  # the noise of the sample
    clips = [TABLE[f"clip {c}"] for c in ("0.003", "0.01", "0.03", "0.1", "0.3", "1")]
    means = [sum(row["estimate"] for row in rows) / 5 for rows in clips]
    assert means == sorted(means)
    assert means[2] < 0.1 * bench.DISTANCE < 2 * bench.DISTANCE < means[3]


@pytest.mark.parametrize("bins", [2, 10])
def test_the_divergence_of_single_points_is_that_of_chance(bins):
    """Two samples of one point each: log 2 unless they share a bin, so log 2 (1 - 1 / bins)."""
    g = torch.Generator().manual_seed(bins)
    values = []
    for _ in range(2000):
        one, two = (torch.histc(torch.rand(1, generator=g), bins, 0, 1) for _ in range(2))
        values.append(critics.jensen_shannon(one, two))
    wanted = math.log(2) * (1 - 1 / bins)
    assert sum(values) / len(values) == pytest.approx(wanted, abs=4 * 0.35 / 2000**0.5)


def test_the_divergence_of_samples_is_what_counting_makes_of_it():
    """Of n samples of one law in k bins: (k - 1) / (4 n) if all bins are full, log 2 if none is."""
    rows = {(row["samples"], row["bins"]): row["js"] for row in RESULT["histograms"]}
    # Two of the ten bins are nearly empty, so that eight or nine count.
    assert 7 / 40_000 / 2 < rows[10_000, 10] < 2 * 9 / 40_000
    for n in (100, 1000):
        assert 4 < rows[n, 10] / rows[10 * n, 10] < 25  # as 1 / n
    assert rows[100, 10_000] > 0.95 * math.log(2)
    for n in (100, 1000, 10_000):
        found = [rows[n, k] for k in (10, 100, 1000, 10_000)]
        assert found == sorted(found)


def test_lines_say_what_they_should():
    """A critic finds the gap of any number of lines; a discriminator log 2 unless they overlap."""
    for row in RESULT["lines"]:
        js, distance = (sum(row[key]) / len(row[key]) for key in ("js", "distance"))
        assert distance == pytest.approx(row["gap"], rel=0.1)
        assert js <= row["exact_js"] + 0.02  # no discriminator is better than the best
        if row["lines"] == 1:
            assert js == pytest.approx(math.log(2), abs=0.01)


def test_the_page_is_computed_from_the_rows():
    page = (ROOT / "benchmarks/results/critics.md").read_text()
    assert bench.table(RESULT) == page


def test_a_verdict_turns_round_with_the_rows():
    """Of 0, 1, 2, ... against the same plus 10, the other way round, and against themselves."""
    some = [float(k) for k in range(5)]
    more = [v + 10 for v in some]
    told = [bench.compared(*pair) for pair in ((some, more), (more, some), (some, some))]
    assert told == ["holds", "does not hold", "within errors"]

    def verdicts(**critics):
        found = bench.verdicts(RESULT | {"critics": TABLE | critics})
        return {claim: verdict for claim, _, verdict in found}

    before, mixed, data = verdicts(), "penalty between (mixed)", "penalty on data alone"
    claim = f"mixed: estimate less wrong than of {data}"
    assert before[claim].startswith("open: critics are at 0.88 and 0.00 of their best")
    samples = "penalty on samples alone"
    claim, best = claim.replace(data, samples), (bench.optimum(), bench.optimum(where="fake"))
    assert before[claim].startswith("open: critics are at 0.88 and 0.90")
    reached = {
        name: [{**row, "estimate": value + k / 1000} for k, row in enumerate(TABLE[name])]
        for name, value in zip((mixed, samples), best, strict=True)
    }
    assert verdicts(**reached)[claim] == "does not hold"  # 1.283 is farther off than 1.247
    claim = f"mixed: slope less off 1 than of {data}"
    assert before[claim] == "holds"
    assert verdicts(**{mixed: TABLE[data], data: TABLE[mixed]})[claim] == "does not hold"
    assert before["no constraint: estimates run off"] == "holds"
    tame = verdicts(**{"no constraint": TABLE[mixed]})
    assert tame["no constraint: estimates run off"] == "does not hold"
    clips = before["clipping: estimates below the distance"]
    divergence = "parallel lines: divergence log 2 whatever the gap"
    found = "parallel lines: a discriminator finds the divergence"
    assert before[divergence].startswith("holds for 1 moved by 0.5, 1 moved by 1; does not for")
    assert "3 moved by 0.5" in before[found].split("does not")[1]
    exact = [{**row, "js": [row["exact_js"]] * 5} for row in RESULT["lines"]]
    told = {claim: verdict for claim, _, verdict in bench.verdicts(RESULT | {"lines": exact})}
    assert told[found] == "holds"
    assert "3 moved by 0.5" in told[divergence].split("; does not")[0]
    assert (
        clips
        == "holds for clip 0.003, clip 0.01, clip 0.03; does not for clip 0.1, clip 0.3, clip 1"
    )


def test_without_a_constraint_nothing_holds_the_critic():
    free = TABLE["no constraint"]
    assert min(row["estimate"] for row in free) > 100 * bench.DISTANCE
