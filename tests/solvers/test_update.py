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
    assert after.mass_error_upper <= before.mass_error_upper  # the default tolerance
    error, noise = counted(after)
    assert error <= after.mass_error_upper + 2 * noise


def test_one_site_in_one_row_is_told_apart_from_a_column(before):
    with pytest.raises(ValueError, match=r"add must have shape .*add\[None\] makes one row$"):
        aeot.update_solution(before, add=torch.zeros(D))
