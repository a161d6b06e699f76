"""The command `aeot sample`: new images from a finished run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from aeot import _check, _io
from aeot.commands.directory import check_new, load_model
from aeot.data import to_uint8
from aeot.models.aeot import AEOT
from aeot.plotting.images import image_grid

_SHOWN = 100  # images in the grid


def sample(
    run: str,
    *,
    n: int = 64,
    seed: int = 0,
    label: str | None = None,
    out: str | None = None,
    device: str | None = None,
) -> str:
    """Draw new images from a finished run.

    Args:
        run: The run directory, such as runs/faces, or a saved model.
        n: How many images (or vectors); a grid of the first 100 is drawn beside them.
        seed: The same seed and n give the same images; take another one for others.
        label: A class, of a model with classes; by default each as often as in the data.
        out: A new folder for the images; by default samples-SEED in the run directory, with
            a label samples-LABEL-SEED.
        device: Where to compute, such as cpu or cuda:1; by default the first GPU, else the CPU.

    Returns:
        A line that says what was done.

    Raises:
        ValueError: If there is no model in `run`, no such class, or `out` cannot be used.
    """
    _check.integer("n", n)
    _check.seed("seed", seed)
    model = load_model("run", AEOT, run, device)
    which = "" if label is None else re.sub(r"[^\w-]+", "_", label) + "-"
    path = check_new(Path(run) / f"samples-{which}{seed}" if out is None else out)
    with _check.renamed("labels", "label"):
        rows = model.sample(n, seed=seed, labels=label)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _io.replacing(path, folder=True) as fresh:  # all of them, or none
        if rows.ndim == 4:
            for k, image in enumerate(to_uint8(rows).movedim(1, -1).squeeze(-1).numpy()):
                Image.fromarray(image).save(fresh / f"{k:06d}.png")
            image_grid(rows[:_SHOWN], path=fresh / "grid.png")
        else:
            np.save(fresh / "samples.npy", rows.numpy())
    accepted = model.sampled_["acceptance"]
    return f"{n} samples in {path}; {accepted:.1%} of the points drawn were accepted"
