"""Mode collapse in two dimensions: the GAN family against AE-OT on the grid and the ring.

Rows GAN, ALI, MD, PacGAN2/3/4 (the networks and settings of the PacGAN experiments), WGAN and
WGAN-GP (those of WGAN-GP's toy examples, on the same points divided by the published scale), all
of them the library's classes, and AE-OT with 512 supports: exact heights with each of three
extensions, and Monte-Carlo heights. An epoch is 1000 updates of the first six, each on 100 real
rows (or packs of rows), and 390 critic and 78 generator steps of the Wasserstein pair, whose 390
batches of 256 are as many real rows.

    python benchmarks/bench_table2.py --minutes 20          # go on from where the last call ended
    python benchmarks/bench_table2.py --rows "AE-OT exact linear" --seeds 10       # seconds
    python benchmarks/bench_table2.py --report              # only write the tables and figures
    python benchmarks/bench_table2.py --pace                # seconds of every row on one thread
    python benchmarks/bench_table2.py --device cuda --workers 8 --seeds 10 --epochs 400

Work goes in rounds of growing length, so that every row has been trained equally long when time
runs out. State is kept per row and seed at the end of every epoch and of every minute, by the
library's checkpoints: a run that was killed and resumed equals one that was not. Several calls
may share a folder: a row and seed that another process trains is left to it. A row whose numbers
stop being finite is reported by name, the others go on, and the exit code is 1. The report keeps
every record of the JSON it replaces that the folder lacks. The full protocol is
``--epochs 400 --seeds 10``.
"""

import argparse
import heapq
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

import torch
from table2_report import report
from table2_training import (
    GAMES,
    POINTS,
    SAMPLES,
    SHOWN,
    alone,
    estimator,
    judge,
    mixture,
    save_record,
    single_threaded,
    train,
    updates,
)

import aeot
from aeot._environment import environment
from aeot._io import write_text

HERE = Path(__file__).parent
SUPPORTS = 512

EXTENSIONS = {  # "pair" is what was published
    "AE-OT exact linear": "linear",
    "AE-OT exact affine": "affine",
    "AE-OT exact pairs": "pair",
    "AE-OT Monte Carlo": "linear",
}
ROWS = [*GAMES, *EXTENSIONS]
PUBLISHED = {  # modes, high quality in %, reverse KL: value and standard error of ten trials
    "grid": {
        "GAN": ((17.3, 0.8), (94.8, 0.7), (0.70, 0.07)),
        "ALI": ((24.1, 0.4), (95.7, 0.6), (0.14, 0.03)),
        "MD": ((23.8, 0.5), (79.9, 3.2), (0.17, 0.03)),
        "PacGAN2": ((23.8, 0.7), (91.3, 0.8), (0.13, 0.04)),
        "PacGAN3": ((24.6, 0.4), (94.2, 0.4), (0.06, 0.02)),
        "PacGAN4": ((24.8, 0.2), (93.6, 0.6), (0.04, 0.01)),
        **dict.fromkeys(EXTENSIONS, ((25.0, 0.0), (99.8, 0.2), (0.007, 0.002))),
    },
    "ring": {
        "GAN": ((6.3, 0.5), (98.2, 0.2), (0.45, 0.09)),
        "ALI": ((6.6, 0.3), (97.6, 0.4), (0.36, 0.04)),
        "PacGAN2": ((7.9, 0.1), (95.6, 2.0), (0.07, 0.03)),
        "PacGAN3": ((7.8, 0.1), (97.7, 0.3), (0.10, 0.02)),
        "PacGAN4": ((7.8, 0.1), (95.9, 1.4), (0.07, 0.02)),
    },
}
EVEN = " Stratified codes give each mode its share: the KL of independent draws (0.005) is gone."
WHY = {  # shown beside a contradiction that is there; a blank is filled from the line itself
    "AE-OT exact affine": "the local affine extension adds the spread of each cell to that of the "
    "supports: the variance inside a mode is {variance_ratio:.2f} of the true one, where the "
    "supports alone have {support_variance:.2f}. In the plane, with 20 supports to a mode, that "
    'is seen; "linear" adds next to nothing.' + EVEN,
    "AE-OT exact linear": "99.8 % is what points on segments between two supports score (the row "
    "of pairs, whose variance is too small); 98.9 % is what an exact sampler scores." + EVEN,
    "AE-OT exact pairs": EVEN.strip(),
    "AE-OT Monte Carlo": "as for AE-OT exact linear.",
    "MD": "the number and size of its kernels on these sets were not published; here 20 and 5.",
}


def transport(name, row, seed, folder):
    """AE-OT on the plane: 512 data points as supports, extended map, cut where it jumps."""
    data = mixture(name)
    draw = aeot.generator(seed, "supports")
    chosen = data.subset(torch.randperm(len(data), generator=draw)[:SUPPORTS])
    box = aeot.UniformBox(low=[0, 0], high=[1, 1])
    clock, wall = time.process_time(), time.perf_counter()
    if row != "AE-OT Monte Carlo":
        solution = aeot.solve_exact(box, chosen.values.double())
    else:
        # Hides the box: the solver has nothing but samples to go by.
        sampler = aeot.Sampler(lambda n, stream: box.sample(n, generator=stream), dim=2)
        solution = aeot.solve_semidiscrete(sampler, chosen.values.double(), tol=0.02, seed=seed)
    solved = time.process_time() - clock
    brenier = solution.map()
    singular = aeot.find_singularities(brenier, seed=seed)
    stream = aeot.generator(seed, "new")
    drawn = brenier.draw(SAMPLES, singular=singular, method=EXTENSIONS[row], generator=stream)
    samples = drawn.codes
    seconds, wall = time.process_time() - clock, time.perf_counter() - wall
    supports = chosen.labels.bincount(minlength=len(data.info["modes"]))
    record = {
        "set": name, "row": row, "seed": seed, "aeot": aeot.__version__,
        "seconds": seconds, "wall_seconds": wall, "solve_seconds": solved,
        "converged": solution.converged, "mass_error": solution.mass_error,
        "acceptance": drawn.acceptance,
        **judge(samples, data, supports),
        "reverse_kl_data": judge(samples, data, data.labels.bincount())["reverse_kl"],
        "support_variance": judge(chosen.values, data)["variance_ratio"],
        "nearest_support": float(torch.cdist(samples.double(), chosen.values.double()).min()),
    }  # fmt: skip
    save_record(folder / f"{name}-{row}-{seed}.npz", record, samples=samples.numpy())
    return record


def failure(key, folder, error):
    """Write down why a row and seed stopped."""
    facts = dict(zip(("set", "row", "seed"), key, strict=True)) | {"error": str(error)}
    write_text(folder / f"{'-'.join(map(str, key))}.failed.json", json.dumps(facts))
    return facts


def work(key, epochs, folder, deadline, points=POINTS, device="cpu"):
    """Train a row and seed; None if time is over or another process has it."""
    torch.set_num_threads(1)
    name, row, seed = key
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{row}-{seed}"
    with alone(path.with_name(path.name + ".lock")) as mine:
        if time.time() > deadline or not mine:
            return None
        try:
            if row in EXTENSIONS:
                record = transport(name, row, seed, folder)
            else:
                record = train(name, row, seed, epochs, folder, deadline, points, device)
        except FloatingPointError as error:
            return failure(key, folder, error)
        path.with_name(path.name + ".failed.json").unlink(missing_ok=True)
        return record


def in_rounds(submit, plan, workers):
    """Yield the results of all keys' stages, short ones first, no key twice at a time.

    Args:
        submit: ``submit(key, stage)`` returns a future.
        plan: Stages of every key, in their order: a dict of lists.
        workers: How many futures run at once.
    """
    keys, running = list(plan), {}
    waiting = [(0, place) for place in range(len(keys))]
    while waiting or running:
        while waiting and len(running) < workers:
            turn, place = heapq.heappop(waiting)
            running[submit(keys[place], plan[keys[place]][turn])] = turn, place
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            turn, place = running.pop(future)
            outcome = future.result()
            if outcome is None:
                continue
            yield outcome
            if "error" not in outcome and turn + 1 < len(plan[keys[place]]):
                heapq.heappush(waiting, (turn + 1, place))


def pace(_=None):
    """Processor seconds on one thread: of an epoch of every game, and of AE-OT's runs."""
    torch.set_num_threads(1)
    found = {}
    for row in GAMES:
        model, data, times = estimator(row), mixture("grid", row), []
        for _ in range(3):  # fifths, the fastest of which was disturbed the least
            begun = time.process_time()
            model.fit(data, steps=updates(model, POINTS // 5))
            times.append(time.process_time() - begun)
        found[row] = min(times) * updates(model) / updates(model, POINTS // 5)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("grid", "ring"):
            for row in EXTENSIONS:
                runs = [transport(name, row, seed, Path(folder)) for seed in range(3)]
                found[f"{name} {row}"] = min(run["seconds"] for run in runs)
    where = {"processor": environment()["processor"], "aeot": aeot.__version__}
    return found | where | {"load_average": os.getloadavg()[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--sets", nargs="+", default=["grid", "ring"], choices=["grid", "ring"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100, help="the last horizon")
    parser.add_argument("--points", type=int, default=POINTS, help="rows of an epoch, for tests")
    parser.add_argument("--minutes", type=float, default=20, help="stop at an epoch after this")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--folder", type=Path, default=HERE.parent / "out" / "table2")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "table2.json")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--pace", action="store_true", help="train nothing, time every row")
    parser.add_argument("--device", default="cpu", help="where the GANs are trained")
    args = parser.parse_args()
    single_threaded()
    facts = {"published": PUBLISHED}
    if not (args.report or args.pace):  # nothing is trained here
        facts["environment"] = environment(args.device)
    failed = False
    if args.pace:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            facts["pace"] = pool.map(pace, [None])[0]
    elif not args.report:
        deadline = time.time() + 60 * args.minutes
        stages = [e for e in SHOWN if e < args.epochs] + [args.epochs]
        keys = [(n, r, seed) for n in args.sets for r in args.rows for seed in range(args.seeds)]
        plan = {key: stages if key[1] in GAMES else [None] for key in keys}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.workers, context) as pool:

            def submit(key, epochs):
                more = (args.folder, deadline, args.points, args.device)
                return pool.submit(work, key, epochs, *more)

            for record in in_rounds(submit, plan, args.workers):
                failed |= "error" in record
                short = {k: v for k, v in record.items() if k != "history"}
                last = (record.get("history") or [{}])[-1]
                print(json.dumps({"device": args.device} | short | last), flush=True)
    report(args.folder, args.output, facts, ROWS, WHY)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
