"""The source, the samples, the angle, and the codes in the plane
==============================================================

Settings that Lei et al. fix can be chosen here. The source is a cube, a Gaussian or a ball. Their
hundred samples for each code can be changed by an argument, and the certificate says how exact the
result is. The map is cut by an angle, by a share of its facets, or by a rule of your own. The page
also has their figure 1, the data in the plane, and the inception score, which measures only whether
classes are clear and all present (ten copied digits score nearly as well as the data). The
autoencoder is the best linear one, so that nothing needs training; on the command line the same
choices are ``aeot fit digits --rows 500 --embedding``.

Seed: 0, of transports, samples and noise.
"""

import sys
import warnings
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import aeot
from aeot.metrics import inception_score
from aeot.plotting.images import embedding

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer digits
digits = aeot.dataset("digits", size=8).subset(slice(0, 300 if quick else 1500))

# %%
# Codes are the digits' first ten principal components.
DIM = 10
flat = digits[:].flatten(1)
mean = flat.mean(0)
axes = torch.linalg.svd(flat - mean, full_matrices=False).Vh[:DIM]
into, back = nn.Linear(64, DIM), nn.Linear(DIM, 64)
with torch.no_grad():
    into.weight.copy_(axes)
    into.bias.copy_(-axes @ mean)
    back.weight.copy_(axes.T)
    back.bias.copy_(mean)
linear = nn.Sequential(nn.Flatten(), into), nn.Sequential(back, nn.Unflatten(1, (1, 8, 8)))

# %%
# Three sources. Their maps differ, the law they make does not: how far digits are from those of the
# data, and what a classifier says of them.
judge = LogisticRegression(max_iter=500).fit(flat.numpy(), digits.labels.numpy())


def score(images):
    """Inception score by a classifier of these digits: 1 to 10."""
    return inception_score(judge.predict_proba(images.flatten(1).numpy()))


print(f"inception score of the digits {score(digits[:]):.2f}, ", end="")
print(f"of ten of them, one a class, copied {score(digits[:10]):.2f}, ", end="")
noise = torch.rand(500, 1, 8, 8, generator=aeot.generator(0))
print(f"of noise {score(noise * 2 - 1):.2f}")
for source in ("cube", "gaussian", "ball"):
    model = aeot.AEOT(autoencoder=linear, source=source, tol=0.1, sharpen=False).fit(digits)
    made = model.sample(500)
    print(f"{source}: inception score {score(made):.2f}; {model.certificate_['message']}")

# %%
# A hundred samples for each code, as published. What they certify is said, not assumed.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it is not certified to one per cent is the point
    few = aeot.AEOT(autoencoder=linear, samples_per_site=100, tol=0.01, sharpen=False).fit(digits)
print(f"100 samples a code: masses off by at most {few.certificate_['mass_error_upper']:.1%}")

# %%
# Where it is cut: by an angle, by the share of facets that are flatter, by a rule. What one says
# depends on the scale of the codes, another's does not. These codes are one cloud: what is left
# still joins all of them, and what rules differ in is how much they cut, and so how many points of
# the source have to be drawn again.
rules = {
    "by default": None,
    "angle 0.75": 0.75,
    "90% of facets": "90%",
    "jumps above 3": lambda angles, jumps: jumps > 3,
}
for name, rule in rules.items():
    cut = aeot.find_singularities(model.brenier_, max_angle=rule)
    kept = model.brenier_.draw(2000, singular=cut, generator=aeot.generator(0)).acceptance
    large = int((cut.components.bincount() >= 10).sum())
    print(f"{name}: {len(cut.pairs) / len(cut.facets.pairs):.1%} of the facets are cut, ", end="")
    print(f"{kept:.1%} of the points kept; {cut.n_components} pieces, {large} of ten codes or more")

# %%
cut = aeot.find_singularities(model.brenier_, max_angle=0.75)
figure = embedding(model.brenier_.sites, digits.labels, modes=cut.components, most=1000)
figure.savefig(OUT / "28_settings_of_the_paper.png", dpi=110)
