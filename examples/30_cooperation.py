"""Cooperation instead of competition
=====================================

A GAN's discriminator fights its generator for thousands of rounds. If the potential of the
*quadratic* transport cost between the generator's samples and the data is known instead, the next
generator is known in closed form. With `u = |x|^2 / 2 - phi` it is `g <- grad u` after `g`, and one
such update carries the samples onto the data.

First this rule is checked between two Gaussians, where everything is known. Then a ring of eight
Gaussians is learned by one update and by WGAN-GP's alternation, and the seconds of both are
counted.

A few training steps would show nothing, so the whole script was run separately, and its output is
shown below.

Seeds: 0, of networks and batches; 1 to 3, of data and noise; 0 to 7, of draws from the data.
"""

import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot
from aeot.metrics.formulas import sliced_wasserstein
from aeot.models.cooperation import cooperative_update

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv
tol = 0.1 if quick else 0.05

# %%
# The mean distance between one update and the closed form, as data grow: the gradient map between
# N(0, I) and N(mean, covariance) is x -> mean + covariance^(1/2) x.
mean = torch.tensor([2.0, -1.0])
covariance = torch.tensor([[1.5, 0.8], [0.8, 1.0]])
values, axes = torch.linalg.eigh(covariance)
root = (axes * values.sqrt()) @ axes.T
factor = torch.linalg.cholesky(covariance)
latent = aeot.Gaussian(dim=2)
lines = []
for n in (32, 128) if quick else (32, 128, 512):
    data = mean + torch.randn(n, 2, generator=aeot.generator(1, n)) @ factor.T
    update, solution = cooperative_update(lambda z: z, latent, data, tol=tol)
    z = torch.randn(4000, 2, generator=aeot.generator(2))
    gap = float((update(z) - (mean + z @ root)).norm(dim=1).mean())
    lines.append((n, gap))
    print(f"{n:4d} data: {gap:.3f} from the closed form; {solution.message}")

# %%
n = 200  # also in the figure's title
ring = aeot.data.toy("ring", n, scaling="wgan-gp", seed=1)
held_out = aeot.data.toy("ring", 4000, scaling="wgan-gp", seed=2).values

# The generator to be improved: an untrained network.
settings = {"latent_dim": 2, "hidden": 64, "penalty": 0.1, "batch_size": 256, "seed": 0}
wgan = aeot.WGANGP(**settings).fit(ring, steps=0)
z = torch.randn(4000, 2, generator=aeot.generator(3))
network = wgan.generator_
with torch.no_grad():
    before = network(z)
    begun = time.process_time()
    update, solution = cooperative_update(network, latent, ring.values, tol=tol)
    after = update(z)
    seconds = time.process_time() - begun
ours = sliced_wasserstein(after, held_out)
start = sliced_wasserstein(before, held_out)
print(f"one cooperative update: {start:.3f} -> {ours:.3f} in {seconds:.1f} s")
print(solution.message)

# The same generator in WGAN-GP's alternation; what looking at it costs is not counted.
curve, looking = [(0, 0.0, start)], []
begun = time.process_time()


def watch(step, record):
    if step % (10 if quick else 50) == 0:
        now = time.process_time()
        distance = sliced_wasserstein(wgan.sample(4000), held_out)
        curve.append((step, now - begun - sum(looking), distance))
        looking.append(time.process_time() - now)


wgan = aeot.WGANGP(**settings)
wgan.fit(ring, steps=30 if quick else 2000, on_step=watch)
step, spent, theirs = curve[-1]
print(f"WGAN-GP after {step} generator steps: {theirs:.3f} in {spent:.1f} s")
level = sliced_wasserstein(ring.values, held_out)
print(f"the {n} data themselves: {level:.3f}")
# Independent draws fill the modes unevenly, as the updated generator's 4000 samples do.
rows = [torch.randint(n, (4000,), generator=aeot.generator(seed, "rows")) for seed in range(8)]
noise = sorted(sliced_wasserstein(ring.values[some], held_out) for some in rows)
print(f"4000 draws from them: {noise[0]:.3f} to {noise[-1]:.3f}, eight seeds")

# %%
figure = Figure(figsize=(11, 6.4), layout="constrained")
top, bottom = figure.subfigures(2, 1)
# The untrained network's samples reach further than the others, which share one frame.
reach = {"generator before (wider frame)": 1.05 * float(before.abs().max())}
for axis, (title, points) in zip(
    top.subplots(1, 4),
    {
        "data": held_out,
        "generator before (wider frame)": before,
        "one update: points of the 200 data": after,
        f"WGAN-GP, {curve[-1][0]} steps": wgan.sample(4000),
    }.items(),
    strict=True,
):
    axis.scatter(*points.T, s=1, c="#1f5fa8", alpha=0.4, linewidths=0)
    r = reach.get(title, 2.2)
    axis.set(xlim=(-r, r), ylim=(-r, r), aspect="equal", xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    outside = int((points.abs() > r).any(1).sum())
    told = f"\n{outside} of {len(points)} outside the frame" if outside else ""
    axis.set_title(title + told, fontsize=10)
left, middle, right = bottom.subplots(1, 3)
steps, times, values = zip(*curve, strict=True)
for axis, along, label, at in (
    (left, steps, "generator steps", 1),
    (middle, times, "processor seconds", seconds),
):
    axis.plot(along, values, color="#c1440e", label="WGAN-GP, alternating")
    axis.plot(at, ours, "o", color="#1f5fa8", label="one cooperative update")
    axis.axhline(level, color="gray", lw=0.8, ls=":", label="the training data themselves")
    axis.set(xlabel=label, ylabel="sliced W2 to held-out data", yscale="log")
left.legend(fontsize=8)
left.set_title("200 data, networks of 64 units, batches of 256", fontsize=10)
right.loglog(*zip(*lines, strict=True), "o-", color="#1f5fa8")
right.set(xlabel="data (log scale)", ylabel="mean distance to the exact map (log)")
right.minorticks_off()
right.set(xlim=(24, 1000), ylim=(0.1, 1))
for axis, marks in ((right.xaxis, (32, 64, 128, 256, 512)), (right.yaxis, (0.1, 0.2, 0.5, 1))):
    axis.set_ticks(marks, [f"{mark:g}" for mark in marks])
for n, gap in lines:
    right.annotate(f"{gap:.2f}", (n, gap), (6, 4), textcoords="offset points", fontsize=9)
right.grid(color="#dddddd", lw=0.6)
right.set_title("Gaussian to Gaussian, one update", fontsize=10)
path = OUT / "30_cooperation.png"
figure.savefig(path, dpi=110)
print(path)
