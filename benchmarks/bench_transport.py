"""Transport solvers against each other: held-out error for processor time.

Problems a to e are made from seeds and from data that ships with scikit-learn, so that anyone can
repeat them; `size` grows the number of sites at d = 16. Every solver gets the same problem in its
own natural form and a list of budgets; its heights are measured afterwards, outside its time, by
one and the same independent sample. One JSON line per result.

    python benchmarks/bench_transport.py run --problems c d e
    python benchmarks/bench_transport.py run --problems size1000 size200000 --solvers aeot
    python benchmarks/bench_transport.py run --problems codes --solvers aeot --levels 0.06
    python benchmarks/bench_transport.py scores          # against the bare matrix product
    python benchmarks/bench_transport.py tolerances --count 60
    python benchmarks/bench_transport.py coverage        # bounds of sampled solves, exact truth
    python benchmarks/bench_transport.py hard --seeds 1 2 3   # what solvers stumble over
    python benchmarks/bench_transport.py tune            # the rate of plain Adam
    python benchmarks/bench_transport.py peers --tols 0.2 0.1   # four problems nothing was tuned on
    python benchmarks/bench_transport.py plot
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest
from transport_hard import HARD, counted
from transport_peers import (
    ADAM_RATE,
    PEER_PROBLEMS,
    adam,
    alignflow,
    measured,
    ott,
    peer_problem,
    pot,
    problem,
)

from aeot import Gaussian, UniformBox, power_diagram, solve_semidiscrete
from aeot._environment import environment
from aeot.solvers.problem import standardise
from aeot.solvers.scorer import Scorer
from aeot.solvers.solve import Beginning, choose_split, unsolved
from aeot.solvers.starts import gaussian_heights

# Processor seconds given to the solvers that take a budget: about a quarter of the longest, which
# is nearly 20 times what this solver needs for a mass error of 0.04 on d and e, ten times on c.
BUDGETS = {"a": (1, 4), "b": (2, 8), "c": (1.5, 5), "d": (8, 32), "e": (25, 100)}
TOLERANCES = (0.1, 0.06, 0.03)
SOLVERS = ("aeot", "aeot-adam", "adam", "pot", "pot-tuned", "ott", "ott-adam")


def gemm_seconds(n, d, samples):
    """Processor seconds of the bare float32 product of `samples` points with all sites."""
    a, b = torch.randn(512, d), torch.randn(d, n)
    out, best = torch.empty(512, n), np.inf
    for _ in range(5):
        begun = time.process_time()
        torch.mm(a, b, out=out)
        best = min(best, time.process_time() - begun)
    return best * samples / 512


def ours(source, sites, method, tol, seed, init=None, masses=None):
    begun, wall = time.process_time(), time.perf_counter()
    options = {"tol": tol, "method": method, "init": init, "seed": seed, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        s = solve_semidiscrete(source, sites, masses, **options)
    seconds, wall = time.process_time() - begun, time.perf_counter() - wall
    extra = {
        "seconds": wall,
        "threads": torch.get_num_threads(),
        "asked": tol,
        "upper": s.mass_error_upper,
        "converged": s.converged,
    }
    extra |= {"samples": s.n_samples}
    if len(s.history) > 1 and "inflation" in s.history[-1]:
        last = max((k for k, r in enumerate(s.history) if r["stage"] == "grow"), default=0)
        before = s.history[last - 1]["samples"] if last else 0
        extra["inflation"] = s.history[-1]["inflation"]
        # What the heights rest on: neither earlier stages' samples nor the last check's.
        extra["stepped"] = s.history[-2]["samples"] - before
    return s.heights.cpu().numpy(), seconds, extra


def warm():
    """Compile the kernels of both kinds of blocks."""
    for d in (4, 8):
        sites = np.random.default_rng(0).normal(size=(64, d))
        ours(Gaussian(dim=d), sites, "newton", 0.2, 0)
        ours(UniformBox(dim=d), sites, "adam", 0.2, 0)


def one(name, source, sites, solver, level, seed):
    """Return heights, processor seconds and what else there is to say of one solve."""
    if solver == "aeot":
        return ours(source, sites, "auto", level, seed)
    if solver == "aeot-adam":
        return ours(source, sites, "adam", level, seed)
    if solver == "adam":
        return adam(source, sites, level, ADAM_RATE[name], seed)
    if solver.startswith("pot"):
        return pot(source, sites, level, 2048 if "tuned" in solver else 32, seed)
    return ott(source, sites, level, solver == "ott-adam", seed)


class Record:
    """A file of JSON lines that knows which rows it holds already."""

    def __init__(self, path, *keys):
        self.path, self.keys = Path(path), keys
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.rows = [json.loads(line) for line in lines]
        self.done = {tuple(row[k] for k in keys) for row in self.rows}

    def add(self, row):
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row | {"environment": environment()}) + "\n")
        print(json.dumps(row), flush=True)


def run(args):
    record = Record(args.out / "transport.jsonl", "problem", "solver", "level", "seed")
    warm()
    for name in args.problems:
        source, sites = problem(name)
        n, d = sites.shape
        for solver in args.solvers:
            levels = {"aeot": TOLERANCES, "aeot-adam": (0.1, 0.06)}.get(solver) or BUDGETS[name]
            levels = (0.02,) if solver == "aeot" and d <= 3 else levels
            levels = levels[:1] if solver in ("pot", "ott") else levels  # untuned: far away
            for level in args.levels or levels:
                if (name, solver, level, args.seed) in record.done:
                    continue
                heights, seconds, extra = one(name, source, sites, solver, level, args.seed)
                judged = measured(source, sites, heights)
                row = {"problem": name, "n": n, "d": d, "solver": solver, "level": level}
                row |= {"seed": args.seed, "cpu_seconds": seconds, **judged, **extra}
                if solver == "aeot" and d > 3:
                    row["score"] = seconds / gemm_seconds(n, d, n / max(judged["rms"], 1e-9) ** 2)
                row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                record.add(row)


def scores(args):
    """Time to a measured error over that of the bare product, other starts, and single passes."""
    record = Record(args.out / "transport_scores.jsonl", "problem", "start", "tol", "seed")
    warm()
    for name in args.problems:
        source, sites = problem(name)
        n, d = sites.shape
        rng = np.random.default_rng(args.seed)
        starts = {
            "own": None,
            "zero": np.zeros(n),
            "normal": rng.normal(size=n),
            "voronoi": -0.5 * (sites**2).sum(1),
        }
        for start, heights in starts.items():
            for tol in (0.06, 0.03) if start == "own" and n < 20_000 else (0.06,):
                if (name, start, tol, args.seed) in record.done:
                    continue
                if start != "own" and name == "pca128":
                    continue
                init = None if heights is None else torch.from_numpy(heights)
                found, seconds, extra = ours(source, sites, "auto", tol, args.seed, init)
                judged = measured(source, sites, found, m=1_200_000)
                bare = gemm_seconds(n, d, n / judged["rms"] ** 2)
                # Samples that steps were taken on, and the error that they allow.
                inflation, r = extra["inflation"], extra["stepped"] / n
                row = {"problem": name, "n": n, "d": d, "start": start, "tol": tol}
                row |= {"seed": args.seed, "cpu_seconds": seconds, "score": seconds / bare}
                row |= {"over_statistical_limit": judged["rms"] / (inflation / r) ** 0.5}
                record.add(row | judged | extra)
        if ("pass " + name, "own", 0.0, args.seed) not in record.done:
            row = {"problem": "pass " + name, "n": n, "d": d, "start": "own", "tol": 0.0}
            record.add(row | {"seed": args.seed, **passes(source, sites)})


def passes(source, sites):
    """Processor seconds of one pass over samples, lists made or winners counted, over the bare."""
    n, d = sites.shape
    nu = torch.full((n,), 1 / n, dtype=torch.float64)
    p = standardise(source, torch.as_tensor(sites), nu, seed=0)
    s = solve_semidiscrete(source, sites, tol=0.1, progress=False)
    h = p.to_standard(s.heights)
    scorer = Scorer(p, split=choose_split(p.law, n, d))
    blocks = range(scorer.blocks_for(100_000))
    unit = s.history[-1]["unit"]
    result, bare = {}, gemm_seconds(n, d, len(blocks) * scorer.block_samples)
    options = {"radius": 2.5 * unit, "least": 4, "longest": 16}
    for name in ("lists", "winners"):
        best = np.inf
        for _ in range(3):
            begun = time.process_time()
            if name == "lists":
                scorer.candidates(h, "pass", blocks, **options)
            else:
                for _won in scorer.winners(h, "pass", blocks):
                    pass
            best = min(best, time.process_time() - begun)
        result[name + "_over_bare"] = best / bare
    return result


def tune(args):
    """Print the error that plain Adam reaches at several rates in a quarter of its budget."""
    for name in args.problems:
        source, sites = problem(name)
        for rate in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
            heights, seconds, _ = adam(source, sites, BUDGETS[name][0], rate, seed=100)
            judged = measured(source, sites, heights, m=50 * len(sites))
            print(json.dumps({"problem": name, "rate": rate, "seconds": seconds, **judged}))


def tolerances(args):
    """Ask random problems for a tolerance and measure whether it is kept."""
    record = Record(args.out / "transport_tolerances.jsonl", "k")
    begun = time.perf_counter()
    for k in range(args.count):
        if time.perf_counter() - begun > args.seconds:
            break
        if (k,) in record.done or k % args.parts[1] != args.parts[0]:
            continue
        rng = np.random.default_rng([20, k])
        d = round(float(np.exp(rng.uniform(np.log(2), np.log(128)))))
        n = round(float(np.exp(rng.uniform(np.log(100), np.log(20_000)))))
        tol = (0.05, 0.02, 0.01)[k % 3] if n <= 3000 else (0.05, 0.02)[k % 2]
        modes = int(rng.integers(1, 20))
        centres = rng.uniform(0, 3) * rng.normal(size=(modes, d))
        sites = centres[rng.integers(modes, size=n)] + rng.normal(size=(n, d)) * rng.uniform(0.2, 1)
        masses = rng.dirichlet(np.ones(n)) + 1e-3 / n if k % 2 else np.ones(n)
        masses = torch.from_numpy(masses / masses.sum())
        source = UniformBox(dim=d) if rng.uniform() < 0.5 else Gaussian(dim=d)
        cpu, started = time.process_time(), time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            s = solve_semidiscrete(source, sites, masses, tol=tol, seed=k, progress=False)
        cpu = time.process_time() - cpu
        cost = 1e-6 + 3e-10 * n + n * d / 3e10  # seconds a sample of the judge takes, roughly
        m = int(min(max(60 * n, 8 * n**0.5 / tol**2), 40 / cost))
        judged = measured(source, sites, s.heights, masses, m=m)
        row = {"k": k, "n": n, "d": d, "weighted": bool(k % 2), "tol": tol, "cpu_seconds": cpu}
        row |= {"source": repr(source)[:10], "method": s.method, "converged": s.converged}
        row |= {"upper": s.mass_error_upper, "message": s.message, **judged}
        row |= {"kept": judged["tv"] <= tol, "seconds": time.perf_counter() - started}
        record.add(row)


def coverage(args):
    """Hold the bounds of sampled solves in the plane against exact masses, 50 problems a row.

    Without the exact cells of a picture that they begin with else, so that several looks are taken.
    """
    record = Record(args.out / "transport_coverage.jsonl", "first")
    begun = time.perf_counter()
    for first in range(0, args.count, 50):
        if (first,) in record.done or time.perf_counter() - begun > args.seconds:
            continue
        cpu, found = time.process_time(), []
        for k in range(first, first + 50):
            rng = np.random.default_rng([21, k])
            n, tol = int(rng.integers(10, 100)), (0.1, 0.05, 0.03, 0.02)[k % 4]
            sites = rng.normal(size=(n, 2)) * rng.uniform(0.2, 1, size=2)
            masses = rng.dirichlet(np.full(n, 5.0)) if k % 8 >= 4 else np.ones(n) / n
            box = UniformBox(dim=2)
            options = {"tol": tol, "method": "newton", "seed": k, "progress": False}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                s = solve_semidiscrete(box, sites, masses, init=Beginning(from_afar), **options)
            truth = power_diagram(box, torch.as_tensor(sites), s.heights).masses.numpy()
            away, root = np.abs(truth - masses), masses**0.5
            error, q = away.sum() / 2, (away**2 / root).sum() * root.sum()
            checks = sum(r["upper"] is not None for r in s.history)
            found.append((error, q, s.mass_error_upper, tol, s.converged, checks, s.n_samples / n))
        error, q, upper, tol, converged, checks, samples = np.array(found, float).T
        row = {"first": first, "problems": len(found), "converged": int(converged.sum())}
        row |= {"covered": int((error <= upper).sum())}
        # What the certificate estimates: the total variation is at most half of its root.
        row |= {"root covered": int((q**0.5 / 2 <= upper).sum())}
        row |= {"above tol": int((converged.astype(bool) & (error > tol)).sum())}
        row |= {"largest error / bound": float((error / upper).max())}
        row |= {"median error / bound": float(np.median(error / upper))}
        row |= {"looks": np.bincount(checks.astype(int)).tolist()}
        row |= {"median samples per site": float(np.median(samples))}
        record.add(row | {"cpu_seconds": time.process_time() - cpu})
    total = sum(row["problems"] for row in record.rows)
    for what in ("covered", "root covered"):
        k = sum(row[what] for row in record.rows)
        low, high = binomtest(k, total).proportion_ci(method="exact")
        print(f"{what}: {k} of {total}, between {low:.3f} and {high:.3f} (95 %)")


def from_afar(task, scorer, place):  # noqa: ARG001
    """Return the state of a solve that begins with the Gaussian start, in the plane too."""
    return replace(unsolved(task, scorer), heights=gaussian_heights(task.problem.sites))


def hard(args):
    """Solve what solvers stumble over; count in float64 what comes out."""
    record = Record(args.out / "transport_hard.jsonl", "problem", "seed", "tol")
    torch.set_num_threads(1)
    warm()
    for seed in args.seeds:
        for name in args.problems or HARD:
            if (name, seed, args.tol) in record.done:
                continue
            source, sites, masses = HARD[name](np.random.default_rng(seed))
            n = len(sites)
            masses = np.ones(n) if masses is None else masses
            masses = masses / masses.sum()
            cpu = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                options = {"tol": args.tol, "seed": seed, "progress": False}
                s = solve_semidiscrete(source, sites, masses, **options)
            cpu = time.process_time() - cpu
            row = {"problem": name, "seed": seed, "tol": args.tol, "n": n, "d": source.dim}
            row |= {"cpu_seconds": cpu, "converged": s.converged, "upper": s.mass_error_upper}
            row |= {"counted": counted(source, sites, s.heights, masses, seed)}
            record.add(row | {"method": s.method, "samples": s.n_samples})
    table(record.rows, args.tol)


def table(rows, tol):
    """Print a line for each problem: processor seconds, and the largest bound and count."""
    rows = [r for r in rows if r["tol"] == tol]
    for name in HARD:
        part = [r for r in rows if r["problem"] == name]
        if part:
            seconds = " ".join(f"{r['cpu_seconds']:.2f}" for r in part)
            upper, truth = (max(r[key] for r in part) for key in ("upper", "counted"))
            sure = sum(r["converged"] for r in part)
            kind = f"{part[0]['n']}, {part[0]['d']}"
            print(
                f"| {name} | {kind} | {seconds} | {sure}/{len(part)} | {upper:.4f} | {truth:.4f} |"
            )


LABELS = {
    "aeot": "aeot",
    "aeot-adam": "Adam on aeot's samples",
    "adam": "Adam, tuned",
    "ott-adam": "OTT, Adam",
    "ott": "OTT, SGD",
    "pot-tuned": "POT, batch 2048",
    "pot": "POT, defaults",
}


# Every peer with settings around its own best ones; the best of a peer's rows counts.
PEERS = {
    "adam": (adam, (0.1, 0.3, 1.0)),
    "alignflow": (alignflow, (0.03, 0.1, 0.3)),
    "pot": (pot, (256, 2048)),
}


def peers(args):
    """Solvers at equal error on problems that no setting was tuned on, one thread each."""
    record = Record(args.out / "transport_peers.jsonl", "problem", "solver", "level", "seed")
    torch.set_num_threads(1)
    begun = time.perf_counter()
    warm()
    for name in args.problems:
        source, sites, masses = peer_problem(name)
        levels = {"aeot": args.tols} | {peer: PEERS[peer][1] for peer in args.solvers}
        for solver, level in [(who, level) for who, some in levels.items() for level in some]:
            key = name, solver, level, args.seed
            if key in record.done or time.perf_counter() - begun > args.seconds:
                continue
            if solver == "aeot":
                options = {"masses": masses}
                heights, cpu, extra = ours(source, sites, "auto", level, args.seed, **options)
            else:
                solve, budget = PEERS[solver][0], PEER_PROBLEMS[name]
                heights, cpu, extra = solve(source, sites, budget, level, args.seed, masses)
            row = dict(zip(("problem", "solver", "level", "seed"), key, strict=True))
            row |= {"n": len(sites), "d": source.dim, "cpu_seconds": cpu, **extra}
            record.add(row | measured(source, sites, heights, masses, m=40 * len(sites)))


def plot(args):
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    rows = Record(args.out / "transport.jsonl", "problem").rows
    names = [x for x in "abcde" if any(r["problem"] == x for r in rows)]
    sizes = [r for r in rows if r["problem"].startswith("size")]
    figure = Figure(figsize=(3.0 * (len(names) + 1), 3.6), layout="constrained")
    panels = figure.subplots(1, len(names) + 1, squeeze=False)[0]
    for axis, name in zip(panels, names, strict=False):
        part = [r for r in rows if r["problem"] == name]
        for k, solver in enumerate(LABELS):
            for seed in sorted({r["seed"] for r in part}):
                line = sorted(
                    (r["cpu_seconds"], max(r["tv"], 1e-4))
                    for r in part
                    if r["solver"] == solver and r["seed"] == seed
                )
                if line:
                    style = {"color": f"C{k}", "lw": 2.2 if solver == "aeot" else 1.2, "ms": 4}
                    label = LABELS[solver] if seed == 0 else None
                    axis.loglog(*zip(*line, strict=True), "o-", label=label, **style)
        axis.set_title(f"{name}: n = {part[0]['n']}, d = {part[0]['d']}", fontsize=10)
        axis.set_xlabel("processor seconds")
    panels[0].set_ylabel("held-out mass error (TV)")
    if sizes:
        points = sorted((r["n"], r["score"]) for r in sizes if r["level"] == 0.1)
        panels[-1].loglog(*zip(*points, strict=True), "o-", color="C0", lw=2.2, ms=4)
    panels[-1].axhline(1, color="0.5", lw=1)
    panels[-1].set(title="growing n, d = 16", xlabel="sites n")
    panels[-1].title.set_fontsize(10)
    panels[-1].set_ylabel("time / bare matrix product")
    for axis in panels:
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter("{x:g}")
            scale.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
        axis.grid(alpha=0.12, which="minor")
        axis.spines[["top", "right"]].set_visible(False)
    handles = {h.get_label(): h for a in panels[:-1] for h in a.get_lines()}
    shown = [h for label, h in handles.items() if label in LABELS.values()]
    figure.legend(handles=shown, loc="outside lower center", ncols=7, frameon=False)
    figure.savefig(Path(args.image), dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--problems", nargs="+", default=list("abcde"))
    one.add_argument("--solvers", nargs="+", default=list(SOLVERS))
    one.add_argument("--levels", nargs="+", type=float, help="tolerances or budgets, not the usual")
    two = commands.add_parser("scores")
    two.add_argument("--problems", nargs="+", default=["gm10", "pca32", "pca64", "pca128"])
    for command in (one, two):
        command.add_argument("--seed", type=int, default=0)
    three = commands.add_parser("tolerances")
    three.add_argument("--count", type=int, default=60)
    three.add_argument("--seconds", type=float, default=3600, help="stop then; resumable")
    three.add_argument("--parts", nargs=2, type=int, default=(0, 1), help="0 2: every second one")
    seven = commands.add_parser("coverage")
    seven.add_argument("--count", type=int, default=400)
    seven.add_argument("--seconds", type=float, default=3600, help="stop then; resumable")
    eight = commands.add_parser("peers")
    eight.add_argument("--problems", nargs="+", default=list(PEER_PROBLEMS))
    eight.add_argument("--solvers", nargs="*", default=list(PEERS))
    eight.add_argument("--tols", nargs="+", type=float, default=[0.2, 0.1, 0.05, 0.02])
    eight.add_argument("--seed", type=int, default=0)
    eight.add_argument("--seconds", type=float, default=3600, help="stop then; resumable")
    four = commands.add_parser("tune")
    four.add_argument("--problems", nargs="+", default=list("abcde"))
    six = commands.add_parser("hard")
    six.add_argument("--problems", nargs="+", choices=list(HARD))
    six.add_argument("--seeds", nargs="+", type=int, default=[1])
    six.add_argument("--tol", type=float, default=0.05)
    five = commands.add_parser("plot")
    five.add_argument("--image", default="docs/images/transport_solvers.png")
    for command in commands.choices.values():
        command.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    handlers = {"run": run, "scores": scores, "tolerances": tolerances, "tune": tune, "plot": plot}
    handlers |= {"hard": hard, "coverage": coverage, "peers": peers}
    handlers[args.command](args)


if __name__ == "__main__":
    main()
