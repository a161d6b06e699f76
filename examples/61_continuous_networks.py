"""What a continuous network makes of a map that tears
=====================================================

Where the target has two parts, the transport map jumps, and no continuous network is equal to it.
Lei et al. (section 5.2) name three ways out, which they hold for the failures of GANs: training
never settles; one part is left out (mode collapse); or samples lie between the parts (mode
mixture). Here the outcomes are sorted and counted over seeds.

One thing holds for every network: from noise that is uniform on an interval of length 2, a network
with slopes up to L that reaches both parts needs an interval of at least gap / L to cross from one
to the other, and so puts at least gap / (2 L) of its samples between them.

Seeds: 0 to 4, of networks and batches; 0 of data and supports; samples by step, those drawn with 1.
"""

import collections
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer seeds and steps
data = aeot.data.toy("islands", 4000)
low, high = data.info["low"], data.info["high"]
GAP = float(low[1, 0] - high[0, 0])


# %%
def parts(points):
    """Shares of samples at the left part, at neither part, and at the right part."""
    x, y = points.double().T
    near = (x.abs() < high[1, 0] + 1) & (y.abs() < high[1, 1] + 1)
    left, right = near & (x <= high[0, 0] + 0.1), near & (x >= low[1, 0] - 0.1)
    shares = (left, ~left & ~right, right)
    return tuple(round(float(share.double().mean()), 3) for share in shares)


def outcome(history):
    """Sort the shares at the last marks of a training into the three ways out, or none of them."""
    shares = torch.tensor(history[-5:])
    if float((shares.amax(0) - shares.amin(0)).max()) > 0.25:
        return "unstable"
    left, outside, right = shares.mean(0).tolist()
    if max(left, right) < 0.1:
        return "neither part"
    if min(left, right) < 0.1:
        return "one part only"
    return "bridge" if outside > 0.02 else "both parts"


def steepest(network, device="cpu"):
    """Largest slope of a network of one number in [-1, 1], and its share inside the gap."""
    z = torch.linspace(-1, 1, 20001, device=device)[:, None]
    with torch.no_grad():
        x = network(z)[:, 0].double()
    slope = float(x.diff().abs().max() / (2 / 20000))
    inside = ((x > high[0, 0]) & (x < low[1, 0])).double().mean()
    return slope, float(inside), bool(x.min() < high[0, 0] and x.max() > low[1, 0])


# %%
# Adversarial training from noise of one number, so that the bound can be looked at: all samples of
# a network then lie on one curve, which is to fill both squares and crosses from one to the other.
# The first two games are gentle. The others are not: steps ten times as large; or the minimax loss,
# whose slope vanishes where the discriminator is sure, with momentum.
seeds, steps = (range(2), 60) if quick else (range(5), 500)
same = {"latent_dim": 1, "architecture": "mlp", "hidden": 64, "learning_rate": 1e-3}
same |= {"betas": (0.5, 0.9), "batch_size": 128, "prior": "uniform", "device": "cpu"}
kinds = {
    "GAN": lambda seed: aeot.GAN(**same, seed=seed),
    "WGAN-GP": lambda seed: aeot.WGANGP(**same, seed=seed, penalty=0.1),
    "large steps": lambda seed: aeot.GAN(**same | {"learning_rate": 1e-2}, seed=seed),
    "minimax, momentum": lambda seed: aeot.GAN(
        **same | {"learning_rate": 5e-3, "betas": (0.9, 0.999)}, loss="minimax", seed=seed
    ),
}
counts, shown = {}, {}
for name, make in kinds.items():
    counts[name] = collections.Counter()
    for seed in seeds:
        model, history = make(seed), []

        def mark(step, record, model=model, history=history):
            if step % (steps // 10) == 0:
                history.append(parts(model.sample(1000, seed=step)))

        model.fit(data, steps=steps, on_step=mark)
        found = outcome(history)
        counts[name][found] += 1
        slope, inside, both = steepest(model.generator_)
        told = f"{name}, seed {seed}: {found}; left, neither, right {history[-1]}"
        if both:
            told += f"; {inside:.3f} in the gap, at least {GAP / (2 * slope):.3f} must be"
            assert inside >= GAP / (2 * slope) - 1e-3
        print(told)
        if seed == 0:
            shown[name] = model.sample(2000, seed=1)
    print(f"{name}: {dict(counts[name])} of {len(seeds)} seeds")

# %%
# A network of the same size fitted to the transport map itself, by least squares: no adversary, no
# game, and always a bridge; more steps make it steeper and the bridge thinner, never empty.
g = aeot.generator(0)
square = aeot.UniformBox(dim=2, low=-1.0, high=1.0)
sites = data[:500]
solution = aeot.solve_exact(square, sites)
brenier = solution.map()
for marks in (60,) if quick else (100, 1000):
    counts_regression = collections.Counter()
    for seed in seeds:
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Linear(2, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 2),
        )
        mover = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(marks):
            x = square.sample(128, generator=g).float()
            loss = (network(x) - brenier(x).float()).square().mean()
            mover.zero_grad()
            loss.backward()
            mover.step()
        with torch.no_grad():
            points = network(square.sample(4000, generator=g).float())
        shares = parts(points)
        counts_regression["bridge" if shares[1] > 0.02 else "both parts"] += 1
    print(f"least squares, {marks} steps: {dict(counts_regression)}; last {shares}")
shown["least squares"] = points
cut = aeot.find_singularities(brenier)
drawn = brenier.draw(2000, singular=cut, generator=g)
shown["transport, cut"] = drawn.codes
print(f"the map cut where it jumps: left, neither, right {parts(drawn.codes)}")

# %%
# One support per mode is enough for the map itself to reach all modes (section 6.3). But nothing is
# learned of how large a mode is: every sample is a support, and where the map is extended between
# supports, samples lie between the modes. (One of these 25 supports lies more than three standard
# deviations from its centre: it is no mode found, and its samples are none inside.)
grid = aeot.data.toy("grid", 5000)
first = [int((grid.labels == k).nonzero()[0]) for k in range(25)]
for n in (25, 150 if quick else 512):
    exact = aeot.solve_exact(aeot.UniformBox(dim=2), grid[first] if n == 25 else grid[:n]).map()
    cut = aeot.find_singularities(exact)
    plain = exact(exact.source.sample(2500, generator=g))
    extended = exact.draw(2500, singular=cut, generator=g).codes
    for name, codes in (("the map", plain), ("extended", extended)):
        scores = aeot.metrics.mode_coverage(codes, grid.info["modes"], grid.info["std"])
        found = {key: round(value, 4) for key, value in scores.items()}
        print(f"{n} supports, {name}: {found}, {len(codes.unique(dim=0))} different samples")

# %%
figure = Figure(figsize=(9, 4.6), layout="constrained")
for axis, (name, points) in zip(figure.subplots(2, 3).flat, shown.items(), strict=True):
    axis.scatter(*points.T.double(), s=2, color="#0b62c4", alpha=0.4, lw=0)
    axis.set(title=name, xlim=(-3, 3), ylim=(-1.5, 1.5), aspect="equal")
figure.savefig(OUT / "61_continuous_networks.png", dpi=120)
