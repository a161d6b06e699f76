"""Tables 3 and 4 and figures 14 and 15 of Lei et al. on real data, under equal budgets of time.

    python benchmarks/bench_fashion_mnist.py --processor --long 1800    # 20 minutes a model
    python benchmarks/bench_fashion_mnist.py --processor --rows AE-OT --long 1800   # longer GANs
    python benchmarks/bench_fashion_mnist.py --seconds 60 --rows NS-GAN LSGAN --keep short
    python benchmarks/bench_fashion_mnist.py --data cifar10 --root /data

Every model is trained on all training images for the same seconds (`aeot.comparison.budget`), of
wall clock or, on a machine that does other things, of the processor: those given, or what AE-OT
took if that is more, since its transport is not cut short. Models are kept in the cache and
measured against all test images by one classifier trained here (`aeot.compare`). What was trained
or measured is kept, so that a run that was cut short goes on where it was, and rows can be trained
side by side by several calls with --rows and --train-only. The adversarial models, or the rows
given as --longer, are trained once more at the longer budget --long. The other columns of the
published table are rows, too: --rows "MM GAN" LSGAN DRAGAN BEGAN GLO. What is to be committed is
kept under a name: `--keep short` writes results/fashion_mnist_short.md, .json and .png (samples).

Published numbers are Inception FIDs of other protocols: they are printed in a table of their own.
"""

import argparse
import hashlib
import json
import shutil
import sys
import time
from pathlib import Path

import aeot
from aeot._environment import environment, resolve_precision
from aeot.comparison import budget
from aeot.comparison.result import Comparison, merge
from aeot.features import Classifier, Pixels
from aeot.plotting import comparison as pictures
from aeot.plotting.images import image_grid
from aeot.report import write_page

FULL = 1200.0  # seconds; what the committed result is made with
ADVERSARIAL = ("NS-GAN", "WGAN", "WGAN-GP")

# row -> (class, arguments); the first, second and fourth share one autoencoder. --latent-dim is
# the width of the others' codes and noise.
PAPER = {"architecture": "infogan", "latent_dim": 64, "sharpen": False}
ROWS = {
    "AE-OT": ("AEOT", {"latent_dim": 128}),
    "AE": ("Autoencoder", {}),  # as least squares leave it; measured by its reconstructions
    "AE-OT, settings of the paper": (
        "AEOT",
        {**PAPER, "max_angle": 0.75, "extension": "inverse-distance"},
    ),
    "latent flow": ("FlowMatching", {"hidden": 512}),
    # Rates of DCGAN for the two whose published ones (5e-5) need days; no long rounds of the WGAN,
    # whose first 25 would take a third of the budget. All compute in bfloat16, as the AE does.
    "VAE": ("VAE", {"learning_rate": 1e-3, "batch_size": 128}),
    "GLANN": ("GLANN", {}),
    "GLO": ("GLO", {}),  # the first stage of GLANN, for the whole budget
    "NS-GAN": ("GAN", {"learning_rate": 2e-4, "betas": (0.5, 0.999)}),
    "WGAN": ("WGAN", {"warm_up_steps": 5}),
    "WGAN-GP": ("WGANGP", {}),
    # The other columns of the published table, each with the rates of its class; not by default.
    "MM GAN": ("GAN", {"loss": "minimax", "learning_rate": 2e-4, "betas": (0.5, 0.999)}),
    "LSGAN": ("LSGAN", {}),
    "DRAGAN": ("DRAGAN", {}),
    "BEGAN": ("BEGAN", {}),
}
DEFAULT = [name for name in ROWS if name not in ("GLO", "MM GAN", "LSGAN", "DRAGAN", "BEGAN")]
RESERVE = 0.5  # share of the budget that AE-OT needs for the transport of 60 000 codes
ANGLES = {"cifar10": 0.68}  # of the paper; 0.75 elsewhere

# Lei et al., "A geometric understanding of deep learning", 2020, tables 3 and 4; the columns marked
# with * are from Lucic et al., "Are GANs created equal?", 2018. Inception FID.
COLUMNS = [
    *("MM GAN", "NS GAN", "LSGAN", "WGAN", "WGAN-GP*", "DRAGAN*", "BEGAN"),
    *("VAE", "GLO", "GLANN", "AE", "AE-OT"),
]
PUBLISHED = {
    "mnist": [9.8, 6.8, 7.8, 6.7, 20.3, 7.6, 13.1, 23.8, 49.6, 8.6, 5.5, 6.4],
    "fashion-mnist": [29.6, 26.5, 30.7, 21.5, 24.5, 27.7, 22.9, 58.7, 57.7, 13.0, 4.7, 10.2],
    "cifar10": [72.7, 58.5, 87.1, 55.2, 55.8, 69.8, 71.4, 155.7, 65.4, 46.5, 28.2, 38.1],
    "celeba": [65.6, 55.0, 53.9, 41.3, 30.0, 42.3, 38.9, 85.7, 52.4, 46.3, 67.5, 68.4],
    "digits": [],  # not published; small enough to try this script on
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion-mnist", choices=[*PUBLISHED])
    parser.add_argument("--root", help="where the data lie, if not in a usual place")
    parser.add_argument("--seconds", type=float, default=FULL, help="budget of each training")
    parser.add_argument("--long", type=float, default=0.0, help="longer budget of some rows")
    parser.add_argument("--longer", nargs="*", default=ADVERSARIAL, choices=[*ROWS], metavar="ROW")
    parser.add_argument("--processor", action="store_true", help="budgets in processor seconds")
    parser.add_argument("--train-only", action="store_true", help="train and keep, do not measure")
    parser.add_argument("--rows", nargs="*", default=DEFAULT, choices=[*ROWS], metavar="ROW")
    parser.add_argument("--latent-dim", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each model")
    parser.add_argument("--repeats", type=int, default=3, help="sets of samples of each model")
    parser.add_argument("--classifier", help="a saved classifier to measure with")
    parser.add_argument("--cache", type=Path, default=Path("out/bench_fashion_mnist"))
    parser.add_argument("--out", type=Path, help="folder of tables, figures and the HTML page")
    parser.add_argument("--keep", metavar="NAME", help="keep it in benchmarks/results, too")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    full = options.seconds >= FULL
    out = options.out or Path("out") / f"{options.data}-{options.seconds:g}s"
    out.mkdir(parents=True, exist_ok=True)

    load = {"root": options.root, "size": 64 if options.data == "celeba" else None}
    training = aeot.dataset(options.data, **load)
    test = aeot.dataset(options.data, split="test", **load)
    cache = options.cache / f"{options.data}-z{options.latent_dim}-seed{options.seed}"
    plan = [(name, options.seconds) for name in options.rows]
    plan += [(name, options.long) for name in options.longer if options.long]
    if options.train_only:
        for name, seconds in plan:
            row(options, *ROWS[name], seconds, training, cache)
        return
    extractor = judge(options, training, test, cache)
    names, waiting = [], {}
    for name, seconds in plan:
        kind, arguments = ROWS[name]
        if "max_angle" in arguments:
            arguments = {**arguments, "max_angle": ANGLES.get(options.data, 0.75)}
        label = name if seconds == options.seconds else f"{name}, {seconds:g} s"
        place = cache / kept(options, label, kind, arguments, seconds, extractor)
        names.append(place)
        if not (place / "comparison.json").is_file():
            waiting[label] = (place, *row(options, kind, arguments, seconds, training, cache))
    measure(options, waiting, training, test, extractor)
    parts = [Comparison.load(place) for place in names]
    found = merge(parts)

    result = {
        "label": "result" if full else "SHORT BUDGETS: far from convergence",
        "data": options.data,
        "seconds_per_training": options.seconds,
        "verdict": verdict(found),
        "published_inception_fid": dict(zip(COLUMNS, PUBLISHED[options.data], strict=False)),
        **found.plain(),
    }
    (out / "table.json").write_text(json.dumps(result, indent=1) + "\n")
    text = [f"# {result['label']}", "", found.markdown(), "", "## Verdict", ""]
    text += [f"- {key}: {value}" for key, value in result["verdict"].items()]
    text += ["", "## Published, by Inception FID under other protocols", ""]
    text += [f"- {key}: {value}" for key, value in result["published_inception_fid"].items()]
    (out / "table.md").write_text("\n".join(text) + "\n")
    pictures.precision_recall(found, path=out / "precision_recall.png")
    pictures.prd_curves(found, path=out / "prd.png")
    pictures.sample_rows(found, path=out / "samples.png")
    write_page({f"{options.data}, {options.seconds:g} s a model": found}, out / "report.html")
    results = Path(__file__).parent / "results"
    if options.keep:
        start = f"{options.data.replace('-', '_')}_{options.keep}"
        for name, end in (("table.json", ".json"), ("table.md", ".md"), ("samples.png", ".png")):
            shutil.copy(out / name, results / f"{start}{end}")
    if full and options.data == "fashion-mnist" and options.rows == DEFAULT:
        for name in ("table.json", "table.md", "precision_recall.png", "prd.png", "samples.png"):
            end = name.replace("table.", "table3.")
            shutil.copy(out / name, results / f"fashion_mnist_{end}")
        shown = found.shown["AE-OT"].float() / 127.5 - 1
        image_grid(shown, path=results.parents[1] / "docs" / "images" / "fashion_mnist.png")
    print("\n".join(text))


class Decoded:
    """A generator of codes and the autoencoder that makes images of them."""

    def __init__(self, codes, coder):
        self.codes, self.coder = codes, coder

    def sample(self, n, *, seed):
        return self.coder.decode(self.codes.sample(n, seed=seed))


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def judge(options, training, test, cache):
    """Return what measures: a classifier of the data, or small pixels where there are no labels."""
    if training.labels is None:
        return Pixels()
    place = Path(options.classifier) if options.classifier else cache / "classifier"
    if not (place / "manifest.json").is_file():
        say("training the classifier")
        Classifier(seed=options.seed).fit(training, test).save(place)
    return Classifier.load(place)


def kept(options, label, kind, arguments, seconds, extractor):
    """Return the name under which the cache holds a measured row."""
    settings = [label, kind, arguments, seconds, options.seeds, options.repeats, aeot.__version__]
    settings.append(getattr(extractor, "hash_", "pixels"))
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    slug = "".join(c if c.isalnum() else "-" for c in label.lower())
    return f"{slug}-{key}"


def row(options, kind, arguments, seconds, training, cache):
    """Train the models of one row, or take them from the cache; return them and their costs."""
    models, costs = [], []
    for k in range(options.seeds):
        seed = options.seed + k
        name = f"{kind}-paper" if "architecture" in arguments else kind
        name += f"-{arguments['loss']}" if "loss" in arguments else ""
        folder = cache / f"{name}-{seconds:g}s-{seed}"
        model, cost = train(options, kind, arguments, seconds, seed, folder, training, cache)
        models.append(model)
        costs.append(cost)
    numbers = [key for key, value in costs[0].items() if isinstance(value, (int, float))]
    facts = {**costs[0], **{n: sum(c[n] for c in costs) / len(costs) for n in numbers}}
    facts |= {n: round(facts[n]) for n in ("steps", "images_seen") if n in facts}
    if kind == "AEOT":  # the two-phase table
        facts["seconds_by_stage"] = models[0].seconds_
        facts["certificate"] = models[0].certificate_["message"]
        facts["modes"] = models[0].singular_.n_components
    return models, facts


def measure(options, waiting, training, test, extractor):
    """Measure rows in one go, since what it takes to know the data is common, and keep each."""
    if not waiting:
        return
    say(f"measuring {', '.join(waiting)}")
    found = aeot.compare(
        {label: models for label, (_, models, _) in waiting.items()},
        test,
        features=extractor,
        training=training,
        repeats=options.repeats,
        facts={label: facts for label, (_, _, facts) in waiting.items()},
        seed=options.seed,
    )
    for label, (place, models, _) in waiting.items():
        mine = [label, f"{label}: reconstructions"]
        rows = [r for r in found.rows if r["kind"] == "real" or r["model"] in mine]
        if hasattr(models[0], "sampled_"):
            rows[1]["facts"]["acceptance"] = models[0].sampled_["acceptance"]
        pictures = (
            {r["model"]: of[r["model"]] for r in rows if r["model"] in of}
            for of in (found.shown, found.nearest)
        )
        Comparison(rows, found.protocol, found.environment, *pictures).save(place, overwrite=True)


def beside(folder):
    """The file of what training a model cost; budgets such as 0.5 have a point in their name."""
    return folder.parent / f"{folder.name}.json"


def train(options, kind, arguments, seconds, seed, folder, training, cache):
    """Train one model within the budget, or take what was trained before."""
    costs = beside(folder)
    base = cache / f"AEOT-{seconds:g}s-{seed}"
    coder, spent = None, 0.0
    if kind in ("Autoencoder", "FlowMatching"):
        coder, cost = train(options, *ROWS["AE-OT"], seconds, seed, base, training, cache)
        spent = coder.seconds_["autoencoder"]
    if kind == "Autoencoder":
        facts = {"budget": cost["budget"], "train_seconds": spent}
        return coder.autoencoder_, {**facts, "autoencoder_losses": coder.autoencoder_.losses_}
    cls = getattr(aeot, kind)
    if costs.is_file():
        model, cost = cls.load(folder), json.loads(costs.read_text())
        return Decoded(model, coder) if kind == "FlowMatching" else model, cost
    if "architecture" in arguments and options.data == "celeba":
        arguments = {**arguments, "architecture": "dcgan"}  # the deeper pair of the paper
    if kind != "AEOT" and beside(base).is_file():  # no rival has less time than we took
        took = json.loads(beside(base).read_text())
        seconds = max(seconds, took["cpu_seconds" if options.processor else "train_seconds"])
    if kind != "FlowMatching":  # which is tiny, and takes the width of its data
        arguments = {"latent_dim": options.latent_dim, **arguments}
        if kind != "AEOT":  # which does by default
            precision = resolve_precision("auto", training.values.device)
            arguments = {"precision": precision, **arguments}
    model = cls(**{"seed": seed, **arguments})
    data = training
    if kind == "FlowMatching":  # on the codes of the same autoencoder, whose time it pays for, too
        spent += coder.seconds_["encoding"]
        data = aeot.tensors(coder.encode(training), name=f"codes of {training.name}")
    say(f"{kind}: training for {seconds - spent:g} s")
    left = max(seconds - spent, 0.05 * seconds)
    cost = budget.train(model, data, seconds=left, reserve=RESERVE, processor=options.processor)
    cost["train_seconds"] += spent
    model.save(folder, overwrite=True)
    costs.write_text(json.dumps({**cost, "environment": environment()}) + "\n")
    return Decoded(model, coder) if kind == "FlowMatching" else model, cost


def verdict(found):
    """Say whether AE-OT reached what was set out for it, with the numbers."""
    if "AE-OT" not in found:
        return {}
    ours, floor = found["AE-OT"], found["real training images"]["fd"]
    sharp = found["AE-OT: reconstructions"]["fd"]
    told = {
        "FD of real training images, F": floor,
        "FD of AE-OT": ours["fd"],
        "FD of its sharpened reconstructions": sharp,
        "(FD - F) / (FD of sharpened reconstructions - F)": (ours["fd"] - floor) / (sharp - floor),
    }
    if "AE: reconstructions" in found:
        plain = found["AE: reconstructions"]["fd"]
        told["FD of the autoencoder, FD_AE"] = plain
        told["(FD - F) / (FD_AE - F), at most 0.5"] = (ours["fd"] - floor) / (plain - floor)
    rivals = [name for name in (*ADVERSARIAL, "latent flow") if name in found]
    for metric, better in (("fd", min), ("f8", max), ("coverage", max)):
        values = {name: found[name][metric] for name in rivals}
        if values:
            top = better(values, key=values.get)
            wins = better(ours[metric], values[top]) == ours[metric]
            told[f"{metric}: better than {', '.join(rivals)}"] = (
                f"{'yes' if wins else 'NO'}, {ours[metric]:.4g} against {values[top]:.4g} of {top}"
            )
    return told


if __name__ == "__main__":
    main()
