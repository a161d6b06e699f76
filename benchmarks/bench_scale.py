"""How cost grows with the number of sites, and what more processes save.

    python benchmarks/bench_scale.py cost --n 1000 2000 4000 8000 >> benchmarks/results/scale.jsonl
    python benchmarks/bench_scale.py ranks --n 4000 --ranks 1 2 4 >> benchmarks/results/scale.jsonl
    python benchmarks/bench_scale.py model benchmarks/results/scale.jsonl

`cost` solves ever larger problems and prints processor seconds, samples, scores, memory, and at
last the exponent of each, fitted to all but the smallest n. `ranks` solves one problem in 1, 2, ...
processes, one thread each, and prints the processor seconds of the slowest rank, the bytes that a
rank sends, and whether the heights are the same; on a machine with fewer cores than processes it is
processor time that says what more cores would give. `model` foretells other sizes and more
processes from these rows and says what it takes for granted.

Sites are clusters of intrinsic dimension 8 in the unit cube's space, the source is the cube.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import aeot
from aeot._environment import environment, peak_memory


def clustered(n, d, seed):
    """Return sites (n, d) in thirty clusters of eight directions each."""
    rng = np.random.default_rng(seed)
    centres = 1.2 * rng.standard_normal((30, d))
    axes = rng.standard_normal((30, 8, d)) / d**0.5
    own = rng.integers(0, 30, n)
    inside = np.einsum("nk,nkd->nd", rng.standard_normal((n, 8)), axes[own])
    return torch.from_numpy(centres[own] + inside + 0.1 * rng.standard_normal((n, d)))


def solved(n, d, tol, seed):
    """Solve, and return the facts."""
    y, source = clustered(n, d, seed), aeot.UniformBox(dim=d)
    with aeot.alone():
        aeot.solve_semidiscrete(source, clustered(600, d, 1), tol=0.2)  # compiles
    wall, processor = time.perf_counter(), time.process_time()
    found = aeot.solve_semidiscrete(source, y, tol=tol, seed=seed, progress=False)
    return {
        "processor_seconds": time.process_time() - processor,
        "seconds": time.perf_counter() - wall,
        "samples": found.n_samples,
        "scores": found.n_samples * n,
        "bound": found.mass_error_upper,
        "converged": found.converged,
        "peak_memory_gib": peak_memory(),
        "heights": hashlib.sha256(found.heights.numpy().tobytes()).hexdigest(),
    }


class Traffic:
    """Counts what this process sends in rings of `size` ranks."""

    def __init__(self, size):
        self.size, self.bytes, self.messages = size, 0, 0
        for name, times in (("all_reduce", 2 / size), ("all_gather", 1.0)):
            setattr(torch.distributed, name, self.counting(getattr(torch.distributed, name), times))

    def counting(self, function, times):
        def counted(*arguments, **options):
            sent = arguments[-1]
            self.bytes += int(times * (self.size - 1) * sent.numel() * sent.element_size())
            self.messages += 1
            return function(*arguments, **options)

        return counted


def rank(args):
    """Be one of several processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{args.store}", rank=args.rank, world_size=args.size
    )
    traffic = Traffic(args.size)
    found = solved(args.n, args.d, args.tol, args.seed)
    found |= {"bytes_sent": traffic.bytes, "messages": traffic.messages}
    found |= network() if args.size == 2 else {}
    print(json.dumps(found))


def network():
    """Return what a message, and a byte of a large one, take between two ranks."""
    small, large = torch.zeros(8, dtype=torch.int64), torch.zeros(1 << 22, dtype=torch.int64)
    took = []
    for x, times in ((small, 200), (large, 5)):
        torch.distributed.all_reduce(x)
        begun = time.perf_counter()
        for _ in range(times):
            torch.distributed.all_reduce(x)
        took.append((time.perf_counter() - begun) / times)
    sent = large.numel() * large.element_size()  # 2 (size - 1) / size of it, for two ranks
    return {"message_seconds": took[0], "bytes_a_second": sent / took[1]}


def cost(args):
    """Print a line for every n, and the fitted exponents; each n in a process of its own."""
    rows = []
    for n in args.n:
        command = [sys.executable, __file__, "one", "--n", str(n), "--d", str(args.d)]
        command += ["--tol", str(args.tol), "--seed", str(args.seed)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(row(args, "cost", n=n) | rows[-1]), flush=True)
    if len(args.n) < 3:
        return
    x = np.log(args.n[1:])
    fitted = {
        name: float(np.polyfit(x, np.log([r[name] for r in rows[1:]]), 1)[0])
        for name in ("processor_seconds", "samples", "scores")
    }
    print(json.dumps(row(args, "exponents", n=args.n[1:]) | fitted))


def ranks(args):
    """Print a line for every number of processes."""
    for n in args.n:
        first = None
        for size in args.ranks:
            store = Path(tempfile.mkdtemp()) / "store"
            command = [sys.executable, __file__, "rank", "--n", str(n), "--d", str(args.d)]
            command += ["--tol", str(args.tol), "--seed", str(args.seed), "--size", str(size)]
            command += ["--store", str(store), "--rank"]
            running = [
                subprocess.Popen([*command, str(k)], stdout=subprocess.PIPE, text=True)
                for k in range(size)
            ]
            found = [json.loads(p.communicate()[0].splitlines()[-1]) for p in running]
            slowest = max(found, key=lambda r: r["processor_seconds"])
            assert len({r["heights"] for r in found}) == 1
            first = first or slowest
            told = {
                "ranks": size,
                "efficiency": first["processor_seconds"] / size / slowest["processor_seconds"],
                "same_heights": slowest["heights"] == first["heights"],
            }
            print(json.dumps(row(args, "ranks", n=n) | told | slowest), flush=True)


def row(args, part, n):
    """Return what every line begins with."""
    made = {"part": part, "n": n, "d": args.d, "tol": args.tol, "seed": args.seed}
    return made | {"version": aeot.__version__, "environment": environment()}


def model(args):
    """Foretell processor seconds of a rank from the rows of `ranks`.

    A solve of n sites on K ranks takes a n^2 / K + b n processor seconds of each: scores are
    shared, steps of n numbers are made by all. a and b come from the rows of one n with the fewest
    and with the most ranks. Messages cost their number times the measured time of a small one, and
    their bytes, which grow with n, at the measured pace, by the ring that gloo and NCCL use.
    """
    rows = [json.loads(line) for line in Path(args.rows).read_text().splitlines()]
    rows = [r for r in rows if r["part"] == "ranks"]
    n = max(r["n"] for r in rows)
    rows = sorted((r for r in rows if r["n"] == n), key=lambda r: r["ranks"])
    one, two, most = rows[0], next(r for r in rows if r["ranks"] == 2), rows[-1]
    t, size = one["processor_seconds"], most["ranks"]
    shared = (t - most["processor_seconds"]) / (1 - 1 / size)
    a, b = shared / n**2, max(t - shared, 0.0) / n
    sent = two["bytes_sent"] / n  # of two ranks: half of what many send
    print(f"from n = {n}: {shared:.3g} of {t:.3g} processor seconds are shared, the rest is not")
    print("n         ranks  seconds    efficiency  of it messages")
    for sites in (100_000, 1_000_000, 10_000_000):
        alone = a * sites**2 + b * sites
        for many in (1, 8, 64, 1024):
            talk = 0.0
            if many > 1:
                talk = two["messages"] * two["message_seconds"]
                talk += 2 * sent * sites * (many - 1) / many / two["bytes_a_second"]
            total = a * sites**2 / many + b * sites + talk
            print(f"{sites:<10}{many:<7}{total:<11.4g}{alone / many / total:<12.3f}{talk:.3g}")


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("cost", "ranks", "one", "rank"):
        part = parts.add_parser(name)
        several = name in ("cost", "ranks")
        part.add_argument("--n", type=int, nargs="+" if several else None, default=[4000])
        part.add_argument("--d", type=int, default=16)
        part.add_argument("--tol", type=float, default=0.1)
        part.add_argument("--seed", type=int, default=0)
        if name == "ranks":
            part.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
        if name == "rank":
            for option in ("--rank", "--size"):
                part.add_argument(option, type=int)
            part.add_argument("--store")
    part = parts.add_parser("model")
    part.add_argument("rows", help="what `ranks` printed")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.part == "one":
        torch.set_num_threads(1)
        print(json.dumps(solved(args.n, args.d, args.tol, args.seed)))
        return
    {"cost": cost, "ranks": ranks, "rank": rank, "model": model}[args.part](args)


if __name__ == "__main__":
    main()
