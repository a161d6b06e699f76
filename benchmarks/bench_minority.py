"""What long adversarial training makes of a minority: the rows of example 67, at several steps.

    python benchmarks/bench_minority.py --rows GAN WGAN-GP re-weighted --seeds 0 1 2

Data, networks and rates are those of `examples/67_minorities_and_clients.py`, whose rows end after
400 steps: eight groups on a ring, one with 2 % of the data. At each mark (400, 800, 1600, 3200
steps) of one training, 2500 samples tell the groups that are found, the share of samples inside
one and the minority's share. One line of JSON a training is added to results/minority.jsonl;
those that are there are not run again.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import aeot
from aeot._environment import environment
from aeot.metrics import mode_coverage

ROWS = Path(__file__).parent / "results" / "minority.jsonl"
SETTINGS = {"latent_dim": 2, "hidden": 64, "learning_rate": 2e-3, "batch_size": 128}
SETTINGS |= {"betas": (0.5, 0.9), "critic_steps": 5}
MODELS = {
    "GAN": lambda seed: aeot.GAN(**SETTINGS, seed=seed, prior="normal", architecture="mlp"),
    "WGAN-GP": lambda seed: aeot.WGANGP(**SETTINGS, seed=seed, penalty=0.1),
    "re-weighted": lambda seed: aeot.WGANGP(**SETTINGS, seed=seed, penalty=0.1),
    "per group": lambda seed: aeot.WGANGP(**SETTINGS, seed=seed, penalty=0.1, grouped=True),
    "condition": lambda seed: aeot.ConditionalWGANGP(**SETTINGS, seed=seed, penalty=0.1),
}


def ring():
    """The data of the page, the groups' places and their spread."""
    even = aeot.data.toy("ring", 8000)
    modes, std = even.info["modes"], even.info["std"] * 5
    g = aeot.generator(0)
    shares = torch.tensor([0.14] * 7 + [0.02], dtype=torch.float64)
    groups = torch.multinomial(shares, 4000, replacement=True, generator=g)
    points = (modes[groups] + std * torch.randn(4000, 2, generator=g)).float()
    return aeot.tensors(points, groups), modes, std


def case(name, seed, marks):
    """Train one model to the last mark; return its row."""
    data, modes, std = ring()
    if name == "re-weighted":  # the minority's rows repeated until it is as large as the others
        weights = 1 / torch.bincount(data.labels).double()[data.labels]
        draw = aeot.generator(seed)
        data = data.subset(torch.multinomial(weights, 4000, replacement=True, generator=draw))
    model, found, begun = MODELS[name](seed), [], time.process_time()

    def mark(step, record):
        if step in marks:
            samples = model.sample(2500)
            off, near = torch.cdist(samples.double(), modes).min(1)
            covered = mode_coverage(samples, modes, std)
            share = float(((near == 7) & (off < 3 * std)).double().mean())
            facts = {"steps": step, "modes": covered["modes"], "inside": covered["high_quality"]}
            found.append(facts | {"minority": share})

    model.fit(data, steps=max(marks), on_step=mark, progress=False)
    return {
        "row": name,
        "seed": seed,
        "marks": found,
        "processor_seconds": round(time.process_time() - begun, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--marks", nargs="+", type=int, default=[400, 800, 1600, 3200])
    parser.add_argument("--out", type=Path, default=ROWS)
    args = parser.parse_args()
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(row["row"], row["seed"]) for row in map(json.loads, lines)}
    for seed in args.seeds:
        for name in args.rows:
            if (name, seed) in done:
                continue
            line = json.dumps(case(name, seed, args.marks) | {"environment": environment()})
            print(line, flush=True)
            with args.out.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
