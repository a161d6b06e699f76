"""How much memory `aeot fit` takes where its images lie in a folder that memory need not hold.

    python benchmarks/bench_streaming.py --images 20000 --side 128
    python benchmarks/bench_streaming.py --images 200 --side 64 --width 32 --batch-size 128

A folder of random smooth colour pictures is written once (--work), and `aeot fit` learns from it in
a process of its own, whose resident memory is asked for at its peak in each phase: reading the
files, training, transport (with the encoding), pictures. Images are read by threads of that one
process and kept in an open file that is not mapped, so its own peak is all there is: pages of the
file that the system keeps are not of the process, and are given back when memory is short. `base`
is what the process takes once everything is imported and compiled. With --check a small folder is
learned from twice, in memory and from a file, and the models are compared bit by bit. One line of
JSON is added to results/streaming.jsonl.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image

import aeot
from aeot import _io, cli
from aeot._environment import environment
from aeot.commands import fit

ROOT = Path(__file__).resolve().parents[1]
ROWS = Path(__file__).parent / "results" / "streaming.jsonl"
PHASES = ("reading", "training", "transport", "pictures")


def write(folder, n, side):
    """Write the pictures that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, n, 500):
        if (folder / f"{start:06}.done").exists():
            continue
        draw = aeot.generator(0, "pictures", start)
        coarse = torch.rand(500, 3, 5, 5, generator=draw) * 300 - 22
        size = {"size": (side, side), "mode": "bicubic", "align_corners": True}
        fine = torch.nn.functional.interpolate(coarse, **size).clamp(0, 255).to(torch.uint8)
        for k, picture in enumerate(fine[: n - start].permute(0, 2, 3, 1).numpy(), start):
            Image.fromarray(picture).save(folder / f"{k:06}.png", compress_level=1)
        (folder / f"{start:06}.done").touch()


def resident(name):
    """Return VmRSS or VmHWM of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def phases(argv):
    """Run the command in this process, and print what each phase took at its peak."""
    rows = torch.randn(600, 16, generator=aeot.generator(0))
    aeot.AEOT(latent_dim=8, tol=0.4).fit(rows, steps=4).sample(4)  # imports and compiles
    told, at = {"base_mb": resident("VmRSS")}, [time.process_time()]

    def mark(phase):
        told[f"{phase}_mb"] = resident("VmHWM")
        told[f"{phase}_seconds"] = time.process_time() - at[0]
        at[0] = time.process_time()
        Path("/proc/self/clear_refs").write_text("5")  # the next peak starts from here

    def between(before, function, after):
        def marked(*given, **options):
            mark(before)
            found = function(*given, **options)
            mark(after)
            return found

        return marked

    aeot.AEOT.fit_autoencoder = between("reading", aeot.AEOT.fit_autoencoder, "training")
    aeot.AEOT.fit_transport = between("idle", aeot.AEOT.fit_transport, "transport")
    Path("/proc/self/clear_refs").write_text("5")
    status = cli.main(argv)
    mark("pictures")
    print(json.dumps({"status": status, **told}))


def command(args, folder, out):
    """Return the words of the command."""
    words = ["fit", "--data", folder, "--size", args.side, "--latent_dim", args.latent_dim]
    words += ["--steps", args.steps, "--width", args.width, "--batch_size", args.batch_size]
    words += ["--tol", args.tol, "--out", out, "--overwrite", "true", "--device", "cpu"]
    return [str(word) for word in words]


def same_bits(args):
    """Whether the model of a small folder is the same from memory and from a file."""
    folder, found = args.work / f"small-{args.side}", []
    write(folder, 100, args.side)
    for held in (1 << 29, 0):
        fit._HELD = held  # from so many bytes on a file is used
        cli.main(command(args, folder, args.work / "small-run"))
        found.append(_io.load(args.work / "small-run" / "model", kind="AEOT")[0])
    return _io.digest(found[0]) == _io.digest(found[1])


def main():
    """Measure and add one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=128, help="pixels")
    parser.add_argument("--latent-dim", type=int, default=16)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tol", type=float, default=0.3)
    parser.add_argument("--check", action="store_true", help="compare bits on a small folder, too")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "streaming")
    parser.add_argument("--phases", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("aeot").setLevel(logging.ERROR)
    if args.phases:
        phases(args.phases)
        return
    folder = args.work / f"pictures-{args.images}-{args.side}"
    write(folder, args.images, args.side)
    row = {name: getattr(args, name) for name in ("images", "side", "latent_dim", "width")}
    row |= {name: getattr(args, name) for name in ("batch_size", "steps", "tol")}
    row["images_mb"] = 3 * args.images * args.side**2 / 1e6
    row["codes_mb"] = 4 * args.images * args.latent_dim / 1e6
    words = [sys.executable, __file__, "--phases", *command(args, folder, args.work / "run")]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    row |= json.loads(done.stdout.splitlines()[-1])
    row["peak_mb"] = max(row[f"{phase}_mb"] for phase in PHASES)
    if args.check:
        row["same_bits"] = same_bits(args)
    row = {k: round(v, 1) if isinstance(v, float) and k != "tol" else v for k, v in row.items()}
    line = json.dumps({**row, "environment": environment()})
    print(line)
    with ROWS.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
