"""What a change of one site in a hundred costs, beside the solve from nothing.

    python benchmarks/bench_update.py --n 2000 8000 --d 2 16 64 --seeds 0 1 2

Sites are draws of a mixture of twenty normal laws, the source is a normal law. One line of JSON a
case is added to results/update.jsonl; cases that are there are not run again: samples, processor
seconds and bounds of the cold solve, and of updates that add and remove sites and change masses.
`other` counts the masses of the update's heights on samples of its own, as a check of the bound.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import aeot
from aeot._environment import environment

ROWS = Path(__file__).parent / "results" / "update.jsonl"
MODES, CHECKED = 20, 1 << 21


def sites_of(n, d, seed):
    """Return n draws of a mixture."""
    draw = aeot.generator(seed, "update sites", n, d)
    centre = 1.2 * torch.randn(MODES, d, generator=draw)
    return centre[torch.randint(MODES, (n,), generator=draw)] + 0.5 * torch.randn(
        n, d, generator=draw
    )


def timed(function, *given, **options):
    """Return what a solver finds, and the facts of it."""
    begun = time.process_time()
    found = function(*given, **options)
    return found, {
        "samples": found.n_samples,
        "bound": found.mass_error_upper,
        "converged": found.converged,
        "checks": sum(record["upper"] is not None for record in found.history),
        "processor_seconds": time.process_time() - begun,
    }


def counted(solution, seed):
    """Return the total variation of the masses on other samples, their noise taken off."""
    brenier, counts = solution.map(), torch.zeros(len(solution.sites))
    for block in range(CHECKED >> 16):
        x = solution.source.sample(1 << 16, generator=aeot.generator(seed, "check", block))
        counts += torch.bincount(brenier.cell(x), minlength=len(counts))
    masses = counts.double() / CHECKED
    raw = float((masses - solution.masses).abs().sum()) / 2
    noise = float((2 * masses / torch.pi / CHECKED).sqrt().sum()) / 2
    return max(raw**2 - noise**2, 0.0) ** 0.5


def case(n, d, seed, tol, check):
    """Solve and change one problem; return its row."""
    k = n // 100
    every = sites_of(n + k, d, seed)
    source, sites, new = aeot.Gaussian(dim=d), every[:n], every[n:]
    row = {"n": n, "d": d, "seed": seed, "tol": tol}
    cold, row["cold"] = timed(aeot.solve_semidiscrete, source, sites, tol=tol, seed=seed)
    masses = torch.full((n,), 1.0 / n, dtype=torch.float64)
    masses[:k] *= 2
    changes = {"add": {"add": new}, "remove": {"remove": torch.arange(k)}}
    changes["masses"] = {"masses": masses / masses.sum()}
    for name, change in changes.items():
        found, row[name] = timed(aeot.update_solution, cold, **change, tol=tol, seed=seed)
        row[name]["share"] = found.n_samples / cold.n_samples
        if check:
            row[name]["other"] = counted(found, seed)
    return row


def main():
    """Measure the cases that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[2000])
    parser.add_argument("--d", type=int, nargs="+", default=[2, 16, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tol", type=float, default=0.05)
    parser.add_argument("--check", action="store_true", help="count on other samples, too")
    parser.add_argument("--rows", type=Path, default=ROWS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = args.rows.read_text().splitlines() if args.rows.exists() else []
    known = [json.loads(line) for line in lines]
    aeot.solve_semidiscrete(aeot.Gaussian(dim=16), sites_of(600, 16, 0), tol=0.3)  # compiles
    for n in args.n:
        for d in args.d:
            for seed in args.seeds:
                wanted = {"n": n, "d": d, "seed": seed, "tol": args.tol}
                if any(wanted.items() <= row.items() for row in known):
                    continue
                row = case(n, d, seed, args.tol, args.check)
                line = json.dumps({**row, "environment": environment()})
                print(
                    {
                        k: v if not isinstance(v, dict) else v.get("share", v["samples"] / n)
                        for k, v in row.items()
                    },
                    flush=True,
                )
                with args.rows.open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
