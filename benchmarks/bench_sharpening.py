"""Strength of sharpening: does what suits restored images suit generated ones?

    python benchmarks/bench_sharpening.py fashion-mnist MODEL MODEL --judge FOLDER --out rows.jsonl

MODEL: folders of saved `AEOT` models of images of one channel, of the training part of a data set
that `aeot.dataset` takes; FOLDER: a saved `Classifier` of the same part, which neither was trained
with. The gain of every frequency is 1 + strength (gain - 1), with the gain of the model: 0 leaves
images as they are decoded, 1 sharpens them as `AEOT.decode` does. "own": the gain that gives these
images, not restored ones, the spectrum of the data.

A line of JSON for each model, kind of images ("generated" anew, "restored" training images) and
strength: ``fd``, the Frechet distance to the test part in the classifier's features, and
``undecided``, the share of images without a class of probability 0.6. What might choose a strength
without a classifier: ``spectrum``, the squared distance of the roots of the mean powers to those of
training images, in per cent of the square of these; ``windows``, the squared sliced Wasserstein
distance of windows of 3, 5, 8 and 12 pixels to theirs, whitened by theirs, in per cent.
"""

import argparse
import copy
import json
import time
import warnings

import torch

import aeot
from aeot._environment import environment
from aeot.data import to_uint8
from aeot.features import Classifier
from aeot.metrics import frechet_distance
from aeot.models.sharpening import sharpen, spectral_gain

COMPARED = 5000  # images whose spectrum and windows are compared with as many training images


class Judge:
    """The classifier's features in bfloat16: the distances of the table change by 0.1 %."""

    def __init__(self, folder):
        network = copy.deepcopy(Classifier.load(folder).network_).float().eval()
        self.network = network.to(memory_format=torch.channels_last)

    def __call__(self, images):
        """Return features (n, width) and the share of images without a clear class."""
        found = []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for block in images.split(500):
                block = block if block.dtype == torch.uint8 else to_uint8(block)
                block = (
                    block.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
                )
                found.append(self.network(block).float())
        features = torch.cat(found)
        with torch.no_grad():
            top = torch.softmax(self.network.head(features), 1).amax(1)
        return features.double(), float((top < 0.6).double().mean())


def roots(images):
    """Root of the mean power of every cosine frequency, by the mirrored image."""
    images = torch.cat([images, images.flip(-1)], -1)
    images = torch.cat([images, images.flip(-2)], -2)
    return torch.fft.rfft2(images.double()).abs().square().mean(0).sqrt()


class Windows:
    """Projections of windows of the data, whitened, sorted."""

    def __init__(self, data):
        stream, self.kept = aeot.generator(3, "windows"), []
        for side in (3, 5, 8, 12):
            for u, v in torch.randint(data.shape[-1] - side + 1, (8, 2), generator=stream).tolist():
                place = slice(u, u + side), slice(v, v + side)
                seen = data[:, 0, place[0], place[1]].flatten(1).double()
                values, axes = torch.linalg.eigh(torch.cov(seen.T))
                scale = torch.where(values > 1e-6 * values[-1], values.clamp(min=1e-12) ** -0.5, 0)
                filters = torch.randn(side**2, 32, generator=stream).double()
                filters = axes @ (scale[:, None] * (axes.T @ (filters / filters.norm(dim=0))))
                self.kept.append((place, filters, (seen @ filters).sort(0).values))

    def distance(self, images):
        """Mean squared distance of the projections' laws to those of the data."""
        found = []
        for place, filters, wanted in self.kept:
            seen = images[:, 0, place[0], place[1]].flatten(1).double() @ filters
            at = (torch.arange(len(seen)) + 0.5) / len(seen) * len(wanted)
            found.append((seen.sort(0).values - wanted[at.long()]).square().mean())
        return float(torch.stack(found).mean())


def run(folder, train, test, judge, options):
    """Rows of one model."""
    model = aeot.AEOT.load(folder)
    data = train.subset(slice(0, COMPARED))[:]
    spectrum, windows = roots(data), Windows(data)
    real = judge(test[:])[0]
    count = min(options.images, len(train))
    drawn = model.draw(options.images, seed=options.seed).codes
    for kind, codes in (("generated", drawn), ("restored", model.encode(train[:count]))):
        plain = model.autoencoder_.decode(codes)
        own = spectral_gain(data[: len(plain)], plain[: len(data)])
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0, "own"):
            begun = time.process_time()
            gain = own if strength == "own" else 1 + strength * (model.gain_ - 1)
            images = plain
            if strength != 0:
                images = sharpen(plain, gain, model.sharpening_["floor"])
            features, undecided = judge(images)
            some = images[:COMPARED]
            row = {
                "data": train.name,
                "rows": len(model.brenier_.sites),
                "latent_dim": model.autoencoder_.latent_dim,
                "held_out": model.autoencoder_.losses_.get("held_out"),
                "images": kind,
                "n": len(images),
                "strength": strength,
                "gain": float(gain.mean()),
                "fd": frechet_distance(features, real),
                "undecided": undecided,
                "spectrum": 100 * float((roots(some) - spectrum).square().sum()),
                "windows": 100 * windows.distance(some),
                "seconds": time.process_time() - begun,
            }
            row["spectrum"] /= float(spectrum.square().sum())
            row = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
            line = json.dumps(row | {"environment": environment()})
            print(line, flush=True)
            if options.out:
                with open(options.out, "a", encoding="utf-8") as file:
                    file.write(line + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--judge", required=True, help="folder of a saved Classifier")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    train, test = aeot.dataset(options.data), aeot.dataset(options.data, split="test")
    judge = Judge(options.judge)
    for folder in options.models:
        run(folder, train, test, judge, options)


if __name__ == "__main__":
    main()
