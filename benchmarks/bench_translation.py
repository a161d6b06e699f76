"""Translation of Fashion-MNIST, without pairs and with them, with instruments.

    python benchmarks/bench_translation.py                # everything, one row after another
    python benchmarks/bench_translation.py --rows cyclegan --minutes 12   # a turn; again: go on

Without pairs, trousers to dresses and back: `cyclegan`; `cyclegan-noise`, with noise of 8 levels on
the translation inside the cycle; `sinkhorn`, the debiased Sinkhorn divergence between batches in
place of the discriminators; and `transport`, semi-discrete transport between the codes of an
autoencoder of both domains. `edges` and `edges-noise`: the first two between T-shirts and edge maps
of other T-shirts, where the way back cannot know what the translation does not show.
With pairs, edge maps to images of all ten classes: `pix2pix`, a function; `pix2pix-stochastic`,
with noise channels and a diversity loss.

Training stops after --minutes and resumes from --cache on the next call; a row that is done is
measured. One JSON line per row goes to stdout and, with --results, into a file beside the rows
that are there already.

What is measured, on test images: how often a classifier of all ten classes takes a translated image
for the other domain (flip) and the round trip for the first again (back), the cycle error, the
Frechet distance of classifier features to the real test images of the target beside that of its
training images (floor) and of untranslated images (ceiling), the proxy distance, and whether the
cycle hides its input. With pairs: the error, its split by frequency, how often the classifier names
the class of the partner, the L1 weight that the residuals suggest, and how much answers to one
input differ.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import interpolate

import aeot
from aeot import metrics
from aeot._environment import environment
from aeot.data.filters import edges
from aeot.features import Classifier, extract
from aeot.gan_diagnostics import adaptation, frequency, splitting, steganography, weights
from aeot.plotting import translation as pictures

ROOT = Path(__file__).resolve().parents[1]


def clothes(split, label=None, size=32):
    data = aeot.dataset("fashion-mnist", split=split, size=size)
    if label is None:
        return data
    return data.subset((data.labels == label).nonzero()[:, 0])


def drawings(data):
    return aeot.tensors(edges(data[:]))


# task -> (training data, test images of A, of B); labels of A and B where those are classes
def classes():
    train, test = ([clothes(split, label) for label in (1, 3)] for split in ("train", "test"))
    return aeot.unpaired(*train), *test


def lines():
    train, test = clothes("train", 0), clothes("test", 0)
    half = len(train) // 2  # no image is there with its own edges
    data = aeot.unpaired(train.subset(range(half)), drawings(train.subset(range(half, 2 * half))))
    return data, test, drawings(test)


def pairs():
    train, test = clothes("train"), clothes("test")
    return aeot.paired(edges(train[:]), train), edges(test[:]), test


def models(args):
    cycle = dict(filters=args.filters, n_layers=2, n_blocks=6, enlarge=1.0, seed=args.seed)
    cycle |= dict(identity=0.0, learning_rate=4e-4)  # gray images: no colours to keep
    made = {}
    for task, prefix, share in ((classes, "cyclegan", 1), (lines, "edges", 2)):
        for name, noise in ((prefix, 0.0), (f"{prefix}-noise", 8.0)):
            model = aeot.CycleGAN(batch_size=8, cycle_noise=noise, **cycle)
            made[name] = (model, max(1, args.steps // share), task)
    sinkhorn = aeot.CycleGAN(batch_size=64, adversary="sinkhorn", **(cycle | dict(cycle=0.3)))
    made["sinkhorn"] = (sinkhorn, max(1, args.steps // 8), classes)
    transport = aeot.TransportTranslator(latent_dim=32, max_sites=2000, seed=args.seed)
    made["transport"] = (transport, args.steps, classes)
    pair = dict(filters=args.filters, n_layers=2, batch_size=16, enlarge=1.0, learning_rate=1e-3)
    pair |= dict(l1=20.0, dropout=0.0, seed=args.seed)  # at 32 px the U-Net has no dropout anyway
    noisy = dict(noise_channels=8, diversity=0.3, norm="batch")  # instance norm takes planes away
    made["pix2pix"] = (aeot.Pix2Pix(**pair), args.steps, pairs)
    made["pix2pix-stochastic"] = (aeot.Pix2Pix(**(pair | noisy)), args.steps, pairs)
    return made


def train(name, model, steps, data, args):
    """Train for one turn; returns the fitted model, or None when there is more to do."""
    done = args.cache / name / "model"
    used, start = args.cache / name / "time.json", time.process_time()
    if (done / "manifest.json").exists():
        return type(model).load(done), json.loads(used.read_text())
    deadline = time.time() + 60 * args.minutes
    before = json.loads(used.read_text()) if used.exists() else 0.0
    finished = False

    def watch(step, record):
        nonlocal finished
        finished = step == steps
        if step % 100 == 0:
            print(step, {k: round(v, 3) for k, v in record.items()}, file=sys.stderr, flush=True)
        return time.time() > deadline

    (args.cache / name).mkdir(parents=True, exist_ok=True)
    if isinstance(model, aeot.TransportTranslator):  # minutes: not worth a turn
        model.fit(data, steps=steps)
        finished = True
    else:
        model.fit(data, steps=steps, checkpoint=args.cache / name / "checkpoint", on_step=watch)
    seconds = before + time.process_time() - start
    used.write_text(json.dumps(seconds))
    if not finished:
        print(f"{name}: stopped at the end of the turn; run again", file=sys.stderr)
        return None, seconds
    model.save(done)
    return model, seconds


def look(classifier, images):
    """Return the classifier's features of images of any size."""
    size = classifier.shape_[1:]
    if images.shape[2:] != size:
        images = interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)
    return extract(classifier, images)


def named(classifier, seen, labels):
    """Return how often the classifier finds these labels in features."""
    return float((classifier.predict_from(seen) == labels).double().mean())


def measure_classes(model, data, tests, classifier):
    """What a classifier of all classes can say where the domains are two of them."""
    seen = {name: look(classifier, side[:]) for name, side in tests.items()}
    label = {name: int(side.labels[0]) for name, side in tests.items()}
    # What the flip rate is on real images: its ceiling.
    result = {f"real_{name}": named(classifier, seen[name], label[name]) for name in tests}
    for there, back in (("b", "a"), ("a", "b")):
        source, real = tests[back][:], seen[there]
        moved = model.translate(source, to=there)
        returned = model.translate(moved, to=back)
        made = look(classifier, moved)
        training = look(classifier, getattr(data, there)[:1000])
        result[f"to_{there}"] = {
            "flip": named(classifier, made, label[there]),
            "back": named(classifier, look(classifier, returned), label[back]),
            "cycle_mae": float((returned - source).abs().mean() / 2),  # in [0, 1] units
            "frechet": float(metrics.frechet_distance(made, real)),
            "frechet_floor": float(metrics.frechet_distance(training, real)),
            "frechet_ceiling": float(metrics.frechet_distance(seen[back], real)),
            "proxy_distance": adaptation.proxy_distance(made, real),
            "proxy_distance_before": adaptation.proxy_distance(seen[back], real),
        }
    return result | hidden(model, tests["a"][:200])


def measure_lines(model, data, tests, classifier):
    x, y = tests["a"][:200], tests["b"][:200]  # partners: what an honest way back has to go by
    moved = model.translate(x, to="b")
    return {
        "tests": len(x),
        "edges_mae": float((moved - y).abs().mean() / 2),
        "cycle_mae": float((model.translate(moved, to="a") - x).abs().mean() / 2),
        **hidden(model, x, partners=y),
    }


def hidden(model, x, partners=None):
    if isinstance(model, aeot.CycleGAN):  # the networks themselves: noise may leave [-1, 1]
        to_b, to_a = model.to_b_, model.to_a_
    else:
        to_b, to_a = (partial(model.translate, to=name) for name in ("b", "a"))
    report = steganography.examine(to_b, to_a, x, partners=partners)
    return {"steganography_tests": len(x), "steganography": report}


def measure_pairs(model, data, tests, classifier):
    """Errors in [0, 1] units, like everywhere; the L1 weight is per unit of [-1, 1]."""
    x, y, labels = tests["a"][:2000], tests["b"][:2000], tests["b"].labels[:2000]
    draws = torch.stack([model.translate(x, seed=seed) for seed in range(8)])
    errors = (draws - y).abs().mean(dim=(2, 3, 4)) / 2  # (8, B)
    seen, real = look(classifier, draws[0]), look(classifier, y)
    split = frequency.error_split(draws[0], y)
    return {
        "tests": len(x),
        "mae": float(errors[0].mean()),
        "mae_best_of_8": float(errors.amin(0).mean()),
        "mae_of_mean_of_8": float((draws.mean(0) - y).abs().mean() / 2),
        "mae_of_training_mean": float((data.b[:5000].mean(0) - y).abs().mean() / 2),
        "diversity": splitting.diversity(lambda _, seed: draws[seed], x) / 2,
        "diversity_of_real": float((y - y.roll(1, 0)).abs().mean() / 2),
        "split": {k: v if k == "texture_power" else v / 4 for k, v in split.items()},
        "class_kept": named(classifier, seen, labels),
        "class_kept_real": named(classifier, real, labels),
        "frechet": float(metrics.frechet_distance(seen, real)),
        "frechet_floor": float(metrics.frechet_distance(look(classifier, data.b[:2000]), real)),
        "frechet_ceiling": float(metrics.frechet_distance(look(classifier, x), real)),
        "l1_weight": weights.l1_weight(y - draws[0]),
    }


MEASURES = {classes: measure_classes, lines: measure_lines, pairs: measure_pairs}


def draw(name, model, tests, path):
    a, b = tests["a"], tests["b"]
    if isinstance(model, aeot.Pix2Pix):
        shown = torch.stack([(tests["b"].labels == label).nonzero()[2, 0] for label in range(10)])
        a, b = a[shown], b[shown]
        rows = {"edges": a}
        if model.noise_channels:
            rows |= {f"draw {seed + 1}": model.translate(a, seed=seed) for seed in range(4)}
        else:
            rows["translated"] = model.translate(a)
        pictures.image_rows(rows | {"real": b}, path=path)
        return
    names = ("T-shirts", "edges") if name.startswith("edges") else ("trousers", "dresses")
    pictures.translations(model, a[:10], b[:10], names=names, path=path)


def load_classifier(args):
    """Return the ruler: saved before, or trained now on all ten classes."""
    place = args.classifier or args.cache / "classifier"
    if (place / "manifest.json").exists():
        return Classifier.load(place)
    classifier = Classifier(precision="bfloat16").fit(clothes("train"), clothes("test"))
    classifier.save(place)
    return classifier


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", default=None)
    parser.add_argument(
        "--steps",
        type=int,
        default=2000,
        help="of 8 or 16 images; edges: half of it; sinkhorn: an eighth, of 64 images",
    )
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=25, help="of training in this call")
    parser.add_argument("--cache", type=Path, default=ROOT / "out" / "translation")
    parser.add_argument(
        "--classifier", type=Path, help="a saved Classifier of Fashion-MNIST of any size"
    )
    parser.add_argument("--results", type=Path, help="write all rows to this JSON file")
    parser.add_argument("--images", type=Path, help="write a grid of each row into this folder")
    args = parser.parse_args()
    for name, (model, steps, task) in models(args).items():
        if args.rows and name not in args.rows:
            continue
        data, *sides = task()
        tests = dict(zip("ab", sides, strict=True))
        model, seconds = train(name, model, steps, data, args)
        if model is None:
            continue
        classifier = load_classifier(args)
        row = {"row": name, "steps": steps, "cpu_seconds": round(seconds, 1), "seed": args.seed}
        # A measure that takes fewer test images than there are says how many.
        row |= {"images": [len(data.a), len(data.b)], "tests": len(sides[0])}
        row |= MEASURES[task](model, data, tests, classifier)
        if isinstance(model, aeot.TransportTranslator):
            row["certificates"] = model.certificates_
        row |= {"classifier": {"hash": classifier.hash_, "accuracy": classifier.accuracy_}}
        print(json.dumps(row), flush=True)
        if args.results:
            keep(args.results, row)
        if args.images:
            draw(name, model, tests, args.images / f"translation_{name}.png")
    if args.results and args.images:
        rows = [row for row in kept(args.results) if row["row"].startswith("edges")]
        if rows:
            reports = {row["row"]: row["steganography"] for row in rows}
            pictures.hiding(reports, path=args.images / "translation_hiding.png")


def kept(path):
    return json.loads(path.read_text())["rows"] if path.exists() else []


def keep(path, row):
    """Put a row into the file of results, for an older one of its name."""
    rows = [other for other in kept(path) if other["row"] != row["row"]] + [row]
    path.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
