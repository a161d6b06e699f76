"""Classes and changes: what one transport per class costs, and what a small change of sites costs.

    python benchmarks/bench_conditional.py --n 20000 >> benchmarks/results/conditional.jsonl

Sites are the first n training images of Fashion-MNIST in their first d principal components. The
unconditional solve, the conditional one (ten classes) and updates of one site in a hundred run one
after the other; one line of JSON says samples, seconds and bounds of each.
"""

import argparse
import json
import time

import torch

import aeot
from aeot._environment import environment


def codes(n, d, root):
    """Return d principal components of n images, and their classes."""
    data = aeot.dataset("fashion-mnist", root).subset(slice(0, n + max(n // 100, 1)))
    rows = data[:].flatten(1)
    rows = rows - rows.mean(0)
    axes = torch.linalg.eigh(rows.T @ rows)[1][:, -d:].flip(1)
    return rows @ axes, data.labels


def timed(function, *given, **options):
    """Return what a solver finds, and the facts of it."""
    wall, processor = time.perf_counter(), time.process_time()
    found = function(*given, **options)
    return found, {
        "samples": found.n_samples,
        "bound": found.mass_error_upper,
        "converged": found.converged,
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
    }


def main():
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000, help="sites")
    parser.add_argument("--d", type=int, default=16, help="principal components")
    parser.add_argument("--tol", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", help="where the data lie")
    args = parser.parse_args()
    sites, labels = codes(args.n, args.d, args.root)
    new, sites, labels = sites[args.n :], sites[: args.n], labels[: args.n]
    source, options = aeot.UniformBox(dim=args.d), {"tol": args.tol, "seed": args.seed}
    aeot.solve_semidiscrete(source, sites[:600], tol=0.2)  # compiles
    row = vars(args) | {"environment": environment()}
    by_class, row["conditional"] = timed(
        aeot.solve_conditional, source, sites, labels.tolist(), **options
    )
    row["conditional"]["bounds"] = [s.mass_error_upper for s in by_class.solutions]
    cold, row["unconditional"] = timed(aeot.solve_semidiscrete, source, sites, **options)
    again = {"tol": args.tol, "seed": args.seed + 1}
    gone = torch.arange(len(new))
    for name, change in {"add": {"add": new}, "remove": {"remove": gone}}.items():
        _, row[name] = timed(aeot.update_solution, cold, **change, **again)
        row[name]["share_of_cold_samples"] = row[name]["samples"] / cold.n_samples
    print(json.dumps(row))


if __name__ == "__main__":
    main()
