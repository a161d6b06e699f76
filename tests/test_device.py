"""`device=None` is the first GPU everywhere, and results of different devices are not mixed."""

import sys

import pytest
import torch
from torch import nn

import aeot
from aeot import _environment, generator
from aeot.comparison import budget
from aeot.comparison.compare import compare
from aeot.comparison.result import Comparison, merge
from aeot.features import Pixels

SIDE = 8
X = torch.randn(24, 1, SIDE, SIDE, generator=generator(0)).clamp(-1, 1)
IMAGES = aeot.tensors(X)
CODES = torch.randn(20, 4, generator=generator(1)).double()
GENERATORS = {
    kind: lambda kind=kind, **device: getattr(aeot, kind)(**device).fit(IMAGES, steps=1)
    for kind in ["ALI", "BEGAN", "DRAGAN", "GAN", "GLANN", "GLO", "LSGAN", "PacGAN", "VAE"]
    + ["WGAN", "WGANGP"]
    if hasattr(aeot, kind)
}
PLACES = {
    **GENERATORS,
    "FlowMatching": lambda **device: aeot.FlowMatching(**device).fit(CODES, steps=1),
    "AEOT": lambda **device: aeot.AEOT(**device).fit_autoencoder(IMAGES, steps=2),
    "Autoencoder": lambda **device: aeot.Autoencoder(**device).fit(IMAGES, steps=2),
    "CycleGAN": lambda **device: aeot.CycleGAN(n_layers=1, **device).fit(
        aeot.unpaired(IMAGES, IMAGES), steps=1
    ),
    "Pix2Pix": lambda **device: aeot.Pix2Pix(n_layers=1, **device).fit(
        aeot.paired(IMAGES, IMAGES), steps=1
    ),
    "SemiDiscreteOT": lambda **device: aeot.SemiDiscreteOT(tol=0.2, **device).fit(CODES.numpy()),
    "hierarchy": lambda **device: aeot.solve_hierarchical(
        aeot.UniformBox(dim=4), CODES, tol=0.3, clusters=2, **device
    ),
    "compare": lambda **device: compare(
        {"a": X}, IMAGES, metrics=["fd"], features=Pixels(2), **device
    ),
}


@pytest.fixture
def first_gpu(monkeypatch):
    """A machine with a GPU, as far as anyone asks: the name of its device, and who asked for it."""
    asked = []

    class Asked(Exception):
        """Stops what would go on to the GPU."""

    for name in aeot.__all__:  # all are imported when they are asked for
        getattr(aeot, name)
    resolved = _environment.resolve_device

    def watched(device):
        found = resolved(device)
        asked.append(str(found))
        if found.type == "cuda":
            raise Asked
        return found

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in list(sys.modules.values()):
        if getattr(module, "resolve_device", None) is resolved:
            monkeypatch.setattr(module, "resolve_device", watched)
    return asked, Asked


@pytest.mark.parametrize("place", PLACES)
def test_none_is_the_first_gpu(place, first_gpu):
    asked, Asked = first_gpu
    with pytest.raises(Asked):
        PLACES[place]()
    assert asked[-1] == "cuda"


@pytest.mark.parametrize("place", ["GAN", "SemiDiscreteOT", "hierarchy", "compare"])
def test_a_device_that_is_named_is_taken(place, first_gpu, monkeypatch):
    asked, _ = first_gpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # torch itself asks, too
    PLACES[place](device="cpu")
    assert set(asked) == {"cpu"}


class Model(nn.Module):
    """A generator whose network says it is elsewhere."""

    def __init__(self, device):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, device=device), requires_grad=False)

    def sample(self, n, *, seed):
        return torch.rand(n, 1, SIDE, SIDE, generator=generator(seed))


def test_models_on_several_devices_are_not_compared():
    options = {"metrics": ["fd"], "features": Pixels(2)}
    with pytest.raises(ValueError, match=r"models must compute on one device, got cpu \(a\), meta"):
        compare({"a": Model("cpu"), "b": Model("meta")}, IMAGES, **options)
    facts = {"b": {"device": "cuda:0", "train_seconds": 3.0}}  # trained there, loaded here
    with pytest.raises(ValueError, match=r"got cpu \(a\), cuda:0 \(b\).*one device"):
        compare({"a": Model("cpu"), "b": Model("cpu")}, IMAGES, facts=facts, **options)


def test_every_row_says_where_it_was_made():
    options = {"metrics": ["fd"], "features": Pixels(2)}
    found = compare({"a": Model("cpu"), "images": X}, IMAGES, **options)
    rows = {row["model"]: row["facts"].get("device") for row in found.rows}
    assert rows == {"a": "cpu", "images": None}
    assert found.protocol["device"] == "cpu"
    elsewhere = Comparison([], {**found.protocol, "device": "cuda:0"}, {})
    with pytest.raises(ValueError, match="device cpu and cuda:0"):
        merge([found, elsewhere])
    merge([found, Comparison([], {**found.protocol, "device": "none"}, {})])


def test_a_budget_names_the_device():
    facts = budget.train(aeot.GAN(device="cpu", batch_size=4), IMAGES, images_seen=8)
    assert facts["device"] == "cpu"
