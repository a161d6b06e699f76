"""What one transport per class costs, and whether generated images are of the class asked for.

    python benchmarks/bench_conditional.py --n 20000
    python benchmarks/bench_conditional.py --n 60000 --tol 0.1 --limit 600
    python benchmarks/bench_conditional.py --images --seconds 200 --judge out/judge_fashion
    python benchmarks/bench_conditional.py --images --model out/model --judge out/judge_fashion

Sites are the first n training images of Fashion-MNIST in their first d principal components; the
conditional solve (ten classes) and the unconditional one run one after the other, to the same
`tol`, each with its own certificates. Every step is printed, and kept with checkpoints in
out/conditional (--work), so that a run that was ended goes on; its seconds are those of all steps
that were kept. With --limit a solve ends after so many processor seconds, uncertified: then its
seconds are a lower bound.

With --images a residual autoencoder learns for so many processor seconds, or that of a saved model
is taken; the transport goes to the codes of each class, and a classifier that neither has seen
says how often a generated image, and one that was encoded and decoded, is of its class. One line
of JSON a case is added to results/conditional.jsonl; cases that are there are not run again. What
changes of a solution cost is `bench_update.py`'s question.
"""

import argparse
import contextlib
import json
import time
from pathlib import Path

import torch
from bench_autoencoder import pace

import aeot
from aeot._environment import environment
from aeot.features import Classifier

ROWS = Path(__file__).parent / "results" / "conditional.jsonl"
HELD = ("stage", "samples", "upper")  # of a record of the solver


def codes(n, d, root):
    """Return d principal components of n images, each once, and their classes."""
    data = aeot.dataset("fashion-mnist", root).subset(slice(0, n))
    rows = data[:].flatten(1)
    rows -= rows.mean(0)
    axes = torch.linalg.eigh(rows.T @ rows)[1][:, -d:].flip(1)
    sites = rows @ axes
    first = aeot.data.distinct(sites)[0]
    return sites[first], data.labels[first]


class Watch:
    """Prints and keeps the steps of a solve, and ends it when its time is over.

    Args:
        work: Folder of the solve, of this and earlier processes.
        limit: Processor seconds.
    """

    def __init__(self, work, limit):
        work.mkdir(parents=True, exist_ok=True)
        self.file, self.limit, self.at = work / "steps.jsonl", limit, time.process_time()
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.spent = sum(json.loads(line)["processor_seconds"] for line in lines)

    def note(self, **told):
        """Keep a line, with the processor seconds since the last one."""
        now = time.process_time()
        took, self.at = now - self.at, now
        self.spent += took
        with self.file.open("a") as file:
            file.write(json.dumps({**told, "processor_seconds": took}) + "\n")
        shown = " ".join(str(value) for value in told.values() if value is not None)
        print(f"{self.spent:8.1f} s  {shown}", flush=True)

    def __call__(self, record):
        """Keep a step; whether the solve shall end."""
        where = {"class": record["class"]} if "class" in record else {}
        self.note(**where, **{name: record[name] for name in HELD})
        return self.spent > self.limit


def solved(place, limit, function, *given, **options):
    """Return the facts of a solve: of one that ended before, or of a new one."""
    with contextlib.suppress(FileNotFoundError):
        return json.loads((place / "found.json").read_text())
    watch = Watch(place, limit)
    found = function(*given, on_step=watch, checkpoint=place / "checkpoint", **options)
    watch.note(stage="found")
    parts = getattr(found, "solutions", (found,))
    facts = {
        "samples": found.n_samples,
        "scores": sum(part.n_samples * len(part.sites) for part in parts),
        "bounds": [part.mass_error_upper for part in parts],
        "converged": found.converged,
        "processor_seconds": watch.spent,
    }
    if found.converged:
        (place / "found.json").write_text(json.dumps(facts))
    print(json.dumps(facts), flush=True)
    return facts


def transports(args, row):
    """Return the row of both transports onto principal components."""
    sites, labels = codes(args.n, args.d, args.root)
    source, options = aeot.UniformBox(dim=args.d), {"tol": args.tol, "seed": args.seed}
    aeot.solve_semidiscrete(source, sites[:600], tol=0.2)  # compiles
    work = args.work / "-".join(map(str, row.values()))
    for name, function, given in (
        ("conditional", aeot.solve_conditional, (source, sites, labels.tolist())),
        ("unconditional", aeot.solve_semidiscrete, (source, sites)),
    ):
        print(name, flush=True)
        row[name] = solved(work / name, args.limit, function, *given, **options)
    both = row["conditional"], row["unconditional"]
    row["share"] = both[0]["processor_seconds"] / both[1]["processor_seconds"]
    if not all(facts["converged"] for facts in both):
        row["limit"] = args.limit
    return row


def hits(judge, images, labels):
    """Return how often the judge sees the class that an image should be of."""
    with torch.inference_mode():
        scores = [judge.network_.head(judge.network_(part)) for part in images.split(500)]
    said = torch.cat(scores).argmax(1)
    return float((said == labels).double().mean())


def autoencoder(args, data):
    """Return the autoencoder of a saved model; train and save one where there is none."""
    place = args.model
    if place is None:
        place = args.work / f"autoencoder-{args.latent_dim}-{args.seconds:g}-{args.seed}"
        if not place.exists():
            options = {"latent_dim": args.latent_dim, "batch_size": 128}
            joint, refining = (cpu for _, cpu in pace(data, options))
            steps = round(args.seconds / (2 / 3 * joint + refining / 3))
            aeot.Autoencoder(**options, seed=args.seed).fit(data, steps=steps).save(place)
    try:
        return aeot.Autoencoder.load(place)
    except ValueError:
        return aeot.AEOT.load(place).autoencoder_


def generated(args, row):
    """Return the row of classes of images: held out, encoded and decoded, and generated."""
    data = aeot.dataset("fashion-mnist", args.root)
    test = aeot.dataset("fashion-mnist", args.root, split="test")
    judge = Classifier.load(args.judge)
    place = args.work / "-".join(["images", *map(str, row.values())])
    trained = autoencoder(args, data)
    options = {"latent_dim": trained.latent_dim, "tol": args.tol, "seed": args.seed}
    model = aeot.AEOT(**options, conditional=True)
    model.autoencoder_ = trained
    row["latent_dim"] = trained.latent_dim
    watch = Watch(place, args.limit)
    model.fit_transport(data, checkpoint=place / "checkpoint", on_step=watch)
    watch.note(stage="found")
    row |= {"rows": len(data), "transport_seconds": watch.spent}
    row |= {"certificate": model.certificate_, "error": trained.losses_}
    labels = test.labels
    row |= {"images": len(test), "judge": judge.hash_, "real": hits(judge, test[:], labels)}
    row["restored"] = hits(judge, model.decode(model.encode(test)), labels)
    some = data.subset(slice(0, len(test)))  # what is generated comes from codes of these
    row["restored_training"] = hits(judge, model.decode(model.encode(some)), some.labels)
    asked = [model.classes_[k] for k in labels.tolist()]
    row["generated"] = hits(judge, model.sample(len(test), labels=asked, seed=1), labels)
    return row


def main():
    """Measure and add one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000, help="sites")
    parser.add_argument("--d", type=int, default=16, help="principal components")
    parser.add_argument("--tol", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", help="where the data lie")
    parser.add_argument("--limit", type=float, default=float("inf"), help="processor s a solve")
    parser.add_argument("--images", action="store_true", help="ask for the classes of images")
    parser.add_argument("--seconds", type=float, default=200, help="of the autoencoder")
    parser.add_argument("--latent-dim", type=int, default=32)
    parser.add_argument("--model", type=Path, help="a saved Autoencoder or AEOT, not to train one")
    parser.add_argument("--judge", type=Path, default=Path("out/judge_fashion"))
    parser.add_argument("--work", type=Path, default=Path("out/conditional"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    row = {name: getattr(args, name) for name in ("tol", "seed")}
    if args.images and args.model:
        row |= {"model": args.model.name}
    elif args.images:
        row |= {"latent_dim": args.latent_dim, "seconds": args.seconds}
    else:
        row = {"n": args.n, "d": args.d, **row}
    lines = ROWS.read_text().splitlines() if ROWS.exists() else []
    known = [json.loads(line) for line in lines]
    if any(row.items() <= done.items() and "limit" not in done for done in known):
        print("this case is in the rows")
        return
    row = generated(args, row) if args.images else transports(args, row)
    line = json.dumps({**row, "environment": environment()})
    print(line)
    with ROWS.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
