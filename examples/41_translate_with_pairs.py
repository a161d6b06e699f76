"""Translation with pairs, and what the weights and the patch size do
=====================================================================

pix2pix turns the edges of shoes back into shoes. Three questions beside it: what weight of the L1
loss do the residuals suggest, how does the discriminator's patch size trade structure against
texture, and what happens when one input has two right answers.

A few steps train nothing: the whole script was run apart, and what it gave is shown below.

Seed: 0, of networks and batches.
"""

import sys
from pathlib import Path

import torch

import aeot
from aeot.data.filters import edges
from aeot.gan_diagnostics import frequency, splitting, weights
from aeot.plotting import translation as pictures

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv


# %%
name, label = ("digits", 0) if quick else ("fashion-mnist", 7)  # sneakers
train, test = (aeot.dataset(name, split=split, size=32) for split in ("train", "test"))
train, test = (data[(data.labels == label).nonzero()[:, 0]] for data in (train, test))
test = test[:200]
pairs = aeot.paired(edges(train), train)
steps = 12 if quick else 800

rows = {"edges": edges(test[:10])}
for n_layers in (0, 2) if quick else (0, 1, 2, 3):
    model = aeot.Pix2Pix(
        filters=8 if quick else 16, n_layers=n_layers, batch_size=8, enlarge=1.0, l1=10.0,
        learning_rate=1e-3, seed=0,
    )  # fmt: skip
    model.fit(pairs, steps=steps)
    made = model.translate(edges(test))
    split = frequency.error_split(made, test)
    patch = model.critic_.receptive_field
    print(f"patch {patch:3d} px:", {k: round(v, 4) for k, v in split.items()})
    rows[f"patch {patch} px"] = made[:10]
rows["real"] = test[:10]
residuals = test - made
print(f"the L1 weight that fits the residuals: {weights.l1_weight(residuals):.1f} per unit")
path = OUT / "41_translate_with_pairs.png"
pictures.image_rows(rows, path=path)
print(path)

# %% One input, two right answers: the L1 loss picks their median, noise and diversity find both
blank = torch.zeros(64, 1, 16, 16)
answers = torch.full_like(blank, 0.8)
answers[::2] = -0.8  # one half of them are dark, the other light
two = aeot.paired(blank, answers)
# No instance norm: it takes away what is constant over an image, and with it the noise.
for title, noise in (("deterministic", 0), ("stochastic", 4)):
    model = aeot.Pix2Pix(
        filters=8, n_layers=1, norm="none", batch_size=16, enlarge=1.0,
        l1=0.0 if noise else 10.0, dropout=0.0, noise_channels=noise,
        diversity=float(noise > 0), learning_rate=1e-3,
    )  # fmt: skip
    model.fit(two, steps=10 if quick else 300)
    level = model.translate(blank).mean(dim=(1, 2, 3))
    spread = splitting.diversity(lambda x, seed, m=model: m.translate(x, seed=seed), blank[:4])
    left = splitting.mass_splitting(level[:, None], answers.mean(dim=(1, 2, 3))[:, None])
    print(f"{title}: diversity {spread:.3f}, W2^2 to the answers {left.plan_cost:.3f}")

# %% What no function can do, when one answer is more frequent: the plan splits by their masses
split = splitting.mass_splitting(
    torch.zeros(1, 1), torch.tensor([[-0.8], [0.8]]), target_masses=[0.7, 0.3]
)
parts = " and ".join(f"{share:.1f}" for share in split.plan[0].tolist())
print(
    f"plan to a dark answer and a light one: {parts}; their mean {split.map_points.item():.2f} ",
    end="",
)
print(f"leaves W2^2 {split.map_error:.4f}")
