"""WGAN-GP on 8 Gaussians and the swiss roll, in the setting of its authors' toy examples.

512-512-512 ReLU networks, batches of 256, penalty 0.1, Adam(1e-4, 0.5, 0.9), five critic steps;
their runs take 100 000 generator steps and draw fresh data, this one shuffles 2^20 points. Prints
one JSON line per mark: modes and quality (8 Gaussians), how much of the roll is covered and how far
samples lie from it, the critic's mean slope on segments and its own estimate of the distance.
State is kept, call it again to go on; a killed run that is resumed equals one that was not.

At the end the slope is set beside 1 + W / (2 penalty), with the distance W of samples and data
measured without the critic (`distance`), and W between two samples of the data as its floor. That
is a property of the best critic against one generator, and in the game the critic lags behind a
moving one: so the slope stands there as the game left it, and once more after the critic was
trained on alone (`settle`). One JSON and a Markdown table are written.

    python benchmarks/bench_wgan_gp.py --minutes 10 --steps 5000
    python benchmarks/bench_wgan_gp.py --device cuda --steps 100000
"""

import argparse
import copy
import json
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import ot
import torch
from table2_training import alone, estimator, single_threaded

import aeot
from aeot._environment import environment
from aeot._io import write_text
from aeot.gan import losses
from aeot.gan_diagnostics import critics
from aeot.metrics import mode_coverage

HERE = Path(__file__).parent
STEPS = 100_000  # of the authors' run
POINTS = 1 << 20  # to train on
BLOCKS, SAMPLES, REFERENCE = 4, 1 << 19, 1 << 21  # of the distance
SIDE = {"ring": 0.01, "swissroll": 0.06}  # of its squares
MARKS = 10  # of the history that the table sums up
EVERY = 250  # generator steps from mark to mark
ALONE = 3000  # steps of the critic while the generator is held


def stream(name, n, *keys, balanced=False):
    """Fresh data, as many as wanted; the keys name the block."""
    draw = aeot.generator(0, "toys", name, *keys)
    seed = int(torch.randint(1 << 62, (), generator=draw))
    return aeot.data.toy(name, n, scaling="wgan-gp", balanced=balanced, seed=seed)


def curve():
    """The roll without noise, finely sampled."""
    turn = 1.5 * np.pi * (1 + 2 * np.linspace(0, 1, 2000))
    return np.stack([turn * np.cos(turn), turn * np.sin(turn)], 1) / 7.5


# The distance, without the critic
def binned_distance(first, second, side):
    """W1 between two large samples (m, 2) and (n, 2), each joined to squares of this side.

    Points of a square stand at their mean. Where both samples fill a square alike, errors of the
    joining cancel; they are of the order of side^2 over the width of what is joined.
    """
    places, masses = [], []
    for points in (first, second):
        _, square, count = np.unique(
            np.floor(points / side).astype(np.int64),
            axis=0,
            return_inverse=True,
            return_counts=True,
        )
        square = square.ravel()
        sums = [np.bincount(square, weights=points[:, axis]) for axis in (0, 1)]
        places.append(np.stack(sums, 1) / count[:, None])
        masses.append(count / count.sum())
    cost = ot.dist(*places, "euclidean")
    return float(ot.emd2(*masses, cost, numItermax=10_000_000))


def distance(draw_samples, name, seed, samples=SAMPLES, blocks=BLOCKS):
    """W between generator and data, and between data and data: means and standard errors.

    Args:
        draw_samples: ``draw_samples(n, block)`` returns n generated points.
        name: Which data.
        seed: Of the data.
        samples: Generated points in each block; the data are four times as many.
        blocks: Independent repetitions.
    """
    # Equally many points in every mode of the reference: what its counts leave to chance is gone.
    reference = stream(name, 4 * samples, seed, "reference", balanced=True).values.double().numpy()
    pairs = []
    for block in range(blocks):
        other = stream(name, samples, seed, "distance", block).values.double().numpy()
        fake = np.asarray(draw_samples(samples, block), dtype=float)
        pairs.append([binned_distance(ours, reference, SIDE[name]) for ours in (fake, other)])
    mean = np.mean(pairs, axis=0)
    error = np.std(pairs, axis=0, ddof=1) / np.sqrt(blocks)
    return {"w": mean[0], "w_se": error[0], "w_floor": mean[1], "w_floor_se": error[1]}


def on_segments(critic, real, fake, seed):
    """Slopes (n,) of the critic at points between data and samples (n, 2)."""
    share = torch.rand(len(real), 1, generator=aeot.generator(seed, "segments"))
    points = torch.lerp(fake.cpu(), real, share)
    return critics.slopes(critic, points.to(next(critic.parameters()).device)).norm(dim=1)


def slopes(critic, model, name, seed, samples=2500, blocks=BLOCKS):
    """A critic's mean slope between samples and data: mean and standard error of blocks."""
    means = []
    for block in range(blocks):
        real = stream(name, samples, seed, "slopes", block).values
        fake = model.sample(samples, seed=block)
        means.append(float(on_segments(critic, real, fake, block).mean()))
    return {
        "gradient_norm": float(np.mean(means)),
        "gradient_norm_se": float(np.std(means, ddof=1) / np.sqrt(blocks)),
    }


def settle(model, name, seed, steps=ALONE):
    """Train a copy of the critic on, against a generator that is held, at a falling rate."""
    data, critic = training_data(name).values, copy.deepcopy(model.critic_).cpu()
    mover = torch.optim.Adam(critic.parameters(), lr=model.learning_rate, betas=model.betas)
    schedule = torch.optim.lr_scheduler.LinearLR(mover, 1.0, 0.0, steps)
    for step in range(steps):
        draw = aeot.generator(seed, "settle", step)
        real = data[torch.randint(len(data), (model.batch_size,), generator=draw)]
        fake = model.sample(model.batch_size, seed=step).cpu()
        norms = losses.gradient_norms(critic, losses.interpolate(real, fake, generator=draw))
        loss = losses.wasserstein_critic_loss(critic(real), critic(fake))
        mover.zero_grad()
        (loss + losses.slope_penalty(norms, weight=model.penalty)).backward()
        mover.step()
        schedule.step()
    return critic


def verdict(model, name, seed, samples=SAMPLES, blocks=BLOCKS, steps=ALONE):
    """The slope beside what the distance demands of the best critic."""
    facts = distance(
        lambda n, block: model.sample(n, seed=block).cpu(), name, seed, samples, blocks
    )
    facts |= slopes(model.critic_, model, name, seed, blocks=blocks)
    settled = slopes(settle(model, name, seed, steps), model, name, seed, blocks=blocks)
    facts |= {f"settled_{key}": value for key, value in settled.items()}
    facts["expected"] = 1 + facts["w"] / (2 * model.penalty)
    facts["expected_se"] = facts["w_se"] / (2 * model.penalty)
    return {key: float(value) for key, value in facts.items()}


# Training
def training_data(name):
    return stream(name, POINTS, "training")


def judge(model, name, seed):
    """Scores of 2500 samples, and what the critic says of them."""
    samples, data = model.sample(2500, seed=seed), stream(name, 2500, seed, "judge")
    facts = {
        "gradient_norm": float(on_segments(model.critic_, data.values, samples, seed).mean()),
        "gap": critics.estimate(model.critic_, data.values.to(samples), samples),
    }
    samples, real = samples.cpu(), data.values
    if name == "ring":
        return facts | mode_coverage(samples, data.info["modes"], data.info["std"])
    line = torch.from_numpy(curve()).float()
    apart, spread = torch.cdist(line, samples), torch.cdist(line, real)
    return facts | {
        # a stretch is covered if a sample lies within three noise deviations of it
        "covered": float((apart.min(1).values < 0.1).float().mean()),
        "covered_by_data": float((spread.min(1).values < 0.1).float().mean()),
        "off_the_roll": float((apart.min(0).values > 0.1).float().mean()),
        "off_the_roll_data": float((spread.min(0).values > 0.1).float().mean()),
    }


def train(name, steps, folder, deadline=float("inf"), seed=0, every=EVERY, device="cpu"):
    """Train to `steps`, from the last checkpoint; return the model and its record.

    Raises:
        FloatingPointError: If numbers cease to be finite; the last good state is kept.
    """
    path = folder / f"wgan-gp-{name}-{seed}.json"
    record = {"set": name, "seed": seed, "aeot": aeot.__version__, "history": []}
    if path.exists():
        record = json.loads(path.read_text())
    history, model = record["history"], estimator("WGAN-GP", seed)

    def mark(step, measured):
        # A run that was killed comes to its last marks a second time.
        if step % every == 0 and (not history or history[-1]["step"] < step):
            history.append({"step": step} | judge(model, name, seed))
            print(json.dumps({"set": name, "device": device} | history[-1]), flush=True)
            write_text(path, json.dumps(record))
        return step % every == 0 and time.time() > deadline

    steps = max([steps] + [line["step"] for line in history])
    data = training_data(name).to(device)
    model.fit(data, steps=steps, checkpoint=path.with_suffix(""), on_step=mark)
    last = model.history_[-1]
    return model, record | {"steps": last["step"], "seconds": last["seconds"]}


def work(name, steps, folder, deadline, samples=SAMPLES, device="cpu"):
    """Train one set and measure it; an error instead, if its numbers cease to be finite.

    Nothing is measured if `samples` is 0.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / f"wgan-gp-{name}.lock") as mine:
        if not mine:
            return {"set": name, "steps": 0, "error": "another process trains it"}
        try:
            model, record = train(name, steps, folder, deadline, device=device)
        except FloatingPointError as error:
            return {"set": name, "steps": 0, "error": f"{name}: {error}"}
    if samples:
        record["verdict"] = verdict(model, name, record["seed"], samples)
    return record


# Writing
def swing(history, key):
    """Mean and range, in percent, of a score at the last marks: the game circles, never rests."""
    values = [100 * line[key] for line in history[-MARKS:]]
    return f"{np.mean(values):.1f} % ({min(values):.1f} to {max(values):.1f})"


def found(history):
    last = history[-MARKS:]
    if "modes" in last[0]:
        modes = sorted({int(line["modes"]) for line in last})
        counted = " to ".join(str(m) for m in modes[:1] + modes[1:][-1:])
        return f"{counted} of 8 modes, {swing(history, 'high_quality')} of the samples in them"
    return (
        f"{swing(history, 'covered')} of the roll covered (by as many data "
        f"{100 * last[-1]['covered_by_data']:.1f} %), {swing(history, 'off_the_roll')} of the "
        "samples off it"
    )


def markdown(runs):
    lines = [
        "Written by `benchmarks/bench_wgan_gp.py`: WGAN-GP at penalty 0.1 in its authors' toy",
        f"setting, whose runs take {STEPS} generator steps. W: exact distance of {SAMPLES} samples",
        f"from {REFERENCE} data, both joined to small squares, {BLOCKS} times; floor: the same",
        "with fresh data for the samples. Slope: the critic's mean slope on segments between",
        "samples and data; at its optimum that is 1 + W / (2 penalty), or more where the mass goes",
        "by detours. In the game the critic lags behind a generator that moves; settled: after",
        f"{ALONE} more steps of it alone. ± are standard errors. Found: mean and range over the",
        f"last {MARKS} marks of the run, one every {EVERY} steps, of 2500 samples each.",
        "",
        "| set | aeot | generator steps (minutes) | W | floor | 1 + W / 0.2 | settled slope "
        "| in the game | found |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        if "verdict" not in run:
            lines.append(f"| {run['set']} | | {run['steps']} | {run.get('error', '-')} | | | | | |")
            continue
        v = run["verdict"]
        lines.append(
            f"| {run['set']} | {run['aeot']} | {run['steps']} ({run['seconds'] / 60:.0f}) "
            f"| {v['w']:.4f} ± {v['w_se']:.4f} "
            f"| {v['w_floor']:.4f} ± {v['w_floor_se']:.4f} "
            f"| {v['expected']:.3f} ± {v['expected_se']:.3f} "
            f"| {v['settled_gradient_norm']:.3f} ± {v['settled_gradient_norm_se']:.3f} "
            f"| {v['gradient_norm']:.3f} ± {v['gradient_norm_se']:.3f} | {found(run['history'])} |"
        )
    return "\n".join(lines) + "\n"


def write(runs, output, where):
    """Write JSON and table; what was written before stays unless this run is longer."""
    before = json.loads(output.read_text())["runs"] if output.exists() else []
    for run in before:
        if run["set"] not in runs or runs[run["set"]]["steps"] < run["steps"]:
            runs[run["set"]] = run
    output.parent.mkdir(parents=True, exist_ok=True)
    body = {"environment": where, "runs": list(runs.values())}
    text = markdown(list(runs.values()))  # if that fails, what was there stays
    write_text(output, json.dumps(body, indent=1) + "\n")
    write_text(output.with_suffix(".md"), text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=list(SIDE), choices=SIDE)
    parser.add_argument("--steps", type=int, default=5000, help="generator steps")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--folder", type=Path, default=HERE.parent / "out" / "table2")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "table2_wgan_gp.json")
    parser.add_argument("--device", default="cpu", help="where to train")
    parser.add_argument("--train-only", action="store_true", help="measure no distance")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of W, for each block")
    args = parser.parse_args()
    single_threaded()  # workers are started anew, so that their libraries see it
    deadline = time.time() + 60 * args.minutes
    samples = 0 if args.train_only else args.samples
    rest = (args.steps, args.folder / "toys", deadline, samples, args.device)
    tasks = [(name, *rest) for name in args.sets]
    with multiprocessing.get_context("spawn").Pool(len(tasks)) as pool:
        runs = {run["set"]: run for run in pool.starmap(work, tasks, chunksize=1)}
    failed = [run["error"] for run in runs.values() if "error" in run]
    if not args.train_only:
        write(runs, args.output, environment(args.device))
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
