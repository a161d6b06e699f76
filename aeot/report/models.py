"""The part of the page about a fitted model: training, transport, samples, latent space."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats

from aeot._rng import generator
from aeot.comparison.result import told
from aeot.data import Dataset
from aeot.maps.conditional import ConditionalMap
from aeot.models.aeot import AEOT
from aeot.plotting import images as curves
from aeot.plotting import singular, transport
from aeot.plotting.runs import nearest_rows
from aeot.report.explorer import explorer
from aeot.report.page import Page, facts, note, subheading, table
from aeot.search.nearest import nearest

_SHOWN = 64
_ERRORS = {  # keys of `Autoencoder.losses_`
    "train_joint": "training",
    "held_out_joint": "held out",
    "train": "training, decoder refined",
    "held_out": "held out, decoder refined",
}


def add_model(
    built: Page,
    before: str,
    model: AEOT,
    training: Dataset | None,
    picture: str,
    shown: int,
) -> None:
    """Add the sections of one model; `before` stands before their headings."""
    summary = model.summary()
    samples = model.sample(_SHOWN, seed=1)
    drawn: dict[str, Any] = dict(model.sampled_)
    by_mode = drawn.pop("acceptance_by_mode")
    built.add(
        f"{before}summary",
        facts(
            {
                "learned from": _learned_from(model, training),
                "latent size": model.latent_dim,
                "reconstruction, mean squared error in [0, 1] units": {
                    _ERRORS[key]: value for key, value in summary["reconstruction"].items()
                },
                "transport": summary["certificate"]["message"],
                "converged": bool(summary["certificate"]["converged"]),
                "codes transported to": summary["targets"],
                "merged": summary["merged"],
                "modes": summary["modes"],
                "points accepted": f"{drawn['acceptance']:.1%}",
                "seconds": summary["seconds"],
            }
        ),
    )
    built.add(f"{before}training", built.charts(_curves(model)))
    classes = isinstance(model.brenier_, ConditionalMap)
    pieces = _by_class(model) if classes else _transport(built, model, by_mode)
    built.add(f"{before}transport", *pieces)
    if len(model.autoencoder_.shape_) != 3:
        built.add(
            f"{before}latent space", note("The data are vectors: there are no images to show.")
        )
        return
    nearest, label = _nearest(model, samples, training)
    built.add(
        f"{before}generated images",
        note("Point at an image, or move with the arrow keys, to see what it is nearest to."),
        built.gallery("the model", samples, nearest, label),
    )
    if classes:
        return
    prepared = explorer(model, training, picture=picture, shown=shown)
    lines, across = len(prepared["pairs"]), prepared["across"]
    lines_told = (
        f"Lines join {lines if lines == across else f'the heaviest {lines} of {across}'} pairs of "
        "codes whose cells touch across the singular set."
        if lines
        else "No two of them are separated by the singular set."
    )
    built.add(
        f"{before}latent space",
        note(
            f"{len(prepared['points']):,} of {prepared['total']:,} codes, drawn in the plane by "
            f"{prepared['picture']} (distances between far groups mean little). {lines_told}"
        ),
        built.explorer(prepared),
    )


def side_by_side(models: dict[str, AEOT]) -> str:
    """Return a table with a column for each model, of what tells them apart."""
    summaries = {name: model.summary() for name, model in models.items()}
    rows: dict[str, list[str]] = {"latent size": [told(m.latent_dim) for m in models.values()]}
    for key, label in _ERRORS.items():
        if any(key in s["reconstruction"] for s in summaries.values()):
            rows[f"error, {label}"] = [
                told(s["reconstruction"].get(key)) for s in summaries.values()
            ]
    rows["codes"] = [told(s["targets"]) for s in summaries.values()]
    rows["mass error, 95 % bound"] = [
        told(s["certificate"]["mass_error_upper"]) for s in summaries.values()
    ]
    rows["converged"] = [told(bool(s["certificate"]["converged"])) for s in summaries.values()]
    rows["modes"] = [told(s["modes"]) for s in summaries.values()]
    rows["points accepted"] = [
        f"{s['sampled']['acceptance']:.1%}" if "acceptance" in s["sampled"] else ""
        for s in summaries.values()
    ]
    rows["seconds in all"] = [f"{sum(s['seconds'].values()):.0f}" for s in summaries.values()]
    return table(["", *models], [[name, *cells] for name, cells in rows.items()])


def _nearest(
    model: AEOT, samples: torch.Tensor, training: Dataset | None
) -> tuple[torch.Tensor, str]:
    """Return the training image nearest to each sample by pixels; without data, decoded codes."""
    if training is None:
        rows = nearest(model.encode(samples), model.brenier_.sites.cpu())[1][:, 0]
        return model.decode(model.brenier_.sites.cpu()[rows]), "nearest code, decoded"
    return training[nearest_rows(samples, training)[1]], "nearest training image, by pixels"


def _curves(model: AEOT) -> dict[str, Any]:
    history = model.history_.get("autoencoder", [])
    lines: dict[str, tuple[list[float], list[float]]] = {}
    offset = 0.0
    for phase, name in ((1, "both parts"), (2, "decoder alone")):
        records = [r for r in history if r.get("phase") == phase]
        if records:
            steps = [offset + r["step"] for r in records]
            lines[name] = (steps, [r["loss"] for r in records])
            offset = steps[-1]
    figures = {"Autoencoder": curves.training_curves(lines)} if lines else {}
    solver = model.history_.get("transport", [])
    names = {
        "mass_error": "mass error (total variation)",
        "error": "mass error (total variation)",
        "gradient": "gradient of the energy",
    }
    for key, label in names.items():
        known = {k + 1: r[key] for k, r in enumerate(solver) if r.get(key)}
        if known:
            drawn = {"measured": (list(known), list(known.values()))}
            levels = None
            if key != "gradient":
                levels = {f"tol = {model.tol:g}": model.tol}
                bounds = {k + 1: r["upper"] for k, r in enumerate(solver) if r.get("upper")}
                bounds[len(solver)] = model.certificate_["mass_error_upper"]
                drawn["95 % bound"] = (list(bounds), list(bounds.values()))
            figure = curves.training_curves(
                drawn, levels=levels, xlabel="step of the solver", ylabel=label
            )
            return figures | {f"Transport: {label}": figure}
    return figures


def _by_class(model: AEOT) -> list[str]:
    """Tell of the transport of each class."""
    brenier, bounds = model.brenier_, model.certificate_["classes"]
    parts = zip(
        brenier.classes, brenier.shares.tolist(), brenier.maps, model.singular_, strict=True
    )
    rows = [
        [
            str(label),
            told(share),
            told(len(m.sites)),
            told(c.n_components),
            told(bounds[str(label)]),
        ]
        for label, share, m, c in parts
    ]
    heads = ["class", "mass", "codes", "modes", "mass error, 95 % bound"]
    return [note("Each class has a transport and a certificate of its own."), table(heads, rows)]


def _transport(built: Page, model: AEOT, by_mode: list[float]) -> list[str]:
    """Draw cell masses, jump sizes, and the modes."""
    brenier, cut = model.brenier_, model.singular_
    n = len(brenier.sites)
    m = int(min(max(20 * n, 50_000), max(2e11 / (n * brenier.dim), 10_000)))
    counts = torch.zeros(n, dtype=torch.int64)
    stream = generator(1, "report", "cells")
    for start in range(0, m, 16384):
        points = brenier.source.sample(min(16384, m - start), generator=stream)
        counts += brenier.cell(points.to(brenier.sites)).cpu().bincount(minlength=n)
    cells = torch.bincount(counts).double().numpy()
    ideal = _ideal_counts(m, brenier.masses.cpu().numpy(), len(cells))
    cells, ideal, hits = _grouped(cells, ideal)
    title = f"Cell masses: how often {m:,} fresh points hit a cell"
    figures = {title: transport.cell_hits(hits, cells, ideal)}
    found = len(cut.facets.pairs)
    if found:
        figures["Facets: how far the map jumps across them"] = singular.jumps(cut)
    share = torch.bincount(cut.components.cpu(), weights=brenier.masses.cpu()).tolist()
    rows = [
        [
            f"{k + 1}",
            told(float(mass)),
            told(int((cut.components == k).sum())),
            f"{by_mode[k]:.1%}" if k < len(by_mode) else "",
        ]
        for k, mass in enumerate(share[:12])
    ]
    more = len(share) - len(rows)
    text = (
        f"{len(cut.pairs):,} of {found:,} facets found are singular; cutting them leaves "
        f"{len(share):,} mode{'s' if len(share) != 1 else ''}."
    )
    pieces = [
        note(text),
        built.charts(figures),
        subheading("Modes"),
        table(["mode", "mass", "codes", "points accepted"], rows),
    ]
    return pieces + ([note(f"and {more:,} smaller ones")] if more > 0 else [])


def _learned_from(model: AEOT, training: Dataset | None) -> str:
    """Say what data the model was fitted to: what it says itself, where it does."""
    known = getattr(model, "data_", None)
    if isinstance(known, dict) and isinstance(known.get("rows"), int):
        return f"{known.get('name')}, {known['rows']:,} rows"
    return "unknown" if training is None else f"{training.name}, {len(training):,} rows"


def _ideal_counts(m: int, masses: np.ndarray, length: int) -> np.ndarray:
    """Expected number of cells hit k times by m points, k = 0 .. length - 1, for exact masses."""
    values, repeats = np.unique(np.round(masses * m, 6), return_counts=True)
    k = np.arange(length)
    total = np.zeros(length)
    for value, repeat in zip(values, repeats, strict=True):
        total += repeat * stats.binom.pmf(k, m, min(1.0, value / m))
    return total


def _grouped(
    observed: np.ndarray, ideal: np.ndarray, most: int = 40
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum neighbouring counts so that at most `most` bars are left, without empty ends."""
    used = np.flatnonzero((observed > 0) | (ideal > 0.5))
    low, high = int(used[0]), int(used[-1]) + 1
    width = -(-(high - low) // most)
    starts = np.arange(low, high, width)
    sums = [np.add.reduceat(values[:high], starts) for values in (observed, ideal)]
    return sums[0], sums[1], starts + (width - 1) / 2
