"""What the gallery's pages on theory claim, at small size and against closed forms."""

import ast
import itertools
import math
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from scipy.stats import spearmanr

import aeot
from aeot.gan.sinkhorn import sinkhorn_divergence
from aeot.gan_diagnostics import critics, games
from aeot.gan_diagnostics.adaptation import adaptation_bound, proxy_distance
from aeot.gan_diagnostics.frequency import error_split
from aeot.metrics import mode_coverage, wasserstein1

ROOT = Path(__file__).resolve().parents[2]


def functions(name, **given):
    """The imports, functions and classes of an example, without what it runs; `given` is global."""
    (path,) = ROOT.glob(f"examples/{name}_*.py")
    defined = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    body = [node for node in ast.parse(path.read_text()).body if isinstance(node, defined)]
    exec(compile(ast.Module(body, []), str(path), "exec"), given)
    return given


def kept(page):
    """What the whole script of a page printed (`benchmarks/bench_examples.py`)."""
    (path,) = ROOT.glob(f"benchmarks/results/examples/{page}_*.txt")
    return path.read_text()


def printed(page, cells, capsys):
    """What some cells of a page print, the first being its imports."""
    (path,) = ROOT.glob(f"examples/{page}_*.py")
    found = path.read_text().split("# %%")
    exec("# %%".join(found[k] for k in cells), {})
    return capsys.readouterr().out


def numbers(page, pattern):
    """What a pattern of two groups, a name and a number, finds in a page's kept output."""
    return {name: float(value) for name, value in re.findall(pattern, kept(page), re.MULTILINE)}


SEEDED = ("generator", "manual_seed", "default_rng")  # their first argument is a seed
UNRUN = re.search(r"\(\?!([\d|]+)\)", (ROOT / "docs/conf.py").read_text())[1].split("|")


@pytest.mark.slow
@pytest.mark.parametrize("page", UNRUN)
def test_examples_that_the_docs_leave_out_run(page, tmp_path, monkeypatch):
    (path,) = ROOT.glob(f"examples/{page}_*.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), "--quick"])
    runpy.run_path(str(path))
    assert list(tmp_path.glob(f"out/{page}_*.png"))


PAGES = ["18", "19", "28", "30", "40", "41", "44", *map(str, range(60, 70))]


def test_every_output_that_is_kept_is_of_one_of_these_pages():
    kept_of = {path.stem[:2] for path in ROOT.glob("benchmarks/results/examples/*.txt")}
    assert sorted(kept_of) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_what_a_whole_script_gave_is_kept_with_its_command_machine_and_seeds(page):
    (script,) = ROOT.glob(f"examples/{page}_*.py")
    command, where, seeds, *told = kept(page).splitlines()
    assert command == f"$ python examples/{script.name}"
    assert re.match(r"# aeot \d\S+, torch .+; .+, threads: \d+, \d+ processor seconds$", where)
    assert told
    assert list(ROOT.glob(f"benchmarks/results/examples/{page}_*.png"))
    assert re.match(r"# Seeds?: \d.+\.$", seeds)
    assert seeds[2:] in ast.get_docstring(ast.parse(script.read_text())).splitlines()


@pytest.mark.parametrize("page", PAGES)
def test_every_seed_that_a_script_writes_out_is_among_those_it_names(page):
    (script,) = ROOT.glob(f"examples/{page}_*.py")
    tree, written = ast.parse(script.read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first = node.args[:1] if ast.unparse(node.func).endswith(SEEDED) else []
            values = first + [key.value for key in node.keywords if key.arg == "seed"]
            written |= {value.value for value in values if isinstance(value, ast.Constant)}
    (named,) = re.findall(r"^Seeds?: (.+)$", ast.get_docstring(tree), re.MULTILINE)
    ends = re.findall(r"(\d+) to (\d+)", named)
    names = {int(k) for k in re.findall(r"\d+", named)}
    assert written <= names | {k for a, b in ends for k in range(int(a), int(b) + 1)}


# 17, 32, 35, 41: what needs no training is printed by the page, and has a closed form.


def test_the_page_on_quantiles_comes_near_the_distance_of_two_gaussians(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    told = printed("17", (0, 1, 2, 3), capsys)
    off = re.search(r"difference to numpy's quantiles: (\S+)", told)[1]
    assert float(off) < 1e-12  # of the very same data
    found = re.findall(r"^(\d+) samples: ([\d.]+), two samples of N\(0, 1\) ([\d.]+)$", told, re.M)
    assert [int(n) for n, *_ in found] == [100, 1000, 10_000]
    assert "are 1.16663 apart" in told
    rng = np.random.default_rng(0)  # the page's draws again: of two groups first
    rng.normal(size=400)
    for n, value, alike in found:
        x, y, again = rng.standard_normal((3, int(n)))
        for said, other in ((value, 1 + 2 * y), (alike, again)):
            gaps = np.abs(np.sort(x) - np.sort(other))
            assert float(said) == pytest.approx(gaps.mean(), abs=6e-4)
        # The potential is |x + 1|, of variance 2 - 1.16663^2 on one side and four times that.
        spread = math.sqrt(5 * (2 - 1.16663**2) / int(n))
        assert float(value) == pytest.approx(1.16663, abs=4 * spread)
    exact, sliced = re.findall(r"in the plane: ([\d.]+), sliced ([\d.]+)", told)[0]
    assert float(exact) == 5
    assert float(sliced) == pytest.approx(10 / math.pi, abs=4 * 5 * 0.308 / math.sqrt(4000))


def divergence_of_counts(n, bins):
    """Mean and spread, over log 2, of what n samples of N(0, 1) and n others differ in.

    In bins of [-4, 4]: the counts of a bin taken as two independent Poisson numbers.
    """
    edges = scipy.stats.norm.cdf(np.linspace(-4, 4, bins + 1))
    rate = n * np.diff(edges)
    counts = np.arange(int(rate.max() + 10 * math.sqrt(rate.max()) + 20))
    if len(counts) > 400:  # many in a bin: chi squared / (4 n) of bins that are not empty
        full = int((rate > 5).sum())
        return ((full - 1) / (4 * n) / math.log(2), math.sqrt(2 * full) / (4 * n) / math.log(2))
    a, b = counts[:, None] / n, counts / n
    middle = np.maximum(a + b, 1e-300) / 2
    value = (scipy.special.xlogy(a, a / middle) + scipy.special.xlogy(b, b / middle)) / math.log(4)
    chance = scipy.stats.poisson.pmf(counts, rate[:, None])
    means = np.einsum("ki,kj,ij->k", chance, chance, value)
    squares = np.einsum("ki,kj,ij->k", chance, chance, value**2)
    return means.sum(), math.sqrt((squares - means**2).sum())


def test_the_page_on_lines_has_the_divergence_of_lines_that_fall_on_lines(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    told = printed("32", (0, 1, 2), capsys)
    found = re.findall(r"moved by ([\d.]+): divergence ([\d.]+) log 2, distance ([\d.]+)", told)
    assert len(found) == 5
    (line, _) = critics.parallel_lines(1.0, lines=3)
    counts = line(600, aeot.generator(0))[:, 0].round().long().bincount(minlength=6) / 600
    for gap, divergence, distance in ((float(v) for v in row) for row in found):
        apart = 1.0  # nothing meets
        if gap == int(gap):  # the same counts, moved: log 2 less what is shared
            p, q = counts.tolist(), counts.roll(int(gap)).tolist()
            pairs = [(a, b) for a, b in zip(p, q, strict=True) if a + b]
            parts = [v * math.log2(2 * v / (a + b)) for a, b in pairs for v in (a, b) if v]
            apart = sum(parts) / 2
            assert apart == pytest.approx(min(gap, 3) / 3, abs=0.02)
        assert divergence == pytest.approx(apart, abs=0.006)
        assert distance == gap  # both are the same draws
    counted = re.findall(r"samples of (\d+), in .+ bins: ([\d.]+), ([\d.]+) log 2", told)
    assert len(counted) == 3
    for n, *values in counted:
        for value, bins in zip(values, (10, 1000), strict=True):
            mean, spread = divergence_of_counts(int(n), bins)
            assert float(value) == pytest.approx(mean, abs=4 * spread + 6e-4)


def test_the_page_on_games_has_what_damps_and_what_only_turns(capsys, tmp_path, monkeypatch):
    """-beta / 2 +- sqrt(beta^2 / 4 - 1) for a penalty, +- i / |d| under spectral normalisation."""
    monkeypatch.chdir(tmp_path)
    told = re.findall(
        r"^flow, (.+): damped by ([\d.]+), turned by ([\d.]+)$", printed("35", (0, 1), capsys), re.M
    )
    wanted = {
        "no constraint": (0, 1),
        "penalty": (0.5, 0.75**0.5),
        "spectral normalisation": (0, 0.5),
    }
    assert {name: (float(a), float(b)) for name, a, b in told} == {
        name: pytest.approx(values, abs=0.005) for name, values in wanted.items()
    }


def test_the_page_on_pairs_splits_unequal_masses(capsys, tmp_path, monkeypatch):
    """The mean of 0.7 at -0.8 and 0.3 at 0.8, and their variance."""
    monkeypatch.chdir(tmp_path)
    told = printed("41", (0, -1), capsys)
    shares, mean, error = re.findall(
        r"one: (.+); their mean (\S+) leaves W2\^2 (\S+)$", told, re.M
    )[0]
    assert shares == "0.7 and 0.3"
    assert float(mean) == pytest.approx(-0.32)
    assert float(error) == pytest.approx(4 * 0.7 * 0.3 * 0.64)


# 18, 19, 28


def test_fewer_points_stay_on_higher_ridges():
    found = re.findall(r"^d = (\d): +(\d+)% .+ moved to (\d) planes", kept("18"), re.MULTILINE)
    for d in (3, 8):
        shares = [int(share) for dim, share, _ in found if int(dim) == d]
        assert len(shares) == d + 1
        assert shares[0] == 100
        assert shares == sorted(shares, reverse=True)
        assert shares[-1] > 0
    dims = re.findall(r"dimensions \[(.+)\]", kept("18"))
    assert dims == ["0", "1", "2"]


def test_a_map_costs_more_than_its_optimal_part():
    cost = numbers("19", r"^(.+): E .+ = ([\d.]+)$")
    assert cost["its optimal part"] < cost["the map as it is"]
    assert cost["what was rearranged"] > 0
    assert kept("19").endswith("at all points: True\n")


def test_the_inception_score_hardly_tells_copies_from_data_and_a_hundred_samples_promise_little():
    words = r"digits ([\d.]+), of ten of them, .+ ([\d.]+), of noise ([\d.]+)"
    data, copies, noise = (float(v) for v in re.search(words, kept("28")).groups())
    made = numbers("28", r"^(\w+): inception score ([\d.]+);")
    assert [*made] == ["cube", "gaussian", "ball"]
    assert noise < min(made.values()) < max(made.values()) < copies < data
    assert max(made.values()) - min(made.values()) < 0.1 * data  # one law, whatever the source
    assert float(re.search(r"off by at most ([\d.]+)%", kept("28"))[1]) > 1  # which was asked for


def test_rules_differ_in_how_much_they_cut_though_each_leaves_one_cloud():
    row = r"^(.+): ([\d.]+)% of the facets are cut, ([\d.]+)% of the points kept; (\d+) pieces"
    told = {name: [float(v) for v in rest] for name, *rest in re.findall(row, kept("28"), re.M)}
    assert [*told] == ["by default", "angle 0.75", "90% of facets", "jumps above 3"]
    assert told["90% of facets"][0] == pytest.approx(10, abs=0.1)
    assert len({(cut, points) for cut, points, _ in told.values()}) == 4
    assert {pieces for *_, pieces in told.values()} == {1}


# 30: the update itself is tested in tests/models/test_cooperation.py.


def test_the_pages_on_cooperation_say_what_the_whole_script_gave():
    told = kept("30")
    off = re.findall(r"^ *\d+ data: ([\d.]+) from the closed form", told, re.M)
    before, after = re.search(r"cooperative update: ([\d.]+) -> ([\d.]+) in", told).groups()
    theirs = re.search(r"after 2000 generator steps: ([\d.]+) in", told)[1]
    low, high = re.search(r"from them: ([\d.]+) to ([\d.]+), eight", told).groups()
    assert [float(v) for v in off] == sorted(map(float, off), reverse=True)
    assert float(after) <= float(high) < float(before) / 10
    page = (ROOT / "docs/adversarial.md").read_text()
    for value in (*off, before, after, theirs, low, high):
        assert f"{float(value):.2f}" in page
    row = f"a sliced W2 of {float(after):.2f} after one update, of {float(theirs):.2f} after"
    assert row in (ROOT / "docs/paper.md").read_text()


# 40


def test_the_way_back_reads_no_hidden_message():
    (row,) = re.findall(r"^cycle error: (\{.+\})$", kept("40"), re.MULTILINE)
    error = ast.literal_eval(row)
    assert max(error[k] for k in ("8-bit", "jpeg", "blur")) < 1.25 * error["clean"]
    assert error["clean"] < error["chance"] / 4
    page = (ROOT / "docs/paper.md").read_text()
    assert f"is {error['clean']:.3f}, also" in page
    assert f"{error['blur']:.3f} after blurring" in page


# 41


def test_noise_finds_both_answers_and_the_page_has_what_patches_did():
    told = kept("41")
    left = numbers("41", r"^(.+): diversity .+ answers ([\d.]+)$")
    spread = numbers("41", r"^(.+): diversity ([\d.]+),")
    # A half of the answers at 0.8, a half at -0.8: what is nearest to both leaves 0.8^2.
    assert left["deterministic"] == pytest.approx(0.64, abs=0.001)
    assert spread["deterministic"] == 0
    assert left["stochastic"] < 0.64 / 4 < 0.5 < spread["stochastic"]
    page = (ROOT / "docs/translation.md").read_text()
    assert f"leaves W2^2 {left['stochastic']:.2f}" in page
    rows = re.findall(r"^patch +(\d+) px: (\{.+\})$", told, re.MULTILINE)
    for size, row in rows:
        found = ast.literal_eval(row)
        values = f"{found['structure']:.4f} | {found['texture']:.4f} | {found['texture_power']:.2f}"
        assert f"| {size} | {values} |" in page
    (_, least), *others = [(size, ast.literal_eval(row)) for size, row in rows]
    assert all(found["texture"] > least["texture"] for _, found in others)


# 44


def test_the_mean_of_colours_is_the_dullest_and_the_critics_the_most_vivid():
    vivid = numbers("44", r"^(.+): error .+ colourfulness ([\d.]+) of")
    assert [*vivid] == ["gray", "L2", "L1", "L1 and patches"]
    assert [*vivid.values()] == sorted(vivid.values())


# 60: the equation itself is tested in tests/maps/test_triangulation.py.


@pytest.fixture(scope="module")
def exact_cells():
    """Page 60's energy of eight sites in a square, its heights, and where descents begin."""
    square = aeot.UniformBox(dim=2)
    sites = torch.rand(8, 2, generator=aeot.generator(2), dtype=torch.float64)
    best = aeot.solve_exact(square, sites, tol=1e-13).heights
    start = -sites.square().sum(1) / 2
    given = {"square": square, "sites": sites, "n": 8, "best": best, "start": start - start.mean()}
    return functions("60", **given)


def test_the_energy_of_exact_cells_has_the_gradient_it_says(exact_cells):
    h, energy = exact_cells["start"].numpy(), exact_cells["energy"]
    for k in range(3):
        e = 1e-5 * np.eye(8)[k]
        assert (energy(h + e)[0] - energy(h - e)[0]) / 2e-5 == pytest.approx(
            energy(h)[1][k], abs=1e-8
        )


def test_bfgs_is_superlinear_on_exact_cells_where_gradient_descent_is_linear(exact_cells):
    """The errors' ratios fall to zero; descent's is 1 - rate times the least curvature."""
    errors = [e for e in exact_cells["path"]("BFGS") if e > 1e-11]
    ratios = [after / before for before, after in itertools.pairwise(errors)]
    assert np.median(ratios[:4]) > 0.3
    assert np.median(ratios[-3:]) < 0.15, ratios
    square, sites, best = (exact_cells[key] for key in ("square", "sites", "best"))
    curvature = np.linalg.eigvalsh(aeot.power_diagram(square, sites, best).hessian.toarray())
    rate, lost = 1 / curvature[-1], []
    h = best + 1e-3 * torch.randn(8, generator=aeot.generator(0), dtype=torch.float64)
    for _ in range(150):
        h = h - rate * torch.from_numpy(exact_cells["energy"](h.numpy())[1])
        lost.append(float((h - h.mean() - best).norm()))
    assert lost[-1] / lost[-2] == pytest.approx(1 - rate * curvature[1], abs=0.02)


def test_a_lattice_is_never_folded_and_two_groups_only_between_each_other():
    """A lattice's extension is linear, and in a mirror all of it is folded."""
    folds = functions("60")["folds"]
    for dim, side in ((2, 7), (3, 3)):
        axis = torch.linspace(-1, 1, side, dtype=torch.float64)
        inside, between = folds(torch.cartesian_prod(*[axis] * dim), aeot.UniformBox(dim=dim))
        assert inside < 1e-6
        assert math.isnan(between)  # of one mode there is none
    sites = torch.randn(200, 2, generator=aeot.generator(3), dtype=torch.float64)
    sites[::2, 0] += 20
    square = aeot.UniformBox(dim=2)
    inside, between = folds(sites, square)
    assert 4 * inside < 0.01 < between
    centroids = aeot.power_diagram(square, sites, aeot.solve_exact(square, sites).heights).centroids
    mirrored = sites * torch.tensor([-1.0, 1.0])
    _, volumes, stretch = functions("60")["determinants"](centroids, mirrored)
    assert float(volumes[stretch < 0].sum() / volumes.sum()) > 0.9


def test_the_equations_error_fell_with_a_lattice_and_not_with_draws():
    """As the whole script gave it, by rates fitted to its rows; folds are rare in 2-D and 3-D."""
    row = r"^(\w+), (\d+) sites: .+ off by ([\d.]+)% .+ off by ([\d.]+), ([\d.]+)% of the area"
    rates = r"^(\w+): the equation's error falls as n\^(-?[\d.]+), the map's as n\^(-?[\d.]+)$"
    told = {name: (-float(a), -float(b)) for name, a, b in re.findall(rates, kept("60"), re.M)}
    for name in ("lattice", "draws"):
        found = [rest for kind, *rest in re.findall(row, kept("60"), re.M) if kind == name]
        n, off, away, folded = np.array(found, float).T
        assert len(n) == 5
        for value, errors in zip(told[name], (-np.log1p(-off / 100), away), strict=True):
            fitted = -np.polyfit(np.log(n), np.log(errors), 1)[0]
            assert value == pytest.approx(fitted, abs=0.12)  # the rows are rounded
        assert not folded.any()
    assert told["lattice"] == pytest.approx((1, 1), abs=0.1)
    assert told["draws"][0] < 0.1 < told["draws"][1] < 0.6
    row = r"in (\d) dimensions, (.+): ([\d.]+)% folded inside a mode(?:, ([\d.]+)% between)?"
    folds = re.findall(row, kept("60"))
    assert [dim for dim, *_ in folds] == ["2", "2", "3", "3"]
    for _, name, inside, between in folds:
        assert float(inside) < 1
        assert (between == "") == (name == "one group")
        if between:
            assert float(between) > 4 * float(inside)
            page = (ROOT / "docs/paper.md").read_text()
            assert all(f"{share} %" in page for share in (inside, between))


# 61


class Ramp(torch.nn.Module):
    """From [-1, 1] onto [-1.5, 1.5] by one slope: what crosses a gap in the least of its noise."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, z):
        return (self.slope * z).clamp(-1.5, 1.5)


@pytest.fixture
def gap():
    islands = aeot.data.toy("islands", 100).info
    return functions("61", low=islands["low"], high=islands["high"])


@pytest.mark.parametrize("slope", [2.0, 5.0, 40.0])
def test_a_ramp_puts_the_least_share_that_its_slope_allows_in_the_gap(gap, slope):
    found, inside, both = gap["steepest"](Ramp(slope))
    assert both
    assert found == pytest.approx(slope, rel=1e-3)
    assert inside == pytest.approx(2 / (2 * slope), rel=0.01)  # gap / (2 L), the gap being 2


@pytest.mark.parametrize("seed", range(3))
def test_no_network_of_any_slope_crosses_with_less(gap, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Linear(1, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)
        )
        with torch.no_grad():
            for weights in network.parameters():
                weights.mul_(4)
            network[2].bias -= network(torch.linspace(-1, 1, 101)[:, None]).mean(0)
    slope, inside, both = gap["steepest"](network)
    assert both
    assert inside >= 2 / (2 * slope) - 1e-3


def test_the_three_outcomes_are_told_apart(gap):
    """Ten marks of shares left of the gap, inside and right of it; the last five count."""
    begun = [(0.0, 1.0, 0.0)] * 5
    told = {
        "both parts": [(0.5, 0.0, 0.5)] * 5,
        "bridge": [(0.45, 0.1, 0.45)] * 5,
        "one part only": [(0.95, 0.05, 0.0)] * 5,
        "unstable": [(0.9, 0.0, 0.1), (0.1, 0.0, 0.9)] * 2 + [(0.9, 0.0, 0.1)],
    }
    assert {name: gap["outcome"](begun + shares) for name, shares in told.items()} == {
        name: name for name in told
    }
    x = torch.tensor([[-1.5, 0.0], [-1.0, 0.3], [0.0, 0.0], [1.2, 0.0]])
    assert gap["parts"](x) == (0.5, 0.25, 0.25)
    away = torch.tensor([[-9.0, 0.0], [-1.5, 7.0], [9.0, 0.0], [1.2, 0.0]])  # what ran off
    assert gap["parts"](away) == (0, 0.75, 0.25)


def test_gentle_games_bridge_the_gap_and_rough_ones_see_every_way_out():
    """Of five seeds each, as the whole script counted them."""
    told = re.findall(r"^(.+): (\{.+\}) of 5 seeds$", kept("61"), re.MULTILINE)
    counts = {name: ast.literal_eval(found) for name, found in told}
    assert [*counts] == ["GAN", "WGAN-GP", "large steps", "minimax, momentum"]
    assert counts["GAN"] == counts["WGAN-GP"] == {"bridge": 5}
    assert {*counts["large steps"]} == {"bridge", "one part only", "unstable"}
    assert counts["minimax, momentum"]["unstable"] >= 3
    page = (ROOT / "docs/paper.md").read_text()
    assert counts["large steps"] == {"bridge": 3, "one part only": 1, "unstable": 1}
    assert "three of five bridged, one left out a part, and one did not settle" in page


def test_least_squares_bridge_the_gap_and_steps_thin_the_bridge(gap):
    """Where the transport is the sign, a network fitted to it crosses, ever more steeply."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)
        )
        mover, found = torch.optim.Adam(network.parameters(), lr=1e-2), []
        for step in range(1, 401):
            z = 2 * torch.rand(128, 1) - 1
            loss = (network(z) - 1.5 * z.sign()).square().mean()
            mover.zero_grad()
            loss.backward()
            mover.step()
            if step in (50, 400):
                found.append(gap["steepest"](network))
    (flat, wide, _), (steep, thin, both) = found
    assert both
    assert steep > 1.5 * flat
    assert 2 / (2 * steep) - 1e-3 <= thin < wide / 1.5


def test_one_support_for_each_mode_reaches_all_modes_and_is_all_there_is():
    grid = aeot.data.toy("grid", 500)
    modes = grid.info["modes"]
    inner = torch.cdist(modes, grid[:].double()).argmin(1)  # a point of each, none of them far out
    brenier = aeot.solve_exact(aeot.UniformBox(dim=2), grid[inner]).map()
    noise = brenier.source.sample(2500, generator=aeot.generator(0))
    found = mode_coverage(brenier(noise), modes, 0.05)
    assert (found["modes"], found["high_quality"]) == (25, 1.0)
    assert len(brenier(noise).unique(dim=0)) == 25  # nothing is learned of how wide a mode is
    # Where the map is extended between supports, samples lie between the modes.
    assert mode_coverage(brenier.extend(noise), modes, 0.05)["high_quality"] < 0.5


def test_a_support_for_each_mode_gave_what_the_texts_row_says():
    """As the whole script gave it: 24 of the 25 supports lie inside their mode."""
    rows = re.findall(r"^(\d+) supports, (.+): (\{.+\}), (\d+) different", kept("61"), re.M)
    found = {(n, name): (ast.literal_eval(values), int(k)) for n, name, values, k in rows}
    plain, few = found["25", "the map"]
    extended, many = found["25", "extended"]
    assert (few, many) == (25, 2500)
    assert plain["variance_ratio"] == 0
    assert extended["high_quality"] < 0.01 < plain["high_quality"]
    text = (
        f"{plain['modes']:.0f}, as one of its supports is an outlier: "
        f"{100 * plain['high_quality']:.0f} % of the map's samples are within a mode, "
        f"{100 * extended['high_quality']:.1f} % of the extended map's"
    )
    assert text in (ROOT / "docs/paper.md").read_text()
    more, _ = found["512", "extended"]
    assert more["high_quality"] > 0.9


# 62


def circle(radius):
    def draw(n, stream):
        angle = 2 * math.pi * torch.rand(n, generator=stream)
        return radius * torch.stack([angle.cos(), angle.sin()], 1)

    return draw


def test_between_two_circles_the_critics_slope_is_radial():
    """The plan between circles of radius 1 and 2 is radial and costs 1, which is the distance."""
    critic = critics.fit_critic(circle(2.0), circle(1.0), steps=200, hidden=32, rate=5e-3)
    x = circle(1.0)(500, aeot.generator(1))
    assert float(critics.alignment(critic, x, -x).median()) > 0.97
    assert float(critics.slopes(critic, x).norm(dim=1).mean()) == pytest.approx(1.05, abs=0.1)
    y = circle(2.0)(500, aeot.generator(2))
    value = critics.corrected(critics.estimate(critic, y, x), 10.0)
    assert value == pytest.approx(1, abs=0.07)
    assert wasserstein1(x, y) == pytest.approx(1, abs=0.07)


def test_the_score_gap_of_a_trained_critic_ranks_distances():
    """It is t (1 + t / 20) for lines moved by t: larger than the distance, and in its order."""
    found = {}
    for t in (0.3, 1.0, 3.0):
        line, moved = critics.parallel_lines(t)
        critic = critics.fit_critic(line, moved, steps=150, hidden=32, rate=5e-3)
        stream = aeot.generator(1)
        found[t] = critics.estimate(critic, line(1000, stream), moved(1000, stream))
        assert found[t] == pytest.approx(t * (1 + t / 20), rel=0.1)
    assert spearmanr([*found], [*found.values()]).statistic == 1


def test_a_critic_that_grows_towards_the_data_agrees_with_the_plan():
    """Of a shift the plan is the shift; a score that grows along it has cosine 1, against it -1."""
    page = functions("62")
    g = aeot.generator(0)
    x, shift = torch.randn(200, 2, generator=g), torch.tensor([3.0, 4.0])
    moved = page["displacement"](x, (x + shift)[torch.randperm(200, generator=g)])
    torch.testing.assert_close(moved.mean(0), shift)
    assert float((moved * shift).sum(1).mean()) == pytest.approx(25, rel=1e-5)
    for sign in (1, -1):
        cosine = page["agreement"](lambda p, sign=sign: sign * (p @ shift), x, shift.expand(200, 2))
        torch.testing.assert_close(cosine, torch.full((200,), float(sign)))


def test_a_verdict_on_correlations_needs_seeds_that_agree():
    page = functions("62")
    told = [page["verdict"](v) for v in ([0.3, 0.4, 0.5], [-0.3, -0.4, -0.5], [0.5, -0.4, 0.1])]
    assert [one.split(", ")[1] for one in told] == ["above 0", "below 0", "within errors of 0"]
    assert told[0].startswith("0.40 ± 0.06")
    rising = torch.arange(20.0)
    turned = torch.cat([rising[:10], 30 - rising[10:]])  # as far up as it then comes down
    assert page["correlations"](rising, rising**3) == pytest.approx([1, 1])
    assert page["correlations"](rising, turned)[1] == pytest.approx(-1)
    assert 0 < page["correlations"](rising, turned)[0] < 1


def test_the_slope_agreed_with_the_plan_and_the_gap_with_distances_while_training():
    """As the whole script gave it, of five seeds; once settled, the gap says little."""
    told = kept("62")
    cosine, most = re.search(r"median cosine ([\d.]+), (\d+)% above", told).groups()
    assert float(cosine) > 0.95
    assert int(most) > 60
    words = r"distance ([\d.]+), critic's estimate ([\d.]+), corrected ([\d.]+)"
    distance, estimate, corrected = (float(v) for v in re.search(words, told).groups())
    assert estimate > distance
    assert corrected == pytest.approx(distance, rel=0.03)
    rows = re.findall(r"gap with the (.+), 5 seeds:\n +over training (.+); in its second", told)
    assert [name for name, _ in rows] == ["Frechet distance", "sliced W2"]
    assert all(found.endswith("above 0") for _, found in rows)
    assert len(re.findall(r"minus the second .+, above 0$", told, re.M)) == 2


# 63: see tests/gan/test_wasserstein.py, too.


def test_what_was_drawn_under_conditions_between_lies_between():
    """Nearer to the place asked for than to any known one; bolder where bolder is asked for."""
    off = numbers("63", r"^angles (.+): samples are ([\d.]+) from")
    (near,) = re.findall(r"held out:.+\n +which is ([\d.]+) from the nearest", kept("63"))
    assert off["trained on"] < 2 * 0.063
    assert off["held out"] < float(near) / 2
    drawn = ast.literal_eval(re.search(r"drawn: +(\[.+\])", kept("63"))[1])
    assert drawn == sorted(drawn)
    assert drawn[-1] - drawn[0] > 2
    # Under a blurred digit: what was asked for comes back, and two draws are not one.
    back, other = re.search(r"samples are ([\d.]+) from .+ digit is ([\d.]+)", kept("63")).groups()
    assert float(back) < float(other) / 3
    words = r"for one are ([\d.]+) apart, ([\d.]+) from .+ one ([\d.]+)"
    between, true, blurred = (float(v) for v in re.search(words, kept("63")).groups())
    assert float(back) < between < true < blurred


def test_embeddings_and_sentences_say_what_is_drawn_and_change_it_evenly():
    share = numbers("63", r"^class of the digit, (.+): (\d+)%$")
    assert share["asked for"] > 80 > 20 > share["asked for by another"]
    back, other = re.search(r"embedded again.+ are ([\d.]+) .+ is ([\d.]+);", kept("63")).groups()
    assert float(back) < float(other) / 4
    # Of 20 steps the largest, as a share of the whole: near 1/20, and a jump from datum to datum.
    largest = numbers("63", r"^between classes, (.+): the largest of 20 steps is ([\d.]+) of")
    assert 1 / 20 < largest["samples"] < 0.15 < 0.5 < largest["nearest training digits"]
    row = r"^sentences (.+): .+ right in (\d+)%, the boldness in (\d+)%, the lean in (\d+)%$"
    found = {name: list(map(int, rest)) for name, *rest in re.findall(row, kept("63"), re.M)}
    for name in ("seen", "held out"):  # by chance 10, 33 and 33 %
        assert all(x > 1.5 * y for x, y in zip(found[name], (10, 33, 33), strict=True)), name


# 64: means and medians, see tests/gan/test_translator.py.


def test_of_two_answers_squares_want_the_mean_and_absolute_differences_the_median(
    capsys, tmp_path, monkeypatch
):
    """1 with probability 0.7 and -1 with 0.3: 0.4 and 1."""
    monkeypatch.chdir(tmp_path)
    told = re.findall(r"(\w+) differences: .+ is (\S+)$", printed("64", (0, 1), capsys), re.M)
    assert {name: float(value) for name, value in told} == {
        "squared": pytest.approx(0.7 - 0.3, abs=0.005),
        "absolute": pytest.approx(1, abs=0.02),  # Adam's last steps
    }
    assert re.findall(r"(\w+) differences: .+ is (\S+)$", kept("64"), re.M) == told


def test_the_mean_has_the_least_error_and_no_detail():
    """Boards of two phases have one blurred image: their mean is 3 dB nearer than one of them."""
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2) * 2.0 - 1
    phases = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)
    true = phases[:, None, None, None] * board
    blurred = aeot.data.low_high(true, 4).a[:]
    torch.testing.assert_close(blurred, torch.zeros_like(true), atol=1e-6, rtol=0)
    one = board.expand_as(true)
    mean, sharp = error_split(torch.zeros_like(true), true), error_split(one, true)
    assert 10 * math.log10(sharp["total"] / mean["total"]) == pytest.approx(3.01, abs=0.01)
    assert mean["texture_power"] == pytest.approx(0, abs=1e-9)
    assert sharp["texture_power"] == pytest.approx(1)


def test_what_was_trained_shows_the_mean_without_detail_and_critics_with_it():
    psnr = numbers("64", r"^(.+): PSNR ([\d.]+) dB")
    detail = numbers("64", r"^(.+): PSNR .+ detail ([\d.]+) of")
    distance = numbers("64", r"^(.+): PSNR .+ pixels ([\d.]+)$")
    critics = {name for name in psnr if "patches" in name}
    assert len(critics) == 2
    nets = {name: value for name, value in psnr.items() if "enlarged" not in name}
    assert max(nets, key=nets.get) == "L2"
    assert psnr["L2"] > psnr["bicubic"] + 5
    # What enlarges by itself is no worse by L2, and by a critic it is unfinished.
    whole, critic = (f"{name}, enlarged by itself" for name in ("L2", "non-saturating"))
    assert psnr[whole] > psnr["L2"]
    assert detail["L2"] < detail[whole]
    assert distance[whole] < min(distance[name] for name in nets)
    assert distance[critic] > max(distance[name] for name in critics)
    for name in critics:
        assert detail["L2"] < detail["L1"] < detail[name]
        assert distance[name] < min(distance["L1"], distance["L2"])


# 65


def test_tint_edges_and_variety_are_measured_apart():
    page = functions("65", SIDE=16)
    warm, cold = (0.2, 0.0, -0.2), (-0.2, 0.0, 0.2)
    page["test"] = given = page["pictures"](64, warm, "test")
    right = page["pictures"](64, cold, "test")  # the same shapes
    page["wanted"] = right.mean((0, 2, 3))
    tint, kept, variety = page["measured"](given)
    assert tint == pytest.approx((0.4 + 0.4) / 3 / 0.27, rel=1e-4)
    assert (kept, variety) == pytest.approx((1, 1))
    assert page["measured"](right) == pytest.approx((0, 1, 1), abs=1e-5)
    tint, kept, variety = page["measured"](right.roll(1, 0))  # each the picture of another
    assert tint == pytest.approx(0, abs=1e-5)
    assert kept < 0.5
    assert page["measured"](right[:1].expand(64, -1, -1, -1))[2] == pytest.approx(0, abs=1e-5)


def test_a_choice_is_called_by_what_its_model_has():
    named, model = functions("65")["named"], aeot.CycleGAN
    assert named(model(filters=8, learning_rate=1e-3)) == "as published"
    assert named(model(identity=5.0)) == "identity 5"
    assert named(model(identity=0.0)) == "identity 0"
    assert named(model(cycle=0.0)) == "cycle 0"
    assert named(model(adversary="wasserstein")) == "patches, WGAN-GP"
    assert named(model(adversary="sinkhorn")) == "Sinkhorn"
    assert named(model(upsampling="resize")) == "resize convolution"


def test_the_identity_loss_kept_edges_and_resizing_left_no_checkerboard():
    """Of the rows that are finished in what the whole script gave: their tint is right."""
    assert "means of 5 seeds" in kept("65")
    tint = numbers("65", r"^(.+): (\d+)% ± \d+% of the tint missing")
    edges = numbers("65", r"^(.+): .+ edges kept (-?[\d.]+)")
    board = numbers("65", r"^(.+): .+ checkerboard ([\d.]+) ±")
    unfinished = {name for name, missing in tint.items() if missing > 20}
    assert unfinished == {"patches, WGAN-GP", "cycle 0"}
    assert edges["cycle 0"] < 0.3  # it need not keep anything
    assert edges["identity 0"] < 0.3 < 0.6 < edges["as published"] < edges["identity 5"]
    assert board["resize convolution"] < board["as published"] < board["identity 0"]
    page = (ROOT / "docs/paper.md").read_text()
    assert f"{tint['patches, WGAN-GP']:g} ± 6 % of the tint is missing" in page
    assert f"{tint['cycle 0']:g} ± 7 % of the tint is missing" in page
    assert f"({edges['as published']:.2f} in place of {edges['identity 0']:.2f} ±" in page


# 66


def test_two_batches_of_one_law_are_apart_and_less_so_the_larger_they_are():
    g = aeot.generator(0)
    bias = {}
    for n in (16, 48, 144):
        batches = torch.randn(2, 6, n, 2, generator=g, dtype=torch.float64)
        found = [sinkhorn_divergence(x, y, blur=0.2) for x, y in zip(*batches, strict=True)]
        bias[n] = float(torch.stack(found).mean())
    assert bias[16] > 1.5 * bias[48] > 1.5**2 * bias[144] > 0


def test_detail_below_the_blur_is_not_seen():
    """Two points at +-s against one between them: s^2 / 2 for a blur of nothing, else far less."""
    both, one = (torch.tensor(x, dtype=torch.float64)[:, None] for x in ([-0.1, 0.1], [0.0, 0.0]))
    assert float(sinkhorn_divergence(both, one, blur=0.001)) == pytest.approx(0.005, rel=0.01)
    assert float(sinkhorn_divergence(both, one, blur=1.0)) < 1e-4


def test_a_computed_divergence_settles_where_a_trained_critic_circles():
    """One datum at 0 and one sample: descent on |t|^2 / 2 shrinks t by the rate each step."""
    at = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    for _ in range(20):
        (slope,) = torch.autograd.grad(sinkhorn_divergence(at, 0 * at.detach(), blur=0.3), at)
        at = (at - 0.2 * slope).detach().requires_grad_()
    assert float(at.detach()) == pytest.approx(0.8**20, rel=1e-3)
    path = games.dirac_wgan_gp(0.1, 500)[:, 0]  # from 1, too
    assert float(path[-100:].abs().max()) > 0.3


def test_all_reached_all_modes_and_no_distance_differs_beyond_errors():
    modes = numbers("66", r"^(.+): ([\d.]+) ± 0.0 of 8 modes")
    assert modes == dict.fromkeys(["Sinkhorn, blur 0.3", "Sinkhorn, blur 0.05", "WGAN-GP"], 8)
    inside = numbers("66", r"^(.+): .+, (\d+) ± \d+ % inside")
    assert inside["Sinkhorn, blur 0.3"] < inside["Sinkhorn, blur 0.05"] < inside["WGAN-GP"]
    away = numbers("66", r"^(.+): .*sliced W2 ([\d.]+)")
    error = numbers("66", r"^(.+): .*sliced W2 [\d.]+ ± ([\d.]+)")
    floor, best = away.pop("two samples of the data"), "Sinkhorn, blur 0.05"
    assert 5 * floor < away[best] == min(away.values())
    for name in set(away) - {best}:
        assert away[name] - away[best] < 2 * (error[name] ** 2 + error[best] ** 2) ** 0.5


# 67


def test_an_average_of_one_step_is_a_step_on_all_data_together():
    """By shares of rows, of the whole clients' gradients; with equal shares it is another step."""
    average = functions("67")["average"]
    g = aeot.generator(0)
    x, y = torch.randn(60, 3, generator=g), torch.randn(60, 1, generator=g)
    parts = [slice(0, 10), slice(10, 60)]

    def moved(part):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = torch.nn.Sequential(
                torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
            )
        mover = torch.optim.SGD(network.parameters(), lr=0.1)
        (network(x[part]) - y[part]).square().mean().backward()
        mover.step()
        return network

    together = torch.nn.utils.parameters_to_vector(moved(slice(0, 60)).parameters())
    for shares, same in (((1 / 6, 5 / 6), True), ((0.5, 0.5), False)):
        clients = [moved(part) for part in parts]
        average(clients, shares)
        for client in clients:
            found = torch.nn.utils.parameters_to_vector(client.parameters())
            assert torch.allclose(found, together, atol=1e-6) is same


def test_re_weighting_gives_every_group_the_same_share():
    groups = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    weights = functions("67")["evened"](groups)
    shares = torch.zeros(3, dtype=torch.float64).index_add_(0, groups, weights)
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_clients_critics_grow_towards_their_data_and_generators_towards_larger_scores():
    """Samples at (-1, 0) and data at (1, 0), a score s x and a sample that is moved itself."""

    class Place(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.at = torch.nn.Parameter(torch.tensor([-1.0, 0.0]))

        def forward(self, z):
            return self.at.expand(len(z), 2)

    page, place = functions("67"), Place()
    critic = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(critic.weight)
    page["critic_update"](
        place, critic, torch.optim.SGD(critic.parameters(), lr=0.1), torch.tensor([[1.0, 0.0]])
    )
    # The gap 2 s has slope 2; a critic that is flat has no direction to be penalised in.
    assert critic.weight.tolist() == [pytest.approx([0.2, 0.0], abs=1e-3)]
    mover = torch.optim.SGD(place.parameters(), lr=0.1)
    page["generator_update"](place, mover, lambda fake: fake.mean(0)[0])
    assert place.at.tolist() == pytest.approx([-0.9, 0.0])


def test_the_mean_distance_to_four_clients_is_least_between_them_not_in_their_mixture():
    """Clients at the corners of a square of side 2: root 2 from the middle, (2 + root 2) / 2."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])

    def mean_distance(law):
        return sum(wasserstein1(law, corner.expand_as(law)) for corner in corners) / 4

    assert mean_distance(torch.zeros(4, 2)) == pytest.approx(2**0.5)
    assert mean_distance(corners) == pytest.approx(1 + 2**-0.5)


def test_the_transport_gives_a_minority_the_share_it_is_told():
    """Of its draws inside the modes, within four standard errors and the exact solver's error."""
    ring = aeot.data.toy("ring", 200)
    modes, kinds = ring.info["modes"], ring.labels
    for wanted in (0.02, 0.3):
        shares = torch.full((8,), (1 - wanted) / 7, dtype=torch.float64)
        shares[7] = wanted
        masses = shares[kinds] / kinds.bincount()[kinds]
        brenier = aeot.solve_exact(aeot.UniformBox(dim=2), ring[:], masses).map()
        cut = aeot.find_singularities(brenier)
        drawn = brenier.draw(4000, singular=cut, generator=aeot.generator(1)).codes
        near = torch.cdist(drawn.double(), modes).argmin(1)
        share = float((near == 7).double().mean())
        # A draw from a facet that is cut is drawn again, which moves shares by that much at most.
        assert share == pytest.approx(wanted, abs=4 * math.sqrt(wanted / 4000) + 0.15 * wanted)


def test_the_plain_gan_loses_modes_and_the_minority_and_transport_keeps_its_share():
    """Of three seeds, as the whole script gave them, with their standard errors."""
    row = r"^(.+?) +([\d.]+) ± ([\d.]+) +([\d.]+)% ± +([\d.]+)% +([\d.]+)% ± +([\d.]+)%$"
    rows = {name: [float(v) for v in rest] for name, *rest in re.findall(row, kept("67"), re.M)}
    assert len(rows) == 11
    assert "seeds [0, 1, 2]" in kept("67")
    modes = {name: found[0] for name, found in rows.items()}
    share = {name: found[4] for name, found in rows.items()}
    gan, wgan = rows["GAN"], rows["WGAN-GP"]
    assert gan[0] + 2 * (gan[1] + wgan[1]) < wgan[0] < 8
    assert share["GAN"] == 0
    assert share["WGAN-GP"] < 1 < share["WGAN-GP, re-weighted"]
    assert modes["WGAN-GP, group as condition"] == 8
    for name, wanted in (("masses of the data", 2), ("equal mass of groups", 12.5)):
        assert modes[f"transport, {name}"] == 8
        assert share[f"transport, {name}"] == pytest.approx(wanted, rel=0.15)
    assert modes["federated averaging, each 50th"] == 0
    page = (ROOT / "docs/paper.md").read_text()
    for found, off in (gan[:2], wgan[:2], rows["transport, masses of the data"][4:6]):
        assert f"{found:g} ± {off:g}" in page
    # Digits: as many fours as the masses say, but for what the judge takes for another digit.
    digits = re.findall(r"^masses (.+): ([\d.]+)% ± ([\d.]+)% of the samples", kept("67"), re.M)
    (_, data, _), (_, even, spread) = digits
    (wanted,) = re.findall(r"AE-OT on digits, ([\d.]+)% of which are fours", kept("67"))
    assert float(data) == pytest.approx(float(wanted), rel=0.25)
    assert float(even) == pytest.approx(10, rel=0.2)
    assert f"{data} % or {even} ± {spread} % fours" in page


# 68


def test_rendered_digits_are_digits_on_black_under_their_labels():
    digits = functions("68", SIDE=16, FONTS=["DejaVuSans", "cmr10"])["rendered"](60)
    assert digits.shape == (1, 16, 16)
    assert float(digits[:][:, 0, 0, :].mean()) < -0.95  # a border without ink
    ink = [(digits[:][digits.labels == k] + 1).mean() for k in (1, 8)]
    assert float(ink[1]) > 1.2 * float(ink[0]) > 0.05  # an eight is more than a one


def test_a_translator_that_swaps_classes_has_no_distance_and_all_the_joint_error():
    """Two classes at -+2 in the target, at 8 -+ 2 in the source; both translators match the law."""
    g = np.random.default_rng(0)
    label = g.integers(0, 2, 2000)
    target = 4.0 * label - 2 + 0.3 * g.standard_normal(2000)
    source = 8 + (4.0 * label - 2) + 0.3 * g.standard_normal(2000)
    cuts = np.linspace(-4, 12, 33)

    def said(x):
        return np.stack([x > cut for cut in cuts] + [x <= cut for cut in cuts]).astype(int)

    found = {
        name: adaptation_bound(said(x), label, said(target), label)
        for name, x in (("none", source), ("kept", source - 8), ("swapped", 8 - source))
    }
    assert found["none"].distance > 0.4
    assert max(found["kept"].distance, found["swapped"].distance) < 0.05
    assert found["kept"].joint < 0.01 < 0.95 < found["swapped"].joint
    best = found["kept"].source.argmin(), found["swapped"].source.argmin()
    assert found["kept"].target[best[0]] < 0.02
    assert found["swapped"].target[best[1]] > 0.98  # worse than chance, as the bound allows
    tensor = [torch.from_numpy(x)[:, None] for x in (8 - source, target)]
    assert abs(proxy_distance(*tensor)) < 0.2  # a judge of laws sees no difference


class Says:
    """A classifier that says what it was told, whatever it sees."""

    def __init__(self, *said):
        self.said = dict(zip((3, 4), said, strict=True))  # by how many images there are

    def predict(self, x):
        return np.array(self.said[len(x)])


def test_a_classifier_is_chosen_by_digits_of_its_own_kind_not_by_scans():
    """Of two, one errs nowhere on digits unseen and on all scans, the other the other way round."""
    held, scans = (torch.zeros(3, 1), np.zeros(3)), (torch.zeros(4, 1), np.zeros(4))
    careful, lucky = Says([0, 0, 0], [1, 1, 1, 1]), Says([1, 1, 0], [0, 0, 0, 0])
    judged = functions("68")["judged"]
    for own, chosen in (([careful, lucky], 0), ([lucky, careful], 1)):
        k, found = judged(own, [Says([1, 1, 1], [0, 0, 0, 1])], held, scans)
        assert k == chosen
        assert (found.source[k], found.target[k]) == (0, 1)
        assert found.joint == pytest.approx(2 / 3)  # of the lucky one
        assert len(found.bound) == 3


def test_a_translator_is_called_by_the_weight_of_its_cycle():
    models = functions("68")["translators"]()
    assert {name: model.cycle for name, model in models.items()} == {
        "translated, cycle 10": 10,
        "translated, cycle 0": 0,
    }
    assert {model.identity for model in models.values()} == {0}


def test_no_translation_helped_and_without_the_cycle_nothing_was_left():
    """As the page says it: what is lost is in the last term, for errors at home are small."""
    right = numbers("68", r"^trained on (.+): ([\d.]+)% right on")
    joint = numbers("68", r"^trained on (.+): .+ joint ([\d.]+);")
    plain, cycle, free = "rendered, as they are", "translated, cycle 10", "translated, cycle 0"
    home = numbers("68", r"^trained on (.+): .+ <= ([\d.]+) \+")
    assert right["labelled scans"] > 90 > right[plain] > right[cycle] > right[free] + 20
    assert right[free] < 10 + 2  # chance
    assert joint[plain] < joint[cycle] < joint[free]
    assert max(home[plain], home[cycle]) < 0.05 < 0.3 < home[free]
    page = (ROOT / "docs/paper.md").read_text()
    for name in (plain, cycle, free):
        assert f"{right[name]:.0f} %" in page
        assert f"{joint[name]:.2f}" in page
    says = r"^trained on (.+): .+ error ([\d.]+) <="
    distance = numbers("68", r"^trained on (.+): .+ distance ([\d.]+) \+")
    for name, error in numbers("68", says).items():
        assert error <= home[name] + distance[name] + joint[name] + 0.02


# 69


@pytest.fixture(scope="module")
def graph_page():
    return functions("69", N=6, UPPER=torch.triu_indices(6, 6, 1))


def test_no_order_of_the_nodes_changes_the_score_of_a_graph(graph_page):
    data = graph_page["graphs"](20, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        graphs, tables = graph_page["GraphCritic"](), graph_page["TableCritic"]()
        orders = [torch.randperm(6) for _ in range(5)]
    with torch.no_grad():
        for order in orders:
            turned = data[:, order][:, :, order]
            torch.testing.assert_close(graphs(turned), graphs(data))
            assert not torch.allclose(tables(turned), tables(data))
    # It tells two triangles from a ring of six though all nodes have two edges.
    assert float(graphs(data).detach().std()) > 1e-4


def test_the_graph_penalty_bounds_the_step_from_edge_to_edge(graph_page):
    """A critic that counts edges s times steps by s."""
    real, fake = graph_page["graphs"](40, 0), graph_page["graphs"](40, 1)
    for s in (0.5, -1.0, 3.0):
        penalty = graph_page["graph_penalty"](lambda a, s=s: s * a.sum((1, 2)) / 2, real, fake, 2.0)
        assert float(penalty) == pytest.approx(2 * max(abs(s) - 1, 0) ** 2, abs=1e-5)
        slope = 3 * s  # s / 2 in each of 36 numbers
        penalty = graph_page["slope_penalty"](lambda a, s=s: s * a.sum((1, 2)) / 2, real, fake, 2.0)
        assert float(penalty) == pytest.approx(2 * (abs(slope) - 1) ** 2, abs=1e-4)
    seen = []
    graph_page["graph_penalty"](lambda a: seen.append(a) or a.sum((1, 2)), real, fake)
    without, with_it = seen[0].chunk(2)
    changed = with_it - without
    assert torch.equal(changed.sum((1, 2)), torch.full((40,), 2.0))
    rest = changed == 0  # every other edge is of the real table or of the fake one
    assert ((without == real) | (without == fake))[rest].all()
    assert not torch.equal(without[rest], real[rest])


def test_triangles_and_squares_are_those_that_can_be_listed(graph_page):
    g = aeot.generator(0)
    tables = graph_page["table"]((torch.rand(5, 15, generator=g) < 0.5).float())
    _, triangles, squares = graph_page["statistics"](tables)
    listed = [0, 0]
    for a in tables.bool().tolist():
        for i, j, k in itertools.combinations(range(6), 3):
            listed[0] += a[i][j] and a[j][k] and a[k][i]
        for i, j, k, m in itertools.permutations(range(6), 4):  # each square eight times
            listed[1] += a[i][j] and a[j][k] and a[k][m] and a[m][i]
    assert triangles == pytest.approx(listed[0] / 5)
    assert squares == pytest.approx(listed[1] / 8 / 5)


def test_every_graph_of_the_data_is_one_ring_or_two_triangles(graph_page):
    """Seen by who is reached from the first node."""
    data = graph_page["graphs"](50, 1)
    reached = torch.linalg.matrix_power(data + torch.eye(6), 6)[:, 0].gt(0).sum(1)
    assert set(reached.tolist()) == {3, 6}
    assert (data.sum(2) == 2).all()
    assert torch.equal(data, data.mT)
    assert graph_page["kinds"](data) == [float((reached == k).double().mean()) for k in (6, 3)]
    assert graph_page["different"](data)[1] == 2


def test_what_is_nearly_a_graph_of_the_data_is_not_counted(graph_page):
    """A ring of six with a chord, two triangles with a bridge; other orders are the same graph."""
    ring, two = torch.zeros(6, 6), torch.zeros(6, 6)
    for k in range(6):
        ring[k, (k + 1) % 6] = ring[(k + 1) % 6, k] = 1
        i = k // 3 * 3 + (k + 1) % 3
        two[k, i] = two[i, k] = 1
    assert graph_page["kinds"](torch.stack([ring, two])) == [0.5, 0.5]
    order = torch.tensor([3, 1, 4, 0, 5, 2])
    same = torch.stack([ring, ring[order][:, order]])
    assert graph_page["different"](same) == (2, 1)
    assert graph_page["different"](torch.cat([same, two[None]]))[1] == 2
    for graph in (ring, two):
        graph[0, 3] = graph[3, 0] = 1
    assert graph_page["kinds"](torch.stack([ring, two])) == [0, 0]


def test_against_the_critic_of_graphs_both_kinds_come_as_often_as_in_the_data():
    """Under the penalty of slopes; under that of edges never both, of a critic of tables fewer."""
    row = r"^(.+): degrees .+\n +([\d.]+)(?: ± [\d.]+)? % are one ring, ([\d.]+)"
    told = re.findall(row, kept("69"), re.M)
    shares = {name: (float(one), float(two)) for name, one, two in told}
    data, chance, slopes, edges, tables = shares.values()
    assert [*shares][2:4] == [f"critic of graphs, {by} penalty" for by in ("slope", "graph")]
    both = dict(
        zip(shares, re.findall(r"each a tenth or more in (\d) of \d", kept("69")), strict=True)
    )
    assert [both[name] for name in [*shares][2:]] == ["5", "0", "5"]
    assert sum(data) == 100
    assert sum(slopes) > 95
    assert slopes == pytest.approx(data, abs=5)
    assert sum(chance) < 1
    assert sum(edges) < 30
    assert sum(tables) < 80
    page = (ROOT / "docs/paper.md").read_text()
    assert f"{sum(slopes):.0f} % of the graphs are right, {slopes[0]:.0f} ± 3 % rings" in page
    assert f"a critic of the table {sum(tables):.0f} %" in page
