import pytest
import torch

import aeot
from aeot import UniformBox, generator

N, D = 500, 6


def problem(n=N):
    return torch.randn(n, D, generator=generator(0, "update"), dtype=torch.float64)


@pytest.fixture(scope="module")
def before():
    return aeot.solve_semidiscrete(UniformBox(dim=D), problem(), tol=0.1)


def counted(solution, m=1 << 19):
    """Total variation of the masses that the returned heights have, on fresh points."""
    x = torch.rand(m, D, generator=generator(9, "count"), dtype=torch.float64)
    share = torch.bincount(solution.map().cell(x), minlength=len(solution.sites)) / m
    noise = 0.5 * (2 / torch.pi / m) ** 0.5 * float(solution.masses.sqrt().sum())
    return 0.5 * float((share - solution.masses).abs().sum()), noise


@pytest.mark.parametrize("change", ["add", "remove", "masses"])
def test_a_small_change_is_certified_like_the_solution(before, change):
    sites, masses = problem(), torch.full((N,), 1 / N, dtype=torch.float64)
    if change == "add":
        new = problem(N + 5)[N:]
        after = aeot.update_solution(before, add=new, seed=1)
        sites, masses = torch.cat([sites, new]), None
    elif change == "remove":
        after = aeot.update_solution(before, remove=[3, 77, 401], seed=1)
        keep = torch.ones(N, dtype=torch.bool)
        keep[[3, 77, 401]] = False
        sites, masses = sites[keep], None
    else:
        masses[:5] *= 2
        masses /= masses.sum()
        after = aeot.update_solution(before, masses=masses, seed=1)
    assert torch.equal(after.sites, sites)
    wanted = torch.full((len(sites),), 1 / len(sites)) if masses is None else masses
    assert torch.allclose(after.masses, wanted.double())
    assert after.converged
    assert after.mass_error_upper <= before.tol == 0.1  # the default tolerance
    assert after.n_samples < before.n_samples / 3
    error, noise = counted(after)
    assert error <= after.mass_error_upper + 2 * noise


def test_it_is_certified_on_samples_that_share_nothing_where_these_are_cheap():
    sites = torch.randn(604, 10, generator=generator(0, "halves"), dtype=torch.float64)
    before = aeot.solve_semidiscrete(aeot.Gaussian(dim=10), sites[:600], tol=0.1)
    assert before.history[-1]["inflation"] > 1.1  # halves are shared
    after = aeot.update_solution(before, add=sites[600:], remove=[5, 9])
    assert after.converged
    assert 0.9 < after.history[-1]["inflation"] < 1.1
    assert after.n_samples < before.n_samples / 2
    x = torch.randn(1 << 18, 10, generator=generator(9, "count"), dtype=torch.float64)
    share = torch.bincount(after.map().cell(x), minlength=602) / len(x)
    noise = 0.5 * (2 / torch.pi / len(x)) ** 0.5 * float(after.masses.sqrt().sum())
    assert 0.5 * float((share - after.masses).abs().sum()) <= after.mass_error_upper + 2 * noise


def test_a_correction_does_not_run_off_where_cells_are_of_many_sizes():
    # In the plane few points lie near the facets of small cells beside large ones, and a step that
    # believes them overshoots more each time.
    draw = generator(0, "crowds")
    centres = 1.2 * torch.randn(20, 2, generator=draw)
    sites = centres[torch.randint(20, (1010,), generator=draw)]
    sites = sites + 0.5 * torch.randn(1010, 2, generator=draw)
    before = aeot.solve_semidiscrete(aeot.Gaussian(dim=2), sites[:1000], tol=0.05)
    after = aeot.update_solution(before, add=sites[1000:])
    assert after.converged
    assert after.n_samples < 0.9 * before.n_samples


def test_one_site_in_one_row_is_told_apart_from_a_column(before):
    with pytest.raises(ValueError, match=r"add must have shape .*add\[None\] makes one row$"):
        aeot.update_solution(before, add=torch.zeros(D))


def test_no_sample_of_the_solution_is_seen_again():
    seen = []

    def drawn(n, generator):
        x = torch.rand(n, D, generator=generator, dtype=torch.float64)
        if n != 256:  # those tell one problem from another, and nothing else
            seen.append(x[:, 0])
        return x

    solution = aeot.solve_semidiscrete(aeot.Sampler(drawn, dim=D), problem(200), tol=0.2, seed=3)
    old = torch.cat(seen)
    seen.clear()
    for change in ({"remove": [5]}, {"add": problem(201)[200:]}, {"masses": solution.masses}):
        solution = aeot.update_solution(solution, **change, seed=3)
        assert solution.converged
        new = torch.cat(seen)
        assert not torch.isin(new, old).any()
        old, _ = torch.cat([old, new]), seen.clear()


@pytest.mark.parametrize("tol", [0.05, 0.3])
def test_another_tolerance_is_certified_too(before, tol):
    after = aeot.update_solution(before, remove=[0, 1], tol=tol)
    assert after.converged
    assert after.mass_error_upper <= after.tol == tol
    error, noise = counted(after)
    assert error <= after.mass_error_upper + 2 * noise


def test_many_sites_may_change(before):
    """More than the correction is made for: the heights are a start like any other."""
    after = aeot.update_solution(before, add=problem(N + 200)[N:], remove=torch.arange(100))
    assert after.converged
    error, noise = counted(after)
    assert error <= after.mass_error_upper + 2 * noise


def test_a_chain_of_updates_keeps_its_promise(before):
    solution, new = before, problem(N + 30)[N:]
    for some in new.split(10):
        solution = aeot.update_solution(solution, add=some, remove=torch.arange(10))
        assert solution.converged
    assert torch.equal(solution.sites, torch.cat([problem()[30:], new]))
    error, noise = counted(solution)
    assert error <= solution.mass_error_upper + 2 * noise


def test_other_methods_go_on_from_the_old_heights_too(before):
    for method in ("lbfgs", "adam"):
        after = aeot.update_solution(before, remove=[3], tol=0.3, method=method)
        assert after.converged
        assert after.method == method
    with pytest.raises(ValueError, match="init must be left out"):
        aeot.update_solution(before, remove=[3], init=before.heights)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"remove": [1], "tolerance": 0.1},
            "takes no argument 'tolerance', got 0.1; it takes add,",
        ),
        ({"remove": [1], "threds": 2}, "argument 'threds', got 2; did you mean 'threads'"),
        ({"remove": [1], "sites": 3}, "update_solution takes no argument 'sites', got 3; it takes"),
        ({"add": problem()[[7]]}, "add must hold other sites, each once, got row 0, .* site 7;"),
        ({"add": problem()[[7]], "remove": [3]}, "got row 0, which equals site 7;"),
        ({"add": torch.ones(3, D)}, "got row 1, which equals row 0 of it;"),
        ({"remove": 3}, r"got 3; write \[3\]$"),
        ({"remove": [4, -1]}, r"got \[4, -1\]; sites are counted from 0: write 499 for -1$"),
        ({"remove": [5, 2, 5]}, "remove must name each site once, got 5 2 times"),
        ({"remove": torch.eye(1, N).int()[0]}, "got 0 499 times; a mask is of bools"),
        ({"remove": [0.5]}, "remove must be numbers of sites from 0 to 499, or a mask"),
    ],
)
def test_a_wrong_change_is_told_in_terms_of_the_change(before, change, told):
    with pytest.raises((TypeError, ValueError), match=told):
        aeot.update_solution(before, **change)


def test_a_change_without_a_name_is_told_its_name(before):
    told = (
        "update_solution takes no such argument without a name, got .*; write its name: add=, rem"
    )
    with pytest.raises(TypeError, match=told):
        aeot.update_solution(before, [[0.5] * D])
