"""Transport solvers against each other: held-out error for processor time.

Problems a to e are made from seeds and from data that ships with scikit-learn, so that anyone can
repeat them; `size` grows the number of sites at d = 16. Every solver gets the same problem in its
own natural form and a list of budgets; its heights are measured afterwards, outside its time, by
one and the same independent sample. One JSON line per result.

    python benchmarks/bench_transport.py run --problems c d e --out benchmarks/results
    python benchmarks/bench_transport.py tolerances --count 60 --out benchmarks/results
    python benchmarks/bench_transport.py plot --out benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from aeot import Gaussian, UniformBox, solve_semidiscrete
from aeot._environment import environment
from aeot.transport.blocks import standardise
from aeot.transport.certificate import certify, tally
from aeot.transport.lists import Scorer

BUDGETS = {
    "pot": (8.0, 32.0),
    "pot-tuned": (8.0, 32.0),
    "ott": (8.0, 32.0),
    "ott-adam": (8.0, 32.0),
}
TOLERANCES = (0.1, 0.05, 0.03)


def problem(name):
    """Return source and sites (n, d) of a problem."""
    rng = np.random.default_rng(0)
    if name == "a":
        centres = np.stack(np.meshgrid(*[np.linspace(0.1, 0.9, 5)] * 2), -1).reshape(-1, 2)
        return UniformBox(dim=2), centres[rng.integers(25, size=512)] + 0.02 * rng.normal(
            size=(512, 2)
        )
    if name == "b":
        pick = rng.choice(12, 2000, p=rng.dirichlet(np.full(12, 3.0)))
        spread = rng.uniform(0.02, 0.08, 12)[pick, None]
        return UniformBox(dim=3), rng.uniform(0.1, 0.9, (12, 3))[pick] + spread * rng.normal(
            size=(2000, 3)
        )
    if name == "c":
        centres = 1.2 * rng.normal(size=(20, 10))
        return Gaussian(dim=10), centres[rng.integers(20, size=2000)] + 0.5 * rng.normal(
            size=(2000, 10)
        )
    if name == "d":
        pick = rng.integers(30, size=5000)
        axes = rng.normal(size=(30, 8, 32)) / 8**0.5
        inside = np.einsum("nk,nkd->nd", 0.6 * rng.normal(size=(5000, 8)), axes[pick])
        return UniformBox(dim=32), (
            1.2 * rng.normal(size=(30, 32))[pick] + inside + 0.1 * rng.normal(size=(5000, 32))
        )
    if name == "e":
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        first = rng.integers(len(images), size=10_000)
        second = np.array([rng.choice(np.flatnonzero(labels == labels[i])) for i in first])
        t = rng.uniform(0, 0.5, (10_000, 1))
        mixed = (1 - t) * images[first] + t * images[second] + 0.5 * rng.normal(size=(10_000, 64))
        mixed -= mixed.mean(0)
        rotated = mixed @ np.linalg.svd(mixed, full_matrices=False)[2].T
        return Gaussian(dim=64), rotated / rotated.std()
    if name.startswith("size"):
        return UniformBox(dim=16), rng.normal(size=(int(name[4:]), 16))
    raise SystemExit(f"unknown problem {name}")


def measured(source, sites, heights, masses=None, m=None):
    """Net total variation and root of the mean square relative error on an independent sample."""
    n, d = sites.shape
    nu = torch.full((n,), 1 / n, dtype=torch.float64) if masses is None else masses
    p = standardise(source, torch.as_tensor(sites), nu, seed=987_654_321)
    scorer = Scorer(p)  # independent draws, scored against all sites
    blocks = range(scorer.blocks_for(m or min(200 * n, 1_500_000)))
    c = certify(tally(scorer, p.to_standard(torch.as_tensor(heights)), "judge", blocks), nu.numpy())
    return {
        "tv": c.mass_error,
        "rms": max(c.square, 0.0) ** 0.5,
        "tv_raw": float(np.abs(c.cell_masses - nu.numpy()).sum()) / 2,
        "empty": c.empty,
        "judged": c.n_samples,
    }


def gemm_seconds(n, d, samples):
    """Processor seconds of the bare float32 product of `samples` points with all sites."""
    a, b = torch.randn(512, d), torch.randn(d, n)
    out, best = torch.empty(512, n), np.inf
    for _ in range(5):
        begun = time.process_time()
        torch.mm(a, b, out=out)
        best = min(best, time.process_time() - begun)
    return best * samples / 512


def ours(source, sites, method, tol, seed):
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        s = solve_semidiscrete(source, sites, tol=tol, method=method, seed=seed, progress=False)
    seconds = time.process_time() - begun
    extra = {"asked": tol, "upper": s.mass_error_upper, "converged": s.converged}
    return s.heights.cpu().numpy(), seconds, extra | {"samples": s.n_samples}


def pot(source, sites, budget, batch, seed):
    """POT's averaged stochastic gradient (DRAG schedule); iterations from a short pilot."""
    from ot.semidiscrete import solve_semidiscrete as solve

    g = torch.Generator().manual_seed(seed)
    y = torch.as_tensor(sites, dtype=torch.float32)

    def draw(k):
        return source.sample(k, generator=g).float()

    begun = time.process_time()
    solve(y, draw, max_iter=20, batch_size=batch)
    pilot = (time.process_time() - begun) / 20
    iterations = max(int(budget / pilot), 10)
    begun = time.process_time()
    dual = solve(y, draw, max_iter=iterations, batch_size=batch)
    seconds = time.process_time() - begun
    heights = (dual.double().numpy() - (np.asarray(sites) ** 2).sum(1)) / 2
    return heights, seconds, {"iterations": iterations, "batch": batch}


def ott(source, sites, budget, tuned, seed):
    """OTT's stochastic solver without entropy; "tuned" is Adam with a decaying rate."""
    import jax
    import jax.numpy as jnp
    import optax
    from ott.geometry.semidiscrete_pointcloud import SemidiscretePointCloud
    from ott.problems.linear.semidiscrete_linear_problem import SemidiscreteLinearProblem
    from ott.solvers.linear.semidiscrete import SemidiscreteSolver

    y = jnp.asarray(sites, jnp.float32)

    def sampler(rng, shape, dtype=jnp.float32):
        kind = jax.random.normal if isinstance(source, Gaussian) else jax.random.uniform
        return kind(rng, shape, dtype)

    scale = float(np.mean((sites - sites.mean(0)) ** 2)) * 2
    batch = 2048 if tuned else 256

    def solve(iterations):
        rate = optax.cosine_decay_schedule(0.1 * scale, iterations) if tuned else None
        options = {"optimizer": optax.adam(rate, b1=0.9, b2=0.99)} if tuned else {}
        options["optimizer"] = options.get("optimizer", optax.sgd(scale * len(sites) ** 0.5))
        solver = SemidiscreteSolver(
            threshold=0.0,
            num_iterations=iterations,
            batch_size=batch,
            error_eval_every=iterations,
            error_num_repeats=1,
            potential_ema=0.9,
            **options,
        )
        geometry = SemidiscretePointCloud(sampler, y, epsilon=0.0)
        run = jax.jit(lambda rng: solver(rng, SemidiscreteLinearProblem(geometry)).g)
        compiled = run.lower(jax.random.key(seed)).compile()  # compiling is not counted
        begun = time.process_time()
        dual = np.asarray(compiled(jax.random.key(seed)), np.float64)
        return dual, time.process_time() - begun

    pilot = solve(20)[1] / 20
    iterations = max(int(budget / pilot), 20)
    dual, seconds = solve(iterations)
    heights = (dual - (np.asarray(sites) ** 2).sum(1)) / 2
    return heights, seconds, {"iterations": iterations, "batch": batch}


def run(args):
    path = Path(args.out) / "transport.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    done = {(r["problem"], r["solver"], r["level"], r["seed"]) for r in known}
    for d in (4, 8):  # compile first: the kernels of both kinds of blocks
        sites = np.random.default_rng(0).normal(size=(64, d))
        ours(Gaussian(dim=d), sites, "newton", 0.2, 0)
        ours(UniformBox(dim=d), sites, "adam", 0.2, 0)
    for name in args.problems:
        source, sites = problem(name)
        n, d = sites.shape
        for solver in args.solvers:
            levels = {"aeot": TOLERANCES, "aeot-adam": (0.1, 0.05)}.get(solver) or BUDGETS[solver]
            levels = (0.02,) if solver == "aeot" and d <= 3 else levels
            for level in levels:
                if (name, solver, level, args.seed) in done:
                    continue
                if solver == "aeot":
                    found = ours(source, sites, "auto", level, args.seed)
                elif solver == "aeot-adam":
                    found = ours(source, sites, "adam", level, args.seed)
                elif solver.startswith("pot"):
                    found = pot(source, sites, level, 2048 if "tuned" in solver else 32, args.seed)
                else:
                    found = ott(source, sites, level, solver == "ott-adam", args.seed)
                heights, seconds, extra = found
                judged = measured(source, sites, heights)
                row = {"problem": name, "n": n, "d": d, "solver": solver, "level": level}
                row |= {"seed": args.seed, "cpu_seconds": seconds, **judged, **extra}
                if solver == "aeot" and d > 3:
                    limit = gemm_seconds(n, d, n / max(judged["rms"], 1e-9) ** 2)
                    row["score"] = seconds / limit
                row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                row["environment"] = environment()
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                row.pop("environment")
                print(json.dumps(row), flush=True)


def tolerances(args):
    """Ask random problems for a tolerance and measure whether it is kept."""
    path = Path(args.out) / "transport_tolerances.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = len(path.read_text().splitlines()) if path.exists() else 0
    begun = time.perf_counter()
    for k in range(done, args.count):
        if time.perf_counter() - begun > args.seconds:
            break
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
        cpu = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            s = solve_semidiscrete(source, sites, masses, tol=tol, seed=k, progress=False)
        cpu = time.process_time() - cpu
        m = int(min(max(60 * n, 8 * n**0.5 / tol**2), 4e9 / (n * d) ** 0.9))
        judged = measured(source, sites, s.heights, masses, m=m)
        row = {"k": k, "n": n, "d": d, "weighted": bool(k % 2), "tol": tol, "cpu_seconds": cpu}
        row |= {"source": repr(source)[:10], "method": s.method, "converged": s.converged}
        row |= {"upper": s.mass_error_upper, "message": s.message, **judged}
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def plot(args):
    from matplotlib.figure import Figure

    rows = [json.loads(x) for x in (Path(args.out) / "transport.jsonl").read_text().splitlines()]
    names = [x for x in "abcde" if any(r["problem"] == x for r in rows)]
    figure = Figure(figsize=(3.2 * len(names), 3.4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(panels, names, strict=True):
        part = [r for r in rows if r["problem"] == name]
        for k, solver in enumerate(("aeot", "aeot-adam", "pot", "pot-tuned", "ott", "ott-adam")):
            line = sorted(
                (r["cpu_seconds"], max(r["tv"], 1e-4)) for r in part if r["solver"] == solver
            )
            if line:
                axis.loglog(*zip(*line, strict=True), "o-", color=f"C{k}", label=solver, ms=4)
        axis.set_title(f"{name}: n = {part[0]['n']}, d = {part[0]['d']}")
        axis.set_xlabel("processor seconds")
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("held-out mass error (TV)")
    handles = {h.get_label(): h for a in panels for h in a.get_lines()}
    figure.legend(
        handles=list(handles.values()), loc="outside lower center", ncols=6, frameon=False
    )
    figure.savefig(Path(args.image), dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--problems", nargs="+", default=list("abcde"))
    one.add_argument("--solvers", nargs="+", default=["aeot", "aeot-adam", *BUDGETS])
    one.add_argument("--seed", type=int, default=0)
    two = commands.add_parser("tolerances")
    two.add_argument("--count", type=int, default=60)
    two.add_argument("--seconds", type=float, default=1500, help="stop after this long; resumable")
    three = commands.add_parser("plot")
    three.add_argument("--image", default="docs/images/transport_solvers.png")
    for command in (one, two, three):
        command.add_argument("--out", default="benchmarks/results")
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    {"run": run, "tolerances": tolerances, "plot": plot}[args.command](args)


if __name__ == "__main__":
    main()
