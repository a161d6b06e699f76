"""Problems and rival solvers of `bench_transport.py`, each solver in its own natural form."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from aeot import AEOT, BrenierMap, Gaussian, UniformBall, UniformBox, dataset, generator
from aeot.solvers.certificate import BATCHES, Tally, certify

CODES = Path(__file__).parents[1] / "out" / "extension" / "model"

# Adam's first rate on each problem, in units of the sites' mean squared norm per axis: the best of
# 0.01, 0.03, 0.1, 0.3, 1 and 3, as `bench_transport.py tune` finds it.
ADAM_RATE = {"a": 0.1, "b": 0.3, "c": 0.1, "d": 1.0, "e": 0.3}


def problem(name):
    """Return source and sites (n, d) of a problem."""
    rng = np.random.default_rng(0)
    if name == "a":
        centres = np.stack(np.meshgrid(*[np.linspace(0.1, 0.9, 5)] * 2), -1).reshape(-1, 2)
        return UniformBox(dim=2), centres[rng.integers(25, size=512)] + 0.02 * rng.normal(
            size=(512, 2)
        )
    if name == "b":
        pick = rng.choice(12, 2000, p=rng.dirichlet(np.full(12, 3.0)))
        spread = rng.uniform(0.02, 0.08, 12)[pick, None]
        return UniformBox(dim=3), rng.uniform(0.1, 0.9, (12, 3))[pick] + spread * rng.normal(
            size=(2000, 3)
        )
    if name == "c":
        centres = 1.2 * rng.normal(size=(20, 10))
        return Gaussian(dim=10), centres[rng.integers(20, size=2000)] + 0.5 * rng.normal(
            size=(2000, 10)
        )
    if name == "d":
        pick = rng.integers(30, size=5000)
        axes = rng.normal(size=(30, 8, 32)) / 8**0.5
        inside = np.einsum("nk,nkd->nd", 0.6 * rng.normal(size=(5000, 8)), axes[pick])
        return UniformBox(dim=32), (
            1.2 * rng.normal(size=(30, 32))[pick] + inside + 0.1 * rng.normal(size=(5000, 32))
        )
    if name == "e":
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        first = rng.integers(len(images), size=10_000)
        second = np.array([rng.choice(np.flatnonzero(labels == labels[i])) for i in first])
        t = rng.uniform(0, 0.5, (10_000, 1))
        mixed = (1 - t) * images[first] + t * images[second] + 0.5 * rng.normal(size=(10_000, 64))
        mixed -= mixed.mean(0)
        rotated = mixed @ np.linalg.svd(mixed, full_matrices=False)[2].T
        return Gaussian(dim=64), rotated / rotated.std()
    if name == "gm10":
        centres = 3 * rng.normal(size=(20, 10))
        sites = centres[rng.integers(20, size=2000)] + 0.5 * rng.normal(size=(2000, 10))
        return UniformBox(dim=10), (sites - sites.mean(0)) / sites.std()
    if name.startswith("pca"):
        d = int(name[3:])
        n = {32: 5000, 64: 10_000, 128: 20_000}[d]
        images = dataset("fashion-mnist")[torch.arange(n)].flatten(1).double().numpy()
        images -= images.mean(0)
        values, vectors = np.linalg.eigh(images.T @ images)
        sites = images @ vectors[:, ::-1][:, :d]
        return UniformBox(dim=d), sites / sites.std()
    if name == "codes":  # of all 60 000 images; bench_extension.py trains the model
        model = AEOT.load(CODES)
        return UniformBox(dim=64), model.encode(dataset("fashion-mnist")).double().numpy()
    if name.startswith("size"):
        return UniformBox(dim=16), rng.normal(size=(int(name[4:]), 16))
    raise SystemExit(f"unknown problem {name}")


# Of `bench_transport.py peers`: processor seconds that every peer gets.
PEER_PROBLEMS = {"sheet": 10, "stretched": 12, "images": 25, "ball": 15}


def peer_problem(name):
    """Return source, sites (n, d) and masses (n,) of a problem that no setting was tuned on."""
    rng = np.random.default_rng(2026)
    masses = None
    if name == "sheet":  # rolled up, d = 5
        t, s = rng.uniform(1, 4 * np.pi, 3000), rng.uniform(-1, 1, 3000)
        roll = t * np.cos(t) / 6, t * np.sin(t) / 6, s, 0.3 * np.sin(2 * t), 0.2 * s**2
        source, sites = UniformBox(dim=5), np.stack(roll, 1) + 0.03 * rng.normal(size=(3000, 5))
    elif name == "stretched":  # 20 clusters, masses over two decades, d = 16
        pick, centres = rng.integers(20, size=4000), 1.5 * rng.normal(size=(20, 16))
        axes = [
            np.linalg.qr(rng.normal(size=(16, 16)))[0] * rng.permutation(np.geomspace(1, 0.03, 16))
            for _ in range(20)
        ]
        inside = np.einsum("nij,nj->ni", np.stack(axes)[pick], rng.normal(size=(4000, 16)))
        source, sites = Gaussian(dim=16), centres[pick] + inside
        masses = 10 ** rng.uniform(-2, 0, 4000)
    elif name == "images":  # principal components of pictures, d = 48
        images = dataset("fashion-mnist")[torch.arange(30_000, 36_000)].flatten(1).double().numpy()
        images = (images - images.mean(0)) / 2
        vectors = np.linalg.eigh(images.T @ images)[1][:, ::-1][:, :48]
        source, sites = Gaussian(dim=48), images @ vectors
    elif name == "ball":  # 10 clusters in a ball, d = 100
        pick, centres = rng.integers(10, size=3000), 2 * rng.normal(size=(10, 100))
        inside = rng.normal(size=(3000, 100)) * np.geomspace(2, 0.2, 100)
        source, sites = UniformBall(dim=100), centres[pick] + inside
    else:
        raise SystemExit(f"unknown problem {name}")
    masses = np.ones(len(sites)) if masses is None else masses
    return source, sites, torch.from_numpy(masses / masses.sum())


def measured(source, sites, heights, masses=None, m=None):
    """Net total variation and root of the mean square relative error on an independent sample."""
    n = len(sites)
    nu = torch.full((n,), 1 / n, dtype=torch.float64) if masses is None else masses
    brenier = BrenierMap(source, torch.as_tensor(sites), torch.as_tensor(heights))
    size = -(-(m or max(min(60 * n, 1_200_000), 400_000)) // BATCHES)
    counts = torch.zeros(BATCHES, n, dtype=torch.int64)
    for batch in range(BATCHES):
        points = source.sample(size, generator=generator(987_654_321, "judge", batch))
        counts[batch] = brenier.cell(points).bincount(minlength=n)
    c = certify(Tally(counts, None), nu.numpy())
    return {
        "tv": c.mass_error,
        "rms": max(c.square, 0.0) ** 0.5,
        "tv_raw": float(np.abs(c.cell_masses.numpy() - nu.numpy()).sum()) / 2,
        "empty": c.empty,
        "judged": c.n_samples,
    }


def alignflow(source, sites, budget, rate, seed, masses, batch=512):
    """The rule of AlignFlow as its authors describe it: Adam on the dual weights, dense costs.

    Every step assigns a fresh batch by all squared distances; the answer is the running mean of the
    weights, over the last eighth or so. Its bias towards the start is divided out, and the rate is
    in units of the mean squared norm of the sites per axis.
    """
    y = torch.as_tensor(sites - sites.mean(0), dtype=torch.float32)
    nu, unit = masses.float(), 2 * float(y.square().mean())
    g = torch.Generator().manual_seed(seed)

    def solve(steps):
        weights, mean = torch.zeros(len(y)), torch.zeros(len(y))
        first, second, keep = torch.zeros(len(y)), torch.zeros(len(y)), 1 - 8 / steps
        begun = time.process_time()
        for k in range(1, steps + 1):
            x = source.sample(batch, generator=g).float()
            cost = torch.cdist(x, y).square() / 2
            won = (cost - weights).argmin(1)
            gradient = torch.bincount(won, minlength=len(y)) / batch - nu
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            step = first / (1 - 0.9**k) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
            weights = weights - rate * unit * step
            mean = keep * mean + (1 - keep) * weights
        return mean / (1 - keep**steps), time.process_time() - begun

    steps = max(int(budget / (solve(20)[1] / 20)), 20)
    weights, seconds = solve(steps)
    # <x, y - c> - |y - c|^2 / 2 + w decides as <x, y> + h does, up to a function of x.
    heights = weights.double() - y.double().square().sum(1) / 2
    return heights.numpy(), seconds, {"iterations": steps, "batch": batch, "rate": rate}


def pot(source, sites, budget, batch, seed, masses=None):
    """POT's averaged stochastic gradient (DRAG schedule); iterations from a short pilot."""
    from ot.semidiscrete import solve_semidiscrete as solve

    g = torch.Generator().manual_seed(seed)
    y = torch.as_tensor(sites, dtype=torch.float32)

    def draw(k):
        return source.sample(k, generator=g).float()

    begun = time.process_time()
    options = {"batch_size": batch}
    if masses is not None:
        options["a_target"] = masses.float()
    solve(y, draw, max_iter=20, **options)
    pilot = (time.process_time() - begun) / 20
    iterations = max(int(budget / pilot), 10)
    begun = time.process_time()
    dual = solve(y, draw, max_iter=iterations, **options)
    seconds = time.process_time() - begun
    heights = (dual.double().numpy() - (np.asarray(sites) ** 2).sum(1)) / 2
    return heights, seconds, {"iterations": iterations, "batch": batch}


def ott(source, sites, budget, tuned, seed):
    """OTT's stochastic solver without entropy; "tuned" is Adam with a decaying rate."""
    import jax
    import jax.numpy as jnp
    import optax
    from ott.geometry.semidiscrete_pointcloud import SemidiscretePointCloud
    from ott.problems.linear.semidiscrete_linear_problem import SemidiscreteLinearProblem
    from ott.solvers.linear.semidiscrete import SemidiscreteSolver

    y = jnp.asarray(sites, jnp.float32)

    def sampler(rng, shape, dtype=jnp.float32):
        kind = jax.random.normal if isinstance(source, Gaussian) else jax.random.uniform
        return kind(rng, shape, dtype)

    scale = float(np.mean((sites - sites.mean(0)) ** 2)) * 2
    batch = 2048 if tuned else 256

    def solve(iterations):
        rate = optax.cosine_decay_schedule(0.1 * scale, iterations) if tuned else None
        options = {"optimizer": optax.adam(rate, b1=0.9, b2=0.99)} if tuned else {}
        options["optimizer"] = options.get("optimizer", optax.sgd(scale * len(sites) ** 0.5))
        solver = SemidiscreteSolver(
            threshold=0.0,
            num_iterations=iterations,
            batch_size=batch,
            error_eval_every=iterations,
            error_num_repeats=1,
            potential_ema=0.9,
            **options,
        )
        geometry = SemidiscretePointCloud(sampler, y, epsilon=0.0)
        run = jax.jit(lambda rng: solver(rng, SemidiscreteLinearProblem(geometry)).g)
        compiled = run.lower(jax.random.key(seed)).compile()  # compiling is not counted
        begun = time.process_time()
        dual = np.asarray(compiled(jax.random.key(seed)), np.float64)
        return dual, time.process_time() - begun

    pilot = solve(20)[1] / 20
    iterations = max(int(budget / pilot), 20)
    dual, seconds = solve(iterations)
    heights = (dual - (np.asarray(sites) ** 2).sum(1)) / 2
    return heights, seconds, {"iterations": iterations, "batch": batch}


def adam(source, sites, budget, rate, seed, masses=None, batch=4096):
    """Adam on fresh independent samples in plain torch, its rate falling to zero along a cosine.

    The published rule (beta_2 = 0.5) from Voronoi heights, with what a careful user would add: the
    decay, the mean of the heights over the last quarter, maxima without indices over groups of
    sixteen columns first, which torch vectorises.
    """
    n, d = sites.shape
    nu = torch.full((n,), 1 / n) if masses is None else masses
    y = torch.as_tensor(sites, dtype=torch.float32)
    y = y - y.mean(0)
    columns = -(-n // 16)
    padded = torch.zeros(d, 16 * columns)
    padded[:, :n] = y.T
    g = torch.Generator().manual_seed(seed)
    x = source.sample(4096, generator=g).double()
    unit = float(y.square().mean()) * float(x.std(0).mean() / y.std(0).mean())
    start = -0.5 * (y.double().square().sum(1)) * float(x.std(0).mean() / y.std(0).mean())

    def solve(iterations):
        h, mean = start.clone(), torch.zeros_like(start)
        first, second = torch.zeros_like(h), torch.zeros_like(h)
        begun = time.process_time()
        for k in range(iterations):
            high = torch.full((16 * columns,), -1e30)
            high[:n] = h
            scores = torch.addmm(high, source.sample(batch, generator=g).float(), padded)
            groups = scores.view(batch, 16, columns)
            best = groups.amax(1).argmax(1)
            row = groups[torch.arange(batch), :, best].argmax(1)
            counts = torch.bincount(row * columns + best, minlength=n)
            gradient = counts / batch - nu
            first = 0.9 * first + 0.1 * gradient
            second = 0.5 * second + 0.5 * gradient.square()
            now = rate * unit * 0.5 * (1 + np.cos(np.pi * k / iterations))
            step = first / (1 - 0.9 ** (k + 1))
            h = h - now * step / ((second / (1 - 0.5 ** (k + 1))).sqrt() + 1e-12)
            h -= h.mean()
            if 4 * k >= 3 * iterations:
                mean += h
        return mean / (iterations - -(-3 * iterations // 4)), time.process_time() - begun

    iterations = max(int(budget / (solve(20)[1] / 20)), 20)
    heights, seconds = solve(iterations)
    # Heights on centred sites are heights on the sites: <x, mean> is the same for every site.
    return heights.numpy(), seconds, {"iterations": iterations, "batch": batch, "rate": rate}
