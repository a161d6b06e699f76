import pytest
import torch

import aeot
from aeot.plotting import runs


@pytest.fixture(scope="module")
def far():
    """Dark and bright images, nothing between them, and a model of them."""
    values = 0.02 * torch.randn(120, 8, 8, generator=aeot.generator(0)) - 0.8
    values[60:] += 1.6
    data = aeot.tensors(values, labels=[0] * 60 + [1] * 60, classes=["dark", "bright"])
    return data, aeot.AEOT(latent_dim=2, seed=0).fit(data, steps=60)


def test_the_longest_jump_between_two_classes_is_over_the_gap(far):
    data, model = far
    told = runs.longest_jump(model, data)
    assert {"dark", "bright"} <= set(told.replace(":", "").split())
    assert told.endswith("cut")


def test_a_jump_between_classes_needs_labels(far):
    data, model = far
    with pytest.raises(ValueError, match="data must have labels"):
        runs.longest_jump(model, aeot.tensors(data[:]))
