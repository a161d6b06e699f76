"""The command `aeot demo`: a map that tears, then digits learned, generated and reported."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from aeot import _check, _io
from aeot.commands.directory import RunDirectory, read_options
from aeot.commands.fit import Summary, run_fit
from aeot.data import dataset, toy
from aeot.measures import UniformBox
from aeot.models.aeot import AEOT
from aeot.plotting import singular as plots
from aeot.plotting.runs import by_class, longest_jump
from aeot.report.build import write_page
from aeot.singular.singular_set import find_singularities
from aeot.solvers.exact import solve_exact

_LETTERS, _STEPS = 1000, 300  # points of the letters, steps of the autoencoder
_FREE = ("seed", "out", "steps")  # in which an earlier demo may differ


def demo(*, out: str = "runs/demo", seed: int = 0) -> Summary:
    """Draw a map that tears, then learn scikit-learn's digits and generate new ones.

    The letters a, e, o, t come first: a rectangle is carried onto them, and has to tear. Then an
    autoencoder and a transport map are fitted to the digits, in about a minute on two cores. What
    came of both is in `out`, and the report of the digits is `out`/report.html.

    Args:
        out: The run directory; an earlier demo there is replaced, nothing else, and goes on if it
            was stopped.
        seed: Of everything random; another one gives other digits.

    Returns:
        The summary of the digits.

    Raises:
        ValueError: If `out` holds anything but an earlier demo.
    """
    _check.seed("seed", seed)
    # Of so few images the larger network learns more in the same time.
    model = AEOT(latent_dim=32, architecture="infogan", batch_size=128, seed=seed)
    options = {"data": "digits", "steps": _STEPS, "masses": None, "size": None, "root": None}
    kept = {**options, "out": str(_check.path("out", out)), **model.arguments()}
    del kept["autoencoder"]  # no option
    before = read_options(Path(out) / "config.yaml")
    if before is not None and any(before.get(k) != kept[k] for k in kept if k not in _FREE):
        got = f"{out} with another run"
        raise _check.fail("out", "be new or of an earlier demo", got, "choose another folder")
    page, pictures = Path(out) / "report.html", Path(out) / "pictures"
    # One that was stopped goes on; one that was finished, or is of another seed, is replaced.
    anew = before != json.loads(json.dumps(kept)) or page.is_file()
    last = page.name  # it comes after the summary
    with RunDirectory(out, kept, last=last, overwrite=anew) as run:
        run.begin()
        if not (pictures / "tears.png").is_file():
            print("a map that tears; the first run on a machine compiles its loops ...", flush=True)
            print(_letters(pictures / "tears.png", seed), flush=True)
        begun = time.perf_counter()
        rows = dataset("digits"), dataset("digits", split="test"), None
        if (Path(out) / "summary.json").is_file():
            model = AEOT.load(out)
            summary = Summary(_io.read_json(Path(out) / "summary.json", dict), Path(out))
        else:
            summary = run_fit(model, rows, run, _STEPS, time.perf_counter() - begun)
        by_class(model, rows[0], seed=seed, path=pictures / "by_class.png")
        jump = longest_jump(model, rows[0], seed=seed, path=pictures / "jump.png")
        write_page({"demo": model}, page, training={"demo": rows[0]}, shown=500)
        summary |= {"jump": jump, "report": str(page)}
    return summary


def _letters(path: str | os.PathLike, seed: int) -> str:
    """Carry a rectangle onto four letters, draw where the map tears, and say so."""
    begun = time.perf_counter()
    source = UniformBox(low=[0.0, 0.0], high=[5.3, 1.25])
    letters = toy("letters", _LETTERS, seed=seed).values[:]
    brenier = solve_exact(source, letters, tol=1e-6).map()
    singular = find_singularities(brenier)
    plots.tears(singular, seed=seed, path=path)
    return (
        f"{path}: a rectangle, torn into {singular.n_components} pieces "
        f"({len(singular.pairs)} facets cut, {time.perf_counter() - begun:.0f} s)"
    )
