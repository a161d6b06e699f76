"""Autoencoders: seconds a pass over the data, and what equal processor seconds buy.

    python benchmarks/bench_autoencoder.py --speed                   # float32 against bfloat16
    python benchmarks/bench_autoencoder.py --passes 3 12             # errors of whole fits
    python benchmarks/bench_autoencoder.py --budget 240 --case infogan:64 residual:128:32
    python benchmarks/bench_autoencoder.py --budget 240 --out benchmarks/results/autoencoder.jsonl

One JSON line a case on stdout, and in --out. A case is ARCHITECTURE:LATENT[:WIDTH[:BATCH]]. Process
CPU time is given beside wall time, because it hardly depends on what else the machine does; a
budget is so many seconds of it, turned into steps by the pace of a few. ``fd`` is the Fréchet
distance of 10 000 reconstructed training images to the test images in the features of a classifier
that no autoencoder was trained with (``fd_real``: of the training images themselves).
"""

import argparse
import json
import statistics
import time

import torch

import aeot
from aeot._environment import environment
from aeot.features import Classifier, extract
from aeot.metrics import frechet_distance


class Report:
    """Prints one line a case, and adds it to a file."""

    def __init__(self, path):
        self.path = path

    def __call__(self, **case):
        rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in case.items()}
        line = json.dumps({**rounded, "environment": environment()})
        print(line, flush=True)
        if self.path:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")


def pace(data, options, steps=30):
    """Return wall and processor seconds of a step, in each phase, leaving out the first ones."""
    marks = []

    def watch(step, record):
        marks.append((time.perf_counter(), time.process_time()))

    rows = data.subset(slice(0, 8 * options["batch_size"]))
    aeot.Autoencoder(**options).fit(rows, steps=steps, held_out=0, on_step=watch)
    joint = round(steps * 2 / 3)
    return [
        [
            statistics.mean(
                after[i] - before[i] for before, after in zip(part, part[1:], strict=False)
            )
            for i in (0, 1)
        ]
        for part in (marks[2:joint], marks[joint + 2 :])
    ]


def speed(data, options, steps, report):
    per_pass = len(data) / options["batch_size"]
    for phase, (wall, cpu) in zip(("joint", "decoder"), pace(data, options, steps), strict=True):
        seconds = {"seconds_per_pass": wall * per_pass, "cpu_seconds_per_pass": cpu * per_pass}
        report(case="speed", data=data.name, rows=len(data), phase=phase, **options, **seconds)


def fit(data, held_out, options, judge, report, *, passes=None, budget=None):
    """Fit for a number of passes over the data, or for processor seconds; report every error."""
    if budget:
        joint, decoder = (cpu for _, cpu in pace(data, options))
        steps = round(budget / (2 / 3 * joint + decoder / 3))
    else:
        steps = round(passes * -(-len(data) // options["batch_size"]))
    wall, cpu = time.perf_counter(), time.process_time()
    model = aeot.Autoencoder(**options).fit(data, steps=steps, held_out=held_out)
    took = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    case = {"case": "fit", "data": data.name, "rows": len(data), **options, "steps": steps}
    case |= {"budget": budget, "passes": steps * options["batch_size"] / len(data)}
    case |= {"parameters": sum(p.numel() for part in networks(model) for p in part.parameters())}
    if judge is not None:
        some = data.subset(slice(0, 10_000))
        restored = model.decode(model.encode(some))
        features = [extract(judge, images) for images in (restored, some, held_out)]
        case |= {"fd": frechet_distance(features[0], features[2])}
        case |= {"fd_real": frechet_distance(features[1], features[2]), "judge": judge.hash_}
    report(**case, **model.losses_, **took)


def networks(model):
    return model.encoder_, model.decoder_


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--rows", type=int, help="only so many training rows")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--steps", type=int, default=30, help="of a speed case")
    parser.add_argument("--passes", type=float, nargs="*", default=[])
    parser.add_argument("--budget", type=float, nargs="*", default=[], help="processor seconds")
    parser.add_argument("--case", nargs="*", default=["residual:128"])
    parser.add_argument("--precision", nargs="*", default=["auto"])
    parser.add_argument("--judge", help="folder of a saved Classifier; trained if it is not there")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    report = Report(given.out)
    data, held_out = aeot.dataset(given.data), aeot.dataset(given.data, split="test")
    judge = None
    if given.judge and data.labels is not None:
        try:
            judge = Classifier.load(given.judge)
        except ValueError:
            judge = Classifier(epochs=3, precision="bfloat16", seed=11).fit(data, held_out)
            judge.save(given.judge)
    if given.rows:
        data = data.subset(slice(0, given.rows))
    for case in given.case:
        architecture, latent, width, batch = (case.split(":") + ["", "", ""])[:4]
        for precision in given.precision:
            options = {"architecture": architecture, "latent_dim": int(latent or 128)}
            options |= {"width": int(width) if width else None, "batch_size": int(batch or 128)}
            options |= {"precision": precision, "seed": given.seed}
            if given.speed or not (given.passes or given.budget):
                speed(data, options, given.steps, report)
            for passes in given.passes:
                fit(data, held_out, options, judge, report, passes=passes)
            for budget in given.budget:
                fit(data, held_out, options, judge, report, budget=budget)


if __name__ == "__main__":
    main()
