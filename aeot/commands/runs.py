"""The command `aeot runs`: what lies in the folder of runs, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aeot import _check
from aeot.commands.directory import read_options

_HEADS = ("run", "data", "rows", "latent", "error", "bound", "modes", "accepted", "near", "seconds")
_TOLD = """\
error: mean squared, of held-out rows; bound: 95 % bound of the transport's error, * not converged;
near: distance of samples to the training data over that of held-out rows (0 copies, 1 like new)"""


def runs(folder: str = "runs") -> str:
    """List the runs in a folder with their numbers, those that were stopped and comparisons too.

    Args:
        folder: Where the runs lie; each has a folder of its own there.

    Returns:
        A table in plain lines, the newest run last.

    Raises:
        ValueError: If there is no such folder.
    """
    place = _check.path("folder", folder)
    if not place.is_dir():
        got, way_out = f"{place}, which is none", "aeot fit makes the first run in runs/"
        raise _check.fail("folder", "be a folder of runs", got, way_out)
    records = ("config.yaml", "compare.json", "run.json", "summary.json")
    found = [p for p in (place, *place.iterdir()) if any((p / name).is_file() for name in records)]
    rows = [_row(p) for p in sorted(found, key=lambda p: (p.stat().st_mtime, p.name))]
    if not rows:
        return f"no runs in {place}; aeot fit makes the first"
    table = [_HEADS, *rows]
    whole = [row for row in table if len(row) == len(_HEADS)]
    widths = [max(len(row[k]) for row in whole) for k in range(len(_HEADS))]
    widths[0] = max(len(row[0]) for row in table)
    lines = ["  ".join(x.ljust(w) for x, w in zip(r, widths, strict=False)).rstrip() for r in table]
    return "\n".join([*lines, _TOLD])


def _row(run: Path) -> tuple[str, ...]:
    """Return the line of one run; of another kind than a fit, its name and what it is."""
    summary = read_options(run / "summary.json")
    if summary is None:
        if (run / "summary.json").is_file():
            return run.name, "damaged: summary.json holds no results"
        kinds = {
            "comparison.json": "comparison, finished: see comparison.md",
            "compare.json": "comparison, not finished: the same command goes on",
            "run.json": "translator, finished",
        }
        told = next((told for name, told in kinds.items() if (run / name).is_file()), "")
        return run.name, told or "not finished: the same command goes on"

    def number(*keys: str, form: str = "g") -> str:
        value: Any = summary
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return format(value, form) if isinstance(value, (int, float)) else "-"

    certificate = summary.get("certificate")
    converged = isinstance(certificate, dict) and certificate.get("converged") is True
    near, unseen = number("nearest", "median"), number("nearest", "median_held_out")
    measured = unseen not in ("-", "0") and near != "-"
    ratio = f"{float(near) / float(unseen):.2f}" if measured else "-"
    spent = summary.get("seconds")
    times = spent.values() if isinstance(spent, dict) else ()
    seconds = sum(x for x in times if isinstance(x, (int, float)))
    return (
        run.name,
        str(summary.get("data", "-")),
        number("rows"),
        number("latent_dim"),
        number("reconstruction", "held_out", form=".4f"),
        number("certificate", "mass_error_upper", form=".3f") + ("" if converged else "*"),
        number("modes"),
        number("sampled", "acceptance", form=".1%"),
        ratio,
        f"{seconds:.0f}",
    )
