"""What `aeot compare` is asked for, and what an earlier call left: checked before any training."""

from __future__ import annotations

import glob
import hashlib
import json
from pathlib import Path
from typing import Any

import aeot
from aeot import _check, _io
from aeot.commands.fit import check_new
from aeot.comparison import budget
from aeot.comparison.contestants import check_name, opened
from aeot.data import Dataset

TRAINABLE = (  # the public generators of images
    "AEOT",
    "ALI",
    "BEGAN",
    "ConditionalWGANGP",
    "DRAGAN",
    "GAN",
    "GLANN",
    "GLO",
    "LSGAN",
    "PacGAN",
    "VAE",
    "WGAN",
    "WGANGP",
)
_LONGEST = 200  # a file's name has at most 255, and more than the label goes into it


def planned(models: list[str]) -> dict[str, Any]:
    """Return label -> class to be trained, or path."""
    if not models:
        raise _check.fail("models", "name at least one generator", "none")
    plan: dict[str, Any] = {}
    for text in models:
        label, equals, thing = text.partition("=")
        thing = str(Path(thing).expanduser())
        if not equals or Path(text).expanduser().exists():
            thing = str(Path(text).expanduser())
            label = Path(thing).absolute().name
        if not label or label in (".", "..") or "/" in label or "\\" in label:
            raise _check.fail("models", "have labels that can name a folder", repr(label))
        if len(label.encode()) > _LONGEST:
            raise _check.fail("models", f"have labels of at most {_LONGEST} bytes", repr(label))
        check_name(label)
        if label in plan:
            raise _check.fail("models", "have different labels", f"{label!r} twice")
        if thing in TRAINABLE and Path(thing).exists():
            got, way_out = f"{thing!r}, a class and a path", f"write ./{thing} for the path"
            raise _check.fail("models", "be either", got, way_out)
        if Path(thing).exists():
            plan[label] = thing
        elif thing in TRAINABLE:
            plan[label] = getattr(aeot, thing)
        else:
            got = f"{thing!r}"
            way_out = f"classes are {', '.join(TRAINABLE)}"
            raise _check.fail("models", "be classes, or paths that exist", got, way_out)
    return plan


def rehearse(
    plan: dict[str, Any], training: Dataset, latent_dim: int, images_seen: int | None
) -> None:
    """Have every class that is to be trained build its networks for a few images."""
    few = training.subset(slice(min(len(training), 64)))
    for label, thing in plan.items():
        if not isinstance(thing, type):
            continue
        model = untrained(thing, latent_dim, 0)
        try:
            if images_seen is not None:
                budget.steps(model, training, images_seen)
            fit = getattr(model, "fit_autoencoder", model.fit)
            fit(few, steps=0 if getattr(model, "_open_ended", False) else 2)
        except ValueError as error:
            got = f"{label!r}, {thing.__name__}, which says: {error}"
            raise _check.fail("models", "be trainable on these images", got) from error


def check_kept(
    plan: dict[str, Any], folder: Path, reference: Dataset, n: int | None, seeds: range
) -> None:
    """Refuse models of an earlier call that have been damaged since."""
    for label, thing in plan.items():
        for place in (folder / "models" / f"{label}-{seed}" for seed in seeds):
            costs = place.parent / f"{place.name}.json"
            if isinstance(thing, type) and costs.is_file():
                try:
                    opened({label: place}, reference, n)
                except ValueError as error:
                    way_out = f"delete {costs} to have it trained again"
                    raise _check.fail("out", "hold whole models", str(error), way_out) from error


def begin(folder: Path, options: dict[str, Any]) -> bool:
    """Create the directory of a comparison, or go on in one that was started alike; is it new?"""
    record = folder / "compare.json"
    if record.is_file():
        try:
            before = _io.read_json(record, dict)
        except ValueError as error:
            got = f"{record}, which is damaged"
            way_out = f"choose another folder; the models in {folder / 'models'} can be named there"
            raise _check.fail("out", "hold a whole compare.json", got, way_out) from error
        if before != options:
            both = options | before
            changed = ", ".join(k for k in both if before.get(k) != options.get(k))
            got = f"{folder}, made with another {changed}"
            raise _check.fail("out", "be new or of the same comparison", got)
        return False
    check_new(folder).mkdir(parents=True, exist_ok=True)
    _io.write_text(record, json.dumps(options) + "\n")
    return True


def check_labels(plan: dict[str, Any], folder: Path) -> None:
    """Refuse a label under which an earlier call trained another class."""
    for label, thing in plan.items():
        for costs in (folder / "models").glob(f"{glob.escape(label)}-*.json"):
            before = _io.read_json(costs, dict).get("class")
            now = thing.__name__ if isinstance(thing, type) else f"the path {thing}"
            if before != now and costs.stem[len(label) + 1 :].isdigit():
                got = f"{label!r} for {now}, which was {before} before in {folder}"
                way_out = "choose another label or another out"
                raise _check.fail("models", "keep their labels", got, way_out)


def digest(*parts: Dataset) -> str:
    """Return a hash of images and labels, to know them again."""
    digest = hashlib.sha256()
    for part in parts:
        for rows in (part.values, part.labels):
            if rows is not None:
                digest.update(rows.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def untrained(kind: type, latent_dim: int, seed: int) -> Any:  # noqa: ANN401 - an estimator
    """Return an instance of a class of generators, as `aeot compare` trains it."""
    return kind(latent_dim=latent_dim, seed=seed)
