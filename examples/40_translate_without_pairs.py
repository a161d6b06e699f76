"""Translation without pairs
============================

CycleGAN between two classes of Fashion-MNIST, trousers and dresses: nobody tells it which
dress belongs to which trousers. Grids are saved while it trains; a run that was stopped goes on
when it is started again. For two folders of your own photographs the command is
`aeot translate horses/ zebras/ --size 128`, or as published, with images loaded larger than what is
cropped of them for each step, `--size 286 --crop 256`.

A few steps train nothing: the whole script was run apart, and what it gave is shown below.

Seed: 0, of networks, crops and batches.
"""

import sys
from pathlib import Path

import torch

import aeot
from aeot.gan_diagnostics import steganography
from aeot.plotting import translation as pictures

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv


# %%
torch.manual_seed(0)
# Quick: zeros and ones of scikit-learn's digits, which need no files.
name, labels = ("digits", (0, 1)) if quick else ("fashion-mnist", (1, 3))
data = aeot.dataset(name, size=36)
a, b = (data.subset((data.labels == label).nonzero()[:, 0]) for label in labels)
names = [str(data.classes[label]).lower() for label in labels]
model = aeot.CycleGAN(
    n_blocks=1 if quick else 6,
    filters=8 if quick else 16,  # 64 in the paper, for 256 px
    n_layers=2,  # patches of 34 px: these crops are 32
    identity=0.0,  # gray images have no colours to keep
    learning_rate=4e-4,
    batch_size=8,
    crop=32,  # of 36, somewhere else each time; 256 of 286 in the paper
    seed=0,
)
folder = OUT / ("40_quick" if quick else "40_translate")
on_step = pictures.snapshots(model, a[:8], b[:8], folder / "pictures", every=10 if quick else 250)
model.fit(
    aeot.unpaired(a, b),
    steps=10 if quick else 2000,
    checkpoint=None if quick else folder / "checkpoint",
    on_step=on_step,
)
model.save(folder / "model", overwrite=True)
path = OUT / "40_translate_without_pairs.png"
pictures.translations(model, a[:10], b[:10], names=names, path=path)
print(path)

# Does the way back read what it sees, or something written underneath?
found = steganography.drops(model.to_b_, model.to_a_, a[:100])
print("cycle error:", {name: round(error, 4) for name, error in found.items()})
