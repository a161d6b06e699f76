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
size, steps = (16, 60) if quick else (28, 600)
train = aeot.dataset("digits", size=size)
test = aeot.dataset("digits", split="test", size=size)
ours = aeot.AEOT(latent_dim=8, tol=0.1, seed=0).fit(train, steps=steps)
theirs = aeot.WGANGP(seed=0, hidden=32).fit(train, steps=steps // 4)

# %%
models = {"AE-OT": ours, "WGAN-GP": theirs}
found = aeot.compare(models, test, training=train, features=aeot.features.Pixels())
print(found.markdown())
path = OUT / "34_compare_and_report.png"
plots.sample_rows(found, path=path)
write_page({"comparison": found, "AE-OT": ours}, OUT / "report.html", training={"AE-OT": train})
print(path, OUT / "report.html")
