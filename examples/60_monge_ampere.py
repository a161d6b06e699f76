"""The equation behind the map, and how fast it is solved
======================================================

Between two densities the potential solves the Monge-Ampere equation det D²u(x) g(grad u(x)) = f(x).
A discrete target has no g, and u is made of planes; but the map extended between its cells has
a determinant in every triangle, and where the target is a fine version of a smooth one that has to
come out as f / g. Between two Gaussians everything is known: grad u is linear.

Three things are measured: the equation's error against the number of sites; the share of triangles
that the extension turns over, which a convex potential never does, inside the modes of the map and
between them; and how fast the solvers converge on exact cells.

Seeds: 0 of the draws, 1 of the folded ones, 2 of the sites of the solvers.
"""

import math
import sys
from pathlib import Path

import numpy as np
import scipy.optimize
import torch
from matplotlib.figure import Figure

import aeot
from aeot.maps.triangulation import determinants

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer sites


# %%
# Source N(0, 1), target N(0, S), each on a box that leaves out 1e-6 of it. Between them grad u(x) =
# S^(1/2) x. The target is made discrete in two ways: a lattice, each site with the mass of the
# points nearest to it; and independent draws of equal mass, as in practice.
def gaussian(covariance, half, pixels=160):
    """N(0, covariance) on [-half, half]^2, its density interpolated between pixels."""
    axis = torch.linspace(-half, half, pixels, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    values = torch.exp(-0.5 * (x @ torch.linalg.inv(covariance) * x).sum(1))
    values = values.view(pixels, pixels).T.flip(0)  # rows from the top, as in a picture
    return aeot.GridDensity(values, low=[-half] * 2, high=[half] * 2, interpolation="linear")


S = torch.tensor([[1.6, 0.5], [0.5, 0.7]], dtype=torch.float64)
values, vectors = torch.linalg.eigh(S)
root = vectors @ values.sqrt().diag() @ vectors.T
source, target = gaussian(torch.eye(2, dtype=torch.float64), 5.0), gaussian(S, 7.0)


def lattice(step):
    """Sites of a turned square lattice and the target's mass nearest to each."""
    k = torch.arange(-60, 61, dtype=torch.float64) * step
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    sites = (torch.cartesian_prod(k, k) + 0.3 * step) @ turn.T
    sites = sites[(sites @ torch.linalg.inv(root)).norm(dim=1) < 4]
    return sites, aeot.power_diagram(target, sites, -sites.square().sum(1) / 2).masses


def draws(n):
    g = aeot.generator(0, "target", n)
    return torch.randn(n, 2, generator=g, dtype=torch.float64) @ root, None


def measured(sites, masses):
    """Error of the equation (median of |log|), of the map, and the share of folded area."""
    diagram = aeot.power_diagram(source, sites, aeot.solve_exact(source, sites, masses).heights)
    c = diagram.centroids
    simplices, volumes, stretch = determinants(c, sites)
    middle, image = c[simplices].mean(1), sites[simplices].mean(1)
    near = middle.norm(dim=1) < 2
    f = torch.exp(-0.5 * middle.square().sum(1))
    g = torch.exp(-0.5 * (image @ torch.linalg.inv(S) * image).sum(1)) / torch.linalg.det(S).sqrt()
    error = (stretch.clamp(min=1e-12) * g / f).log().abs()[near].median()
    inside = c.norm(dim=1) < 2
    off = (sites - c @ root)[inside].square().sum(1).mean().sqrt()
    folded = volumes[near & (stretch < 0)].sum() / volumes[near].sum()
    return float(error), float(off), float(folded)


# %%
steps = (0.8, 0.5) if quick else (0.8, 0.57, 0.4, 0.28, 0.2)
rows = {"lattice": [], "draws": []}
for step in steps:
    sites, masses = lattice(step)
    for name, given in (("lattice", (sites, masses)), ("draws", draws(len(sites)))):
        error, off, folded = measured(*given)
        rows[name].append((len(sites), error, off))
        print(f"{name}, {len(sites)} sites: det D2u g / f off by {error:.2%} (median), ", end="")
        print(f"map off by {off:.4f}, {folded:.2%} of the area folded")
for name, found in rows.items():
    n, *errors = np.log(np.array(found)).T
    rates = [-np.polyfit(n, e, 1)[0] for e in errors]
    print(
        f"{name}: the equation's error falls as n^-{rates[0]:.2f}, the map's as n^-{rates[1]:.2f}"
    )


# %%
# Folds: of one group of sites, and of two that are far apart, between which the map tears. There
# the extension has to turn over what joins the groups; inside each it is hardly ever more than the
# map of one group. In three dimensions simplices are tetrahedra.
def folds(sites, where):
    """Folded shares of the simplices inside a mode of the map, and of those from one to another."""
    solution = aeot.solve_exact(where, sites)
    modes = aeot.find_singularities(solution.map()).components
    centroids = aeot.power_diagram(where, sites, solution.heights).centroids
    simplices, volumes, stretch = determinants(centroids, sites)
    inside = (modes[simplices] == modes[simplices[:, :1]]).all(1)
    shares = [
        volumes[part & (stretch < 0)].sum() / volumes[part].sum() for part in (inside, ~inside)
    ]
    return [float(share) for share in shares]


g = aeot.generator(1)
for dim, n in ((2, 1000), (3, 150 if quick else 2000)):
    group = torch.randn(n, dim, generator=g, dtype=torch.float64)
    two = group.clone()
    two[::2, 0] += 20
    for name, sites in (("one group", group), ("two groups", two)):
        inside, between = folds(sites, aeot.UniformBox(dim=dim))
        told = "" if math.isnan(between) else f", {between:.2%} between modes"
        print(f"{n} sites in {dim} dimensions, {name}: {inside:.2%} folded inside a mode{told}")

# %%
# Convergence on exact cells: the errors of heights from step to step. Newton's squares them; a
# quasi-Newton method has ratios that fall to zero, which is what superlinear means; gradient
# descent has a constant ratio.
g = aeot.generator(2)
square = aeot.UniformBox(dim=2)
sites = torch.rand(12 if quick else 24, 2, generator=g, dtype=torch.float64)
n = len(sites)
best = aeot.solve_exact(square, sites, tol=1e-13).heights
start = -sites.square().sum(1) / 2
start = start - start.mean()


def energy(h):
    diagram = aeot.power_diagram(square, sites, torch.from_numpy(h))
    u = (diagram.masses * ((diagram.centroids * sites).sum(1) + torch.from_numpy(h))).sum()
    return float(u - torch.from_numpy(h).mean()), (diagram.masses - 1 / n).numpy()


def path(method, **options):
    """Distances to the solution after every step of a method of SciPy."""
    found = []

    def seen(h):
        found.append(float((torch.from_numpy(h - h.mean()) - best).norm()))

    options |= {"gtol": 1e-14}
    scipy.optimize.minimize(
        energy, start.numpy(), jac=True, method=method, callback=seen, options=options
    )
    return found


curves = {"BFGS": path("BFGS"), "L-BFGS, 5 pairs": path("L-BFGS-B", maxcor=5, ftol=0)}
h, curves["Newton"] = start, []
for _ in range(12):
    diagram = aeot.power_diagram(square, sites, h)
    step = torch.from_numpy(np.linalg.pinv(diagram.hessian.toarray())) @ (1 / n - diagram.masses)
    length = 1.0
    while float(aeot.power_diagram(square, sites, h + length * step).masses.min()) <= 1e-4:
        length /= 2
    h = h + length * step
    curves["Newton"].append(float((h - best).norm()))
h, curves["gradient descent"] = start, []
rate = 1 / float(np.linalg.eigvalsh(diagram.hessian.toarray())[-1])
for _ in range(40 if quick else 200):
    h = h - rate * (aeot.power_diagram(square, sites, h).masses - 1 / n)
    curves["gradient descent"].append(float((h - best).norm()))
for name, errors in curves.items():
    kept = [e for e in errors if e > 1e-11]
    steps_taken = list(zip(kept, kept[1:], strict=False))
    ratios = ", ".join(f"{after / before:.2g}" for before, after in steps_taken[-4:])
    print(f"{name}: {len(kept)} steps, last ratios {ratios}")

# %%
figure = Figure(figsize=(10, 4), layout="constrained")
left, right = figure.subplots(1, 2)
for name, found in rows.items():
    n, error, off = np.array(found).T
    left.loglog(n, error, "o-", label=f"{name}: equation")
    left.loglog(n, off, "s--", label=f"{name}: map")
left.set(xlabel="sites", title="error between two Gaussians")
for name, errors in curves.items():
    right.semilogy([e for e in errors[:60] if e > 1e-13], ".-", label=name)
right.set(xlabel="step", title="distance to the solution, exact cells")
for axis in (left, right):
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.3)
figure.savefig(OUT / "60_monge_ampere.png", dpi=130)
