"""Put the parts of the page together and write it."""

from __future__ import annotations

import os

from aeot import _check, _io
from aeot._environment import plain_torch
from aeot.comparison.result import Comparison
from aeot.data import Dataset
from aeot.models.aeot import AEOT
from aeot.report.comparisons import add_comparison
from aeot.report.models import add_model
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
        ValueError: If there is nothing to write about.
    """
    if not sources:
        raise _check.fail("sources", "hold a fitted model or a comparison", "nothing")
    built = Page(title or " · ".join(sources), "quality, costs, transport and latent space")
    for name, source in sources.items():
        before = f"{name}: " if len(sources) > 1 else ""
        if isinstance(source, Comparison):
            add_comparison(built, before, source)
        else:
            add_model(built, before, source, (training or {}).get(name), picture, shown)
    _io.write_text(path, built.html())
