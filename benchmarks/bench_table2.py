"""Mode collapse in two dimensions: the GAN family against AE-OT on the grid and the ring.

Rows GAN, ALI, MD, PacGAN2/3/4 (the networks and settings of the PacGAN experiments), WGAN and
WGAN-GP (those of WGAN-GP's toy examples, on the same points divided by the published scale), and
AE-OT with 512 supports: exact heights with each of three extensions, and Monte-Carlo heights. An
epoch is 1000 updates of the first six, each on 100 real rows (or packs of rows), and 390 critic
and 78 generator steps of the Wasserstein pair, whose 390 batches of 256 are as many real rows.

    python benchmarks/bench_table2.py --minutes 20          # go on from where the last call ended
    python benchmarks/bench_table2.py --rows "AE-OT exact linear" --seeds 10       # seconds
    python benchmarks/bench_table2.py --report              # only write the tables and figures
    python benchmarks/bench_table2.py --side-by-side        # what seeds cost beside each other

Work goes in rounds of growing length, so that every row has been trained equally long when time
runs out. State is kept per row and seed at the end of every epoch: a run that was killed and
resumed equals one that was not. Several calls may share a folder: a row and seed that another
process trains is left to it. A row whose numbers stop being finite is reported by name, the others
go on, and the exit code is 1. The report keeps every record of the JSON it replaces that the folder
lacks. The full protocol is ``--epochs 400 --seeds 10``.
"""

import argparse
import contextlib
import fcntl
import heapq
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

import numpy as np
import planar
import torch
from table2_report import report

import aeot
from aeot._environment import environment
from aeot._rng import forked, stream_seed
from aeot.metrics import mode_coverage
from aeot.networks.discriminators import MaxoutDiscriminator, MLPCritic
from aeot.networks.generators import MLPGenerator

HERE = Path(__file__).parent
POINTS, SAMPLES, SUPPORTS = 100_000, 2_500, 512
SHOWN = (1, 2, 5, 10, 25, 50, 100, 200, 400)  # epochs whose samples are kept

GAMES = {
    "GAN": lambda: planar.Game(),
    "ALI": lambda: planar.Inference(),
    "MD": lambda: planar.Game(kernels=20),
    "PacGAN2": lambda: planar.Game(2),
    "PacGAN3": lambda: planar.Game(3),
    "PacGAN4": lambda: planar.Game(4),
    "WGAN": lambda: planar.Wasserstein(clip=0.01),
    "WGAN-GP": lambda: planar.Wasserstein(penalty=0.1),
}
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


def mixture(name, row="GAN"):
    """The data set in the scaling of the row's own experiments."""
    return aeot.data.toy(name, POINTS, scaling="wgan-gp" if row.startswith("WGAN") else "raw")


def initialise(game, row, seed):
    """Start from the library's own networks of that seed."""
    with forked(seed, "table2", row):
        if row.startswith("WGAN"):
            modules = {
                "generator": MLPGenerator(2, 2, hidden=512, layers=3, batch_norm=False),
                "critic": MLPCritic(2),
            }
        else:
            modules = {
                "generator": MLPGenerator(2, 2),
                "encoder": MLPGenerator(4, 2, layers=2),
                "critic": MaxoutDiscriminator(
                    4 if row == "ALI" else 2, game.packing, kernels=game.critic.kernels
                ),
            }
    for name, network in game.networks.items():
        network.take(modules[name])


def epoch(game, row, data, seed, number, points=POINTS):
    """Train through `points` real rows; everything drawn depends on (row, seed, number) alone."""
    draw = np.random.Generator(np.random.SFC64(stream_seed(seed, "table2", row, number)))
    facts = {}
    for turn in range(points // game.batch):
        where = f"{row}, epoch {number + 1}, step {turn + 1}"
        if row.startswith("WGAN"):
            real = data[draw.integers(len(data), size=game.batch)]
            noise = draw.standard_normal((2, game.batch, 2), dtype=np.float32)
            game.critic_step(real, noise[0], draw.random(game.batch, dtype=np.float32))
            if (turn + 1) % game.critic_steps == 0:
                game.generator_step(noise[1])
            facts = {"gap": game.gap}
        else:
            sets = 2 if row == "ALI" else game.packing
            real = data[draw.integers(len(data), size=game.packing * game.batch)]
            noise = draw.standard_normal((sets * game.batch, 2), dtype=np.float32)
            facts = {"critic_loss": float(game.step(real, noise))}
        planar.check_finite(game, where, **facts)
    if row == "WGAN-GP":
        facts["gradient_norm"] = float(game.norms.mean())
    return facts


def judge(samples, data, reference=None):
    """All metrics of one sample, with both readings of the divergence."""
    modes, std = data.info["modes"], data.info["std"]
    scores = mode_coverage(samples, modes, std, reference=reference)
    other = mode_coverage(samples, modes, std, reference=reference, count="high-quality")
    return scores | {"reverse_kl_high_quality": other["reverse_kl"]}


def save_state(path, game, record, **arrays):
    """Write weights, optimisers, record and arrays beside the target, then rename."""
    state = {f"{p}.{k}": v for p, n in game.networks.items() for k, v in n.state().items()}
    fresh = path.with_suffix(".writing.npz")
    np.savez(fresh, record=np.array(json.dumps(record)), **state, **arrays)
    os.replace(fresh, path)


def load_state(path, game):
    """Put a saved state into `game`; return the record and the arrays stored with it."""
    with np.load(path) as stored:
        record = json.loads(str(stored["record"]))
        arrays = {key: stored[key] for key in stored if key.startswith("samples")}
        for part, network in game.networks.items():
            prefix = part + "."
            network.load(
                {k.removeprefix(prefix): stored[k] for k in stored if k.startswith(prefix)}
            )
    return record, arrays


def train(name, row, seed, epochs, folder, deadline=float("inf"), points=POINTS):
    """Train one row and seed up to `epochs`, from its last saved state; return its record."""
    path = folder / f"{name}-{row}-{seed}.npz"
    game, data = GAMES[row](), mixture(name, row)
    rows, histogram = data.values.numpy(), data.labels.bincount()
    record = {"set": name, "row": row, "seed": seed, "epochs": 0, "seconds": 0.0, "history": []}
    shown = {}
    if path.exists():
        record, shown = load_state(path, game)
    else:
        initialise(game, row, seed)
    latents = np.random.Generator(np.random.SFC64(stream_seed(seed, "table2 samples")))
    latents = latents.standard_normal((SAMPLES, 2), dtype=np.float32)
    while record["epochs"] < epochs and time.time() < deadline:
        begun = time.process_time()
        facts = epoch(game, row, rows, seed, record["epochs"], points)
        seconds = time.process_time() - begun
        record["epochs"] += 1
        record["seconds"] += seconds
        samples = game.generator.evaluate(latents)
        scores = judge(torch.from_numpy(samples), data, histogram)
        record["history"].append({"epoch": record["epochs"], "seconds": seconds, **scores, **facts})
        if record["epochs"] in SHOWN:
            shown[f"samples{record['epochs']}"] = samples
        save_state(path, game, record, **shown)
    return record


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
        "set": name, "row": row, "seed": seed, "seconds": seconds, "wall_seconds": wall,
        "solve_seconds": solved, "converged": solution.converged,
        "mass_error": solution.mass_error, "acceptance": drawn.acceptance,
        **judge(samples, data, supports),
        "reverse_kl_data": judge(samples, data, data.labels.bincount())["reverse_kl"],
        "support_variance": judge(chosen.values, data)["variance_ratio"],
        "nearest_support": float(torch.cdist(samples.double(), chosen.values.double()).min()),
    }  # fmt: skip
    fresh = folder / f"{name}-{row}-{seed}.writing.npz"
    np.savez(fresh, record=np.array(json.dumps(record)), samples=samples.numpy())
    os.replace(fresh, folder / f"{name}-{row}-{seed}.npz")
    return record


def single_threaded():
    """Set what workers inherit: a thread each, and AVX-512 where OpenBLAS fails to see it."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    processor = Path("/proc/cpuinfo")  # new AMD processors are taken for ones without it
    if processor.exists() and "avx512f" in processor.read_text():
        os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")


@contextlib.contextmanager
def alone(path):
    """Hold a lock that dies with its process; yields whether it could be had."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def work(key, epochs, folder, deadline, points=POINTS):
    """Train a row and seed; None if time is over or another process has it."""
    torch.set_num_threads(1)
    name, row, seed = key
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{row}-{seed}"
    with alone(path.with_name(path.name + ".lock")) as mine:
        if time.time() > deadline or not mine:
            return None
        failed = path.with_name(path.name + ".failed.json")
        try:
            if row in EXTENSIONS:
                record = transport(name, row, seed, folder)
            else:
                record = train(name, row, seed, epochs, folder, deadline, points)
        except FloatingPointError as error:
            facts = {"set": name, "row": row, "seed": seed, "error": str(error)}
            failed.write_text(json.dumps(facts))
            return facts
        failed.unlink(missing_ok=True)
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


def one_epoch(_):
    """Processor seconds of an epoch of the GAN: five times the fastest of three fifths."""
    torch.set_num_threads(1)
    game, data = planar.Game(), mixture("grid").values.numpy()
    initialise(game, "GAN", 0)
    times = []
    for number in range(3):
        begun = time.process_time()
        epoch(game, "GAN", data, 0, number, POINTS // 5)
        times.append(time.process_time() - begun)
    return 5 * min(times)


def products(seeds=3, repeats=50):
    """Microseconds of one hidden layer's product for three seeds, batched and one by one."""
    torch.set_num_threads(1)
    x, w = torch.randn(seeds, 100, 400), torch.randn(seeds, 400, 400)

    def timed(call):
        best = float("inf")
        for _ in range(10):
            begun = time.process_time()
            for _ in range(repeats):
                call()
            best = min(best, time.process_time() - begun)
        return 1e6 * best / repeats

    batched = timed(lambda: torch.bmm(x, w))
    return batched, timed(lambda: [torch.mm(a, b) for a, b in zip(x, w, strict=True)])


def side_by_side():
    """What an epoch costs alone and beside another one, and what batching seeds would save."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        single = pool.map(one_epoch, [0])[0]
        batched, separate = pool.apply(products)
    with context.Pool(2) as pool:
        both = pool.map(one_epoch, [0, 1], chunksize=1)
    return {
        "epoch_alone": single, "epoch_beside_another": max(both),
        "product_batched_us": batched, "product_one_by_one_us": separate,
        "load_average": os.getloadavg()[0],
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--sets", nargs="+", default=["grid", "ring"], choices=["grid", "ring"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100, help="the last horizon")
    parser.add_argument("--points", type=int, default=POINTS, help="rows of an epoch, for tests")
    parser.add_argument("--minutes", type=float, default=20, help="stop at an epoch after this")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=HERE.parent / "out" / "table2")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "table2.json")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--side-by-side", action="store_true", help="train nothing, time an epoch")
    args = parser.parse_args()
    single_threaded()
    facts = {"environment": environment(), "published": PUBLISHED}
    failed = False
    if args.side_by_side:
        facts["side_by_side"] = side_by_side()
    elif not args.report:
        deadline = time.time() + 60 * args.minutes
        horizons = [e for e in SHOWN if e < args.epochs] + [args.epochs]
        plan = {
            (name, row, seed): horizons if row in GAMES else [None]
            for name in args.sets
            for row in args.rows
            for seed in range(args.seeds)
        }
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.workers, context) as pool:

            def submit(key, epochs):
                return pool.submit(work, key, epochs, args.folder, deadline, args.points)

            for record in in_rounds(submit, plan, args.workers):
                failed |= "error" in record
                short = {k: v for k, v in record.items() if k != "history"}
                print(json.dumps(short | (record.get("history") or [{}])[-1]), flush=True)
    report(args.folder, args.output, facts, ROWS, WHY)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
