"""New images, not copies
=========================

A generator that returns training images scores well and is useless. Here every generated digit is
shown above its nearest training digit. The distances, in pixels and in the code, are compared with
those of held-out digits, which are new by construction.
"""

import sys
from pathlib import Path

import torch

import aeot
from aeot.metrics.formulas import memorisation
from aeot.plotting import images as plots
from aeot.search.nearest import nearest

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv


# %%
train, test = aeot.dataset("digits"), aeot.dataset("digits", split="test")
model = aeot.Autoencoder(latent_dim=16, seed=0).fit(train, steps=150 if quick else 3000)
codes, held = model.encode(train), model.encode(test)
brenier = aeot.solve_semidiscrete(aeot.UniformBox(dim=16), codes, tol=0.05, seed=0).map()
singular = aeot.find_singularities(brenier, n_points=20_000)
print(f"{singular.n_components} mode(s)")
new = brenier.draw(len(held), singular=singular, generator=aeot.generator(1)).codes

wanted = nearest(held, codes, 1)[0].median()
for name, some in (("generated", new), ("held out", held), ("training", codes)):
    distance = nearest(some, codes, 1)[0].median()
    print(f"{name:10s} codes: median distance to the nearest training code {distance:.2f}")
rows = train[torch.arange(len(train))]
made = model.decode(new)
found = memorisation(made.flatten(1), rows.flatten(1), test[torch.arange(len(test))].flatten(1))
print("in pixels:", found)

distance, index = nearest(made.flatten(1), rows.flatten(1), 1)
shown = torch.arange(30)
path = OUT / "memorisation.png"
plots.nearest_images(
    made[shown],
    rows[index[shown, 0]],
    distances=(distance[shown, 0] / made[0].numel() ** 0.5).tolist(),
    path=path,
)
print(f"held-out codes lie at {wanted:.2f}; figure: {path}")
