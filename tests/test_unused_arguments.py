"""An argument that changes nothing beside the others: one ValueError that names it, before work."""

import numpy as np
import pytest
import torch

import aeot
from aeot import cli
from aeot.comparison.budget import train
from aeot.comparison.result import Comparison
from aeot.plotting.images import embedding
from aeot.report.build import write_page

SITES = np.random.default_rng(0).normal(size=(12, 3))
ROWS = torch.rand(12, 3, generator=aeot.generator(0))
IMAGES = torch.rand(6, 1, 16, 16, generator=aeot.generator(0)) * 2 - 1
MAP = aeot.BrenierMap(aeot.UniformBox(dim=3), SITES, np.zeros(12))
UNPAIRED, PAIRED = aeot.unpaired(IMAGES, -IMAGES), aeot.paired(IMAGES, -IMAGES)


class Parts:
    """The identity, as an autoencoder of one's own."""

    @staticmethod
    def encode(rows):
        return rows

    decode = encode


def given(**options):
    return aeot.AEOT(autoencoder=Parts(), **options)


def fitted_translator(**options):
    autoencoder = aeot.Autoencoder(latent_dim=2, width=4).fit(IMAGES, steps=2)
    model = aeot.TransportTranslator(latent_dim=2)
    model.fit(UNPAIRED, autoencoder=autoencoder, **options)


def page(**options):
    write_page({"a": Comparison([], {}, {})}, "page.html", **options)


CALLS = {
    "two rules of cuts": (lambda: aeot.find_singularities(MAP, 0.7, level=0.9), "level"),
    "two rules of cuts, a share": (lambda: aeot.find_singularities(MAP, "90%", level=1), "level"),
    "two rules of a model": (lambda: aeot.AEOT(max_angle=0.7, level=0.5).fit(ROWS), "level"),
    "blur of another loss": (lambda: aeot.GAN(blur=0.1).fit(ROWS), "blur"),
    "blur of PacGAN": (lambda: aeot.PacGAN(blur=0.1).fit(ROWS), "blur"),
    "critic without one": (
        lambda: aeot.GAN(loss="sinkhorn", critic_batch_norm=False).fit(ROWS),
        "critic_batch_norm",
    ),
    "penalty of another adversary": (lambda: aeot.CycleGAN(penalty=1.0).fit(UNPAIRED), "penalty"),
    "penalty of pairs": (lambda: aeot.Pix2Pix(penalty=1.0).fit(PAIRED), "penalty"),
    "blur of another adversary": (lambda: aeot.CycleGAN(blur=0.1).fit(UNPAIRED), "blur"),
    "pool without critics": (
        lambda: aeot.CycleGAN(adversary="sinkhorn", batch_size=2, pool_size=3).fit(UNPAIRED),
        "pool_size",
    ),
    "blocks of a U-Net": (lambda: aeot.Pix2Pix(n_blocks=3).fit(PAIRED), "n_blocks"),
    "upsampling of a U-Net": (lambda: aeot.Pix2Pix(upsampling="resize").fit(PAIRED), "upsampling"),
    "depth of no discriminator": (
        lambda: aeot.Pix2Pix(adversary="none", n_layers=1).fit(PAIRED),
        "n_layers",
    ),
    "crop and enlarge": (lambda: aeot.CycleGAN(crop=8, enlarge=1.0).fit(UNPAIRED), "enlarge"),
    "deviation of Bernoulli": (lambda: aeot.VAE(std=0.1).fit(IMAGES), "std"),
    "width of infogan": (
        lambda: aeot.Autoencoder(architecture="infogan", width=8).fit(IMAGES),
        "width",
    ),
    "width of infogan by default": (lambda: aeot.VAE(width=8).fit(IMAGES), "width"),
    "width of infogan in GLO": (lambda: aeot.GLO(width=8).fit(IMAGES), "width"),
    "steps of no training": (lambda: given().fit(ROWS, steps=3), "steps"),
    "plateau of no training": (lambda: given().fit_autoencoder(ROWS, stop="plateau"), "stop"),
    "log of no training": (lambda: given().fit(ROWS, log="log.jsonl"), "log"),
    "on_step of no training": (lambda: given().fit(ROWS, on_step=print), "on_step"),
    "steps of no forecast": (lambda: given().forecast(ROWS, steps=3), "steps"),
    "steps of a given autoencoder": (lambda: fitted_translator(steps=3), "steps"),
    "on_step of a given autoencoder": (lambda: fitted_translator(on_step=print), "on_step"),
    "scale of pairs": (lambda: MAP.extend(ROWS, method="pair", scale=1.0), "scale"),
    "weight of affine": (lambda: MAP.extend(ROWS, weight=0.5), "weight"),
    "size of given images": (lambda: aeot.paired(IMAGES, IMAGES, size=8), "size"),
    "white of given images": (lambda: aeot.paired(IMAGES, IMAGES, white=255), "white"),
    "strict of given images": (lambda: aeot.paired(IMAGES, IMAGES, strict=True), "strict"),
    "pixels of given images": (lambda: aeot.paired(IMAGES, IMAGES, max_pixels=9), "max_pixels"),
    "black and white of vectors": (lambda: aeot.tensors(ROWS, value_range=(0, 1)), "value_range"),
    "classes without labels": (lambda: aeot.tensors(ROWS, classes=["a", "b"]), "classes"),
    "names without labels": (lambda: embedding(ROWS, names=["a", "b"]), "names"),
    "processor of a budget in images": (
        lambda: train(aeot.GAN(), aeot.tensors(ROWS), images_seen=64, processor=True),
        "processor",
    ),
    "picture of a comparison": (lambda: page(picture="pca"), "picture"),
    "codes of a comparison": (lambda: page(shown=20), "shown"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CALLS)
def test_an_argument_that_changes_nothing_is_refused(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, name = CALLS[kind]
    with pytest.raises(ValueError, match=rf"^{name} must be left out .*, got .*; \w") as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_training_data_of_no_model_on_the_page_are_refused():
    with pytest.raises(ValueError, match="training must be of a, got 'b'"):
        page(training={"b": aeot.tensors(ROWS)})


def test_what_is_asked_for_by_its_default_is_no_mistake():
    assert aeot.tensors(ROWS, value_range=(-1, 1), classes=()).shape == (3,)
    assert len(aeot.paired(IMAGES, IMAGES, size=256, strict=False)) == 6
    assert MAP.extend(ROWS, method="pair", weight=0.5).shape == (12, 3)
    assert aeot.find_singularities(MAP, level=0.5, n_points=50).level == pytest.approx(
        aeot.find_singularities(MAP, n_points=50).level
    )


def test_the_divergence_that_has_no_critic_asks_for_no_depth_of_it():
    model = aeot.CycleGAN(adversary="sinkhorn", batch_size=2, filters=2, n_blocks=0)
    model.fit(aeot.unpaired(IMAGES[..., :8, :8], IMAGES[..., 8:, 8:]), steps=1)
    assert not hasattr(model, "critic_a_")


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("compare a b --seconds 3 --data images.npy", "seconds"),
        ("compare a b --images-seen 3 --data images.npy", "images_seen"),
        ("compare a b --seeds 2 --data images.npy", "seeds"),
        ("compare a b --latent-dim 3 --data images.npy", "latent_dim"),
        ("translate a b --root somewhere", "root"),
        ("translate digits:1 digits:2 --strict", "strict"),
        ("translate a b --paired --penalty 3", "penalty"),
        ("fit images.npy --max-angle 0.7 --level 0.5 --width 4 --steps 2", "level"),
        ("fit images.npy --architecture infogan --width 4 --steps 2", "width"),
    ],
)
def test_an_option_that_changes_nothing_is_refused(typed, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bytes_ = ((IMAGES + 1) * 127).to(torch.uint8)
    np.save("images.npy", bytes_.repeat(3, 1, 1, 1).numpy())
    for folder in "ab":
        (tmp_path / folder).mkdir()
        for k in range(3):
            aeot.plotting.images.image_grid(IMAGES[k : k + 1], path=f"{folder}/{k}.png")
    before = sorted(p.as_posix() for p in tmp_path.rglob("*"))
    assert cli.main(typed.split()) == 2
    error = capsys.readouterr().err.strip()
    assert f"{name} must be left out " in error
    assert len([line for line in error.splitlines() if "error" in line]) == 1
    assert sorted(p.as_posix() for p in tmp_path.rglob("*")) == before
