"""Translation by transport
===========================

Trousers to dresses and back without a discriminator or a cycle: an autoencoder, and one optimal
transport map each way between the codes of the two classes. Give a saved autoencoder of
Fashion-MNIST with `--autoencoder`, or one is trained on the two classes.
"""

import argparse
import time
from pathlib import Path

import aeot
from aeot.plotting import translation as pictures

OUT = Path("out")
OUT.mkdir(exist_ok=True)
parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true")
parser.add_argument("--autoencoder", type=Path, help="a saved Autoencoder of Fashion-MNIST")
options = parser.parse_args()


# %%
name, labels = ("digits", (0, 8)) if options.quick else ("fashion-mnist", (1, 3))
train, test = (aeot.dataset(name, split=split) for split in ("train", "test"))
(a, b), (x, y) = (
    [data.subset((data.labels == label).nonzero()[:, 0]) for label in labels]
    for data in (train, test)
)
names = [str(train.classes[label]).lower() for label in labels]
fitted = options.autoencoder and aeot.Autoencoder.load(options.autoencoder)
model = aeot.TransportTranslator(
    latent_dim=8 if options.quick else fitted.latent_dim if fitted else 32,
    max_sites=100 if options.quick else 500,
    tol=0.2 if options.quick else 0.1,
    seed=0,
)
begun = time.process_time()
steps = 40 if options.quick and not fitted else None
model.fit(aeot.unpaired(a, b), autoencoder=fitted, steps=steps)
print(f"fitted in {time.process_time() - begun:.1f} seconds of processor time")
for to, found in model.certificates_.items():
    print(f"to {to}: {found['message']}")
path = OUT / "43_translate_by_transport.png"
pictures.translations(model, x[:10], y[:10], names=names, path=path)
print(path)
