"""How long it takes by cores: transports by sites and dimensions, training by images, sampling.

One JSON line per case: seconds by the clock and of processor time. The first case of each kind is
run once before, so that loops are compiled. Rows by cores mean something on a quiet machine only.

    python benchmarks/bench_timing.py --threads 1 2 --out benchmarks/results/timing.jsonl --table
    python benchmarks/bench_timing.py --kinds transport --most 5000              # a part of it

`--table` prints the tables of docs/timing.md at the end, from all rows of `--out`.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import aeot
from aeot._environment import environment

TRANSPORT = [  # (n, d, tol)
    (1_000, 2, 0.05),
    (10_000, 2, 0.05),
    (1_000, 16, 0.05),
    (5_000, 16, 0.05),
    (20_000, 16, 0.05),
    (5_000, 64, 0.05),
    (20_000, 64, 0.05),
    (5_000, 64, 0.1),
    (5_000, 64, 0.025),
]
EXACT = [(10_000, 2), (100_000, 2), (10_000, 3), (50_000, 3)]  # (n, d)
SEARCHED = (5_000, 16)  # the search for the tears is timed up to so many sites and dimensions
IMAGES = [(1, 28), (1, 64), (3, 64)]  # (channels, side)
STEPS, BATCH = 9, 64


def timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, {
        "seconds": round(time.perf_counter() - wall, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
    }


def transport(n, d, tol, threads):
    """Sites as codes are: ten clusters of a Gaussian mixture. Then the search for the tears."""
    g = aeot.generator(0, n, d)
    centres = 2 * torch.randn(10, d, generator=g)
    sites = centres[torch.randint(10, (n,), generator=g)] + torch.randn(n, d, generator=g)
    source = aeot.UniformBox(dim=d)
    solution, spent = timed(
        lambda: aeot.solve_semidiscrete(source, sites, tol=tol, threads=threads, progress=False)
    )
    told = {"upper": solution.mass_error_upper, "converged": solution.converged}
    if n <= SEARCHED[0] and d <= SEARCHED[1]:
        _, searched = timed(lambda: aeot.find_singularities(solution.map()))
        told |= {f"singular_{key}": value for key, value in searched.items()}
    return {"n": n, "d": d, "tol": tol, **spent, **told}


def exact(n, d, _):
    """Gaussian sites in a box, as bench_exact.py has them, on torch's number of threads."""
    sites = torch.randn(n, d, dtype=torch.float64, generator=aeot.generator(0, n, d))
    source = aeot.UniformBox(dim=d)
    solution, spent = timed(lambda: aeot.solve_exact(source, sites))
    return {"n": n, "d": d, **spent, "converged": solution.converged}


def images(channels, side, _):
    """Steps of the autoencoder with its default network, and images drawn by the decoder."""
    g = aeot.generator(0)
    data = aeot.tensors(torch.rand(2 * BATCH, channels, side, side, generator=g) * 2 - 1)
    model = aeot.Autoencoder(batch_size=BATCH, seed=0)
    _, spent = timed(lambda: model.fit(data, steps=STEPS, held_out=0.0, progress=False))
    codes = model.encode(data)
    _, drawn = timed(lambda: model.decode(codes))
    row = {"channels": channels, "side": side, "batch": BATCH}
    for key, unit in (("solved", "ms"), ("cpu_seconds", "cpu_ms")):
        row[f"{unit}_per_image_and_step"] = round(1000 * spent[key] / (STEPS * BATCH), 3)
        row[f"{unit}_per_decoded_image"] = round(1000 * drawn[key] / len(data), 3)
    return row


CASES = {"exact": (exact, EXACT), "transport": (transport, TRANSPORT), "images": (images, IMAGES)}


SHOWN = {  # the tables of docs/timing.md: what a row is called, and its times by the clock
    "transport": ("solved", "its tears"),
    "images": ("ms, learned from once", "ms, drawn"),
}


def named(row):
    """Which table a row belongs to, what it measured in words, and its times by the clock."""
    if row["kind"] == "images":
        times = row["ms_per_image_and_step"], row["ms_per_decoded_image"]
        return "images", f"{row['channels']} x {row['side']} x {row['side']}", times
    how = "exact" if row["kind"] == "exact" else f"`tol` {row['tol']}"
    what = f"{row['n']:,}".replace(",", " ") + f" sites, d = {row['d']}, {how}"
    return "transport", what, (row["seconds"], row.get("singular_seconds"))


def table(rows):
    """The tables of docs/timing.md: a line per case, columns by number of threads."""
    threads, tables = sorted({row["threads"] for row in rows}), {}
    for row in rows:  # the last one of a case counts
        kind, what, times = named(row)
        tables.setdefault(kind, {}).setdefault(what, {})[row["threads"]] = times
    lines = []
    for kind, cases in sorted(tables.items(), reverse=True):
        asked = [(column, k) for column in range(2) for k in threads]
        heads = [f"{SHOWN[kind][column]}, {k} thread" + "s" * (k > 1) for column, k in asked]
        lines += ["", [kind, *heads], ["---"] * (1 + len(heads))]
        for what, found in cases.items():
            cells = [found.get(k, (None, None))[column] for column, k in asked]
            lines.append([what, *("" if s is None else f"{float(f'{s:.2g}'):g}" for s in cells)])
    return "\n".join(f"| {' | '.join(line)} |" if line else "" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="1 2: each in turn")
    parser.add_argument("--kinds", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--most", type=int, default=10**9, help="largest number of sites")
    parser.add_argument("--out", type=Path, help="append the lines there, too")
    parser.add_argument("--table", action="store_true", help="print all rows as a table")
    options = parser.parse_args()
    rows, warm = [], set()
    for threads in options.threads:
        torch.set_num_threads(threads)
        for kind in options.kinds:
            run, cases = CASES[kind]
            for case in cases:
                if kind != "images" and case[0] > options.most:
                    continue
                if (kind, case[1]) not in warm:
                    run(*case, threads)
                    warm.add((kind, case[1]))
                rows.append({"kind": kind, "threads": threads, "seed": 0, **run(*case, threads)})
                line = json.dumps(rows[-1] | {"environment": environment("cpu")})
                print(line, flush=True)
                if options.out:
                    with options.out.open("a") as file:
                        file.write(line + "\n")
    if options.table:
        kept = options.out.read_text().splitlines() if options.out else []
        print(table([json.loads(line) for line in kept] or rows))
