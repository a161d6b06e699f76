"""Which engine finds the cells of points fastest, for n sites in d dimensions.

Prints one JSON line per case: microseconds of process time per point (the least of the repeats),
beside those of the bare matrix product that numba and torch need. `choose_engine` in
`aeot/search/engines.py` follows these figures.

    OMP_NUM_THREADS=1 python benchmarks/bench_engines.py
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import torch

import aeot
from aeot._environment import environment
from aeot.search.engines import top_k

CASES = [(n, d) for d in (2, 3, 4, 6, 10, 32, 64) for n in (100, 1000, 10_000)]


def problem(n, d, kind):
    """Sites spread over the source with Voronoi cells, or in ten clusters with transport cells."""
    g = aeot.generator(0, n, d)
    if kind == "voronoi":
        sites = torch.rand(n, d, generator=g)
        return sites, -(sites**2).sum(1) / 2
    centres = 3 * torch.randn(10, d, generator=g)
    sites = centres[torch.arange(n) % 10] + 0.5 * torch.randn(n, d, generator=g)
    # Heights of the Gaussian fit: close to those of the transport of the unit cube.
    away = (sites - sites.mean(0)).double()
    values, vectors = torch.linalg.eigh(away.T @ away / n * 12)
    spread = (away @ vectors / values.clamp(min=1e-12) ** 0.25).square().sum(1)
    return sites, -0.6 * spread / 2 - sites.double().sum(1) / 2


def least(function, repeats):
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        spent.append(time.process_time() - start)
    return min(spent)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dims", type=int, nargs="*", help="only these dimensions")
    parser.add_argument("--keops", action="store_true", help="also keops, which compiles first")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "engines.jsonl"
    )
    options = parser.parse_args()
    rows = []
    for (n, d), kind in itertools.product(CASES, ("voronoi", "clusters")):
        if options.dims and d not in options.dims:
            continue
        sites, heights = (t.to(options.device) for t in problem(n, d, kind))
        points = torch.rand(options.points, d, generator=aeot.generator(1)).to(options.device)
        row = {"n": n, "d": d, "kind": kind, "points": options.points, "device": options.device}
        row |= {"seed": 0, "aeot": aeot.__version__}
        blocks = points.split(max(8, min(4096, (1 << 20) // n)))
        bare = least(lambda: [b @ sites.T for b in blocks], options.repeats)  # noqa: B023
        row["product"] = bare / options.points * 1e6
        for k in (1, 8):
            for engine in ("numba", "torch", "kdtree", "keops"):
                if engine == "keops" and (not options.keops or k > 1 or kind != "voronoi"):
                    continue
                if engine == "numba" and options.device != "cpu":
                    continue
                if engine == "kdtree" and (options.device != "cpu" or (d > 10 and n > 1000)):
                    continue

                def run(engine=engine, k=k):
                    top_k(points, sites, heights, k, engine=engine)  # noqa: B023

                if engine == "keops":
                    start = time.perf_counter()
                    run()
                    row["keops compile seconds"] = round(time.perf_counter() - start, 1)
                row[f"{engine} k={k}"] = least(run, options.repeats) / options.points * 1e6
        rows.append({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()})
        print(json.dumps(rows[-1]), flush=True)
    about = {
        "environment": environment(options.device),
        "unit": "microseconds of process time per point, float32",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(json.dumps(row) + "\n" for row in [about, *rows]))


if __name__ == "__main__":
    main()
