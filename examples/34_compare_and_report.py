"""Two models compared, and a report
=================================

Any object with `sample(n, *, seed)` can be compared: the same features, the same numbers of images,
rounded to 8 bits. Here a Gaussian on principal components stands beside AE-OT. The comparison gives
a table, pictures, and one HTML page that needs no other files.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA

import aeot
from aeot.plotting import comparison as plots
from aeot.report import write_page

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # smaller images, a training that is much too short


# %%
class Gaussian:
    """A model of one's own: principal components, drawn from a Gaussian."""

    def __init__(self, data):
        self.shape = data.shape
        self.pca = PCA(20, random_state=0).fit(data[:].flatten(1))

    def sample(self, n, *, seed):
        noise = np.random.default_rng(seed).standard_normal((n, 20))
        rows = self.pca.inverse_transform(noise * np.sqrt(self.pca.explained_variance_))
        return torch.from_numpy(rows).float().clamp(-1, 1).reshape(n, *self.shape)


size, steps, rows = (16, 40, 300) if quick else (28, 600, 1442)
train = aeot.dataset("digits", size=size).subset(range(rows))
test = aeot.dataset("digits", split="test", size=size)
models = {
    "AE-OT": aeot.AEOT(latent_dim=6, tol=0.1, seed=0).fit(train, steps=steps),
    "Gaussian": Gaussian(train),
}

# %%
found = aeot.compare(models, test, training=train, features=aeot.features.Pixels())
print(found.markdown())
path = OUT / "34_compare_and_report.png"
plots.sample_rows(found, path=path)
write_page({"comparison": found}, OUT / "report.html")
print(path, OUT / "report.html")
