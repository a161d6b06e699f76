"""Digits, end to end
=====================

An autoencoder learns codes of scikit-learn's digits, optimal transport carries a uniform
distribution onto the codes, and new digits are decoded from the extended map. Every stage reports
how well it worked.
"""

import sys
from pathlib import Path

import aeot
from aeot.plotting import images as pictures

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # smaller images, fewer steps


# %%
size, steps = (16, 80) if quick else (28, 450)
data = aeot.dataset("digits", size=size)
held_out = aeot.dataset("digits", split="test", size=size)
model = aeot.AEOT(latent_dim=8 if quick else 16, batch_size=128, tol=0.05, seed=0)
model.fit(data, steps=steps, held_out=held_out)

# How good is each stage? The decoder was refined after the encoder had been frozen.
losses = model.autoencoder_.losses_
print(f"held-out error {losses['held_out_joint']:.4f}, refined {losses['held_out']:.4f}")
print(model.certificate_["message"])
generated = model.sample(36, seed=1)
print(f"{model.sampled_['acceptance']:.1%} of the points drawn were accepted")

# Saved and loaded, the model draws the same digits.
model.save(OUT / "digits.model", overwrite=True)
again = aeot.AEOT.load(OUT / "digits.model").sample(36, seed=1)
print("the same after loading:", bool((again == generated).all()))

path = OUT / "02_digits.png"
real = held_out[:36]
shown = {
    "held-out digits": real,
    "reconstructed": model.decode(model.encode(real)),
    "generated": generated,
}
pictures.side_by_side(shown, columns=6, path=path)
print(path)
