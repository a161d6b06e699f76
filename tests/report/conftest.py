import pytest
import torch

import aeot
from aeot.data import Dataset
from aeot.features import Pixels
from aeot.report import write_page

NAMES = ("<b>left</b>", 'right" onload="alert(1)')


class Linear:
    """An autoencoder in closed form: 8 x 8 images that are combinations of two patterns."""

    shape_ = (1, 8, 8)
    losses_ = {"train_joint": 0.01, "train": 0.005}
    precision_ = "float32"
    compute_device = torch.device("cpu")
    history_ = [
        {"phase": 1, "step": 10, "seconds": 1.0, "loss": 0.1},
        {"phase": 1, "step": 20, "seconds": 2.0, "loss": 0.02},
        {"phase": 2, "step": 5, "seconds": 3.0, "loss": 0.01},
    ]

    def __init__(self):
        basis = torch.zeros(2, 64)
        basis[0, :32], basis[1, 32:] = 1, 1
        self.basis = basis / 32**0.5

    def encode(self, data):
        rows = data[:] if isinstance(data, Dataset) else data
        return rows.flatten(1) @ self.basis.T

    def decode(self, codes):
        return (codes @ self.basis).reshape(-1, 1, 8, 8)


def clusters(n, seed):
    """Images whose codes lie around (-3, 0) and (3, 0)."""
    labels = torch.arange(n) % 2
    centres = torch.stack([6.0 * labels - 3, 0 * labels], dim=1)
    codes = centres + 0.4 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    return Dataset(Linear().decode(codes), "<i>two</i>", labels, NAMES)


@pytest.fixture(scope="session")
def fitted():
    """A model of two separate clusters of codes, and its training images."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 2
    codes = 0.4 * torch.randn(120, 2, generator=draw) + torch.stack(
        [6.0 * labels - 3, 0 * labels], 1
    )
    coder = Linear()
    data = Dataset(coder.decode(codes), "<i>two</i>", labels, NAMES)
    model = aeot.AEOT(latent_dim=2, tol=0.05, seed=0)
    model.autoencoder_ = coder
    model.fit_transport(data)
    return model, data


@pytest.fixture(scope="session")
def compared(fitted):
    model, data = fitted
    test = clusters(60, seed=1)
    return aeot.compare(
        {"model <script>alert(2)</script>": model, "copies": data},
        test,
        features=Pixels(2),
        training=data,
        repeats=2,
    )


@pytest.fixture(scope="session")
def page(fitted, compared, tmp_path_factory):
    """A page about both, under a name that would do harm if it were markup."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    name = "run <img src=x onerror=\"document.title='broken'\">"
    training = {name: fitted[1]}
    sources = {name: fitted[0], "table": compared}
    write_page(sources, path, training=training, picture="pca", shown=60)
    return path
