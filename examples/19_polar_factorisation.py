"""Any map is a rearrangement, then an optimal map
===============================================

Take any map that carries the source onto a law of data: a network, a shear, a spiral. It is a
rearrangement that leaves the law of the source unchanged, followed by the gradient of a convex
function (Brenier's polar factorisation, theorem 3.9 of Lei et al., "A geometric understanding of
deep learning"). The second factor depends on the law alone. The first is the free choice of a
generator, and it makes the map cost more than the optimal one.

Seed: 0, of the points.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer points

# %%
# A map that turns the square by an angle that grows towards its middle, then bends it.
square = aeot.UniformBox(low=[-1, -1], high=[1, 1])
x = square.sample(3000 if quick else 20000, generator=aeot.generator(0)).double()


def twisted_and_bent(x):
    angle = 2.5 * torch.exp(-2 * x.square().sum(1))
    turned = torch.stack(
        [
            angle.cos() * x[:, 0] - angle.sin() * x[:, 1],
            angle.sin() * x[:, 0] + angle.cos() * x[:, 1],
        ],
        dim=1,
    )
    return torch.stack([1.5 * turned[:, 0], 0.7 * turned[:, 1] + 0.6 * turned[:, 0] ** 2], dim=1)


values = twisted_and_bent(x)
found = aeot.polar_factorisation(square, values)
s = found.rearranged
print(found.solution.message)

# %%
# Its two factors: s moves points inside the square, and grad u carries them to the values without
# any turn.
cost = {
    "the map as it is": (values - x).square().sum(1).mean() / 2,
    "its optimal part": (values - s).square().sum(1).mean() / 2,
    "what was rearranged": (s - x).square().sum(1).mean() / 2,
}
for name, value in cost.items():
    print(f"{name}: E |move|^2 / 2 = {value:.3f}")
print(f"grad u(s(x)) is the map's value at all points: {torch.equal(found.gradient(s), values)}")

# %%
# Squares of the source, followed through both factors.
figure = Figure(figsize=(11, 4), layout="constrained")
titles = ("x: the source, in squares", "s(x): the source again, stirred", "the map's values")
square_of = ((x[:, 0] * 4).floor() % 2) * 2 + (x[:, 1] * 4).floor() % 2
colours = [("#0b62c4", "#9cc3ee", "#c2571c", "#f0c3a4")[int(k)] for k in square_of]
for ax, points, title in zip(figure.subplots(1, 3), (x, s, values), titles, strict=True):
    ax.scatter(*points.T, s=6 if quick else 1.5, c=colours, linewidths=0)
    ax.set_title(title)
    ax.set_aspect("equal")
    ax.set_axis_off()
figure.savefig(OUT / "19_polar_factorisation.png", dpi=130)
