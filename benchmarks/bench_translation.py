"""Unpaired translation of Fashion-MNIST trousers and dresses, four ways, with instruments.

    python benchmarks/bench_translation.py                # everything, one row after another
    python benchmarks/bench_translation.py --rows cyclegan --minutes 12   # a turn; again: go on

Rows: `cyclegan`; `cyclegan-noise`, with noise of 8 levels on the translation inside the cycle;
`sinkhorn`, the debiased Sinkhorn divergence between batches in place of the discriminators; and
`transport`, semi-discrete transport between the codes of an autoencoder of both domains. Training
stops after --minutes and resumes from --cache on the next call; a row that is done is measured.
One JSON line per row goes to stdout and, with --results, all of them to a file.

What is measured, on the 1 000 + 1 000 test images: how often a classifier of all ten classes takes
a translated image for the other domain (flip), the cycle error, the Frechet distance of classifier
features to the real test images of the target beside that of its training images (floor) and of
untranslated images (ceiling), the proxy distance, and whether the cycle hides its input.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

from torch.nn.functional import interpolate

import aeot
from aeot import metrics
from aeot._environment import environment
from aeot.diagnostics import adaptation, steganography
from aeot.features import Classifier, extract
from aeot.plotting.translation import translations

ROOT = Path(__file__).resolve().parents[1]


def domain(split, label, size=32):
    data = aeot.dataset("fashion-mnist", split=split, size=size)
    return data.subset((data.labels == label).nonzero()[:, 0])


def models(args):
    cycle = dict(filters=args.filters, n_layers=2, n_blocks=6, enlarge=1.0, seed=args.seed)
    cycle |= dict(identity=0.0, learning_rate=4e-4)  # gray images: no colours to keep
    return {
        "cyclegan": (aeot.CycleGAN(batch_size=8, **cycle), args.steps),
        "cyclegan-noise": (aeot.CycleGAN(batch_size=8, cycle_noise=8.0, **cycle), args.steps),
        "sinkhorn": (
            aeot.CycleGAN(batch_size=64, adversary="sinkhorn", **(cycle | dict(cycle=0.3))),
            args.steps // 8,
        ),
        "transport": (aeot.TransportTranslator(latent_dim=32, max_sites=2000), args.steps // 5),
    }


def train(name, model, steps, data, args):
    """Train for one turn; returns the fitted model, or None when there is more to do."""
    done = args.cache / name / "model"
    if (done / "manifest.json").exists():
        return type(model).load(done), json.loads((args.cache / name / "time.json").read_text())
    deadline = time.time() + 60 * args.minutes
    used, start = args.cache / name / "time.json", time.process_time()
    before = json.loads(used.read_text()) if used.exists() else 0.0
    finished = steps == 0

    def watch(step, record):
        nonlocal finished
        finished = step == steps
        if step % 100 == 0:
            print(step, {k: round(v, 3) for k, v in record.items()}, file=sys.stderr, flush=True)
        return time.time() > deadline

    (args.cache / name).mkdir(parents=True, exist_ok=True)
    if isinstance(model, aeot.CycleGAN):
        model.fit(data, steps=steps, checkpoint=args.cache / name / "checkpoint", on_step=watch)
    else:  # minutes: not worth a turn
        model.fit(data, steps=steps)
        finished = True
    seconds = before + time.process_time() - start
    used.write_text(json.dumps(seconds))
    if not finished:
        print(f"{name}: stopped at the end of the turn; run again", file=sys.stderr)
        return None, seconds
    model.save(done)
    return model, seconds


def measure(model, tests, trains, classifier):
    result = {}

    def look(images):
        size = classifier.shape_[1:]
        if images.shape[2:] != size:
            images = interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return extract(classifier, images)

    features = {name: look(data[:]) for name, data in tests.items()}
    for name, seen in features.items():  # what the flip rate is on real images: its ceiling
        label = int(tests[name].labels[0])
        result[f"real_{name}"] = float((classifier.predict_from(seen) == label).double().mean())
    for there, back in (("b", "a"), ("a", "b")):
        label = int(tests[there].labels[0])
        source = tests[back][:]
        moved = model.translate(source, to=there)
        returned = model.translate(moved, to=back)
        made = look(moved)
        real = features[there]
        result[f"to_{there}"] = {
            "flip": float((classifier.predict_from(made) == label).double().mean()),
            "cycle_mae": float((returned - source).abs().mean() / 2),  # in [0, 1] units
            "frechet": float(metrics.frechet_distance(made, real)),
            "frechet_floor": float(metrics.frechet_distance(look(trains[there][:1000]), real)),
            "frechet_ceiling": float(metrics.frechet_distance(features[back], real)),
            "proxy_distance": adaptation.proxy_distance(made, real),
            "proxy_distance_before": adaptation.proxy_distance(features[back], real),
        }
    if isinstance(model, aeot.CycleGAN):  # the networks themselves: noise may leave [-1, 1]
        to_b, to_a = model.to_b_, model.to_a_
    else:
        to_b, to_a = (partial(model.translate, to=name) for name in ("b", "a"))
    found = steganography.examine(to_b, to_a, tests["a"][:200])
    return result | {"steganography": found}


def load_classifier(args):
    """Return the ruler: saved before, or trained now on all ten classes."""
    place = args.classifier or args.cache / "classifier"
    if (place / "manifest.json").exists():
        return Classifier.load(place)
    train, test = (
        aeot.dataset("fashion-mnist", split=split, size=32) for split in ("train", "test")
    )
    classifier = Classifier(precision="bfloat16").fit(train, test)
    classifier.save(place)
    return classifier


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", default=None)
    parser.add_argument(
        "--steps", type=int, default=2000, help="of 8 pairs; sinkhorn: an eighth, of 64"
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
    trains = {"a": domain("train", 1), "b": domain("train", 3)}
    tests = {"a": domain("test", 1), "b": domain("test", 3)}
    data = aeot.unpaired(trains["a"], trains["b"])
    rows = []
    for name, (model, steps) in models(args).items():
        if args.rows and name not in args.rows:
            continue
        model, seconds = train(name, model, steps, data, args)
        if model is None:
            continue
        classifier = load_classifier(args)
        row = {"row": name, "steps": steps, "cpu_seconds": round(seconds, 1)}
        row |= {"seed": args.seed, **measure(model, tests, trains, classifier)}
        row |= {"classifier": {"hash": classifier.hash_, "accuracy": classifier.accuracy_}}
        rows.append(row)
        print(json.dumps(row), flush=True)
        if args.images:
            path = args.images / f"translation_{name}.png"
            translations(model, tests["a"][:10], tests["b"][:10], path=path)
    if args.results:
        body = {"environment": environment(), "rows": rows}
        args.results.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
