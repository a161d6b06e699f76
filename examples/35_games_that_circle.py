"""Why a GAN circles, in two numbers
=================================

In the smallest game, the generator is a number g, the critic's slope a number d, and the value g d.
Each step multiplies (g, d) by a matrix; the modulus of its eigenvalues says whether the players
diverge, circle or converge. A penalty on the critic damps the motion; spectral normalisation bounds
the critic's slope, but the players still circle. The last part is WGAN-GP on a single datum, which
circles for ever or comes to rest beside the datum.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot.gan_diagnostics.games as games

OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
figure = Figure(figsize=(10, 4.2), layout="constrained")
left, right = figure.subplots(1, 2)
for method in ("simultaneous", "alternating", "extragradient"):
    matrix = games.step_matrix(method, 0.3)
    places = [torch.tensor([1.0, 0.0], dtype=torch.float64)]
    for _ in range(40):
        places.append(matrix @ places[-1])
    radius = games.spectral_radius(matrix)
    left.plot(*torch.stack(places).T, ".-", label=f"{method}: {radius:.3f}")
    print(f"{method:14s} spectral radius {radius:.3f}")
for name, flow in (
    ("no constraint", games.flow_matrix()),
    ("penalty", games.flow_matrix(beta=1.0)),
    ("spectral normalisation", games.spectral_flow_matrix([0.0, 2.0])),
):
    values = torch.linalg.eigvals(flow)
    damps, turns = 0.0 - float(values.real.max()), float(values.imag.max())
    print(f"flow, {name}: damped by {damps:.2f}, turned by {turns:.2f}")
left.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xlabel="g", ylabel="d")
left.legend(title="spectral radius of a step", frameon=False)

# %%
for penalty, colour in ((0.1, "#1d5c9c"), (1.0, "#c2571c")):
    path = games.dirac_wgan_gp(0.05, 2000, penalty=penalty)
    right.plot(path[:, 0], c=colour, label=f"penalty {penalty}")
right.axhline(0, c="gray", lw=0.8)
right.set(xlabel="step", ylabel="generator (the datum is at 0)")
right.legend(frameon=False)
file = OUT / "35_games_that_circle.png"
figure.savefig(file, dpi=110)
print(file)
