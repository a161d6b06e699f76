"""The page of messages says what is really said: each is raised here and looked up there."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import aeot
from aeot.training import Diverged

PAGE = (Path(__file__).resolve().parents[1] / "docs/troubleshooting.md").read_text()
LISTED = {
    message
    for rows in re.findall(r"\| message \|.+?\n\n", PAGE + "\n\n", flags=re.DOTALL)
    for message in re.findall(r"^\| `([^`]+)`", rows, flags=re.MULTILINE)
}
BOX = aeot.UniformBox(dim=2)
SITES = torch.rand(20, 2, generator=aeot.generator(0))


def _small_model():
    return aeot.AEOT(latent_dim=2, tol=0.5, precision="float32", device="cpu")


def _damaged(tmp_path):
    place = tmp_path / "model"
    aeot.Autoencoder(latent_dim=2, device="cpu").fit(torch.rand(40, 3), steps=2).save(place)
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    return aeot.Autoencoder.load(place)


def _one_bad_image(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    return aeot.images(tmp_path, size=8)


RAISED = {
    "sites must be distinct": lambda _: aeot.solve_semidiscrete(BOX, torch.cat([SITES, SITES])),
    "sites must be finite": lambda _: aeot.solve_semidiscrete(BOX, SITES / 0),
    "sites must have 2 columns": lambda _: aeot.solve_semidiscrete(BOX, torch.rand(9, 3)),
    "masses must sum to 1": lambda _: aeot.solve_semidiscrete(BOX, SITES, np.ones(20)),
    "masses must be positive": lambda _: aeot.solve_semidiscrete(BOX, SITES, np.eye(20)[0]),
    "source must be a measure": lambda _: aeot.solve_semidiscrete(SITES, SITES),
    "tol must be a finite number": lambda _: aeot.solve_semidiscrete(BOX, SITES, tol=2),
    "engine must be": lambda _: aeot.solve_semidiscrete(BOX, SITES, engine="nubma"),
    "out of samples: raise max_samples or tol": lambda _: aeot.solve_semidiscrete(
        aeot.UniformBox(dim=4), torch.rand(200, 4), tol=0.001, max_samples=1000
    ),
    "folder must be a folder of images": lambda path: aeot.images(path / "none", size=8),
    "folder must hold images": lambda path: aeot.images(path, size=8),
    "skipped 1 unreadable image(s)": _one_bad_image,
    "have shape (n, d), (n, H, W)": lambda _: aeot.tensors(np.ones(9)),
    "lie in [-1, 1]": lambda _: aeot.tensors(np.full((9, 8, 8), 200.0)),
    "b must have rows of shape": lambda _: aeot.unpaired(
        aeot.tensors(torch.rand(3, 1, 8, 8)), aeot.tensors(torch.rand(3, 1, 9, 9))
    ),
    "is not fitted yet; call fit first": lambda _: _small_model().sample(1),
    "lower the learning rate or check the data": lambda _: aeot.Autoencoder(
        latent_dim=2, learning_rate=1e6, device="cpu"
    ).fit(torch.rand(40, 3), steps=20),
    "device must be a device of this machine": lambda _: aeot.AEOT(device="cuda:99").fit(SITES),
    "path must be a saved model": lambda path: aeot.AEOT.load(path),
    "was changed or damaged: its SHA-256 is not the manifest's": _damaged,
}
COMMANDS = {"out must be new or of the same run", "out must be free"}  # tests/commands has them


def test_every_message_of_the_page_is_raised_here():
    assert set(RAISED) | COMMANDS == LISTED


@pytest.mark.parametrize("message", sorted(RAISED))
def test_it_is_what_is_said(message, tmp_path):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            RAISED[message](tmp_path)
            said = [str(warning.message) for warning in found]
        except (ValueError, Diverged) as error:
            said = [str(error)]
    assert any(message in line for line in said), said
