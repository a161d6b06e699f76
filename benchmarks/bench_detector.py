"""The detector on codes of images: does its score find pairs whose decoded middle is a mixture?

    python benchmarks/bench_detector.py digits fashion-mnist --seeds 0 1 2 --keep out/detector
    python benchmarks/bench_detector.py emoji=FOLDER --keep out/detector --out rows.jsonl
    python benchmarks/bench_detector.py fashion-mnist --growth 2000 6000 20000 60000

A data set is a name that `aeot.dataset` takes, or NAME=FOLDER of images with a folder for each
class, read in colour at 32 pixels (the emoji of the npm package emoji-datasource-twitter, a folder
for each ``category`` of its emoji.json). At most --rows of it; for each seed an autoencoder, its
codes, their transport and the default singular set. Autoencoders and classifiers lie in --keep and
are trained if they do not.

Two truths that the score does not see, for 6 000 pairs of the best and the second plane at points
of the source: (a) the decoded middle is a mixture, which a classifier puts below 0.6 where it puts
both decoded ends above 0.9; (b) labels differ. ``auc_a`` and ``auc_b`` are areas under the curve
of the score, of other quantities, and of two that see the truth, to know what can be reached:
whether the labels differ, and a regression on all quantities and the labels, fitted to (a) on other
fifths of the pairs. ``kept``: mixtures among the pairs below each level. ``off``: middles off the
data, by score. ``path``: mixtures along `SingularSet.path`, and ``straight`` along the line, steps
of one length. ``generated``, by level: undecided images (below 0.6) and Frechet distance to the
data in the classifier's features, of 2 000 each.

--growth: does the singular set converge? One autoencoder of all rows, transports onto the codes of
the first 2 000, 6 000, ... of them, and the same lines between random points of the source at every
size. A facet stays if its jump does not shrink as the codes come closer to each other. For each
size: ``spacing``, the median distance of a code to the nearest; of the facets on the lines,
``share`` whose score is at least 0.5, and the median jump of these and of the others; ``longest``,
the median over lines of the longest jump; ``moved``, how far along its line (of length one) the
longest jump lies from where it lay at the size before, and ``moved_other``, how far any crossing
lies from there: medians. Distances are in units of the codes' RMS distance to their mean.
"""

import argparse
import copy
import dataclasses
import json
import time
import warnings
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

import aeot
from aeot._environment import environment
from aeot.data import distinct
from aeot.features import Classifier, extract
from aeot.geometry.facets import angle, jump
from aeot.metrics import frechet_distance
from aeot.search.nearest import nearest
from aeot.singular import scores

STEPS = {"digits": 1200, "fashion-mnist": 1800}
SURE, MIXED = 0.9, 0.6
LINES = 300


def load(given, rows):
    name, _, folder = given.partition("=")
    data = aeot.data.images(folder, size=32, channels=3) if folder else aeot.dataset(name)
    return name, data.subset(slice(0, rows))


def kept(kind, path, train):
    """Load what an earlier run saved, or train and save it."""
    try:
        return kind.load(path)
    except ValueError:
        model = train()
        model.save(path)
        return model


def sureness(judge, images):
    return decided(judge, extract(judge, images))


def decided(judge, features):
    """The classifier's probability of the class it sees, of each image."""
    head = copy.deepcopy(judge.network_.head).double()
    with torch.no_grad():
        return torch.softmax(head(features), 1).amax(1)


def quantities(codes, pairs):
    """What else could tell mixtures: the larger, the likelier."""
    i, j = pairs.T
    distance, near = nearest(codes, codes, 51)
    spacing = distance[:, 1:11].square().mean(1).sqrt()
    means = codes[near[:, :21]].mean(1)
    seen = codes - codes.mean(0)
    return {
        "angle": angle(codes, i, j),
        "direction from the mean": 1 - torch.cosine_similarity(seen[i], seen[j]),
        "jump": jump(codes, i, j),
        "jump over spacing": jump(codes, i, j) / (spacing[i] * spacing[j]).sqrt(),
        "jump of means of 21": jump(means, i, j),
        "loneliness of the middle": scores.lonelier(codes, pairs, (distance, near), "auto"),
    }


def areas(truth, values):
    return {name: float(roc_auc_score(truth, v)) for name, v in values.items()}


def paths(singular, model, judge, sure, seed, count=20):
    """Mixtures along paths over codes, and along straight lines at steps of the same length."""
    codes = singular.brenier.sites
    draw = aeot.generator(seed, "ends")
    shares, largest = [], singular.components == 0
    ends = (largest & sure).nonzero()[:, 0]
    for _ in range(count):
        first, last = ends[torch.randperm(len(ends), generator=draw)[:2]].tolist()
        way = codes[singular.path(first, last)]
        step = float((way[1:] - way[:-1]).norm(dim=1).mean())
        parts = max(2, round(float((codes[first] - codes[last]).norm()) / step))
        t = ((torch.arange(parts) + 0.5) / parts)[:, None]
        line = codes[first] + t * (codes[last] - codes[first])
        middles = (way[1:] + way[:-1]) / 2
        parts = [sureness(judge, model.decode(some)) < MIXED for some in (middles, line)]
        shares.append([float(some.double().mean()) for some in parts])
    told = torch.tensor(shares).mean(0).tolist()
    return {"path": told[0], "straight": told[1], "paths": count}


def generated(singular, model, judge, data, seed, n=2000):
    """What cutting does to generated images, by level."""
    real = extract(judge, data.subset(slice(0, n)))
    told = {"reconstructed": measured(judge, real, model.decode(model.encode(data[:n])))}
    for level in (1.0, 0.75, 0.5):
        cut = dataclasses.replace(singular, level=level)
        stream = aeot.generator(seed, "generated")
        draw = singular.brenier.draw(n, singular=cut, generator=stream)
        told[str(level)] = measured(judge, real, model.decode(draw.codes))
        told[str(level)]["accepted"] = draw.acceptance
    return told


def measured(judge, real, images):
    features = extract(judge, images)
    undecided = float((decided(judge, features) < MIXED).double().mean())
    return {"fd": frechet_distance(features, real), "undecided": undecided}


def run(name, data, seed, options):
    folder = Path(options.keep)
    steps = options.steps or STEPS.get(name, 1500)
    model = kept(
        aeot.Autoencoder,
        folder / f"{name}-{seed}-ae",
        lambda: aeot.Autoencoder(seed=seed, latent_dim=128).fit(data, steps=steps),
    )
    judge = kept(
        Classifier,
        options.judge or folder / f"judge-{name}",
        lambda: Classifier(epochs=10, precision="bfloat16", seed=11).fit(data),
    )
    data = data.subset(distinct(model.encode(data))[0])
    codes = model.encode(data)
    source = aeot.UniformBox(dim=codes.shape[1])
    brenier = aeot.solve_semidiscrete(source, codes, tol=0.1, seed=seed).map()
    begun = time.process_time()
    singular = aeot.find_singularities(brenier, n_points=options.points, seed=seed)
    seconds = time.process_time() - begun
    x = source.sample(40_000, generator=aeot.generator(seed, "pairs"))
    pairs = brenier.top(x, 2)[1].sort(1).values.unique(dim=0)
    pairs = pairs[torch.randperm(len(pairs), generator=aeot.generator(seed, "shuffle"))[:6000]]
    i, j = pairs.T
    ends, back = pairs.unique(return_inverse=True)
    certain = torch.zeros(len(codes), dtype=torch.float64)
    certain[ends] = sureness(judge, model.decode(codes[ends]))
    middle = sureness(judge, model.decode((codes[i] + codes[j]) / 2))
    sure = (certain[i] > SURE) & (certain[j] > SURE)
    mixture, differ = middle < MIXED, data.labels[i] != data.labels[j]
    score = singular.score(i, j)
    values = {"score": score, **quantities(codes, pairs)}
    seen = torch.stack([*values.values(), differ.double()], 1)[sure]
    seen = (seen.argsort(0).argsort(0).double() / len(seen)).numpy()
    fitted = cross_val_predict(
        LogisticRegression(max_iter=2000), seen, mixture[sure].numpy(), method="predict_proba"
    )
    auc_a = areas(mixture[sure], {n: v[sure] for n, v in values.items()})
    auc_a["labels differ (sees the truth)"] = float(roc_auc_score(mixture[sure], differ[sure]))
    auc_a["regression (sees the truth)"] = float(roc_auc_score(mixture[sure], fitted[:, 1]))
    levels = {}
    for level in (0.1, 0.25, 0.5, 0.75):
        under = score < level
        levels[str(level)] = {
            "pairs kept": float(under.double().mean()),
            "mixtures among kept": float(mixture[sure & under].double().mean()),
            "mixtures cut": float((mixture & sure & ~under).sum() / (mixture & sure).sum()),
        }
    places = codes[nearest(codes, codes, 21)[1]].mean(1)
    off = scores.lonelier(places, pairs, nearest(places, places, 6), "auto") > 0.95
    bins = (score * 4).long().clamp(max=3)
    told = [
        {"score": float(score[bins == b].mean()), "off": float(off[bins == b].double().mean())}
        for b in range(4)
        if bool((bins == b).any())
    ]
    certain_all = torch.zeros(len(codes), dtype=torch.bool)
    certain_all[ends] = certain[ends] > SURE
    row = {
        "data": name,
        "seed": seed,
        "n": len(codes),
        "d": codes.shape[1],
        "steps": steps,
        "held_out": model.losses_["held_out"],
        "judge": judge.hash_,
        "judge_accuracy": judge.accuracy_,
        "pairs": len(pairs),
        "sure": int(sure.sum()),
        "mixtures": float(mixture[sure].double().mean()),
        "labels_differ": float(differ.double().mean()),
        "auc_a": auc_a,
        "auc_b": areas(differ, values),
        "kept": levels,
        "off": told,
        "facets": len(singular.facets.pairs),
        "singular": len(singular.pairs),
        "modes": singular.n_components,
        "cut_points": float(singular.contains(x[:10_000]).double().mean()),
        "seconds": seconds,
        **paths(singular, model, judge, certain_all, seed),
        "generated": generated(singular, model, judge, data, seed),
    }
    written(row, options)


def growth(name, data, seed, options):
    """What becomes of the facets on lines through the source as codes are added."""
    steps = options.steps or STEPS.get(name, 1500)
    model = kept(
        aeot.Autoencoder,
        options.autoencoder or Path(options.keep) / f"{name}-{seed}-{len(data)}-ae",
        lambda: aeot.Autoencoder(seed=seed, latent_dim=128).fit(data, steps=steps),
    )
    codes = model.encode(data)
    codes = codes[distinct(codes)[0]]
    unit = float((codes - codes.mean(0)).square().sum(1).mean().sqrt())
    source = aeot.UniformBox(dim=codes.shape[1])
    ends = source.sample(2 * LINES, generator=aeot.generator(seed, "lines")).double()
    earlier = []
    for n in options.growth:
        some, begun = codes[:n], time.process_time()
        brenier = aeot.solve_semidiscrete(source, some, tol=0.1, seed=seed).map()
        singular = aeot.find_singularities(brenier, n_points=options.points, seed=seed)
        lines = [singular.crossings(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True)]
        jumps = torch.cat([line.jumps for line in lines]) / unit
        torn = singular.score(*torch.cat([line.pairs for line in lines]).T) >= 0.5
        row = {
            "data": name,
            "seed": seed,
            "n": len(some),
            "d": some.shape[1],
            "held_out": model.losses_["held_out"],
            "lines": len(lines),
            "spacing": float(nearest(some, some, 2)[0][:, 1].median()) / unit,
            "crossings": len(jumps),
            "share": float(torn.double().mean()),
            "jump": median(jumps[torn]),
            "jump_other": median(jumps[~torn]),
            "longest": median([x.jumps.max() / unit for x in lines if len(x.jumps)]),
            "modes": singular.n_components,
            "seconds": time.process_time() - begun,
        }
        both = [p for p in zip(earlier, lines, strict=False) if all(len(x.jumps) for x in p)]
        if both:
            far = [(b.positions - a.positions[a.jumps.argmax()]).abs() for a, b in both]
            row["moved"] = median(
                [x[b.jumps.argmax()] for x, (_, b) in zip(far, both, strict=True)]
            )
            row["moved_other"] = median([x.median() for x in far])
        earlier = lines
        written(row, options)


def median(values):
    return float(torch.as_tensor(values).median()) if len(values) else None


def written(row, options):
    line = json.dumps(rounded(row) | {"environment": environment()})
    print(line, flush=True)
    if options.out:
        with open(options.out, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=int, help="of data; default: 20000, for --growth the most")
    parser.add_argument("--growth", type=int, nargs="+", metavar="N", help="numbers of codes")
    parser.add_argument("--steps", type=int, help="of the autoencoder; default: 1200 to 1800")
    parser.add_argument("--points", type=int, default=20_000, help="walked to a facet")
    parser.add_argument("--keep", default="out/detector", help="folder of trained networks")
    parser.add_argument("--autoencoder", help="folder of a saved Autoencoder, for --growth")
    parser.add_argument("--judge", help="folder of a saved Classifier of the data")
    parser.add_argument("--out")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for given in options.data:
        rows = options.rows or max(options.growth or [20_000])
        name, data = load(given, rows)
        for seed in options.seeds:
            (growth if options.growth else run)(name, data, seed, options)


if __name__ == "__main__":
    main()
