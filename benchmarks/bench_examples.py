"""What pages of the gallery print and draw at full size, kept beside them.

    python benchmarks/bench_examples.py        # 18, 19, 28, 30, 40, 41, 44 and all of 60 to 69
    python benchmarks/bench_examples.py 61 62  # these two

The gallery is built with ``--quick``, which trains nothing. This runs the scripts whole, each in a
process and a folder of its own, and keeps what was printed in ``results/examples/NAME.txt``, under
the command, the versions, the machine, the processor seconds and the seeds, and the pictures beside
it; the pages show what is there (`docs/conf.py`). The seeds are said by the script's docstring.
"""

import argparse
import ast
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from aeot._environment import environment
from aeot._io import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "examples"
PAGES = ["18", "19", "28", "30", "40", "41", "44", *(str(k) for k in range(60, 70))]


def spent():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seeds(script):
    """The line of a script's docstring that names its seeds."""
    told = ast.get_docstring(ast.parse(script.read_text())).splitlines()
    (line,) = (line for line in told if line.startswith(("Seed: ", "Seeds: ")))
    return line


def run(script, results, options=()):
    """Run one example; keep what it printed, where, and its pictures. Return the text."""
    begun = spent()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{script.name} failed:\n{done.stderr}")
        pictures = sorted(Path(folder, "out").glob("*.png"))
        for picture in pictures:
            shutil.copy(picture, results / picture.name)
    seconds, where = spent() - begun, environment()
    versions = ", ".join(f"{name} {where['versions'][name]}" for name in ("aeot", "torch"))
    head = [
        " ".join(["$ python", f"examples/{script.name}", *options]),
        f"# {versions}; {where['processor']}, threads: {where['threads']}, "
        f"{seconds:.0f} processor seconds",
        f"# {seeds(script)}",
    ]
    text = "\n".join(head) + "\n" + done.stdout
    write_text(results / f"{script.stem}.txt", text)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", default=PAGES)
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for page in args.pages:
        (script,) = (ROOT / "examples").glob(f"{page}_*.py")
        print(run(script, RESULTS), flush=True)


if __name__ == "__main__":
    main()
