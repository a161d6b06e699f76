"""What the GAN family refuses, by name and before any work."""

import math
import re

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
        (aeot.VAE(learning_rate=0.0), "learning_rate must be a finite number > 0, got 0"),
        (aeot.FlowMatching(learning_rate=-1.0), "learning_rate must be a finite number > 0"),
        (aeot.IMLE(mapping_rate=math.nan), "mapping_rate must be a finite number > 0, got nan"),
        (GAN(batch_size=1), "batch_size must be at least 2, got 1"),
        (aeot.IMLE(batch_size=1), "batch_size must be at least 2, got 1"),
    ],
)
def test_bad_arguments_are_named_before_any_work(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(torch.zeros(20, 2), steps=1)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (LSGAN, {"loss": "minimax"}),
        (DRAGAN, {"critic_batch_norm": True}),
        (DRAGAN, {"kernels": 3}),
        (BEGAN, {"simultaneous": True}),
        (BEGAN, {"spectral": True}),
        (BEGAN, {"loss": "wasserstein"}),
        (BEGAN, {"critic_batch_norm": False}),
        (BEGAN, {"packing": 2}),
        (BEGAN, {"kernels": 3}),
        (ALI, {"loss": "minimax"}),
        (ALI, {"simultaneous": False}),
        (ALI, {"packing": 2}),
        (WGAN, {"simultaneous": True}),
        (WGAN, {"loss": "minimax"}),
        (WGAN, {"betas": (0.5, 0.9)}),
        (WGAN, {"spectral": True}),
        (WGANGP, {"simultaneous": True}),
        (WGANGP, {"loss": "minimax"}),
        (WGANGP, {"critic_batch_norm": True}),
        (WGANGP, {"kernels": 3}),
        (WGANGP, {"kernels": 3, "architecture": "maxout"}),
        (ConditionalWGANGP, {"kernels": 3}),
        (ConditionalWGANGP, {"grouped": True}),
    ],
)
@pytest.mark.parametrize("shape", [(20, 2), (20, 1, 8, 8)])
def test_what_a_class_cannot_honour_is_refused(kind, given, shape):
    name, value = next(iter(given.items()))
    message = f"^{name} must be .* in {kind.__name__}, got {re.escape(repr(value))}; "
    with pytest.raises(ValueError, match=message):
        kind(**given).fit(torch.zeros(shape), steps=1)


def test_networks_for_images_have_one_width():
    with pytest.raises(ValueError, match="hidden must be None for images, got 8"):
        GAN(hidden=8).fit(torch.zeros(20, 1, 8, 8), steps=1)


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
