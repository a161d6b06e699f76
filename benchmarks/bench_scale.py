"""How cost grows with the number of sites, and what more processes, parts and bounds save.

    python benchmarks/bench_scale.py solve --n 1000 2000 4000 8000 16000 32000 --ranks 1 2
    python benchmarks/bench_scale.py hierarchy --n 1000 5000 10000 --d 16 64
    python benchmarks/bench_scale.py pruning --n 1000 4000 16000 --d 2 4 8 16
    python benchmarks/bench_scale.py leaves --n 16000 64000 --d 8 16 32
    python benchmarks/bench_scale.py report

`solve` solves ever larger problems in 1, 2, ... processes of one thread each and writes what each
took: processor seconds of the slowest rank, step by step, samples, memory, bytes and messages sent;
heights are the same for any number of ranks, or it stops. On a machine with fewer cores than
processes it is processor time that says what more cores would give. Every step is kept: the same
command goes on where it was stopped, and `--until grow` ends a solve that would take too long.
`hierarchy` compares the map onto clusters first with the optimal one, and as a start for it.
`pruning` counts the sites that exact bounds leave to be scored. `leaves` makes candidate lists from
the leaves of trees, which may miss winners, and from all sites. `report` prints tables, fitted
exponents, the model beside what was measured, and more processes by simulation; it draws
`results/scale.png`.

Rows go to `--rows`, one line each; rows that are there are not made again. Sites are thirty
clusters of intrinsic dimension 8, the source is the unit cube.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import scipy.optimize
import torch

import aeot
from aeot._environment import environment, peak_memory
from aeot.solvers.laplacian import DIVIDED

RESULTS = Path(__file__).parent / "results"
SETTINGS = ("part", "n", "d", "tol", "seed", "ranks")
LEAVES = (2, 8, 32, 128)  # sites in the smallest groups


def clustered(n, d, seed):
    """Return sites (n, d) in thirty clusters of eight directions each."""
    rng = np.random.default_rng(seed)
    centres = 1.2 * rng.standard_normal((30, d))
    axes = rng.standard_normal((30, 8, d)) / d**0.5
    own = rng.integers(0, 30, n)
    inside = np.einsum("nk,nkd->nd", rng.standard_normal((n, 8)), axes[own])
    return torch.from_numpy(centres[own] + inside + 0.1 * rng.standard_normal((n, d)))


def digest(heights):
    """Return a mark of heights."""
    return hashlib.sha256(heights.numpy().tobytes()).hexdigest()


def foreseen(n, d, memory, size):
    """Return the GiB that `solve_semidiscrete` says one of so many ranks takes, at most.

    Beside what Python and libraries hold, which a peak of memory counts.
    """
    trees = 8 * n * (d + 2) if n >= 1 << 16 else 0
    whole = memory + 4 * n * d + 8 * n * d + 800 * n + 2e7 + trees
    facets = 4000 * n / (size if n >= DIVIDED else 1)
    return (whole + facets + 24 * n * (20 + 8 * 16) / size) / 2**30


class Traffic:
    """Counts what this process, of this rank, sends in rings of `size` ranks."""

    def __init__(self, size, rank=0):
        self.size, self.rank, self.bytes, self.messages = size, rank, 0, 0
        names = ("all_reduce", "all_gather", "all_to_all_single")
        if size > 1:
            for name in names:
                setattr(
                    torch.distributed, name, self.counting(name, getattr(torch.distributed, name))
                )

    def counting(self, name, function):
        def counted(*arguments, **options):
            # A ring passes sums on in parts, and rows whole; parts for others go once.
            sent = arguments[0 if name == "all_reduce" else 1]
            numbers = (self.size - 1) * sent.numel()
            if name == "all_reduce":
                numbers *= 2 / self.size
            elif name == "all_to_all_single":
                numbers = sent.numel() - arguments[3][self.rank]
            self.bytes += int(numbers * sent.element_size())
            self.messages += 1
            return function(*arguments, **options)

        return counted


class Enough(Exception):
    """Ends a solve that goes on another time."""


def one(args):
    """Be one process of a solve; print what it took."""
    keep = Path(args.keep)
    keep.mkdir(parents=True, exist_ok=True)
    log = keep / f"steps-{args.rank}.jsonl"
    if args.until and enough(log, args.until):
        print(json.dumps({"peak_memory_gib": 0.0}))  # the steps know what it took
        return
    torch.set_num_threads(1)
    if args.size > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{args.store}", rank=args.rank, world_size=args.size
        )
    source, y = aeot.UniformBox(dim=args.d), clustered(args.n, args.d, args.seed)
    with aeot.alone():
        aeot.solve_semidiscrete(
            source, clustered(600, args.d, 1), tol=0.2, progress=False
        )  # compiles
    traffic = Traffic(args.size, args.rank)
    clock, wall = time.process_time(), time.perf_counter()
    begun = wall

    def on_step(record):
        nonlocal clock, wall
        took = {"processor": time.process_time() - clock, "seconds": time.perf_counter() - wall}
        took |= {"bytes": traffic.bytes, "messages": traffic.messages}
        took |= {"peak_gib": peak_memory()}
        with log.open("a") as file:
            file.write(json.dumps({**record, **took}) + "\n")
        if args.rank == 0:
            told = {k: record[k] for k in ("stage", "step", "samples", "error", "upper")}
            line = json.dumps({**told, "seconds": round(time.perf_counter() - begun, 1)})
            print(line, file=sys.stderr, flush=True)
        clock, wall, traffic.bytes, traffic.messages = (
            time.process_time(),
            time.perf_counter(),
            0,
            0,
        )
        order = ("coarse", "settle", "grow", "stream")
        if args.until and record["stage"] in order and enough(log, args.until):
            raise Enough

    try:
        found = aeot.solve_semidiscrete(
            source,
            y,
            tol=args.tol,
            seed=args.seed,
            memory=args.memory,
            checkpoint=keep / "state",
            on_step=on_step,
            progress=False,
        )
    except Enough:
        found = None
    row = {"peak_memory_gib": peak_memory()}
    if found is not None:
        row |= {"samples": found.n_samples, "bound": found.mass_error_upper}
        row |= {"converged": found.converged, "heights": digest(found.heights)}
    if args.size == 2:
        row |= network()
    print(json.dumps(row))
    if args.size > 1:
        torch.distributed.destroy_process_group()


def steps(log):
    """Return the steps that a file holds; one that was made again after a stop stands once."""
    found = {}
    if log.is_file():
        for line in log.read_text().splitlines():
            record = json.loads(line)
            found[record["stage"], record["step"], record["samples"]] = record
    return list(found.values())


def enough(log, until):
    """Whether a solve has made the steps of a stage that it does at least."""
    wanted = {"settle": 1, "grow": 1}[until]
    return sum(r["stage"] == until for r in steps(log)) >= wanted


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


def block_samples(n, d):
    """Return how many samples a block of such a problem holds."""
    from aeot.solvers.problem import standardise
    from aeot.solvers.scorer import Scorer
    from aeot.solvers.solve import choose_split

    y = torch.rand(n, d, generator=aeot.generator(0))
    problem = standardise(aeot.UniformBox(dim=d), y, torch.full((n,), 1 / n).double(), 0)
    return Scorer(problem, split=choose_split(problem.law, n, d)).block_samples


def solve(args):
    """Write a row for every number of sites and of processes."""
    heights = {}
    for row in rows(args.rows):
        if row["part"] == "solve":
            heights[tuple(row[k] for k in SETTINGS[1:5])] = row["heights"]
    for n, d, size in [(n, d, size) for n in args.n for d in args.d for size in args.ranks]:
        head = {"part": "solve", "n": n, "d": d, "tol": args.tol, "seed": args.seed, "ranks": size}
        if there(args.rows, head):
            continue
        keep = Path(args.keep) / f"{n}-{d}-{args.tol:g}-{args.seed}-{size}"
        command = [
            sys.executable,
            __file__,
            "one",
            "--n",
            str(n),
            "--d",
            str(d),
            "--size",
            str(size),
        ]
        command += ["--tol", str(args.tol), "--seed", str(args.seed), "--keep", str(keep)]
        command += [
            "--memory",
            str(args.memory),
            "--store",
            str(Path(tempfile.mkdtemp()) / "store"),
        ]
        command += ["--until", args.until] if args.until else []
        running = [
            subprocess.Popen([*command, "--rank", str(k)], stdout=subprocess.PIPE, text=True)
            for k in range(size)
        ]
        try:
            told = [p.communicate()[0] for p in running]
        except KeyboardInterrupt:
            for p in running:  # each keeps what it has
                p.send_signal(signal.SIGTERM)
            told = [p.communicate()[0] for p in running]
        if any(p.returncode for p in running):
            raise SystemExit("a process ended early; the same command goes on")
        found = [json.loads(text.splitlines()[-1]) for text in told]
        logs = [steps(keep / f"steps-{k}.jsonl") for k in range(size)]
        spent = [sum(r["processor"] for r in log) for log in logs]
        slowest = int(np.argmax(spent))
        row = {**head, "memory": args.memory, "processor_seconds": spent[slowest]}
        row |= {"seconds": sum(r["seconds"] for r in logs[slowest])}
        row |= {k: sum(r[k] for r in logs[slowest]) for k in ("bytes", "messages")}
        row |= found[slowest]
        peaks = [r["peak_gib"] for log in logs for r in log]
        row["peak_memory_gib"] = max(peaks + [f["peak_memory_gib"] for f in found])
        row |= {"foreseen_gib": foreseen(n, d, args.memory, size), "block": block_samples(n, d)}
        row["steps"] = passes(logs[slowest])
        if "heights" not in row:
            row |= {"part": "begun", "samples": logs[0][-1]["samples"]}
        else:
            first = heights.setdefault((n, d, args.tol, args.seed), row["heights"])
            assert first == row["heights"], f"{size} processes find other heights"
        write(args.rows, row)


def passes(log):
    """Return stage, samples and processor seconds of every step."""
    ends = [0, *(r["samples"] for r in log)]
    return [
        [r["stage"], r["samples"] - before, round(r["processor"], 3)]
        for r, before in zip(log, ends, strict=False)
    ]


def timed(call, *arguments, **options):
    """Return what a call returns, and its processor seconds."""
    begun = time.process_time()
    found = call(*arguments, **options)
    return found, time.process_time() - begun


def hierarchy(args):
    """Write rows for every problem: the map onto clusters first, the optimal one, and starts."""
    torch.set_num_threads(1)
    flat, tree = aeot.solve_semidiscrete, aeot.solve_hierarchical
    for n, d in [(n, d) for n in args.n for d in args.d]:
        head = {"part": "tree", "n": n, "d": d, "tol": args.tol, "seed": args.seed, "ranks": 1}
        both = {**head, "part": "hierarchy"}
        if there(args.rows, head if args.only_tree else both):
            continue
        source, y = aeot.UniformBox(dim=d), clustered(n, d, args.seed)
        how = {"tol": args.tol, "seed": args.seed}
        flat(source, clustered(600, d, 1), tol=0.2, progress=False)
        tree(source, clustered(600, d, 1), tol=0.2)
        parts, spent = timed(tree, source, y, **how)
        own = torch.bincount(parts.labels)
        share = torch.bincount(parts.labels, weights=parts.masses)  # of the source
        k, size = len(own), float(share @ own.double())
        scores = parts.coarse.n_samples * k + (parts.n_samples - parts.coarse.n_samples) * (
            k + size
        )
        points = source.sample(1 << 16, generator=aeot.generator(args.seed, "costs")).double()
        row = {"clusters": k, "seconds": spent, "samples": parts.n_samples, "scores": scores}
        row |= {"bound": parts.mass_error_upper, "converged": parts.converged}
        row |= {"cost": parts.cost(points), "peak_memory_gib": peak_memory()}
        if not there(args.rows, head):
            write(args.rows, {**head, **row})
        if args.only_tree:
            continue
        best, spent = timed(flat, source, y, **how, progress=False)
        row = {f"tree_{name}": value for name, value in row.items()}
        row |= {"seconds": spent, "samples": best.n_samples, "scores": best.n_samples * n}
        row |= {"bound": best.mass_error_upper, "converged": best.converged}
        brenier = best.map()
        row["cost"] = float((points - brenier(points).double()).square().sum(1).mean() / 2)
        row["other_cell"] = float((parts.cell(points) != brenier.cell(points)).double().mean())
        warm, spent = timed(flat, source, y, init=parts.heights, **how, progress=False)
        row |= {"warm_seconds": spent, "warm_samples": warm.n_samples}
        row |= {"warm_error": next(r["error"] for r in warm.history if r["error"] is not None)}
        again = {**how, "seed": args.seed + 1, "progress": False}
        perfect, spent = timed(flat, source, y, init=best.heights, **again)
        row |= {"perfect_seconds": spent, "perfect_samples": perfect.n_samples}
        write(args.rows, {**both, **row})


def pruning(args):
    """Write a row for every problem: what is left to be scored where groups of sites are skipped.

    Sites lie in a tree of balls, split at the median of the widest direction down to `leaf`. A
    group with centre c, radius r and reference point p of the source cannot win at x where
    <x, c> + max_i(h_i + <p, y_i - c>) + |x - p| r is below a score that is known. The score known
    is the best one: what a search by such bounds has to look at, at least. A bound counts as a
    site: both are a product of d numbers.
    """
    torch.set_num_threads(1)
    for n, d in [(n, d) for n in args.n for d in args.d]:
        head = {"part": "pruning", "n": n, "d": d, "tol": 0.3, "seed": args.seed, "ranks": 1}
        if there(args.rows, head):
            continue
        source, y = aeot.UniformBox(dim=d), clustered(n, d, args.seed)
        found = aeot.solve_semidiscrete(source, y, tol=0.3, seed=args.seed, progress=False)
        x = source.sample(512, generator=aeot.generator(args.seed, "pruning")).double().numpy()
        sites, heights = y.numpy(), found.heights.double().numpy()
        cells = found.cell_centroids.double().numpy()
        best = (x @ sites.T + heights).max(1)
        row = dict(head)
        for leaf in LEAVES:
            row[f"looked_{leaf}"] = looked(x, best, sites, heights, cells, leaf)
        row["looked"] = min(row[f"looked_{leaf}"] for leaf in LEAVES)
        many = source.sample(1 << 14, generator=aeot.generator(args.seed, "pruning times"))
        for engine in ("kdtree", "numba"):
            brenier = found.map(engine=engine)
            brenier.cell(many)  # compiles
            row[f"{engine}_seconds"] = timed(brenier.cell, many)[1] / len(many)
        write(args.rows, row)


def few(args):
    """Write rows for every problem: lists from some leaves of trees, and from all sites.

    Both as settling makes them, at heights that were solved to `tol` 0.3. The winners that are
    found are counted on samples that no choice of leaves has seen.
    """
    from aeot.search import leaves
    from aeot.solvers.oracles import Bank
    from aeot.solvers.problem import standardise
    from aeot.solvers.scorer import PrunedScorer, Scorer
    from aeot.solvers.solve import choose_split
    from aeot.solvers.stages import GROWN, SETTLED

    torch.set_num_threads(1)
    for n, d in [(n, d) for n in args.n for d in args.d]:
        head = {"part": "leaves", "n": n, "d": d, "tol": 0.3, "seed": args.seed, "ranks": 1}
        if there(args.rows, head):
            continue
        source, y = aeot.UniformBox(dim=d), clustered(n, d, args.seed)
        found = aeot.solve_semidiscrete(source, y, tol=0.3, seed=args.seed, progress=False)
        problem = standardise(source, y, torch.full((n,), 1 / n).double(), args.seed)
        heights = problem.to_standard(found.heights.double())
        every = Scorer(problem, split=choose_split(problem.law, n, d))
        some = every.candidates(heights, "unit", range(1), radius=1e20, least=1, longest=4)
        first = Bank(problem, every.engine, some, every.block_samples, 1)
        limits = {"radius": 4 * first.gap_scale(heights), "least": 8, "longest": 32}
        blocks = range(every.blocks_for(1 << 13))
        every.candidates(heights, "compiles", range(1), **limits)
        _, spent = timed(every.candidates, heights, "leaves", blocks, **limits)
        row = {**head, "all_seconds": spent / (len(blocks) * every.block_samples)}
        whole, spent = timed(leaves.grown, problem.sites, args.seed)
        row |= {"grow_seconds": spent, "leaves": whole.count}
        pool = problem.draw(leaves.POOL, "leaves pool").numpy()
        for share in (SETTLED, GROWN):
            at, spent = timed(leaves.raised, whole, heights, pool, share)
            some = PrunedScorer(every, at)
            some.candidates(heights, "compiles", range(1), **limits)
            _, listing = timed(some.candidates, heights, "leaves", range(2), **limits)
            right = []
            for block, lead in some.leads(heights, "judge", range(2)):
                z = block.left.double()
                best = torch.cat(
                    [(part @ problem.sites.double().T + heights).amax(1) for part in z.split(256)]
                )
                right.append(lead >= best - 1e-5 * best.abs().amax())
            row[f"at_{share:g}"] = {
                "probes": at.probes,
                "found": float(torch.cat(right).double().mean()),
                "seconds": listing / (2 * some.block_samples),
                "learn_seconds": spent,
            }
        write(args.rows, row)


def looked(x, best, sites, heights, cells, leaf):
    """Return how many bounds and sites are looked at for a point of x (m, d), in the mean."""
    where = (sites - sites.mean(0)) / sites.std()
    where = np.concatenate([where, (cells - cells.mean(0)) / cells.std()], 1)
    count, waiting = 0, [(np.arange(len(sites)), np.arange(len(x)))]
    while waiting:
        own, points = waiting.pop()  # a group, and for which points it is looked at
        count += len(points)
        bound = bounds(x[points], sites[own], heights[own], cells[own])
        points = points[bound >= best[points]]
        if len(own) <= leaf:
            count += len(own) * len(points)
        elif len(points):
            axis = where[own].std(0).argmax()
            order = own[where[own, axis].argsort(kind="stable")]
            halves = order[: len(own) // 2], order[len(own) // 2 :]
            waiting += [(half, points) for half in halves]
    return count / len(x)


def bounds(x, sites, heights, cells):
    """Return what the scores of a group cannot exceed at points x."""
    c, p = sites.mean(0), cells.mean(0)
    radius = np.linalg.norm(sites - c, axis=1).max()
    return x @ c + (heights + (sites - c) @ p).max() + np.linalg.norm(x - p, axis=1) * radius


def rows(path):
    """Return the rows that a file holds."""
    path = Path(path)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def there(path, head):
    """Whether a file holds a row of these settings."""
    return any(all(row.get(k) == head[k] for k in SETTINGS) for row in rows(path))


def write(path, row):
    """Add a row to a file, and print it."""
    row |= {"version": aeot.__version__, "environment": environment()}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(
        json.dumps({k: v for k, v in row.items() if k not in ("steps", "environment")}), flush=True
    )


def exponent(found, name):
    """Return the power of n with which something grows, the smallest n left out."""
    x, y = (np.log([row[k] for row in found[1:]]) for k in ("n", name))
    return float(np.polyfit(x, y, 1)[0])


class Model:
    """Foretells processor seconds of a rank: a n^2 / K + b n / K + c n.

    The first is scores, the second what is done for each of a rank's samples, the third what all
    ranks do alike: steps of n numbers. Seconds are relative errors' least squares, none below zero.
    """

    def __init__(self, found):
        n, size, spent = (
            np.array([row[k] for row in found], float) for k in ("n", "ranks", "processor_seconds")
        )
        parts = np.stack([n**2 / size, n / size, n], 1)
        self.parts = scipy.optimize.nnls(parts / spent[:, None], np.ones(len(n)))[0]

    def __call__(self, n, size=1):
        """Return the processor seconds."""
        return float(self.parts @ [n**2 / size, n / size, n])

    def alike(self, n):
        """Return those of what all ranks do alike."""
        return float(self.parts[2] * n)


def simulated(model, n, size, like, two):
    """Return seconds of one of so many ranks, and of them what messages take.

    Every step of the solve `like` is made with its samples for each site, in whole blocks: the rank
    with most of them is waited for. Messages go along a tree, their bytes round a ring.

    Args:
        model: Of processor seconds.
        n: Number of sites.
        size: Of ranks.
        like: The row of a solve.
        two: The row of a solve by two ranks, which knows what messages cost.
    """
    shared = model(n) - model.alike(n)
    drawn = sum(samples for _, samples, _ in like["steps"])
    total = model.alike(n)
    for _, samples, _ in like["steps"]:
        blocks = max(1, round(samples / like["n"] * n / like["block"]))
        total += shared * samples / drawn * -(-blocks // size) / blocks
    talk = 0.0
    if size > 1:
        talk = two["messages"] * two["message_seconds"] * np.log2(size)
        talk += two["bytes"] / two["n"] * n * 2 * (size - 1) / size / two["bytes_a_second"]
    return total + talk, talk


def report(args):
    """Print what the rows say, and draw it."""
    every = rows(args.rows)
    kinds = defaultdict(list)
    for row in sorted(every, key=lambda r: (r["d"], r["n"], r["ranks"])):
        kinds[row["part"]].append(row)
    for d in sorted({row["d"] for row in kinds["solve"]}):
        of_solves(
            [r for r in kinds["solve"] if r["d"] == d], [r for r in kinds["begun"] if r["d"] == d]
        )
    if kinds["tree"]:
        of_hierarchies(kinds["tree"], kinds["hierarchy"])
    if kinds["pruning"]:
        print("\nsites looked at by each sample, of n: at least, by bounds for balls")
        for d in sorted({row["d"] for row in kinds["pruning"]}):
            found = [r for r in kinds["pruning"] if r["d"] == d]
            told = ", ".join(f"{r['n']}: {r['looked'] / r['n']:.3f}" for r in found)
            grown = [exponent(found, k) for k in ("looked", "kdtree_seconds", "numba_seconds")]
            grown = ", ".join(f"{x:.2f}" for x in grown) if len(found) > 2 else "-"
            print(f"d = {d}: {told}; exponents of sites, kd-tree, numba: {grown}")
    if kinds["leaves"]:
        of_leaves(kinds["leaves"])
    draw(kinds, args.figure)
    print(args.figure)


def of_solves(found, begun):
    """Print the solves of one dimension."""
    alone = [row for row in found if row["ranks"] == 1]
    print(f"\nsolves, d = {found[0]['d']}, tol = {found[0]['tol']}")
    print("n        ranks  processor s  samples/n  bound    GiB    foreseen  MB sent  messages")
    for r in found:
        print(
            f"{r['n']:<9}{r['ranks']:<7}{r['processor_seconds']:<13.4g}"
            f"{r['samples'] / r['n']:<11.4g}{r['bound']:<9.3g}{r['peak_memory_gib']:<7.3g}"
            f"{r['foreseen_gib']:<10.3g}{r['bytes'] / 1e6:<9.4g}{r['messages']}"
        )
    if len(alone) < 4:
        return
    told = {k: round(exponent(alone, k), 2) for k in ("processor_seconds", "samples")}
    print(f"exponents from n = {alone[1]['n']} on: {told}")
    one = {row["n"]: row["processor_seconds"] for row in alone}
    for r in found:
        if r["ranks"] > 1 and r["n"] in one:
            share = one[r["n"]] / r["ranks"] / r["processor_seconds"]
            print(f"n = {r['n']}: efficiency of {r['ranks']} processes {share:.2f} (slowest rank)")
    largest = max(row["n"] for row in found)
    known = [row for row in found if row["n"] < largest]
    model = Model(known)
    print(f"model from n < {largest}: a n^2 / K + b n / K + c n, {model.parts.tolist()}")
    for r in found:
        guess = model(r["n"], r["ranks"])
        print(
            f"{r['n']:<9}{r['ranks']:<7}measured {r['processor_seconds']:<10.4g}model {guess:.4g}"
        )
    for r in begun:
        print(foretold(r, found[-1]))
    two = [row for row in found if row["ranks"] == 2]
    if not two:
        return
    model = Model(found)
    print("n          ranks  seconds    efficiency  of it messages   (simulated)")
    for n in (100_000, 1_000_000, 10_000_000):
        for size in (1, 8, 64, 1024):
            total, talk = simulated(model, n, size, alone[-1], two[-1])
            print(f"{n:<11}{size:<7}{total:<11.4g}{model(n) / size / total:<12.3f}{talk:.3g}")


def foretold(row, like):
    """Return what a solve that was stopped took so far, and what is left of it.

    Stages that are left take the samples a site, and the time a score, that they took another.

    Args:
        row: Of the solve that was stopped.
        like: Of one that was not.
    """
    n, size = row["n"], row["ranks"]
    order = ("coarse", "settle", "grow", "stream")
    last = max(order.index(stage) for stage, _, _ in row["steps"])
    left = [step for step in like["steps"] if step[0] in order[last + 1 :]]
    drawn = sum(samples for _, samples, _ in left) / like["n"]
    more = sum(spent for _, _, spent in left) * like["ranks"] / size * (n / like["n"]) ** 2
    took = defaultdict(float)
    for stage, _, spent in row["steps"]:
        took[stage] += spent
    told = ", ".join(f"{stage} {spent:.4g} s" for stage, spent in took.items())
    return (
        f"n = {n}, {size} ranks, stopped: {row['processor_seconds']:.4g} s of each ({told}), "
        f"{row['seconds']:.4g} s in all, {row['samples'] / n:.3g} samples a site, "
        f"{row['peak_memory_gib']:.3g} GiB each (foreseen {row['foreseen_gib']:.3g}); left, if it "
        f"is as at n = {like['n']}: {drawn:.3g} samples a site, {more:.4g} s of each"
    )


def of_hierarchies(trees, found):
    """Print maps onto clusters first, and those that were solved globally, too."""
    print("\nclusters first, then sites inside: processor seconds, scores / n^2, |x - T(x)|^2 / 2")
    for r in trees:
        told = f"{r['seconds']:.4g} s, {r['scores'] / r['n'] ** 2:.3g}, {r['cost']:.5g}"
        print(f"n = {r['n']}, d = {r['d']}, {r['clusters']} clusters: {told}, <= {r['bound']:.3g}")
    for r in found:
        print(
            f"n = {r['n']}, d = {r['d']}: the optimal map {r['seconds']:.4g} s, "
            f"{r['scores'] / r['n'] ** 2:.3g}, {r['cost']:.5g}; {r['other_cell']:.0%} of the "
            f"source go to other sites; samples a site from nothing {r['samples'] / r['n']:.1f}, "
            f"from the map of clusters (error {r['warm_error']:.3f}) "
            f"{r['warm_samples'] / r['n']:.1f}, from a solution {r['perfect_samples'] / r['n']:.1f}"
        )
    for d in sorted({r["d"] for r in trees}):
        some = [r for r in trees if r["d"] == d]
        if len(some) > 2:
            told = [f"{name} {exponent(some, name):.2f}" for name in ("seconds", "scores")]
            print(f"exponents of clusters first, d = {d}: {', '.join(told)}")


def of_leaves(found):
    """Print what lists from some leaves take, and the winners that they find."""
    print("\nlists: microseconds each from all sites; from leaves (share of winners, of leaves)")
    for r in found:
        told = [f"{1e6 * r['all_seconds']:.3g}"]
        for name, at in r.items():
            if name.startswith("at_"):
                share = at["probes"] / r["leaves"]
                told.append(f"{1e6 * at['seconds']:.3g} ({at['found']:.4f}, {share:.3f})")
        print(f"n = {r['n']}, d = {r['d']}: {', '.join(told)}")


def draw(kinds, path):
    """Draw growth: seconds against n, and sites looked at against n."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = defaultdict(list)
    for r in kinds["solve"]:
        name = "one process" if r["ranks"] == 1 else f"each of {r['ranks']}"
        curves[f"global, d = {r['d']}, {name}"].append((r["n"], r["processor_seconds"]))
    for r in kinds["tree"]:
        curves[f"clusters first, d = {r['d']}"].append((r["n"], r["seconds"]))
    for name, points in curves.items():
        left.loglog(*zip(*points, strict=True), marker="o", ms=3, label=name)
    for r in kinds["begun"]:
        name = f"global, d = {r['d']}, each of {r['ranks']}: grown, no certificate"
        left.loglog(r["n"], r["processor_seconds"], "o", ms=5, mfc="none", color="C1", label=name)
    left.set(title="a certified map", xlabel="sites", ylabel="processor seconds")
    left.legend(fontsize=7)
    for d in sorted({r["d"] for r in kinds["pruning"]}):
        points = [(r["n"], r["looked"] / r["n"]) for r in kinds["pruning"] if r["d"] == d]
        right.loglog(*zip(*points, strict=True), marker="o", ms=3, label=f"d = {d}")
    right.axhline(1.0, color="grey", lw=0.8, ls=":")
    right.text(1.0, 1.03, "no help", transform=right.get_yaxis_transform(), ha="right", fontsize=7)
    right.set(title="what bounds leave to be scored", xlabel="sites", ylabel="share of the sites")
    right.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("solve", "hierarchy", "pruning", "leaves", "report", "one"):
        part = parts.add_parser(name)
        several = "+" if name != "one" else None
        if name != "one":
            part.add_argument("--rows", default=str(RESULTS / "scale.jsonl"))
        if name == "report":
            part.add_argument("--figure", default=str(RESULTS / "scale.png"))
            continue
        part.add_argument("--n", type=int, nargs=several, default=[1000, 2000, 4000, 8000])
        part.add_argument("--d", type=int, nargs=several, default=[16])
        part.add_argument("--tol", type=float, default=0.1)
        part.add_argument("--seed", type=int, default=0)
        if name in ("solve", "one"):
            part.add_argument("--memory", type=int, default=1 << 28, help="bytes for scores")
            part.add_argument("--until", choices=("settle", "grow"), help="end after such a step")
            part.add_argument("--keep", default="out/bench_scale", help="where solves go on from")
        if name == "hierarchy":
            part.add_argument("--only-tree", action="store_true", help="without the optimal map")
        if name == "solve":
            part.add_argument("--ranks", type=int, nargs="+", default=[1])
        if name == "one":
            part.add_argument("--rank", type=int)
            part.add_argument("--size", type=int)
            part.add_argument("--store")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.part == "solve":
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    calls = {
        "solve": solve,
        "hierarchy": hierarchy,
        "pruning": pruning,
        "leaves": few,
        "report": report,
        "one": one,
    }
    calls[args.part](args)


if __name__ == "__main__":
    main()
