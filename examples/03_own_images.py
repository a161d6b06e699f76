"""A folder of your own images
==============================

Give a folder with `--data`. Without it, the script first fills a folder with digits, in the sizes
and formats that are found in real folders, and with one broken file among them.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from PIL import Image

import aeot
from aeot.plotting import images as pictures

OUT = Path("out")
OUT.mkdir(exist_ok=True)
parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true", help="smaller images, fewer steps")
parser.add_argument("--data", help="a folder of images")
options = parser.parse_args()


# %%
def fill(folder):
    """Write digits as gray, colour, palette and transparent images of several sizes."""
    digits = aeot.dataset("digits", size=24)
    for k, image in enumerate(aeot.to_uint8(digits[:400])):
        picture = Image.fromarray(image[0].numpy()).resize((24 + k % 9, 30))
        mode, suffix = [("L", "png"), ("RGB", "jpg"), ("P", "gif"), ("RGBA", "webp")][k % 4]
        picture.convert(mode).save(folder / f"{k:03d}.{suffix}")
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder


# %%
size = 16 if options.quick else 32
with tempfile.TemporaryDirectory() as scratch:
    data = aeot.images(options.data or fill(Path(scratch)), size=size, channels=1)
print(f"{len(data)} images of {data.shape}; skipped {data.info['skipped']}")
model = aeot.AEOT(latent_dim=8, batch_size=64, tol=0.1, seed=0)
model.fit(data, steps=80 if options.quick else 400)

# From one image to another on a straight line in the source: the picture stays, changes
# slowly, or jumps, as the transport map does along that line.
ends = torch.arange(12)
paths = torch.cat([model.interpolate(data[a], data[a + 1], 11) for a in ends[::2]])
path = OUT / "03_own_images.png"
pictures.image_grid(paths, columns=11, title="from the first image to the last", path=path)
print(path)
