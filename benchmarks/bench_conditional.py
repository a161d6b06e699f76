"""What one transport per class costs, and whether generated images are of the class asked for.

    python benchmarks/bench_conditional.py --n 20000
    python benchmarks/bench_conditional.py --images --seconds 200 --judge out/judge_fashion

Sites are the first n training images of Fashion-MNIST in their first d principal components; the
conditional solve (ten classes) and the unconditional one run one after the other. With --images a
residual autoencoder learns for so many processor seconds, the transport goes to the codes of each
class, and a classifier that neither has seen says how often a generated image, and a held-out
image that was encoded and decoded, is of its class. One line of JSON a case is added to
results/conditional.jsonl. What changes of a solution cost is `bench_update.py`'s question.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from bench_autoencoder import pace

import aeot
from aeot._environment import environment
from aeot.features import Classifier

ROWS = Path(__file__).parent / "results" / "conditional.jsonl"


def codes(n, d, root):
    """Return d principal components of n images, and their classes."""
    data = aeot.dataset("fashion-mnist", root).subset(slice(0, n))
    rows = data[:].flatten(1)
    rows = rows - rows.mean(0)
    axes = torch.linalg.eigh(rows.T @ rows)[1][:, -d:].flip(1)
    return rows @ axes, data.labels


def timed(function, *given, **options):
    """Return what a solver finds, and the facts of it."""
    wall, processor = time.perf_counter(), time.process_time()
    found = function(*given, **options)
    return found, {
        "samples": found.n_samples,
        "bound": found.mass_error_upper,
        "converged": found.converged,
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
    }


def transports(args):
    """Return the row of both transports onto principal components."""
    sites, labels = codes(args.n, args.d, args.root)
    source, options = aeot.UniformBox(dim=args.d), {"tol": args.tol, "seed": args.seed}
    aeot.solve_semidiscrete(source, sites[:600], tol=0.2)  # compiles
    row = {name: getattr(args, name) for name in ("n", "d", "tol", "seed")}
    by_class, row["conditional"] = timed(
        aeot.solve_conditional, source, sites, labels.tolist(), **options
    )
    row["conditional"]["bounds"] = [s.mass_error_upper for s in by_class.solutions]
    _, row["unconditional"] = timed(aeot.solve_semidiscrete, source, sites, **options)
    return row


def hits(judge, images, labels):
    """Return how often the judge sees the class that an image should be of."""
    with torch.inference_mode():
        scores = [judge.network_.head(judge.network_(part)) for part in images.split(500)]
    said = torch.cat(scores).argmax(1)
    return float((said == labels).double().mean())


def generated(args):
    """Return the row of classes of images: held out, encoded and decoded, and generated."""
    data = aeot.dataset("fashion-mnist", args.root)
    test = aeot.dataset("fashion-mnist", args.root, split="test")
    judge = Classifier.load(args.judge)
    model = aeot.AEOT(latent_dim=args.latent_dim, tol=args.tol, seed=args.seed, conditional=True)
    joint, refining = (
        cpu for _, cpu in pace(data, {"latent_dim": args.latent_dim, "batch_size": 128})
    )
    steps = round(args.seconds / (2 / 3 * joint + refining / 3))
    begun = time.process_time()
    model.fit_autoencoder(data, steps=steps)
    row = {name: getattr(args, name) for name in ("latent_dim", "tol", "seed")}
    row |= {"rows": len(data), "steps": steps, "autoencoder_seconds": time.process_time() - begun}
    begun = time.process_time()
    model.fit_transport(data)
    row |= {"transport_seconds": time.process_time() - begun, "certificate": model.certificate_}
    row["error"] = model.autoencoder_.losses_
    labels = test.labels
    restored = model.autoencoder_.decode(model.encode(test))
    row |= {"images": len(test), "real": hits(judge, test[:], labels)}
    row["restored"] = hits(judge, restored, labels)
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
    parser.add_argument("--images", action="store_true", help="ask for the classes of images")
    parser.add_argument("--seconds", type=float, default=200, help="of the autoencoder")
    parser.add_argument("--latent-dim", type=int, default=32)
    parser.add_argument("--judge", type=Path, default=Path("out/judge_fashion"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    row = generated(args) if args.images else transports(args)
    line = json.dumps({**row, "environment": environment()})
    print(line)
    with ROWS.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
