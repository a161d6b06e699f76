"""Flow matching on three ways to pair noise with data: at random, by mini-batch OT, by a map.

    python benchmarks/bench_coupling.py plane --seeds 0 1 2
    python benchmarks/bench_coupling.py codes pixels
    python benchmarks/bench_coupling.py --table           # of the rows so far, as docs show it

One JSON line a case is added to results/coupling.jsonl; cases that are there are not run again.
All ways train the same network for the same steps on batches of the same size. Processor seconds.
Mini-batch plans are made as torchcfm makes them, by POT's `ot.emd` and draws from the plan.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import ot
import torch
from sklearn.datasets import make_moons

import aeot
from aeot._environment import environment
from aeot.gan.flow_matching import Velocity
from aeot.metrics import sliced_wasserstein

ROWS = Path(__file__).parent / "results" / "coupling.jsonl"
WAYS = ("independent", "batch 128", "batch 1024", "map", "map stored")
STORED_EPOCHS = 16
EVALUATIONS = (1, 2, 4, 8, 16, 32)
BATCH, STEPS, N_TEST = 128, 1500, 2000
SIZES = {  # rows, tol of the map, width and depth of the network
    "plane": (4000, 0.05, 128, 3),
    "codes": (5000, 0.1, 384, 3),
    "pixels": (1000, 0.15, 512, 3),
}
RADIUS = 5.0


def eight_gaussians(n, generator):
    """Torchcfm's source: eight Gaussians of variance 0.1 on a circle of radius 5."""
    angle = torch.randint(8, (n,), generator=generator) * (torch.pi / 4)
    centre = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    return centre + 0.1**0.5 * torch.randn(n, 2, generator=generator)


def problem(name, seed):
    """Return source, data (n, d) and held-out data (N_TEST, d)."""
    n = SIZES[name][0]
    if name == "plane":
        both = [
            make_moons(m, noise=0.2, random_state=seed + k)[0] for k, m in ((0, n), (99, N_TEST))
        ]
        data, test = (torch.from_numpy(3 * part - 1).float() for part in both)
        return aeot.Sampler(eight_gaussians, dim=2), data, test
    data = aeot.dataset("fashion-mnist")
    order = torch.randperm(len(data), generator=aeot.generator(seed, "rows"))
    data, test = (data[part].flatten(1) for part in (order[:n], order[-N_TEST:]))
    mean = data.mean(0)
    data, test = data - mean, test - mean
    if name == "codes":  # the first 32 principal axes
        axes = torch.linalg.eigh(data.T @ data)[1][:, -32:]
        data, test = data @ axes, test @ axes
    scale = data.square().mean().sqrt()
    return aeot.Gaussian(dim=data.shape[1]), data / scale, test / scale


class Independent:
    """Any noise with any row."""

    def __init__(self, source, data, seed):
        self.source, self.data, self.seed = source, data, seed
        self.setup = {}

    def batch(self, number, size=BATCH):
        stream = aeot.generator(self.seed, "pairs", number)
        rows = torch.randint(len(self.data), (size,), generator=stream)
        return self.source.sample(size, generator=stream), self.data[rows]


class MiniBatch(Independent):
    """Pairs of an optimal plan between `size` points of noise and `size` rows."""

    def __init__(self, source, data, seed, size):
        super().__init__(source, data, seed)
        self.size, self.ready = size, []

    def batch(self, number):
        if not self.ready:
            x0, x1 = super().batch(number, self.size)
            even = np.full(self.size, 1 / self.size)
            plan = ot.emd(even, even, torch.cdist(x0, x1).square().numpy()).ravel()
            rng = np.random.default_rng(number)
            drawn = rng.choice(self.size**2, p=plan / plan.sum(), size=self.size)
            i, j = (torch.from_numpy(k) for k in np.divmod(drawn, self.size))
            self.ready = list(zip(x0[i].split(BATCH), x1[j].split(BATCH), strict=True))
        return self.ready.pop()


class Map:
    """Pairs of a semi-discrete map, every row once an epoch."""

    def __init__(self, source, data, seed, tol, stored):
        begun = time.process_time()
        solution = aeot.solve_semidiscrete(source, data, tol=tol, seed=seed, method="newton")
        self.setup = {
            "seconds_map": time.process_time() - begun,
            "bound": solution.mass_error_upper,
            "converged": solution.converged,
        }
        self.pairs = aeot.coupling(solution, data, batch_size=BATCH, seed=seed)
        if stored:
            begun = time.process_time()
            with tempfile.TemporaryDirectory() as place:
                self.pairs.save_pairs(place, epochs=STORED_EPOCHS)
                self.pairs = self.pairs.load_pairs(place)
            self.setup["seconds_stored"] = time.process_time() - begun

    def batch(self, number):
        noise, _, data, _ = self.pairs.batch(number)
        return noise, data


def coupled(way, source, data, seed, tol):
    if way.startswith("map"):
        return Map(source, data, seed, tol, way == "map stored")
    if way == "independent":
        return Independent(source, data, seed)
    return MiniBatch(source, data, seed, int(way.split()[1]))


def train(pairs, dim, hidden, layers, seed, steps):
    """Return the velocity, seconds per batch of pairs and of a step, and the pairs' mean cost."""
    torch.manual_seed(seed)
    net = Velocity(dim, hidden, layers)
    mover = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(mover, steps)
    pairing = fitting = cost = 0.0
    for step in range(steps):
        begun = time.process_time()
        x0, x1 = pairs.batch(step)
        pairing += time.process_time() - begun
        begun = time.process_time()
        t = torch.rand(len(x0), 1, generator=aeot.generator(seed, "times", step))
        loss = (net(torch.lerp(x0, x1, t), t) - (x1 - x0)).square().mean()
        mover.zero_grad()
        loss.backward()
        mover.step()
        schedule.step()
        fitting += time.process_time() - begun
        cost += float((x1 - x0).square().sum(1).mean())
    return net, pairing / steps, fitting / steps, cost / steps


@torch.no_grad()
def euler(net, x, count):
    """Return the end of `count` steps, and the velocities on the way."""
    seen = []
    for step in range(count):
        seen.append(net(x, torch.full((len(x), 1), step / count)))
        x = x + seen[-1] / count
    return x, seen


def case(name, way, seed, steps):
    n, tol, hidden, layers = SIZES[name]
    source, data, test = problem(name, seed)
    pairs = coupled(way, source, data, seed, tol)
    net, pairing, fitting, cost = train(pairs, data.shape[1], hidden, layers, seed, steps)
    x0 = source.sample(N_TEST, generator=aeot.generator(seed, "test noise"))
    end, seen = euler(net, x0, 128)
    chord = end - x0
    bend = torch.stack([(v - chord).square().sum(1).mean() for v in seen]).mean()
    row = {
        **{"data": name, "way": way, "seed": seed, "n": n, "d": data.shape[1], "steps": steps},
        **{"batch_size": BATCH, "hidden": hidden, "layers": layers, "tol": tol, **pairs.setup},
        **{"seconds_batch": pairing, "seconds_step": fitting, "mean_square_pair": cost},
        "bend": float(bend / chord.square().sum(1).mean()),
        "floor": float(sliced_wasserstein(data[:N_TEST], test)),
    }
    for count in EVALUATIONS:
        x, _ = euler(net, x0, count)
        row[f"missed_{count}"] = float((x - end).square().mean().sqrt())
        row[f"error_{count}"] = float(sliced_wasserstein(x, test))
    row["error_128"] = float(sliced_wasserstein(end, test))
    return row


def known():
    lines = ROWS.read_text().splitlines() if ROWS.exists() else []
    return [json.loads(line) for line in lines]


def table():
    """Print the rows as docs/flow_matching.md shows them: means over the seeds."""
    rows = known()
    shown = (1, 2, 4, 8, 128)
    for name in SIZES:
        some = [row for row in rows if row["data"] == name]
        if not some:
            continue
        n, d, steps = (some[0][key] for key in ("n", "d", "steps"))
        print(f"\n{name}: n = {n}, d = {d}, {steps} steps of {BATCH}\n")
        head = ["pairs", "seeds", "ms a batch", "mean square", "bend", *map(str, shown)]
        print("|", " | ".join(head), "|\n|" + "---|" * len(head))
        for way in WAYS:
            if not (mine := [row for row in some if row["way"] == way]):
                continue
            mean = {
                k: np.mean([row[k] for row in mine])
                for k in mine[0]
                if k not in ("data", "way", "environment")
            }
            spent = mean["seconds_batch"] + mean.get("seconds_stored", 0) / steps
            cells = [way, str(len(mine)), f"{1e3 * spent:.2f}"]
            cells += [f"{mean['mean_square_pair']:.4g}", f"{mean['bend']:.4f}"]
            cells += [f"{mean[f'error_{k}']:.3f}" for k in shown]
            print("|", " | ".join(cells), "|")
        floor = np.mean([row["floor"] for row in some])
        maps = [row for row in some if "seconds_map" in row]
        for key, what in (("seconds_map", "seconds of the map"), ("bound", "its bound")):
            if maps:
                print(f"\n{what}: {np.mean([row[key] for row in maps]):.3g}", end="")
        print(f"\nbetween data and held-out data: {floor:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", choices=[[], *SIZES], help="which problems")
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case later")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    for name in options.data:
        for seed in options.seeds:
            for way in options.ways:
                wanted = {"data": name, "way": way, "seed": seed, "steps": options.steps}
                if any(wanted.items() <= row.items() for row in known()):
                    continue
                if time.perf_counter() - begun > options.seconds:
                    return
                row = case(name, way, seed, options.steps)
                row = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}
                line = json.dumps({**row, "environment": environment()})
                print(line, flush=True)
                with ROWS.open("a") as file:
                    file.write(line + "\n")
    if options.table:
        table()


if __name__ == "__main__":
    main()
