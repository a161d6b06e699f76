"""WGAN-GP on 8 Gaussians and the swiss roll, in the setting of its authors' toy examples.

512-512-512 ReLU networks, batches of 256 from an endless stream, penalty 0.1, Adam(1e-4, 0.5, 0.9),
five critic steps; their runs take 100 000 generator steps. Prints one JSON line per record: modes
and quality (8 Gaussians), how much of the roll is covered and how far samples lie from it, the
critic's mean slope on segments and its own estimate of the distance. State is kept, call it again
to go on; a killed run that is resumed equals one that was not.

At the end the slope is set beside 1 + W / (2 penalty), with the distance W of samples and data
measured without the critic (`distance`), and W between two samples of the data as its floor. That
is a property of the best critic against one generator, and in the game the critic lags behind a
moving one: so the slope stands there as the game left it, and once more after the critic was
trained on alone (`settle`). One JSON and a Markdown table are written.

    python benchmarks/bench_wgan_gp.py --minutes 10 --steps 5000
    python benchmarks/bench_wgan_gp.py --device cuda --steps 100000     # both sets as one batch
"""

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import ot
import planar
import torch
from planar_together import Together
from table2_training import alone, initialise, load_state, save_state, single_threaded

import aeot
from aeot._environment import environment
from aeot._io import write_text
from aeot._rng import stream_seed
from aeot.metrics.formulas import mode_coverage

HERE = Path(__file__).parent
PENALTY = 0.1
STEPS = 100_000  # of the authors' run
BLOCKS, SAMPLES, REFERENCE = 4, 1 << 19, 1 << 21  # of the distance
SIDE = {"ring": 0.01, "swissroll": 0.06}  # of its squares
MARKS = 10  # of the history that the table sums up
ALONE = 3000  # steps of the critic while the generator is held


def stream(name, n, seed):
    """Fresh data, as many as wanted; `seed` names the block."""
    return aeot.data.toy(name, n, scaling="wgan-gp", balanced=False, seed=seed)


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
    place = {"scaling": "wgan-gp", "balanced": True, "seed": stream_seed(seed, name) >> 2}
    reference = aeot.data.toy(name, 4 * samples, **place).values.double().numpy()
    pairs = []
    for block in range(blocks):
        other = stream(name, samples, stream_seed(seed, "distance", name, block) >> 2)
        other = other.values.double().numpy()
        fake = np.asarray(draw_samples(samples, block), dtype=float)
        pairs.append([binned_distance(ours, reference, SIDE[name]) for ours in (fake, other)])
    mean = np.mean(pairs, axis=0)
    error = np.std(pairs, axis=0, ddof=1) / np.sqrt(blocks)
    return {"w": mean[0], "w_se": error[0], "w_floor": mean[1], "w_floor_se": error[1]}


def slopes(game, name, seed, samples=2500, blocks=BLOCKS):
    """The critic's mean slope between samples and data: mean and standard error of blocks."""
    means = []
    for block in range(blocks):
        draw = np.random.Generator(np.random.SFC64(stream_seed(seed, "slopes", block)))
        fake = game.generator.evaluate(draw.standard_normal((samples, 2), dtype=np.float32))
        real = stream(name, samples, stream_seed(seed, "slopes", name, block) >> 2).values.numpy()
        share = draw.random((samples, 1), dtype=np.float32)
        means.append(float(game.critic.slopes_at(fake + share * (real - fake)).mean()))
    return {
        "gradient_norm": float(np.mean(means)),
        "gradient_norm_se": float(np.std(means, ddof=1) / np.sqrt(blocks)),
    }


def settle(game, name, seed, steps=ALONE):
    """Train the critic on, against a generator that is held, at a rate that falls to zero."""
    rate = game.rate
    for first in range(0, steps, 250):
        turns = min(250, steps - first)
        real = stream(name, turns * game.batch, stream_seed(seed, "settle", name, first) >> 2)
        draw = np.random.Generator(np.random.SFC64(stream_seed(seed, "settle", first)))
        noise = draw.standard_normal((turns, game.batch, 2), dtype=np.float32)
        share = draw.random((turns, game.batch), dtype=np.float32)
        real = real.values.numpy().reshape(noise.shape)
        for turn, batch in enumerate(zip(real, noise, share, strict=True)):
            game.rate = rate * (1 - (first + turn) / steps)
            game.critic_step(*batch)
    game.rate = rate


def verdict(game, name, seed, samples=SAMPLES, blocks=BLOCKS, steps=ALONE):
    """The slope beside what the distance demands of the best critic; `settle` changes the game."""

    def draw_samples(n, block):
        draw = np.random.Generator(np.random.SFC64(stream_seed(seed, "generated", block)))
        return game.generator.evaluate(draw.standard_normal((n, 2), dtype=np.float32))

    facts = distance(draw_samples, name, seed, samples, blocks)
    facts |= slopes(game, name, seed, blocks=blocks)
    settle(game, name, seed, steps)
    settled = slopes(game, name, seed, blocks=blocks)
    facts |= {f"settled_{key}": value for key, value in settled.items()}
    facts["expected"] = 1 + facts["w"] / (2 * PENALTY)
    facts["expected_se"] = facts["w_se"] / (2 * PENALTY)
    return {key: float(value) for key, value in facts.items()}


# Training
def judge(game, name, seed):
    """Scores of 2500 samples, and what the critic says of them."""
    draw = np.random.Generator(np.random.SFC64(stream_seed(seed, "judge")))
    samples = game.generator.evaluate(draw.standard_normal((2500, 2), dtype=np.float32))
    data = stream(name, 2500, 10**9 + seed)
    real = data.values.numpy()
    share = draw.random((2500, 1), dtype=np.float32)
    norms = game.critic.slopes_at(samples + share * (real - samples))
    gap = game.critic.evaluate(real).mean() - game.critic.evaluate(samples).mean()
    facts = {"gradient_norm": float(norms.mean()), "gap": float(gap)}
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


def stand(name, seed, folder):
    """The game and its record: as last saved, or the beginning."""
    path, game = folder / f"wgan-gp-{name}-{seed}.npz", planar.Wasserstein(PENALTY)
    if path.exists():
        return game, load_state(path, game)[0]
    initialise(game, "WGAN-GP", seed)
    return game, {"set": name, "seed": seed, "steps": 0, "seconds": 0.0, "history": []}


def drawn(game, name, seed, block, every):
    """What `every` steps after the first `block` are trained on, as `planar.play` takes it."""
    turns = every * game.critic_steps
    real = stream(name, turns * game.batch, stream_seed(seed, name, block) >> 2).values.numpy()
    draw = np.random.Generator(np.random.SFC64(stream_seed(seed, "noise", name, block)))
    noise = draw.standard_normal((turns, 2 * game.batch, 2), dtype=np.float32)
    share = draw.random((turns, game.batch), dtype=np.float32)
    return real.reshape(turns, game.batch, 2), noise, share


def enter(game, record, folder, name, seed):
    """Judge a game, write that into its record, print and save it."""
    scores = judge(game, name, seed)
    line = {"step": record["steps"], "seconds": record["seconds"], **scores}
    record["history"].append(line)
    print(json.dumps({"set": name, **line}), flush=True)
    save_state(folder / f"wgan-gp-{name}-{seed}.npz", game, record)


def train(name, steps, folder, deadline=float("inf"), seed=0, every=250):
    """Train to at least `steps`, `every` at a time, from the last state; return game, record."""
    game, record = stand(name, seed, folder)
    while record["steps"] < steps and time.time() < deadline:
        begun, block = time.process_time(), record["steps"]
        where = f"{name}, after {block} generator steps"
        planar.play(game, *drawn(game, name, seed, block, every), where)
        record["steps"] += every
        record["seconds"] += time.process_time() - begun
        enter(game, record, folder, name, seed)
    return game, record


def train_together(names, steps, folder, deadline, device, seed=0, every=250, judged=4):
    """Train several sets as one batch, all of which stand equally far; save every fourth block."""
    folder.mkdir(parents=True, exist_ok=True)
    games, records = zip(*(stand(name, seed, folder) for name in names), strict=True)
    at = {record["steps"] for record in records}
    if len(at) > 1:
        raise ValueError(f"--sets must stand equally far to be trained together, got {at} steps")
    player, done, saved = Together(games, 5 * every, device), *at, *at
    seconds = 0.0

    def ahead(block):
        parts = [drawn(games[0], name, seed, block, every) for name in names]
        return [np.stack(same, 1) for same in zip(*parts, strict=True)]

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(ahead, done)
        while done < steps and time.time() < deadline:
            begun, batch = time.perf_counter(), coming.result()
            coming = pool.submit(ahead, done + every)
            _, faults = player.play(*batch)
            if faults:
                told = [f"{names[i]}, after {done} generator steps, {f}" for i, f in faults.items()]
                raise FloatingPointError("; ".join(told))
            done += every
            seconds += (time.perf_counter() - begun) / len(names)
            if done >= saved + judged * every or done >= steps or time.time() > deadline:
                player.store()
                for name, game, record in zip(names, games, records, strict=True):
                    record |= {"steps": done, "device": f"{player.name}, {len(names)} sets as one"}
                    record["seconds"] += seconds
                    enter(game, record, folder, name, seed)
                saved, seconds = done, 0.0


def work(name, steps, folder, deadline, samples=SAMPLES):
    """Train one set and measure it; an error instead, if its numbers cease to be finite.

    Nothing is measured if `samples` is 0.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / f"wgan-gp-{name}.lock") as mine:
        if not mine:
            return {"set": name, "steps": 0, "error": "another process trains it"}
        try:
            game, record = train(name, steps, folder, deadline)
        except FloatingPointError as error:
            return {"set": name, "steps": 0, "error": str(error)}
    if record["steps"] and samples:
        record["verdict"] = verdict(game, name, record["seed"], samples)
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
        f"last {MARKS} marks of the run, one every 250 steps, of 2500 samples each.",
        "",
        "| set | generator steps (minutes) | W | floor | 1 + W / 0.2 | settled slope | in the game "
        "| found |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        if "verdict" not in run:
            lines.append(f"| {run['set']} | {run['steps']} | {run.get('error', '-')} | | | | | |")
            continue
        v = run["verdict"]
        lines.append(
            f"| {run['set']} | {run['steps']} ({run['seconds'] / 60:.0f}) "
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
    parser.add_argument("--device", default="cpu", help="elsewhere both sets are trained as one")
    parser.add_argument("--train-only", action="store_true", help="measure no distance")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of W, for each block")
    args = parser.parse_args()
    single_threaded()  # workers are started anew, so that their libraries see it
    deadline = time.time() + 60 * args.minutes
    if args.device != "cpu":
        try:
            train_together(args.sets, args.steps, args.folder / "toys", deadline, args.device)
        except FloatingPointError as error:
            sys.exit(str(error))
        if args.train_only:
            return
    samples = 0 if args.train_only else args.samples
    tasks = [(name, args.steps, args.folder / "toys", deadline, samples) for name in args.sets]
    with multiprocessing.get_context("spawn").Pool(len(tasks)) as pool:
        runs = {run["set"]: run for run in pool.starmap(work, tasks, chunksize=1)}
    failed = [run["error"] for run in runs.values() if "error" in run]
    if not args.train_only:
        write(runs, args.output, environment(args.device))
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
