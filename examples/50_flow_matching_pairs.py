"""Straight paths: flow matching on pairs of a transport map
=========================================================

Flow matching learns a velocity that carries noise to data. From pairs taken at random it learns
paths that are bent, because straight ones would cross; from pairs of an optimal map nearly
straight ones, which a few steps follow.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # shorter training

# %%
# The map is solved once, and knows which of the data any noise goes to. Every datum comes once in
# each epoch of its pairs.
data = aeot.data.toy("ring", 1000, scaling="wgan-gp").values
solution = aeot.solve_semidiscrete(aeot.Gaussian(dim=2), data, tol=0.05)
pairs = aeot.coupling(solution, data, batch_size=250)
print(solution.message)

epoch = torch.cat([pairs.batch(k).index for k in range(4)])
print(f"in an epoch of {len(epoch)} pairs, {len(epoch.unique())} of {len(data)} data")

# %%
# The same model, trained as long on either kind of pairs.
steps = 100 if quick else 3000
options = {"hidden": 128, "batch_size": 250}
models = {
    "independent pairs": aeot.FlowMatching(**options).fit(data, steps=steps),
    "pairs of the map": aeot.FlowMatching(**options).fit(data, steps=steps, coupling=pairs),
}


# %%
# Paths of the same noise, and where a single step would have led.
def paths(model, x, count):
    with torch.no_grad():
        places = [x]
        for step in range(count):
            time = torch.full((len(x), 1), step / count)
            places.append(places[-1] + model.velocity_(places[-1], time) / count)
    return torch.stack(places) * model.velocity_.std + model.velocity_.mean


noise = aeot.Gaussian(dim=2).sample(200, generator=aeot.generator(1))
figure = Figure(figsize=(10, 5), layout="constrained")
for axes, (name, model) in zip(
    figure.subplots(1, 2, sharex=True, sharey=True), models.items(), strict=True
):
    way, step = paths(model, noise, 64), paths(model, noise, 1)[-1]
    missed = (step - way[-1]).square().sum(1).mean().sqrt()
    axes.plot(*way.permute(2, 0, 1), color="C0", lw=0.5)
    axes.scatter(*way[-1].T, s=6, color="C0", label="64 steps")
    axes.scatter(*step.T, s=6, color="C1", label="one step")
    axes.set(title=f"{name}: one step misses by {missed:.2f}", aspect="equal")
    print(f"{name}: one step misses the end of the path by {missed:.2f}")
axes.legend()
figure.savefig(OUT / "50_flow_matching_pairs.png", dpi=130)
