"""The frontier of the extended map on Fashion-MNIST: distance to real data against novelty.

One command makes everything: it fits `aeot.AEOT` and the classifier unless the folders given hold
them, generates 10 000 images with every variant of the extension and three seeds, and prints one
JSON line for each. Images are sharpened as AEOT does it, unless a variant says that they are not.
It can be stopped and started again: rows that are in the output file are not computed twice.
The model of `bench_fashion_mnist.py` will do (--model).

    python benchmarks/bench_extension.py --cache out/extension
"""

import argparse
import json
import time
from pathlib import Path

import matplotlib
import numpy as np
import scipy.stats
import torch

import aeot
from aeot._environment import environment
from aeot.features import Classifier, extract
from aeot.maps import extension
from aeot.metrics.formulas import frechet_distance
from aeot.search.nearest import nearest

RESULTS = Path(__file__).parent / "results"
# name -> arguments of `extend`; "cut": False leaves the singular set out, "plain": True what
# shortens displacements and makes them lean
VARIANTS = {
    "affine, k = 20, matched scale (default)": {"method": "affine"},
    "affine, k = 20, matched scale, not sharpened": {"method": "affine", "sharp": False},
    "affine, k = 20, matched scale, neither limited nor leaning": {
        "method": "affine",
        "plain": True,
    },
    "pair, w in U(0, 1)": {"method": "pair"},
    "inverse-distance": {"method": "inverse-distance"},
    "linear": {"method": "linear"},
    "affine, k = 20, s = 0.5": {"method": "affine", "scale": 0.5},
    "affine, k = 20, s = 1": {"method": "affine", "scale": 1.0},
    "affine, k = 20, s = 1.5": {"method": "affine", "scale": 1.5},
    "affine, k = 10, matched scale": {"method": "affine", "neighbours": 10},
    "pair, w = 0.75": {"method": "pair", "weight": 0.75},
    "affine, singular points rejected": {"method": "affine", "boundary": "reject"},
    "affine, half of the facets called singular and rejected": {"method": "affine", "angle": 0.5},
    "pair, uncut": {"method": "pair", "cut": False},
}


def fitted(folder, train, test, steps):
    if not (folder / "manifest.json").is_file():
        model = aeot.AEOT(latent_dim=64, tol=0.05, seed=0)
        model.fit(train, steps=steps, held_out=test).save(folder)
    return aeot.AEOT.load(folder)


def classifier(folder, train, test):
    if not (folder / "manifest.json").is_file():
        Classifier(seed=0).fit(train, test).save(folder)
    return Classifier.load(folder)


def plain(brenier, points, singular):
    """The affine extension as it is without limits, at the newness of the default; its scale."""
    owner = brenier.cell(points)
    sites, bare = brenier.sites, brenier.sites[owner]
    sides = extension.Sides(singular.components, singular.crosses)
    if brenier.centroids is None:
        brenier.estimate_moments()
    moved = points.to(sites.dtype) - brenier.centroids[owner]
    near = extension.around(owner, sites, sides, 20)
    move = extension.local_affine(moved, near, sites, brenier.spread)
    target = extension.NEWNESS * float(nearest(bare, sites, 2)[0][:, 1].median())
    scale = extension.match_scale(bare, move, sites, target)
    return bare + scale * move, scale


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("out/extension"))
    parser.add_argument("--model", type=Path, help="a saved AEOT (else fitted)")
    parser.add_argument("--classifier", type=Path, help="a saved Classifier (else trained)")
    parser.add_argument("--steps", type=int, default=None, help="of the autoencoder's training")
    parser.add_argument(
        "--rows", type=int, default=60_000, help="training images, transport targets"
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "extension.jsonl")
    options = parser.parse_args()

    train = aeot.dataset("fashion-mnist")
    test = aeot.dataset("fashion-mnist", split="test")
    train = train.subset(slice(options.rows))
    model = fitted(options.model or options.cache / "model", train, test, options.steps)
    judge = classifier(options.classifier or options.cache / "classifier", train, test)
    network = judge.extractor().float()
    brenier, sites, held = model.brenier_, model.brenier_.sites, model.encode(test)
    rows = [json.loads(line) for line in options.out.open()] if options.out.exists() else []
    done = {(row.get("variant"), row.get("seed")) for row in rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def features(images):
        with torch.no_grad():
            return extract(network, images).double()

    def classes(found):
        with torch.no_grad():
            return network.head(found.float()).softmax(1)

    real = features(test[torch.arange(min(options.images, len(test)))])
    every = torch.cat([features(train[part]) for part in torch.arange(len(train)).split(10_000)])
    counts = torch.bincount(classes(every).argmax(1), minlength=10)

    def record(name, seed, found, codes, extra):
        chance = classes(found)
        novelty = nearest(codes, sites, 1)[0] if codes is not None else None
        row = {
            "variant": name,
            "seed": seed,
            "aeot": aeot.__version__,
            "frechet_distance": frechet_distance(found, real),
            "distance_of_means": float((found.mean(0) - real.mean(0)).square().sum()),
            "top_class_below_0.6": float((chance.amax(1) < 0.6).double().mean()),
            "class_counts": torch.bincount(chance.argmax(1), minlength=10).tolist(),
            "nearest_code": None if novelty is None else float(novelty.median()),
            "bare_codes": None if novelty is None else int((novelty < 1e-6).sum()),
            **extra,
        }
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    rules, drawings = {None: model.singular_}, {}
    if ("setting", None) not in done:
        singular = rules[None]
        setting = {
            "variant": "setting",
            "seed": None,
            "targets": len(sites),
            "images": options.images,
            "dim": sites.shape[1],
            "certificate": model.certificate_["message"],
            "seconds_by_stage": model.seconds_,
            "classifier_accuracy": judge.accuracy_,
            "class_counts_training": counts.tolist(),
            "class_counts_test": torch.bincount(classes(real).argmax(1), minlength=10).tolist(),
            "held_out_nearest_code": float(nearest(held, sites, 1)[0].median()),
            "code_to_next_code": float(nearest(sites, sites, 2)[0][:, 1].median()),
            "modes": singular.n_components,
            "mode_sizes": torch.bincount(singular.components).tolist()[:20],
            "squared_errors": model.autoencoder_.losses_,
            "largest_gain": float(model.gain_.max()),
            "facets": len(singular.facets.pairs),
            "singular_facets": len(singular.pairs),
            "environment": environment(sites.device),
        }
        with options.out.open("a") as file:
            file.write(json.dumps(setting) + "\n")
        print(json.dumps(setting), flush=True)
    if ("real training images", None) not in done:
        images = train[: options.images]
        record("real training images", None, features(images), model.encode(images), {})
    for name, decoder in (
        ("reconstructed training images", model.autoencoder_),
        ("reconstructed and sharpened", model),
    ):
        if (name, None) not in done:
            # The share of images without a clear class is small: all codes make it more certain.
            unclear = [
                (classes(features(decoder.decode(part))).amax(1) < 0.6).double().sum()
                for part in sites.split(10_000)
            ]
            extra = {"top_class_below_0.6_of_all": float(sum(unclear)) / len(sites)}
            restored = sites[: options.images]
            record(name, None, features(decoder.decode(restored)), restored, extra)
    if ("reconstructed test images", None) not in done:
        some = held[: options.images]
        record(
            "reconstructed test images", None, features(model.autoencoder_.decode(some)), some, {}
        )
    for seed in range(options.seeds):
        for name, variant in VARIANTS.items():
            if (name, seed) in done:
                continue
            start = time.process_time()
            share = variant.get("angle")
            if share not in rules:
                angle = float(rules[None].facets.angles.quantile(1 - share))
                rules[share] = aeot.find_singularities(brenier, angle)
            singular = rules[share] if variant.get("cut", True) else None
            boundary = variant.get("boundary", "reject" if share else "reassign")
            key = (seed, boundary, share, singular is None)
            if key not in drawings:  # its codes are cheap and not used
                stream = aeot.generator(seed, "points")
                how = {"singular": singular, "boundary": boundary, "method": "pair"}
                drawings = {key: brenier.draw(options.images, **how, generator=stream)}
            drawn = drawings[key]
            extra = {"acceptance": drawn.acceptance, "alone": drawn.n_alone}
            near = variant.get("neighbours", 20)
            if variant["method"] == "affine":
                extra["scale"] = variant.get("scale") or brenier.match_scale(
                    singular, neighbours=near
                )
            if variant.get("plain"):
                codes, extra["scale"] = plain(brenier, drawn.points, singular)
            else:
                keys = ("method", "neighbours", "scale", "weight")
                arguments = {key: variant[key] for key in keys if key in variant}
                stream = aeot.generator(seed, "weights")
                codes = brenier.extend(drawn.points, singular, **arguments, generator=stream)
            extra["map_cpu_seconds"] = round(time.process_time() - start, 1)
            decoder = model if variant.get("sharp", True) else model.autoencoder_
            images = decoder.decode(codes)
            record(name, seed, features(images), codes, extra)
    summary(options.out)


def p_values(row, setting):
    """Chi-squared tests of a row's classes against those of training and of test images."""
    return [
        float(scipy.stats.chi2_contingency([setting[of], row["class_counts"]]).pvalue)
        for of in ("class_counts_training", "class_counts_test")
    ]


def summary(path):
    """Print the table and draw the frontier from the rows of a finished or unfinished run."""
    rows = [json.loads(line) for line in path.open()]
    by = {}
    for row in rows:
        by.setdefault(row["variant"], []).append(row)
    setting = by.pop("setting")[0]
    heads = ["variant", "FD", "nearest code", "top class < 0.6", "p, training", "p, test"]
    lines = ["| " + " | ".join([*heads, "accepted", "seeds"]) + " |", "|---" * 8 + "|"]
    points = {}
    for name, some in by.items():
        distance = np.array([row["frechet_distance"] for row in some])
        novelty = np.mean([row["nearest_code"] for row in some])
        points[name] = (novelty, distance)
        cells = [
            name,
            f"{distance.mean():.2f}" + (f" ± {distance.std(ddof=1):.2f}" if len(some) > 1 else ""),
            f"{novelty:.1f}",
            f"{100 * np.mean([row['top_class_below_0.6'] for row in some]):.1f} %",
            *(f"{p:.2g}" for p in np.min([p_values(row, setting) for row in some], axis=0)),
            f"{100 * some[0].get('acceptance', 1):.1f} %",
            str(len(some)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9.5, 4.6), layout="constrained")
    labels = {}
    for number, (name, (novelty, distance)) in enumerate(points.items()):
        if name.startswith("real"):
            axes.axhline(distance[0], color="0.6", lw=1)
            axes.text(0, distance[0], " real training images", va="bottom", fontsize=8, color="0.4")
            continue
        default = "default" in name
        axes.errorbar(
            novelty,
            distance.mean(),
            yerr=distance.std() if len(distance) > 1 else None,
            fmt="o",
            ms=8 if default else 5,
            color="C3" if default else "C0",
            label=f"{number}  {name}",
        )
        place = (novelty, distance.mean())
        near = [
            p for p in labels if abs(p[0] - novelty) < 0.9 and abs(np.log(p[1] / place[1])) < 0.1
        ]
        labels.setdefault(near[0] if near else place, []).append(str(number))
    for place, numbers in labels.items():  # one label where points lie on top of each other
        axes.annotate(", ".join(numbers), place, (4, 5), textcoords="offset points", fontsize=8)
    axes.axvline(setting["held_out_nearest_code"], color="C2", lw=1, ls="--")
    axes.text(
        setting["held_out_nearest_code"],
        axes.get_ylim()[1],
        "held-out codes ",
        rotation=90,
        va="top",
        ha="right",
        fontsize=8,
        color="C2",
    )
    axes.set_yscale("log")
    figure.legend(loc="outside right upper", fontsize=7.5, frameon=False, markerscale=0.7)
    axes.set_xlabel("median distance to the nearest training code")
    axes.set_ylabel("Fréchet distance to the test images (classifier features)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path.with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    main()
