# %% [markdown]
# # Where the Jensen-Shannon divergence says nothing
#
# The minimax GAN descends the Jensen-Shannon divergence, which is log 2 between disjoint supports
# whatever their distance: a discriminator near its best tells everything apart and is flat. The
# critic of WGAN-GP estimates a distance instead, and its slope points along the transport.
#
# Two parallel lines have no area, so that samples of a generator never lie on them; two islands
# have area, but here they lie six units from where the generator starts. Both opponents make 50
# steps for each of the generator, to be near their best.

# %%
import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot
from aeot.data import tensors

OUT = Path(__file__).resolve().parents[1] / "out"
NEAR = 0.1  # a sample this close counts as on a line or an island


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
def main(quick=False):
    rounds, critic_steps = (4, 5) if quick else (400, 50)
    same = {"latent_dim": 2, "prior": "normal", "architecture": "mlp", "hidden": 64}
    same |= {"learning_rate": 1e-3, "betas": (0.5, 0.9), "batch_size": 256, "seed": 0}
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    for row, (name, shift) in zip(axes, (("lines", 0.0), ("islands", 6.0)), strict=True):
        toy = aeot.data.toy(name, 4000)
        move = torch.tensor([shift, 0.0])
        data = tensors(toy.values + move)
        low, high = toy.info["low"] + move, toy.info["high"] + move
        panels = [(name, data.values)]
        models = {
            "minimax GAN": aeot.GAN(**same, loss="minimax", critic_steps=critic_steps),
            "WGAN-GP": aeot.WGANGP(**same, penalty=0.1, critic_steps=critic_steps),
        }
        for label, model in models.items():
            panels.append((label, model.fit(data, steps=rounds).sample(2000, seed=1)))
        for axis, (label, points) in zip(row, panels, strict=True):
            parts = shares(points, low, high)
            told = ", ".join(f"{100 * s:.0f} % on a part, {100 * c:.0f} % of it" for s, c in parts)
            print(f"{name}, {label}: {told}")
            axis.plot(0, 0, "+", color="#c1440e", ms=9)  # where the generator starts
            axis.scatter(*points.T, s=2, c="#1f5fa8", alpha=0.5, linewidths=0)
            middle, reach = (4, 5) if shift else (0, 3)
            axis.set(xlim=(middle - reach, middle + reach), ylim=(-0.8 * reach, 0.8 * reach))
            axis.set(aspect="equal", xticks=[], yticks=[])
            share = sum(s for s, _ in parts)
            title = label if axis is row[0] else f"{label}, {rounds} rounds"
            axis.set_title(f"{title}\n{100 * share:.0f} % of samples within {NEAR}", fontsize=10)
    OUT.mkdir(exist_ok=True)
    path = OUT / "32_parallel_lines.png"
    figure.savefig(path, dpi=110)
    print(path)


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    main(**vars(parser.parse_args()))
