"""Where the Jensen-Shannon divergence says nothing
===================================================

The minimax GAN descends the Jensen-Shannon divergence, which is log 2 between disjoint supports at
any distance: a discriminator near its optimum separates all points and is flat. The critic of
WGAN-GP estimates a distance instead, and its slope points along the transport.

First both quantities are computed: for lines moved over lines, and for two samples of one law,
whose histograms overlap less as their bins become finer. Then models are trained.

Two parallel lines have no area, so that samples of a generator never lie on them. Two islands have
area, but here they are shifted by six units away from the generator's first samples, which are a
fan of points from the origin to the upper left. Both opponents make 50 steps for each step of the
generator, to be near their optimum.
"""

import math
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot
from aeot.data import tensors
from aeot.gan_diagnostics.critics import jensen_shannon, parallel_lines
from aeot.metrics import wasserstein1

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv
NEAR = 0.1  # a sample this close counts as on a line or an island

# %%
# Three lines, at 0, 1 and 2, and the same moved. Between whole numbers nothing meets, and nothing
# says how far it is; at a whole number a part falls on other lines. The distance is the gap.
for gap in (0.25, 0.5, 1.0, 2.0, 3.0):
    x, y = (draw(600, aeot.generator(0)) for draw in parallel_lines(gap, lines=3))
    js = jensen_shannon(*(torch.histc(side[:, 0], 24, -0.125, 5.875) for side in (x, y)))
    print(f"three lines moved by {gap}: divergence {js / math.log(2):.2f} log 2, ", end="")
    print(f"distance {wasserstein1(x, y):.2f}")

# %%
# Two samples of one law, N(0, 1): the divergence of their histograms, in parts of log 2, by bins.
for n in (100, 1000, 10_000):
    g = aeot.generator(n)
    x, y = torch.randn(2, n, generator=g)
    found = [jensen_shannon(torch.histc(x, k, -4, 4), torch.histc(y, k, -4, 4)) for k in (10, 1000)]
    told = ", ".join(f"{js / math.log(2):.3f}" for js in found)
    print(f"two samples of {n}, in 10 and 1000 bins: {told} log 2")


# %%
def shares(points, low, high):
    """Share of samples at each of the two parts, and how much of its length they cover."""
    found = []
    for a, b in zip(low, high, strict=True):
        near = ((points > a - NEAR) & (points < b + NEAR)).all(1)
        bins = torch.histc(points[near][:, 1], 20, float(a[1]), float(b[1]))
        # A twentieth is covered by a quarter of the samples that an even spread would put there.
        covered = bins >= len(points) / 160
        found.append((float(near.double().mean()), float(covered.double().mean())))
    return found


# %%
rounds, critic_steps = (4, 5) if quick else (400, 50)
same = {"latent_dim": 2, "prior": "normal", "architecture": "mlp", "hidden": 64}
same |= {"learning_rate": 1e-3, "betas": (0.5, 0.9), "batch_size": 256, "seed": 0}
rows = []
for name, shift in (("lines", 0.0), ("islands", 6.0)):
    toy = aeot.data.toy(name, 4000)
    move = torch.tensor([shift, 0.0])
    data = tensors(toy.values + move)
    low, high = toy.info["low"] + move, toy.info["high"] + move
    where = f", {shift:g} to the right" if shift else ""
    panels = {f"data: two {name}{where}": data.values}
    models = {
        "minimax GAN": aeot.GAN(**same, loss="minimax", critic_steps=critic_steps),
        "WGAN-GP": aeot.WGANGP(**same, penalty=0.1, critic_steps=critic_steps),
    }
    start = aeot.GAN(**same).fit(data, steps=0).sample(2000, seed=1).mean(0)
    for label, model in models.items():
        panels[f"{label}, {rounds} rounds"] = model.fit(data, steps=rounds).sample(2000, seed=1)
    row = []
    for title, points in panels.items():
        parts = shares(points, low, high)
        told = ", ".join(f"{100 * s:.0f} % on a part, {100 * c:.0f} % of it" for s, c in parts)
        print(f"{title}: {told}")
        row.append((title, points, sum(s for s, _ in parts)))
    rows.append((start, row))

# %%
# One row of panels per set, in one frame that holds all but a stated count of the samples.
frames = []
for start, ((_, data, _), *fitted) in rows:
    # The start belongs in the picture, as do the data and nearly all samples.
    tails = [points.quantile(torch.tensor([0.01, 0.99]), 0) for _, points, _ in fitted]
    shown = torch.cat([start[None], data, *tails])
    frames.append((shown.amin(0) - 0.5, shown.amax(0) + 0.5))
label = "mean of the untrained generator's samples"
heights = [3.3 * float((high - low)[1] / (high - low)[0]) for low, high in frames]
figure = Figure(figsize=(10.5, sum(heights) + 2.4), layout="constrained")
axes = figure.subplots(2, 3, sharex="row", sharey="row", height_ratios=heights)
for line, (start, row), (low, high) in zip(axes, rows, frames, strict=True):
    for axis, (title, points, share) in zip(line, row, strict=True):
        axis.scatter(*points.T, s=2, c="#1f5fa8", alpha=0.5, linewidths=0, label="samples")
        axis.plot(*start, "+", color="#c1440e", ms=11, mew=2, ls="", label=label)
        axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        outside = int(((points < low) | (points > high)).any(1).sum())
        told = f"{100 * share:.0f} % of samples within {NEAR} of the data"
        told += f"\n{outside} of {len(points)} outside the frame" if outside else ""
        axis.set_title(f"{title}\n{told}", fontsize=9)
handles = axes[0, 0].get_legend_handles_labels()
figure.legend(*handles, loc="outside lower center", ncols=2, fontsize=9, markerscale=1.5)
path = OUT / "32_parallel_lines.png"
figure.savefig(path, dpi=110)
print(path)
