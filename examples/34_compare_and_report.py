"""Two models compared, and a report
=================================

Any object with `sample(n, *, seed)` can be compared: the same features, the same numbers of images,
rounded to 8 bits. The comparison is a table, pictures, and one HTML page without any links.
"""

import sys
from pathlib import Path

import aeot
from aeot.plotting import comparison as plots
from aeot.report import write_page

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # smaller images, trainings that are much too short

# %%
size, steps, rows = (16, 30, 300) if quick else (28, 600, 1442)
train = aeot.dataset("digits", size=size).subset(range(rows))
test = aeot.dataset("digits", split="test", size=size)
ours = aeot.AEOT(latent_dim=6, tol=0.1, seed=0).fit(train, steps=steps)
theirs = aeot.VAE(latent_dim=6, batch_size=32, seed=0).fit(train, steps=steps // 3)

# %%
models = {"AE-OT": ours, "VAE": theirs}
found = aeot.compare(models, test, training=train, features=aeot.features.Pixels())
print(found.markdown())
path = OUT / "34_compare_and_report.png"
plots.sample_rows(found, path=path)
write_page({"comparison": found, "AE-OT": ours}, OUT / "report.html", training={"AE-OT": train})
print(path, OUT / "report.html")
