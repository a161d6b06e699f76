"""How long it takes: transport by sites and dimensions, training by images, sampling.

One JSON line per case: seconds by the clock and of processor time. The first case of each kind is
run once before, so that loops are compiled.

    python benchmarks/bench_timing.py                        # all, on one thread; some minutes
    python benchmarks/bench_timing.py --threads 2 --kinds transport
    python benchmarks/bench_timing.py --out benchmarks/results/timing.jsonl      # appends
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
    """Sites as codes are: ten clusters of a Gaussian mixture."""
    g = aeot.generator(0, n, d)
    centres = 2 * torch.randn(10, d, generator=g)
    sites = centres[torch.randint(10, (n,), generator=g)] + torch.randn(n, d, generator=g)
    source = aeot.UniformBox(dim=d)
    solution, spent = timed(
        lambda: aeot.solve_semidiscrete(source, sites, tol=tol, threads=threads, progress=False)
    )
    _, searched = timed(lambda: aeot.find_singularities(solution.map()))
    told = {"upper": solution.mass_error_upper, "converged": solution.converged}
    told["singular_cpu_seconds"] = searched["cpu_seconds"]
    return {"n": n, "d": d, "tol": tol, **spent, **told}


def images(channels, side):
    """Steps of the autoencoder with its default network, and images drawn by the decoder."""
    g = aeot.generator(0)
    data = aeot.tensors(torch.rand(2 * BATCH, channels, side, side, generator=g) * 2 - 1)
    model = aeot.Autoencoder(batch_size=BATCH, seed=0)
    _, spent = timed(lambda: model.fit(data, steps=STEPS, held_out=0.0, progress=False))
    codes = model.encode(data)
    _, drawn = timed(lambda: model.decode(codes))
    return {
        "channels": channels,
        "side": side,
        "batch": BATCH,
        "ms_per_image_and_step": 1000 * spent["cpu_seconds"] / (STEPS * BATCH),
        "ms_per_decoded_image": 1000 * drawn["cpu_seconds"] / len(data),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=["transport", "images"])
    parser.add_argument("--most", type=int, default=10**9, help="largest number of sites")
    parser.add_argument("--out", type=Path, help="append the lines there, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [("transport", (*c, options.threads)) for c in TRANSPORT if c[0] <= options.most]
    cases += [("images", case) for case in IMAGES]
    run = {"transport": transport, "images": images}
    warm = set()
    for kind, case in cases:
        if kind not in options.kinds:
            continue
        if (kind, case[1]) not in warm:
            run[kind](*case)
            warm.add((kind, case[1]))
        row = {"kind": kind, "threads": options.threads, "seed": 0, **run[kind](*case)}
        line = json.dumps(row | {"environment": environment("cpu")})
        print(line, flush=True)
        if options.out:
            with options.out.open("a") as file:
                file.write(line + "\n")
