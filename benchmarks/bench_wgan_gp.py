"""WGAN-GP on 8 Gaussians and the swiss roll, in the setting of its authors' toy examples.

512-512-512 ReLU networks, batches of 256 from an endless stream, penalty 0.1, Adam(1e-4, 0.5, 0.9),
five critic steps; their runs take 100 000 generator steps. Prints one JSON line per record: modes
and quality (8 Gaussians), how much of the roll is covered and how far samples lie from it, and
the critic's mean slope on segments beside 1 + W / (2 penalty), with W the exact distance between
1000 samples and 1000 data. State is kept: call it again to go on.

    python benchmarks/bench_wgan_gp.py --minutes 10 --steps 5000
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import ot
import planar
import torch
from bench_table2 import initialise, single_threaded

import aeot
from aeot._environment import environment
from aeot._rng import stream_seed
from aeot.metrics import mode_coverage

HERE = Path(__file__).parent
PENALTY = 0.1


def stream(name, n, seed):
    """Fresh data, as many as wanted; `seed` names the block."""
    return aeot.data.toy(name, n, scaling="wgan-gp", balanced=False, seed=seed)


def curve():
    """The roll without noise, finely sampled."""
    turn = 1.5 * np.pi * (1 + 2 * np.linspace(0, 1, 2000))
    return np.stack([turn * np.cos(turn), turn * np.sin(turn)], 1) / 7.5


def judge(game, name, seed):
    """Scores of 2500 samples, and the critic's slopes against the exact distance."""
    draw = np.random.Generator(np.random.SFC64(stream_seed(seed, "judge")))
    samples = game.generator.evaluate(draw.standard_normal((2500, 2), dtype=np.float32))
    data = stream(name, 2500, 10**9 + seed)
    real = data.values.numpy()
    distance = ot.dist(samples[:1000].astype(float), real[:1000].astype(float), "euclidean")
    w = float(ot.emd2([], [], distance))
    share = draw.random((2500, 1), dtype=np.float32)
    held = game.critic.grad.copy()
    norms = game.critic.slope_penalty(samples + share * (real - samples), PENALTY)
    game.critic.grad[:] = held
    # what the critic says of the same data, and what the penalised optimum would say of W
    facts = {"w": w, "gradient_norm": float(norms.mean()), "expected": 1 + w / (2 * PENALTY)}
    ahead, _ = game.critic.forward(real)
    behind, _ = game.critic.forward(samples)
    facts["gap"] = float(ahead.mean() - behind.mean())
    facts["expected_from_gap"] = 1 + _solve(facts["gap"]) / (2 * PENALTY)
    if name == "ring":
        return facts | mode_coverage(samples, data.info["modes"], data.info["std"])
    line = torch.from_numpy(curve()).float()
    apart = torch.cdist(line, torch.from_numpy(samples))
    spread = torch.cdist(line, torch.from_numpy(real))
    return facts | {
        # a stretch is covered if a sample lies within three noise deviations of it
        "covered": float((apart.min(1).values < 0.1).float().mean()),
        "covered_by_data": float((spread.min(1).values < 0.1).float().mean()),
        "off_the_roll": float((apart.min(0).values > 0.1).float().mean()),
        "off_the_roll_data": float((spread.min(0).values > 0.1).float().mean()),
    }


def _solve(gap):
    return PENALTY * (np.sqrt(1 + 2 * max(gap, 0) / PENALTY) - 1)


def train(name, steps, folder, deadline, seed=0, every=250):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"wgan-gp-{name}-{seed}.npz"
    game = planar.Wasserstein(PENALTY)
    record = {"set": name, "seed": seed, "steps": 0, "seconds": 0.0, "history": []}
    if path.exists():
        with np.load(path) as stored:
            record = json.loads(str(stored["record"]))
            for part, network in game.networks.items():
                prefix = part + "."
                network.load(
                    {k.removeprefix(prefix): stored[k] for k in stored if k.startswith(prefix)}
                )
    else:
        initialise(game, "WGAN-GP", seed)
    while record["steps"] < steps and time.time() < deadline:
        begun, block = time.process_time(), record["steps"]
        real = stream(name, every * 5 * game.batch, stream_seed(seed, name, block) >> 2)
        real = real.values.numpy().reshape(every, 5, game.batch, 2)
        draw = np.random.Generator(np.random.SFC64(stream_seed(seed, "noise", name, block)))
        for batches in real:
            for batch in batches:
                noise = draw.standard_normal((game.batch, 2), dtype=np.float32)
                game.critic_step(batch, noise, draw.random(game.batch, dtype=np.float32))
            game.generator_step(draw.standard_normal((game.batch, 2), dtype=np.float32))
        record["steps"] += every
        record["seconds"] += time.process_time() - begun
        line = {"step": record["steps"], "seconds": record["seconds"], **judge(game, name, seed)}
        record["history"].append(line)
        print(json.dumps({"set": name, **line}), flush=True)
        state = {f"{p}.{k}": v for p, n in game.networks.items() for k, v in n.state().items()}
        latents = np.random.Generator(np.random.SFC64(1)).standard_normal((2500, 2))
        samples = game.generator.evaluate(latents.astype(np.float32))
        fresh = path.with_suffix(".writing.npz")
        np.savez(fresh, record=np.array(json.dumps(record)), samples=samples, **state)
        os.replace(fresh, path)
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=["ring", "swissroll"])
    parser.add_argument("--steps", type=int, default=5000, help="generator steps")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--folder", type=Path, default=HERE.parent / "out" / "table2")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "wgan_gp.json")
    args = parser.parse_args()
    single_threaded()
    deadline = time.time() + 60 * args.minutes
    runs = [train(name, args.steps, args.folder / "toys", deadline) for name in args.sets]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    body = {"environment": environment(), "runs": runs}
    args.output.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
