"""What a comparison of generators found: rows, tables, storage."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from aeot import _check, _io

REAL, RESTORED = "real training images", ": reconstructions"  # rows beside the generators'
# name -> (heading, which way is better: -1 lower, 1 higher, 0 neither: as for real data)
METRICS: dict[str, tuple[str, int]] = {
    "fd": ("FD", -1),
    "kid": ("KD", -1),
    "f8": ("F8 (recall)", 1),
    "f1_8": ("F1/8 (precision)", 1),
    "precision": ("precision", 1),
    "recall": ("recall", 1),
    "density": ("density", 0),
    "coverage": ("coverage", 1),
    "sliced": ("sliced W2", -1),
    "classes": ("class KL", -1),
    "memorisation": ("nearest-training ratio", 0),
    "copied": ("copied", 0),
}
COSTS = {
    "train_seconds": "training s",
    "cpu_seconds": "processor s",
    "images_seen": "images seen",
    "sample_seconds": "sampling s",
    "parameters": "parameters",
    "stored": "further stored numbers",
    "peak_gib": "peak GiB",
}


def check_metrics(names: object) -> None:
    """Refuse what is no list of names of metrics; None is all."""
    if names is None:
        return
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        way_out = "leave it out for all that can be computed"
        raise _check.fail("metrics", "be a list of names", _check.shown(names), way_out)
    for name in names:
        _check.choice("metrics", name, METRICS)


@dataclass(frozen=True)
class Comparison(Mapping):
    """What `aeot.compare` found: ``comparison[model][metric]`` is a number.

    Reconstructions of a model stand under its name and ": reconstructions".

    Attributes:
        rows: One plain dict per row: ``model``, ``kind`` (class name, "real", "reconstructions"),
            ``metrics`` (name -> ``mean``, ``error``, ``values``), ``facts`` (costs), ``curve``
            (PRD: ``precision``, ``recall``). The standard ``error`` is None for one set of samples.
        protocol: Everything that a number depends on besides the model.
        environment: Versions and machine.
        shown: Model -> first samples (64, C, H, W), uint8.
        nearest: Model -> the training (else reference) image nearest to each of them.
    """

    rows: list[dict[str, Any]]
    protocol: dict[str, Any]
    environment: dict[str, Any]
    shown: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    nearest: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def __getitem__(self, model: str) -> dict[str, float]:
        for row in self.rows:
            if row["model"] == model:
                return {name: value["mean"] for name, value in row["metrics"].items()}
        raise KeyError(model)

    def __iter__(self) -> Iterator[str]:
        return (row["model"] for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def contestants(self) -> dict[str, int]:
        """Return the place of every generator among them; baselines are left out."""
        names = [r["model"] for r in self.rows if r["kind"] not in ("real", "reconstructions")]
        return {name: place for place, name in enumerate(names)}

    def place(self, row: dict[str, Any]) -> int | None:
        """Return the place of a row's model among the generators; reconstructions share it."""
        return self.contestants().get(row["model"].removesuffix(RESTORED))

    def heading(self, metric: str) -> str:
        """Return the metric's name in tables: FD and KD become FID and KID only for Inception."""
        text = METRICS[metric][0]
        fid = self.protocol["features"].get("fid")
        return {"FD": "FID", "KD": "KID"}.get(text, text) if fid else text

    def best(self, metric: str) -> set[str]:
        """Return the generators (not real or reconstructed images) with the best mean.

        None is where all are alike; one that has collapsed is never among them.
        """
        way = METRICS[metric][1]
        values = {
            row["model"]: way * row["metrics"][metric]["mean"]
            for row in self.rows
            if metric in row["metrics"] and row["kind"] not in ("real", "reconstructions")
        }
        if not way or len(set(values.values())) < 2:
            return set()
        collapsed = self.collapsed()
        values = {name: value for name, value in values.items() if name not in collapsed}
        return {name for name, value in values.items() if value == max(values.values())}

    def collapsed(self) -> set[str]:
        """Return the generators that miss most of the data.

        Their recall or coverage is below a tenth of that of real images, or where there are none of
        the largest in the table.
        """
        found = set()
        for metric in ("recall", "coverage"):
            rows = [row for row in self.rows if metric in row["metrics"]]
            known = {row["model"]: row["metrics"][metric]["mean"] for row in rows}
            most = known.get(REAL, max(known.values(), default=0.0))
            found |= {name for name in self.contestants() if known.get(name, most) < most / 10}
        return found

    def plain(self) -> dict[str, Any]:
        """Return everything but the pictures as values that JSON holds."""
        return {"rows": self.rows, "protocol": self.protocol, "environment": self.environment}

    def quality(self) -> tuple[list[str], list[list[str]], list[list[bool]]]:
        """Return the table of metrics as text, a row a model: heads, cells, and which are best."""
        used = [name for name in METRICS if any(name in row["metrics"] for row in self.rows)]
        best = {name: self.best(name) for name in used}
        arrows = {-1: " ↓", 1: " ↑", 0: ""}
        heads = ["model", *(self.heading(name) + arrows[METRICS[name][1]] for name in used)]
        cells = [[r["model"], *(_cell(r["metrics"].get(name)) for name in used)] for r in self.rows]
        return heads, cells, [[False, *(r[0] in best[name] for name in used)] for r in cells]

    def markdown(self) -> str:
        """Return both tables, the protocol and the machine as Markdown."""
        heads, cells, best = self.quality()
        quality, cost = [heads], [["model", "kind", *COSTS.values()]]
        for row, texts, stars in zip(self.rows, cells, best, strict=True):
            name, kind = _escaped(row["model"]), _escaped(row["kind"])
            marked = zip(texts[1:], stars[1:], strict=True)
            quality.append([name, *(f"**{x}**" if star else x for x, star in marked)])
            cost.append([name, kind, *(told(row["facts"].get(key)) for key in COSTS)])
        facts = self.protocol | {k: v for k, v in self.environment.items() if v not in ([], None)}
        lines = [f"- {key}: {_escaped(told(value))}" for key, value in facts.items()]
        return "\n".join([*_table(quality), "", *_table(cost), "", *lines, ""])

    def save(self, directory: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write ``comparison.json``, ``comparison.md`` and, for `load`, ``data/``.

        Args:
            directory: Where to; it may hold other files.
            overwrite: Whether an earlier comparison there is replaced.

        Raises:
            ValueError: If the directory cannot be written, or holds a comparison already.
        """
        folder = _check.path("directory", directory)
        _check.flag("overwrite", overwrite)
        _io.check_writable(folder / "data", kind="Comparison", overwrite=overwrite)
        pictures = {f"shown/{name}": value for name, value in self.shown.items()}
        pictures |= {f"nearest/{name}": value for name, value in self.nearest.items()}
        _io.save(folder / "data", pictures, self.plain(), kind="Comparison")
        _io.write_text(folder / "comparison.json", json.dumps(self.plain(), indent=1) + "\n")
        _io.write_text(folder / "comparison.md", self.markdown())

    @classmethod
    def load(cls, directory: str | os.PathLike) -> Comparison:
        """Read what `save` wrote.

        Raises:
            ValueError: If nothing is there or it is damaged.
        """
        place = _check.path("directory", directory) / "data"
        tensors, config = _io.load(place, kind="Comparison")
        rows, protocol = config.get("rows"), config.get("protocol")
        whole = _io.fits(rows, list[dict]) and all(map(_is_row, rows or ()))
        whole &= _io.fits(protocol, dict) and _io.fits(config.get("environment"), dict)
        if len(config) != 3 or not whole or not _io.fits((protocol or {}).get("features"), dict):
            raise _io.Damaged(f"{place} must hold rows, protocol and environment; save it again")
        names = [row["model"] for row in config["rows"]]
        shown, nearest = (
            {name: tensors[f"{part}/{name}"] for name in names if f"{part}/{name}" in tensors}
            for part in ("shown", "nearest")
        )
        for name, images in [*shown.items(), *nearest.items()]:
            if images.ndim != 4 or images.dtype != torch.uint8:
                got = _check.shown(images)
                raise _io.Damaged(f"{place} must hold images (n, C, H, W) of {name!r}, got {got}")
        return cls(**config, shown=shown, nearest=nearest)


def _is_row(row: dict[str, Any]) -> bool:
    """Return whether a stored row has what tables and figures read of it."""
    parts: dict[str, Any] = {"model": str, "kind": str, "metrics": dict[str, dict]}
    parts |= {"facts": dict[str, Any], "curve": dict[str, list[float]] | None}
    value: dict[str, Any] = {"mean": float, "error": float | None, "values": list[float]}
    return all(_io.fits(row.get(name), kind) for name, kind in parts.items()) and all(
        metric in METRICS and all(_io.fits(found.get(name), kind) for name, kind in value.items())
        for metric, found in row["metrics"].items()
    )


def merge(comparisons: Sequence[Comparison]) -> Comparison:
    """Put the rows of several comparisons into one, if they followed the same protocol.

    A row that occurs again (the real images, usually) is taken from the first.

    Raises:
        ValueError: If there is none or the protocols differ; the message names what differs.
    """
    if not isinstance(comparisons, Sequence) or not comparisons:
        raise _check.fail("comparisons", "be a list of at least one", _check.shown(comparisons))
    for k, found in enumerate(comparisons):
        _check.instance(f"comparisons[{k}]", found, Comparison, "aeot.compare makes one")
    first = comparisons[0]
    rows: dict[str, dict[str, Any]] = {}
    shown: dict[str, torch.Tensor] = {}
    nearest: dict[str, torch.Tensor] = {}
    for other in comparisons:
        for key in first.protocol.keys() | other.protocol.keys():
            ours, theirs = first.protocol.get(key), other.protocol.get(key)
            unknown = key == "device" and (ours in (None, "none") or theirs in (None, "none"))
            if ours != theirs and not unknown:
                got = f"{key} {told(ours)} and {told(theirs)}"
                raise _check.fail("comparisons", "follow one protocol", got)
        rows = {row["model"]: row for row in other.rows} | rows
        shown, nearest = other.shown | shown, other.nearest | nearest
    order = dict.fromkeys(name for other in comparisons for name in other)
    return Comparison([rows[n] for n in order], first.protocol, first.environment, shown, nearest)


def _table(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _cell(value: dict[str, Any] | None) -> str:
    if value is None:
        return ""
    error = value["error"]
    return f"{value['mean']:.4g}" + ("" if error is None else f" ± {error:.2g}")


def told(value: object) -> str:
    """Return a plain value as text: four digits, thousands apart."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {told(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(told(v) for v in value)
    return str(value)


def _escaped(text: str) -> str:
    """Escape what Markdown or HTML would read as markup."""
    for mark in ("\\", "|", "*", "_", "`", "<", "[", "&"):
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
