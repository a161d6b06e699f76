"""The part of the page about a comparison: tables, PRD curves, samples, costs, protocol."""

from __future__ import annotations

from typing import Any

from aeot.comparison.result import COSTS, Comparison, told
from aeot.plotting import comparison as pictures
from aeot.report.page import Page, facts, note, subheading, table


def add_comparison(built: Page, before: str, found: Comparison) -> None:
    """Add the sections of one comparison; `before` stands before their headings."""
    heads, cells, best = found.quality()
    plain = [r["kind"] in ("real", "reconstructions") for r in found.rows]
    built.add(
        f"{before}quality",
        table(heads, cells, best=best, baselines=plain),
        note(
            "A star marks the best generator; none goes to a model whose recall or coverage is "
            "below a tenth of that of real images: it has collapsed. Rows in italics are "
            "baselines: real training images show what the protocol gives perfect samples, "
            "reconstructions what a decoder allows."
        ),
    )
    figures = {}
    if any(row["curve"] for row in found.rows):
        figures["PRD curves"] = pictures.prd_curves(found)
    if any({"f8", "f1_8"} <= set(row["metrics"]) for row in found.rows):
        figures["Best is upper right"] = pictures.precision_recall(found)
    if figures:
        built.add(f"{before}precision and recall", built.charts(figures))
    known = "training" if found.protocol.get("training") != "none" else "reference"
    known = f"nearest {known} image, by features"
    pieces = []
    for name, images in found.shown.items():
        grid = built.gallery(name, images, found.nearest[name], known)
        pieces += [subheading(name), grid]
    if pieces:
        built.add(f"{before}samples", *pieces)
    known_costs = {key: None for row in found.rows for key in row["facts"]}
    costs = [key for key in COSTS if key in known_costs]
    costs += [key for key in known_costs if key not in COSTS]
    cells = [[r["model"], r["kind"], *(told(r["facts"].get(c)) for c in costs)] for r in found.rows]
    heads = ["model", "kind", *(COSTS.get(c, c.replace("_", " ")) for c in costs)]
    built.add(f"{before}costs", table(heads, cells, baselines=plain))
    versions = found.environment.get("versions", {})
    machine: dict[str, Any] = {
        k: found.environment[k] for k in ("processor", "cores", "device") if k in found.environment
    }
    built.add(f"{before}protocol", facts({**found.protocol, **machine, "versions": versions}))
