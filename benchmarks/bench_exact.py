"""Exact transport: seconds and Newton steps against the number of sites, and other solvers.

One JSON line per case. Peers: pysdot (exact, C++; skipped where it is not installed) on the same
problem, and POT's network simplex between a fine grid and the sites, whose answer is only as good
as the grid.

    python benchmarks/bench_exact.py                       # all sizes; minutes
    python benchmarks/bench_exact.py --most 20000          # quick
    python benchmarks/bench_exact.py --out benchmarks/results/exact.jsonl
"""

import argparse
import json
import time

import numpy as np
import ot
import torch

import aeot
from aeot._environment import environment

CASES = [
    ("grid", 2, 512),
    ("gaussian", 2, 512),
    ("gaussian", 2, 2_000),
    ("gaussian", 2, 10_000),
    ("uniform", 2, 10_000),
    ("gaussian", 3, 2_000),
    ("gaussian", 3, 10_000),
    ("gaussian", 2, 30_000),
    ("gaussian", 2, 100_000),
    ("gaussian", 3, 30_000),
    ("gaussian", 3, 50_000),
]


def sites_of(kind, dim, n, seed):
    rng = np.random.default_rng(seed)
    if kind == "grid":  # 25 modes in the unit square
        modes = np.stack(np.meshgrid(*[np.linspace(0.1, 0.9, 5)] * 2), axis=-1).reshape(-1, 2)
        return modes[rng.integers(25, size=n)] + 0.02 * rng.standard_normal((n, 2))
    return rng.random((n, dim)) if kind == "uniform" else rng.standard_normal((n, dim))


def timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, round(time.perf_counter() - wall, 3), round(time.process_time() - cpu, 3)


def ours(sites, tol):
    source = aeot.UniformBox(dim=sites.shape[1])
    solution, wall, cpu = timed(lambda: aeot.solve_exact(source, torch.from_numpy(sites), tol=tol))
    error = (solution.cell_masses - solution.masses).abs()
    return {
        "seconds": wall,
        "cpu_seconds": cpu,
        "converged": solution.converged,
        "largest_relative_error": float((error / solution.masses).max()),
        "largest_error": float(error.max()),
        "steps": len(solution.history) - 1,
        "diagrams": solution.history[-1]["evaluations"],
    }


def pysdot(sites):
    try:
        from pysdot import OptimalTransport
        from pysdot.domain_types import ConvexPolyhedraAssembly
    except ImportError:
        return None
    domain = ConvexPolyhedraAssembly()
    domain.add_box([0] * sites.shape[1], [1] * sites.shape[1])
    # It starts from Voronoi cells of the sites themselves, so they must lie in the box.
    low, high = sites.min(axis=0), sites.max(axis=0)
    inside = 0.01 + 0.98 * (sites - low) / float((high - low).max())
    n = len(sites)

    def solve():
        problem = OptimalTransport(positions=inside, masses=np.full(n, 1 / n), domain=domain)
        problem.adjust_weights()
        return problem

    problem, wall, cpu = timed(solve)
    error = np.abs(problem.pd.integrals() - 1 / n)
    return {"seconds": wall, "cpu_seconds": cpu, "largest_relative_error": float(error.max() * n)}


def pot(sites, side):
    axis = (np.arange(side) + 0.5) / side
    points = np.stack(np.meshgrid(*[axis] * sites.shape[1]), axis=-1).reshape(-1, sites.shape[1])
    cost = ot.dist(points, sites) / 2
    m, n = cost.shape

    def solve():
        return ot.emd2(np.full(m, 1 / m), np.full(n, 1 / n), cost, numItermax=10**7)

    value, wall, cpu = timed(solve)
    return {"seconds": wall, "cpu_seconds": cpu, "grid_points": m, "cost": float(value)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--least", type=int, default=0, help="smallest number of sites")
    parser.add_argument("--most", type=int, default=100_000, help="largest number of sites")
    parser.add_argument("--dim", type=int, choices=(2, 3), help="only this dimension")
    parser.add_argument("--tol", type=float, default=1e-10)
    parser.add_argument("--repeats", type=int, default=2, help="of cases up to 10000 sites")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="append the lines to this file as well")
    options = parser.parse_args()
    # Compile first, and say what that costs where nothing is cached.
    _, compile_seconds, _ = timed(lambda: [ours(np.random.rand(50, d), 1e-10) for d in (2, 3)])
    for kind, dim, n in CASES:
        if not options.least <= n <= options.most or options.dim not in (None, dim):
            continue
        sites = sites_of(kind, dim, n, options.seed)
        repeats = options.repeats if n <= 10_000 else 1
        best = min((ours(sites, options.tol) for _ in range(repeats)), key=lambda r: r["seconds"])
        line = {"case": kind, "d": dim, "n": n, "seed": options.seed, "tol": options.tol, **best}
        line["first_use_seconds"] = compile_seconds
        if n <= 10_000:
            line["pysdot"] = pysdot(sites)
        if n <= 512:
            line["pot_emd"] = pot(sites, 64)
            solution = aeot.solve_exact(aeot.UniformBox(dim=dim), torch.from_numpy(sites))
            diagram = aeot.power_diagram(solution.source, solution.sites, solution.heights)
            line["cost"] = diagram.cost
        text = json.dumps({**line, "environment": environment()})
        print(text, flush=True)
        if options.out:
            with open(options.out, "a") as file:
                file.write(text + "\n")


if __name__ == "__main__":
    main()
