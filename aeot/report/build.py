"""Put the parts of the page together and write it."""

from __future__ import annotations

import os

from aeot import _check, _io
from aeot._environment import plain_torch
from aeot.comparison.result import Comparison
from aeot.data import Dataset
from aeot.models.aeot import AEOT
from aeot.report.comparisons import add_comparison
from aeot.report.models import add_model, side_by_side
from aeot.report.page import Page


@plain_torch()
def write_page(
    sources: dict[str, AEOT | Comparison],
    path: str | os.PathLike,
    *,
    training: dict[str, Dataset] | None = None,
    title: str | None = None,
    picture: str = "tsne",
    shown: int = 900,
) -> None:
    """Write the page of fitted models and comparisons.

    Args:
        sources: Name -> a fitted `AEOT` or a `Comparison`.
        path: The file.
        training: Name -> what the model was fitted to, for real images and classes.
        title: Heading of the page; None: the names.
        picture: "tsne" or "pca".
        shown: Codes in the picture of a latent space.

    Raises:
        ValueError: If there is nothing to write about, or an argument is of another kind.
    """
    sources = _check.mapping("sources", sources, "fitted AEOT models or comparisons")
    for name, source in sources.items():
        if not isinstance(source, AEOT | Comparison):
            got, way_out = _check.shown(source), "fit or load one"
            raise _check.fail(f"sources[{name!r}]", "be an AEOT or a Comparison", got, way_out)
    training = {} if training is None else training
    training = _check.mapping("training", training, "data sets", empty=True)
    for name, rows in training.items():
        if name not in sources:
            raise _check.fail("training", f"be of {', '.join(sources)}", _check.shown(name))
        _check.instance(f"training[{name!r}]", rows, Dataset, "aeot.tensors makes one")
    if title is not None:
        _check.text("title", title)
    _check.choice("picture", picture, ("tsne", "pca"))
    _check.integer("shown", shown)
    path = _check.path("path", path)
    models = {name: source for name, source in sources.items() if isinstance(source, AEOT)}
    if not models:
        _check.unused("without a model", picture=(picture, "tsne"), shown=(shown, 900))
    built = Page(title or " · ".join(sources), "quality, costs, transport and latent space")
    if len(models) > 1:
        built.add("side by side", side_by_side(models))
    for name, source in sources.items():
        before = f"{name}: " if len(sources) > 1 else ""
        if isinstance(source, Comparison):
            add_comparison(built, before, source)
        else:
            add_model(built, before, source, training.get(name), picture, shown)
    _io.write_text(path, built.html())
