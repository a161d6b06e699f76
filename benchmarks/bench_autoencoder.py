"""Autoencoder training: seconds a pass over the data, and the error that a budget reaches.

    python benchmarks/bench_autoencoder.py --speed              # float32 against bfloat16
    python benchmarks/bench_autoencoder.py --passes 3 12 24     # errors of whole fits

One JSON line a case on stdout. Process CPU time is given beside wall time, because it hardly
depends on what else the machine does.
"""

import argparse
import json
import time

import torch

import aeot
from aeot._environment import environment


def report(**case):
    rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in case.items()}
    print(json.dumps({**rounded, "environment": environment()}), flush=True)


def speed(data, *, batch_size, precision, steps, seed):
    """Time some steps of each phase, leaving out the first ones."""
    marks = []

    def watch(step, record):
        marks.append((time.perf_counter(), time.process_time()))

    model = aeot.Autoencoder(batch_size=batch_size, precision=precision, seed=seed)
    model.fit(data, steps=steps, held_out=0, on_step=watch)
    joint = round(steps * 2 / 3)
    per_pass = len(data) / batch_size
    for phase, part in (("joint", marks[2:joint]), ("decoder", marks[joint + 2 :])):
        wall, cpu = ((part[-1][i] - part[0][i]) / (len(part) - 1) * per_pass for i in (0, 1))
        report(
            case="speed",
            data=data.name,
            rows=len(data),
            phase=phase,
            batch_size=batch_size,
            precision=precision,
            seconds_per_pass=wall,
            cpu_seconds_per_pass=cpu,
            seed=seed,
        )


def fit(data, held_out, *, batch_size, precision, passes, seed):
    """Fit for a number of passes over the data and report every error."""
    wall, cpu = time.perf_counter(), time.process_time()
    model = aeot.Autoencoder(batch_size=batch_size, precision=precision, seed=seed)
    steps = round(passes * -(-len(data) // batch_size))
    model.fit(data, steps=steps, held_out=held_out)
    report(
        case="fit",
        data=data.name,
        rows=len(data),
        passes=passes,
        steps=steps,
        batch_size=batch_size,
        precision=model.precision_,
        **model.losses_,
        seconds=time.perf_counter() - wall,
        cpu_seconds=time.process_time() - cpu,
        seed=seed,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--rows", type=int, help="only so many training rows")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--steps", type=int, default=30, help="of a speed case")
    parser.add_argument("--passes", type=float, nargs="*", default=[])
    parser.add_argument("--batch-size", type=int, nargs="*", default=[128])
    parser.add_argument("--precision", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    data = aeot.dataset(given.data)
    if given.rows:
        data = data.subset(slice(0, given.rows))
    cases = [(b, p) for b in given.batch_size for p in given.precision]
    for batch_size, precision in cases:
        options = {"batch_size": batch_size, "precision": precision, "seed": given.seed}
        if given.speed or not given.passes:
            speed(data, steps=given.steps, **options)
        for passes in given.passes:
            held_out = aeot.dataset(given.data, split="test")
            fit(data, held_out, passes=passes, **options)


if __name__ == "__main__":
    main()
