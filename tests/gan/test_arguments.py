"""What the GAN family refuses, by name and before any work."""

import inspect
import math

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

import aeot
from aeot import ALI, BEGAN, DRAGAN, GAN, LSGAN, WGAN, WGANGP, ConditionalWGANGP
from aeot.data import toy

SMALL = {"latent_dim": 2, "hidden": 8, "batch_size": 10}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (GAN(latent_dim=0), "latent_dim must be a whole number >= 1, got 0"),
        (GAN(loss="hinge"), "loss must be one of"),
        (GAN(architecture="infogan"), "architecture must fit the data"),
        (GAN(hidden=0), "hidden must be a whole number >= 1, got 0"),
        (GAN(kernels=3, architecture="mlp"), "kernels must be 0 with architecture 'mlp', got 3"),
        (GAN(simultaneous=True, critic_steps=2), "critic_steps must be 1"),
        (WGANGP(penalty=-1.0), "penalty must be a finite number >= 0"),
        (DRAGAN(penalty=-1.0), "penalty must be a finite number >= 0"),
        (ConditionalWGANGP(), "data must have labels"),
        (BEGAN(ratio=0.0), "ratio must be a finite number > 0 and <= 1, got 0"),
        (BEGAN(ratio=1.5), "ratio must be a finite number > 0 and <= 1, got 1.5"),
        (BEGAN(rate=0.0), "rate must be a finite number > 0"),
        (WGANGP(grouped=True), "data must have labels"),
        (GAN(simultaneous="no"), "simultaneous must be True or False, got 'no'"),
        (WGANGP(one_sided="no"), "one_sided must be True or False, got 'no'"),
        (GAN(betas=(0.5,)), r"betas must be two numbers in \[0, 1\), got \(0.5,\)"),
        (GAN(betas=0.5), r"betas must be two numbers in \[0, 1\), got 0.5"),
        (GAN(betas=(0.5, 1.0)), r"betas must be two numbers in \[0, 1\)"),
        (aeot.VAE(learning_rate=0.0), "learning_rate must be a finite number > 0 .*, got 0"),
        (aeot.FlowMatching(learning_rate=-1.0), "learning_rate must be a finite number > 0"),
        (aeot.IMLE(mapping_rate=math.nan), "mapping_rate must be a finite number > 0 .*, got nan"),
        (GAN(batch_size=1), "batch_size must be at least 2, got 1"),
        (aeot.IMLE(batch_size=1), "batch_size must be at least 2, got 1"),
    ],
)
def test_bad_arguments_are_named_before_any_work(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(torch.zeros(20, 2), steps=1)


ABSENT = {
    LSGAN: ["loss"],
    DRAGAN: ["critic_batch_norm", "kernels"],
    BEGAN: ["loss", "critic_batch_norm", "simultaneous", "packing", "kernels", "spectral"],
    ALI: ["loss", "simultaneous", "critic_steps", "packing"],
    WGAN: ["simultaneous", "betas", "spectral"],
    WGANGP: ["simultaneous", "critic_batch_norm", "kernels"],
    ConditionalWGANGP: ["grouped", "packing"],
}


@pytest.mark.parametrize("kind", ABSENT)
def test_what_a_class_cannot_honour_is_no_argument_and_the_text_says_why(kind):
    offered = inspect.signature(kind).parameters
    for name in ABSENT[kind]:
        assert name not in offered
        assert f"`{name}`" in kind.__doc__


def test_networks_for_images_have_one_width():
    with pytest.raises(ValueError, match="hidden must be None for images, got 8"):
        GAN(hidden=8).fit(torch.zeros(20, 1, 8, 8), steps=1)


def test_bad_arguments_of_the_others_are_named():
    points, images = torch.zeros(9, 2), torch.zeros(9, 1, 8, 8)
    with pytest.raises(ValueError, match="likelihood must be 'gaussian' for vectors"):
        aeot.VAE(likelihood="bernoulli").fit(points)
    with pytest.raises(ValueError, match="halve_every must be a whole number >= 1, got 0"):
        aeot.GLO(halve_every=0).fit(points)
    with pytest.raises(ValueError, match="code_rate must be a finite number > 0 .*, got 0"):
        aeot.GLANN(code_rate=0).fit(points)
    for model in (aeot.IMLE(), aeot.FlowMatching()):
        with pytest.raises(ValueError, match="data must be vectors"):
            model.fit(images)


def test_unfitted_models_say_so(tmp_path):
    for call in (lambda: GAN().sample(1), lambda: GAN().save(tmp_path), GAN().count_parameters):
        with pytest.raises(NotFittedError, match="GAN is not fitted"):
            call()


def test_labels_to_sample_under():
    wgan = ConditionalWGANGP(**SMALL).fit(toy("ring", 300), steps=1)
    wanted = wgan.sample(3, labels=[0, 7, 2])
    for labels in (np.array([0, 7, 2], np.int32), torch.tensor([0, 7, 2], dtype=torch.uint8)):
        assert torch.equal(wgan.sample(3, labels=labels), wanted)
    for n, labels, words in (
        (2, [0, 8], "labels must be 2 whole numbers from 0 to 7, got 8"),
        (2, ["a", "b"], "labels must be 2 whole numbers from 0 to 7, got list"),
        (2, [True, False], "labels must be .* got torch.bool"),
        (-1, None, "n must be a whole number >= 1, got -1"),
        (2.5, None, "n must be a whole number >= 1, got 2.5"),
    ):
        with pytest.raises(ValueError, match=words):
            wgan.sample(n, labels=labels)
    gap = aeot.tensors(torch.randn(4, 2), labels=[0, 0, 9, 9])
    with pytest.raises(ValueError, match="every label from 0 to 9, got none of label 1; number"):
        ConditionalWGANGP(**SMALL).fit(gap, steps=1)
