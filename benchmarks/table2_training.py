"""Training the adversarial rows of the 2-D benchmark, seed by seed or together on a GPU."""

import contextlib
import fcntl
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import planar
import torch
from planar_together import Together

import aeot
from aeot._rng import forked, stream_seed
from aeot.metrics.formulas import mode_coverage
from aeot.networks.discriminators import MaxoutDiscriminator, MLPCritic
from aeot.networks.generators import MLPGenerator

POINTS, SAMPLES = 100_000, 2_500
SHOWN = (1, 2, 5, 10, 25, 50, 100, 200, 400)  # epochs whose samples are kept
SAVED = 60  # seconds between states of a run on a GPU

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


def drawn(game, row, data, seed, number, points=POINTS):
    """The numbers of an epoch of `points` real rows; they depend on (row, seed, number) alone.

    Returns:
        Data, noise and fractions, as `planar.play` takes them.
    """
    draw = np.random.Generator(np.random.SFC64(stream_seed(seed, "table2", row, number)))
    turns, n = points // game.batch, game.batch
    real = data[draw.integers(len(data), size=(turns, game.packing * n))]
    noise = draw.standard_normal((turns, game.noises * n, 2), dtype=np.float32)
    return real, noise, draw.random((turns, n), dtype=np.float32)


def epoch(game, row, data, seed, number, points=POINTS):
    """Train through `points` real rows; return what the last update said of itself."""
    return planar.play(
        game, *drawn(game, row, data, seed, number, points), f"{row}, epoch {number + 1}"
    )


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


def stand(name, row, seed, folder, points=POINTS):
    """A game, its record and the samples kept: as last saved, or the beginning."""
    path, game = folder / f"{name}-{row}-{seed}.npz", GAMES[row]()
    if path.exists():
        record, shown = load_state(path, game)
        if (began := record.get("points", POINTS)) != points:
            way_out = "choose another --folder"
            raise ValueError(f"--points must be {began} as {path} began, got {points}; {way_out}")
        return game, record, shown
    initialise(game, row, seed)
    record = {"set": name, "row": row, "seed": seed, "epochs": 0, "seconds": 0.0, "history": []}
    if points != POINTS:
        record["points"] = points
    return game, record, {}


def latents_of(seed):
    """What samples are judged by, the same in every epoch."""
    draw = np.random.Generator(np.random.SFC64(stream_seed(seed, "table2 samples")))
    return draw.standard_normal((SAMPLES, 2), dtype=np.float32)


def enter(record, shown, samples, data, seconds, facts):
    """Write an epoch into the record of a seed."""
    record["epochs"] += 1
    record["seconds"] += seconds
    scores = judge(torch.from_numpy(samples), data, data.labels.bincount())
    record["history"].append({"epoch": record["epochs"], "seconds": seconds, **scores, **facts})
    if record["epochs"] in SHOWN:
        shown[f"samples{record['epochs']}"] = samples


def train(name, row, seed, epochs, folder, deadline=float("inf"), points=POINTS):
    """Train one row and seed up to `epochs`, from its last saved state; return its record."""
    game, record, shown = stand(name, row, seed, folder, points)
    data, latents = mixture(name, row), latents_of(seed)
    rows = data.values.numpy()
    while record["epochs"] < epochs and time.time() < deadline:
        begun = time.process_time()
        facts = epoch(game, row, rows, seed, record["epochs"], points)
        seconds = time.process_time() - begun
        enter(record, shown, game.generator.evaluate(latents), data, seconds, facts)
        save_state(folder / f"{name}-{row}-{seed}.npz", game, record, **shown)
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


# Together on a GPU
_players = {}  # what a row's last stage left on the device, by set, row and seeds


def drawn_together(games, row, rows, seeds, number, points):
    """`drawn` for several seeds, which are the second axis."""
    parts = [
        drawn(g, row, rows, seed, number, points) for g, seed in zip(games, seeds, strict=True)
    ]
    return [np.stack(same, 1) for same in zip(*parts, strict=True)]


def train_together(name, row, seeds, epochs, folder, deadline, points=POINTS, device="cuda"):
    """Train the seeds of a row up to `epochs` as one; return their records, and errors by seed.

    Seeds that stand further back, after a run that was killed while it wrote, catch up first.
    """
    failed = {}
    while time.time() < deadline:
        seeds = [seed for seed in seeds if seed not in failed]
        at = {seed: stand(name, row, seed, folder, points)[1]["epochs"] for seed in seeds}
        if not at or min(at.values()) >= epochs:
            break
        behind = [seed for seed in seeds if at[seed] == min(at.values())]
        target = min([e for e in at.values() if e > min(at.values())] + [epochs])
        failed |= _advance(name, row, behind, target, folder, deadline, points, device)
    return [stand(name, row, seed, folder, points)[1] for seed in seeds], failed


def prepare(name, row, seeds, folder, points=POINTS, device="cuda"):
    """Put seeds that stand equally far on the device: the player, their records and samples.

    Capturing waits until the device is idle: rows that will share it are prepared before any plays.
    """
    key = (name, row, tuple(seeds), str(folder))
    if key not in _players:
        games, records, shown = zip(
            *(stand(name, row, s, folder, points) for s in seeds), strict=True
        )
        _players[key] = Together(games, points // games[0].batch, device), records, shown
    return _players[key]


def _advance(name, row, seeds, epochs, folder, deadline, points, device):
    data, key = mixture(name, row), (name, row, tuple(seeds), str(folder))
    player, records, shown = prepare(name, row, seeds, folder, points, device)
    latents, rows = np.stack([latents_of(s) for s in seeds]), data.values.numpy()
    saved, failed = time.time(), {}

    def ahead(number):
        return pool.submit(drawn_together, player.games, row, rows, seeds, number, points)

    with ThreadPoolExecutor(1) as pool:
        now = records[0]["epochs"]
        coming = ahead(now)
        while now < epochs and time.time() < deadline:
            begun, batch = time.perf_counter(), coming.result()
            coming = ahead(now + 1)
            facts, faults = player.play(*batch)
            now += 1
            samples, share = player.evaluate(latents), (time.perf_counter() - begun) / len(seeds)
            failed = {seeds[i]: f"{row}, epoch {now}, {told}" for i, told in faults.items()}
            for i, seed in enumerate(seeds):
                if seed not in failed:
                    enter(records[i], shown[i], samples[i], data, share, facts[i])
                    records[i]["device"] = f"{player.name}, {len(seeds)} seeds as one"
            last = failed or now == epochs or time.time() > deadline
            if last or now in SHOWN or time.time() > saved + SAVED:
                player.store()
                for i, seed in enumerate(seeds):
                    if seed not in failed:
                        path = folder / f"{name}-{row}-{seed}.npz"
                        save_state(path, player.games[i], records[i], **shown[i])
                saved = time.time()
            if failed:
                del _players[key]  # the others go on without those that stopped
                break
    return failed
