"""Mode collapse in two dimensions: the GAN family against AE-OT on the grid and the ring.

Rows GAN, ALI, MD, PacGAN2/3/4 (the networks and settings of the PacGAN experiments), WGAN and
WGAN-GP (those of WGAN-GP's toy examples, on the same points divided by the published scale), and
AE-OT with 512 supports: exact heights with the local affine extension, exact heights with the
published extension by segments between pairs, and Monte-Carlo heights. An epoch is 100 000 real
rows: 1000 updates of the first six, 390 critic and 78 generator steps of the Wasserstein pair.

    python benchmarks/bench_table2.py --minutes 20          # go on from where the last call ended
    python benchmarks/bench_table2.py --report              # only write the tables and figures

Work goes in rounds of growing length, so that every row has been trained equally long when time
runs out. State is kept per row and seed at the end of epochs: a run that was killed and resumed
equals one that was not. The full protocol is ``--epochs 400 --seeds 10``.
"""

import argparse
import json
import multiprocessing
import os
import time
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
ROWS = [*GAMES, "AE-OT exact", "AE-OT pairs", "AE-OT Monte Carlo"]
PUBLISHED = {  # modes, high quality in %, reverse KL: value and standard error of ten trials
    "grid": {
        "GAN": ((17.3, 0.8), (94.8, 0.7), (0.70, 0.07)),
        "ALI": ((24.1, 0.4), (95.7, 0.6), (0.14, 0.03)),
        "MD": ((23.8, 0.5), (79.9, 3.2), (0.17, 0.03)),
        "PacGAN2": ((23.8, 0.7), (91.3, 0.8), (0.13, 0.04)),
        "PacGAN3": ((24.6, 0.4), (94.2, 0.4), (0.06, 0.02)),
        "PacGAN4": ((24.8, 0.2), (93.6, 0.6), (0.04, 0.01)),
        "AE-OT exact": ((25.0, 0.0), (99.8, 0.2), (0.007, 0.002)),
        "AE-OT pairs": ((25.0, 0.0), (99.8, 0.2), (0.007, 0.002)),
        "AE-OT Monte Carlo": ((25.0, 0.0), (99.8, 0.2), (0.007, 0.002)),
    },
    "ring": {
        "GAN": ((6.3, 0.5), (98.2, 0.2), (0.45, 0.09)),
        "ALI": ((6.6, 0.3), (97.6, 0.4), (0.36, 0.04)),
        "PacGAN2": ((7.9, 0.1), (95.6, 2.0), (0.07, 0.03)),
        "PacGAN3": ((7.8, 0.1), (97.7, 0.3), (0.10, 0.02)),
        "PacGAN4": ((7.8, 0.1), (95.9, 1.4), (0.07, 0.02)),
    },
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
    if row.startswith("WGAN"):
        for turn in range(points // game.batch):
            real = data[draw.integers(len(data), size=game.batch)]
            noise = draw.standard_normal((2, game.batch, 2), dtype=np.float32)
            game.critic_step(real, noise[0], draw.random(game.batch, dtype=np.float32))
            if (turn + 1) % game.critic_steps == 0:
                game.generator_step(noise[1])
            if not np.isfinite(game.gap):
                raise FloatingPointError(f"{row}: the score gap became {game.gap} at step {turn}")
        facts = {"gap": game.gap, "gradient_norm": float(game.norms.mean())}
    else:
        sets = 2 if row == "ALI" else game.packing
        for turn in range(points // game.batch):
            real = data[draw.integers(len(data), size=game.packing * game.batch)]
            noise = draw.standard_normal((sets * game.batch, 2), dtype=np.float32)
            loss = game.step(real, noise)
            if not np.isfinite(loss):
                raise FloatingPointError(f"{row}: the critic loss became {loss} at step {turn}")
        facts = {"critic_loss": float(loss)}
    for name, network in game.networks.items():
        if not np.isfinite(network.theta).all():
            raise FloatingPointError(f"{row}: weights of the {name} are no longer finite")
    return facts


def judge(samples, data, reference=None):
    """All metrics of one sample, with both readings of the divergence."""
    modes, std = data.info["modes"], data.info["std"]
    scores = mode_coverage(samples, modes, std, reference=reference)
    other = mode_coverage(samples, modes, std, reference=reference, count="high-quality")
    return scores | {"reverse_kl_high_quality": other["reverse_kl"]}


def train(name, row, seed, epochs, folder, deadline=float("inf"), points=POINTS):
    """Train one row and seed up to `epochs`, from its last saved state; return its record."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{row}-{seed}.npz"
    game, data = GAMES[row](), mixture(name, row)
    rows, histogram = data.values.numpy(), data.labels.bincount()
    record = {"set": name, "row": row, "seed": seed, "epochs": 0, "seconds": 0.0, "history": []}
    shown = {}
    if path.exists():
        with np.load(path) as stored:
            record = json.loads(str(stored["record"]))
            shown = {key: stored[key] for key in stored if key.startswith("samples")}
            for part, network in game.networks.items():
                prefix = part + "."
                network.load(
                    {k.removeprefix(prefix): stored[k] for k in stored if k.startswith(prefix)}
                )
    else:
        initialise(game, row, seed)
    latents = np.random.Generator(np.random.SFC64(stream_seed(seed, "table2 samples")))
    latents = latents.standard_normal((SAMPLES, 2), dtype=np.float32)

    def save():
        state = {f"{p}.{k}": v for p, n in game.networks.items() for k, v in n.state().items()}
        fresh = path.with_suffix(".writing.npz")
        np.savez(fresh, record=np.array(json.dumps(record)), **state, **shown)
        os.replace(fresh, path)

    saved = time.monotonic()
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
        if time.monotonic() - saved > 60 or record["epochs"] == epochs:
            save()
            saved = time.monotonic()
    save()
    return record


def transport(name, row, seed, folder):
    """AE-OT on the plane: 512 data points as supports, extended map, cut where it jumps."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{row}-{seed}.npz"
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
    method = "pair" if row == "AE-OT pairs" else "affine"  # "pair" is what was published
    drawn = brenier.draw(
        SAMPLES, singular=singular, method=method, generator=aeot.generator(seed, "new")
    )
    samples = drawn.codes
    seconds, wall = time.process_time() - clock, time.perf_counter() - wall
    supports = chosen.labels.bincount(minlength=len(data.info["modes"]))
    scores = judge(samples, data, supports)
    uniform = judge(samples, data)
    record = {
        "set": name, "row": row, "seed": seed, "seconds": seconds, "wall_seconds": wall,
        "solve_seconds": solved, "converged": solution.converged,
        "mass_error": solution.mass_error, "acceptance": drawn.acceptance, **scores,
        "reverse_kl_uniform": uniform["reverse_kl"],
        "nearest_support": float(torch.cdist(samples.double(), chosen.values.double()).min()),
    }  # fmt: skip
    np.savez(path, record=np.array(json.dumps(record)), samples=samples.numpy())
    return record


def single_threaded():
    """Set what workers inherit: a thread each, and AVX-512 where OpenBLAS fails to see it."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    processor = Path("/proc/cpuinfo")  # new AMD processors are taken for ones without it
    if processor.exists() and "avx512f" in processor.read_text():
        os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")


def work(task):
    torch.set_num_threads(1)
    name, row, seed, epochs, folder, deadline = task
    if time.time() > deadline:
        return None
    if row.startswith("AE-OT"):
        path = folder / f"{name}-{row}-{seed}.npz"
        return None if path.exists() else transport(name, row, seed, folder)
    return train(name, row, seed, epochs, folder, deadline)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--sets", nargs="+", default=["grid", "ring"], choices=["grid", "ring"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100, help="the last horizon")
    parser.add_argument("--minutes", type=float, default=20, help="stop at an epoch after this")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=HERE.parent / "out" / "table2")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "table2.json")
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    if not args.report:
        deadline = time.time() + 60 * args.minutes
        horizons = [e for e in SHOWN if e < args.epochs] + [args.epochs]
        tasks = [
            (name, row, seed, epochs, args.folder, deadline)
            for epochs in horizons
            for name in args.sets
            for row in args.rows
            for seed in range(args.seeds)
            if epochs == horizons[0] or not row.startswith("AE-OT")
        ]
        single_threaded()
        context = multiprocessing.get_context("spawn")
        with context.Pool(args.workers) as pool:
            for record in pool.imap(work, tasks):
                if record is not None:
                    short = {k: v for k, v in record.items() if k != "history"}
                    print(json.dumps(short | (record.get("history") or [{}])[-1]), flush=True)
    report(args.folder, args.output, environment(), PUBLISHED, ROWS)


if __name__ == "__main__":
    main()
