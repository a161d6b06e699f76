"""A path across the singular set
=================================

The map is followed along a straight line in the source. Where the line crosses the singular set,
the cut map jumps from one kind of image to another. Blending the two codes instead gives images
that are neither: the mixtures that a continuous generator must produce somewhere. (Cf. Fig. 12 of
Lei et al., "A geometric understanding of deep learning".)
"""

import argparse
from pathlib import Path

import torch

import aeot
from aeot.plotting import singular as plots

OUT = Path("out")
OUT.mkdir(exist_ok=True)
parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true")
parser.add_argument("--autoencoder", type=Path, help="a saved Autoencoder of Fashion-MNIST")
options = parser.parse_args()


# %%
name = "digits" if options.quick else "fashion-mnist"
data = aeot.dataset(name)
if options.autoencoder is None:
    model = aeot.Autoencoder(latent_dim=16 if options.quick else 128, seed=0)
    model.fit(data, steps=150 if options.quick else None)
else:
    model = aeot.Autoencoder.load(options.autoencoder)
n = 500 if options.quick else 5000
rows = torch.randperm(len(data), generator=aeot.generator(0))[:n]
codes, labels = model.encode(data[rows]), data.labels[rows]
source = aeot.UniformBox(dim=codes.shape[1])
brenier = aeot.solve_semidiscrete(source, codes, tol=0.1, seed=0).map()

# The default rule cuts between groups of codes, and inside one where what lies between two codes
# is off the data with a chance of at least one half. Where it finds nothing, the angle rule cuts
# where the map turns most.
singular = aeot.find_singularities(brenier, n_points=20_000)
print(
    f"by the default rule {len(singular.pairs)} facets are cut, {singular.n_components} modes left"
)
if len(singular.pairs) == 0:
    angle = float(singular.facets.angles.quantile(0.8))
    singular = aeot.find_singularities(brenier, angle, n_points=20_000)
    print(f"cut at the angle {angle:.3f} rad instead: {singular}")

# %% The segment with the longest jump between images of different classes
best = None
ends = source.sample(200, generator=aeot.generator(3))
for start, end in zip(ends[::2], ends[1::2], strict=True):
    found = singular.crossings(start, end)
    for row in found.singular.nonzero()[:, 0].tolist():
        i, j = found.pairs[row].tolist()
        jump = float(found.jumps[row])
        if labels[i] != labels[j] and (best is None or jump > best[0]):
            best = (jump, start, end, float(found.positions[row]), i, j)
jump, start, end, at, i, j = best
print(f"longest jump: {jump:.2f}, from {data.classes[labels[i]]} to {data.classes[labels[j]]}")

# %% Zoom in on that break, between the crossings before and after it, and decode both ways
others = singular.crossings(start, end).positions
before, after = others[others < at - 1e-9], others[others > at + 1e-9]
low = max(at - 0.05, float(before.max()) if len(before) else 0.0)
high = min(at + 0.05, float(after.min()) if len(after) else 1.0)
half = min(at - low, high - at) * 0.999  # stay inside the two cells
t = torch.linspace(0, 1, 12)
points = start + (at - half + 2 * half * t)[:, None] * (end - start)
mapped = brenier.extend(points, singular)
jumped = model.decode(mapped)
blended = model.decode(mapped[0] + t[:, None] * (mapped[-1] - mapped[0]))
crossed = singular.crossings(points[0], points[-1])
breaks = crossed.positions[crossed.singular].tolist()
path = OUT / "path_across_the_cut.png"
plots.crossing(jumped, blended, breaks=breaks, path=path)
plots.jumps(singular, path=OUT / "jumps.png")
print(f"figures: {path}, {OUT / 'jumps.png'}")
