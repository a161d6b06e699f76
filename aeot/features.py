"""What images are measured by: a classifier trained here, Inception, or any module of yours.

A feature extractor is an ``nn.Module`` that maps images (B, C, H, W) in [-1, 1] to features
(B, width). Distances between features mean nothing without the extractor: its name and the hash
of its weights belong beside every number (`describe`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from aeot import _check, _io, _loop, _rng, training
from aeot._environment import in_parts, plain_torch
from aeot._estimator import Estimator
from aeot.data import Dataset, indices, to_uint8

try:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
except ImportError:
    FeatureExtractorInceptionV3 = None


def fingerprint(module: nn.Module) -> str:
    """Return 16 hexadecimal digits of a SHA-256 over a module's weights and buffers.

    It depends on names, shapes, types and values, not on the device.

    Raises:
        ValueError: If it is no module.
    """
    _check.instance("module", module, nn.Module)
    return _io.digest(module.state_dict())[:16]


def describe(extractor: nn.Module | Classifier) -> dict[str, Any]:
    """Return what identifies an extractor: its name, the hash of its weights, and what it knows.

    A module may carry ``name`` (a str) and ``facts`` (plain values) of its own.

    Raises:
        ValueError: If it is neither a fitted `Classifier` nor a module.
    """
    module = _module(extractor)
    name = getattr(module, "name", type(module).__name__)
    return {"name": str(name), "hash": fingerprint(module), **getattr(module, "facts", {})}


@plain_torch(grad=False)
def extract(
    extractor: nn.Module | Classifier, images: Dataset | torch.Tensor, *, batch_size: int = 256
) -> torch.Tensor:
    """Compute features of images, rounded to 8 bits first as files would be.

    Real and generated images are thus treated alike. In float64, as a `Classifier` computes, the
    result does not depend on `batch_size` beyond rounding (1e-14 relative; float32: 1e-6).

    Args:
        extractor: A fitted `Classifier`, or a module from images (B, C, H, W) in [-1, 1], of its
            parameters' type, to (B, width). It is put in eval mode.
        images: A data set, or a tensor of uint8 or of floats in [-1, 1].
        batch_size: Images per call, B.

    Returns:
        Features (rows, width), float64, on the CPU.

    Raises:
        ValueError: If images are missing, not finite, floats from 0 to 255 or not of the
            `Classifier`'s shape, or the extractor does not return one finite row per image.
    """
    batch_size = _check.integer("batch_size", batch_size)
    module = _module(extractor).eval()
    _checked(images, extractor.shape_ if isinstance(extractor, Classifier) else None)
    like = next(iter(module.parameters()), torch.empty(0))
    rows = []
    with _loop.Loop("features", len(images), unit="image", stops=False) as loop:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            batch = batch if batch.dtype == torch.uint8 else to_uint8(batch)
            features = in_parts(module, batch.to(like.device, like.dtype).div(127.5).sub(1))
            if features.ndim != 2 or len(features) != len(batch):
                got = f"{tuple(features.shape)} for {len(batch)} images"
                raise _check.fail("extractor", "return one row per image, (B, width)", got)
            rows.append(features.double().cpu())
            loop.at(start + len(batch))
    return _check.points("features", torch.cat(rows))


def _module(extractor: nn.Module | Classifier) -> nn.Module:
    """Return what maps images to features, or say that this is none."""
    if isinstance(extractor, Classifier):
        return extractor.extractor()
    if not isinstance(extractor, nn.Module):
        must, way_out = "be a fitted Classifier or a module", "features.Pixels() is one"
        raise _check.fail("extractor", must, _check.shown(extractor), way_out)
    return extractor


def _checked(images: Dataset | torch.Tensor, shape: tuple[int, ...] | None) -> None:
    """Refuse what is neither bytes nor in [-1, 1], or not of `shape` (C, H, W) where given."""
    good = isinstance(images, Dataset)
    got = f"{type(images).__name__} of {getattr(images, 'dtype', 'no dtype')}"
    if isinstance(images, torch.Tensor):
        if images.numel() == 0:
            raise _check.fail("images", "hold at least one image", "none")
        good = images.dtype == torch.uint8
        if images.is_floating_point():
            low, high = (float(bound) for bound in _check.array("images", images).aminmax())
            # Overshooting generators are clipped; nothing below 0 and much above 1 means bytes.
            good, got = low < 0 or high <= 2, f"floats from {low:g} to {high:g}"
    if not good:
        way_out = "torch.as_tensor(images).to(torch.uint8) if they are bytes"
        raise _check.fail("images", "be uint8 or floats in [-1, 1] (a tensor)", got, way_out)
    found = tuple(images.shape) if isinstance(images, Dataset) else tuple(images.shape[1:])
    if len(found) != 3:
        raise _check.fail("images", "have shape (B, C, H, W)", f"rows of shape {found}")
    if shape is not None and found != tuple(shape):
        raise _check.fail("images", f"have the shape of the training {tuple(shape)}", found)


class Pixels(nn.Module):
    """The pixels themselves as features, averaged down to at most `size` x `size`.

    The last resort where there are no labels: such distances see blur and shifts, not content.
    They are labelled "pixels" in every report.
    """

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.size = _check.integer("size", size)
        self.name = f"pixels {size}x{size}"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (B, C * size * size) for images (B, C, H, W)."""
        side = min(self.size, *images.shape[-2:])
        return F.adaptive_avg_pool2d(images, side).flatten(1)


class _Inception(nn.Module):
    def __init__(self, inner: nn.Module, weights: str) -> None:
        super().__init__()
        self.inner = inner
        self.name = "inception-v3-compat pool3 (torch-fidelity)"
        self.facts = {"weights": weights, "fid": True}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(to_uint8(images).expand(-1, 3, -1, -1))[0]


@plain_torch()
def inception(weights: str | os.PathLike) -> nn.Module:
    """Return the Inception network of published FIDs: 2048 features, its own 299-pixel resize.

    Args:
        weights: Path of ``weights-inception-2015-12-05-6726825d.pth`` (torch-fidelity's release
            page offers it). Nothing is downloaded here.

    Returns:
        An extractor for gray or colour images; only its Fréchet distance is called FID.

    Raises:
        ImportError: If torch-fidelity is missing.
        ValueError: If the file is not there.
    """
    if FeatureExtractorInceptionV3 is None:
        raise ImportError("Inception features need torch-fidelity: pip install 'aeot[inception]'")
    if not os.path.isfile(weights):
        way_out = "fetch weights-inception-2015-12-05-6726825d.pth and pass its path"
        raise _check.fail("weights", "be a file", repr(os.fspath(weights)), way_out)
    inner = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=os.fspath(weights)
    )
    return _Inception(inner.eval(), os.path.basename(weights)).eval()


class _Network(nn.Module):
    """Three convolutions, one hidden layer: about 93 % on Fashion-MNIST."""

    name: str
    facts: dict[str, float]

    def __init__(self, shape: tuple[int, ...], classes: int, channels: int, width: int) -> None:
        super().__init__()
        layers, before = [], shape[0]
        for after in (channels, 2 * channels, 4 * channels):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
            before = after
        side = [-(-edge // 8) for edge in shape[1:]]
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.hidden = nn.Linear(before * side[0] * side[1], width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, width) of images (B, C, H, W) in [-1, 1]."""
        return self.hidden(self.trunk(images)).relu()


@dataclass(kw_only=True, eq=False, repr=False)
class Classifier(Estimator):
    """A small convolutional classifier of a labelled data set, whose features measure images.

    Where Inception's weights cannot be had or do not fit (gray images of 28 pixels), the
    activations before its last layer stand in. Trained with Adam under a one-cycle schedule on
    images shifted by up to two pixels. Deterministic for a seed, device kind and number of
    threads.

    Args:
        channels: Channels of the first convolution; doubled twice.
        width: Number of features, at most 128 so that Fréchet distances need few images.
        epochs: Passes over the training images.
        batch_size: Images per step.
        learning_rate: Its peak.
        precision: "float32" or "bfloat16", of the training only; the latter halves its time on
            processors that have it.
        seed: Of initial weights, order and shifts.

    Attributes:
        network_: The trained module, float32, eval mode.
        accuracy_: On the test images (share, 0 to 1).
        classes_: Class names.
        shape_: Image shape (C, H, W).
        data_: Name of the training data.
        hash_: `fingerprint` of the extractor.
        history_: Training records.

    Example:
        >>> import aeot
        >>> from aeot.features import Classifier, extract
        >>> train, test = aeot.dataset("digits"), aeot.dataset("digits", split="test")
        >>> net = Classifier(channels=8, width=32, epochs=4, seed=0).fit(train, test)
        >>> net.accuracy_ > 0.9, extract(net, test).shape
        (True, torch.Size([355, 32]))
    """

    channels: int = 32
    width: int = 128
    epochs: int = 8
    batch_size: int = 128
    learning_rate: float = 4e-3
    precision: str = "float32"
    seed: int = 0

    _fitted_by = "network_"
    _learned = {"shape_": tuple[int, ...], "classes_": tuple[str, ...], "data_": str}
    _learned |= {"history_": list[dict], "hash_": str}
    _checks = Estimator._checks | {
        "channels": _check.integer,
        "width": partial(_check.integer, maximum=128),
        "epochs": _check.integer,
        "precision": partial(_check.choice, options=("float32", "bfloat16")),
    }

    def fit(
        self,
        data: Dataset,
        test: Dataset | None = None,
        *,
        on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
        progress: bool | None = None,
    ) -> Classifier:
        """Train on labelled images.

        Args:
            data: Images with labels.
            test: Other images with labels, for `accuracy_`. None: a tenth of `data`, chosen by
                the seed, is kept out of the training and used.
            on_step: Called after each step, as by `aeot.training.run`.
            progress: Whether to show progress on stderr; None: a bar if that is a terminal, else a
                line a minute.

        Returns:
            self.

        Raises:
            ValueError: If there are no labels, fewer than two classes, or no images.
        """
        self._check_arguments()
        labels, seed, apart = _labelled("data", data), self.seed, test is not None
        if test is None:
            order = torch.randperm(len(data), generator=_rng.generator(seed, "holdout"))
            cut = max(1, len(data) // 10)
            test, data = data.subset(order[:cut]), data.subset(order[cut:])
            labels = labels[order[cut:]]
        tested = _labelled("test", test, several=apart)
        if test.shape != data.shape:
            raise _check.fail("test", f"have images of shape {data.shape}", str(test.shape))
        count = 1 + int(max(labels.max(), tested.max()))
        self.shape_, self.data_ = data.shape, data.name
        self.classes_ = data.classes or tuple(str(i) for i in range(count))
        self._check_networks()
        with _rng.forked(seed, "classifier"):
            network = self._network()
        network = network.to(memory_format=torch.channels_last)
        batch_size = min(self.batch_size, len(data))
        steps = self.epochs * max(1, len(data) // batch_size)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, steps)
        half = self.precision == "bfloat16"

        def update(numbered: tuple[int, torch.Tensor]) -> dict[str, float]:
            step, rows = numbered
            draw = _rng.generator(seed, "shift", step)
            images = _shifted(data[rows], draw).contiguous(memory_format=torch.channels_last)
            kind = images.device.type  # no cache, as in `Autoencoder`
            with torch.autocast(kind, torch.bfloat16, enabled=half, cache_enabled=False):
                scores = network.head(network(images))
            loss = F.cross_entropy(scores.float(), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            return {"loss": loss.item()}

        self.history_ = training.run(
            update,
            lambda start: enumerate(
                indices(len(data), batch_size, seed=seed, start=start, key="classifier"), start
            ),
            steps=steps,
            facts={"batch_size": batch_size},
            state={"network": network, "optimizer": optimizer, "schedule": schedule},
            on_step=on_step,
            name="classifier",
            progress=progress,
        )
        self.network_: _Network = network.to(memory_format=torch.contiguous_format).eval()
        self.accuracy_ = self.score(test)
        self.hash_ = fingerprint(self.extractor())
        return self

    def extractor(self) -> nn.Module:
        """Return the module from images to features, in float64, with its name and accuracy."""
        self._check_fitted()
        module = copy.deepcopy(self.network_).double().eval()
        module.name = f"classifier of {self.data_}"
        module.facts = {"accuracy": self.accuracy_} if hasattr(self, "accuracy_") else {}
        return module

    def predict(self, images: Dataset | torch.Tensor) -> torch.Tensor:
        """Return class numbers (rows,), int64, of images as `extract` takes them."""
        return self.predict_from(extract(self, images))

    def predict_from(self, features: torch.Tensor) -> torch.Tensor:
        """Return class numbers (rows,), int64, of features (rows, width) from `extract`."""
        self._check_fitted()
        head = copy.deepcopy(self.network_.head).double()
        features = _check.points("features", features, dim=head.in_features)
        with torch.no_grad():
            scores = head(features.to(head.weight))
        return scores.argmax(dim=1).to(features.device)

    def score(self, data: Dataset) -> float:
        """Return the share of images whose class is predicted right.

        Raises:
            ValueError: If `data` has no labels.
        """
        labels = _labelled("data", data, several=False)
        return float((self.predict(data) == labels.cpu()).double().mean())

    def _network(self) -> _Network:
        return _Network(self.shape_, len(self.classes_), self.channels, self.width)

    def _build(self) -> dict[str, nn.Module]:
        return {"network_": self._network()}


def _labelled(name: str, data: Dataset, *, several: bool = True) -> torch.Tensor:
    """Return the labels of `data`, (rows,); refuse data without, or with a single class."""
    if not isinstance(data, Dataset) or data.labels is None or len(data.shape) != 3:
        got = type(data).__name__ + (" without labels" if isinstance(data, Dataset) else "")
        way_out = "without labels, use features.Pixels() or an extractor of your own"
        raise _check.fail(name, "be a Dataset of labelled images", got, way_out)
    if several and len(data.labels.unique()) < 2:
        raise _check.fail(name, "hold at least two classes", "one")
    return data.labels


def _shifted(images: torch.Tensor, draw: torch.Generator, reach: int = 2) -> torch.Tensor:
    """Shift a batch by up to `reach` pixels either way, black (-1) coming in."""
    down, right = torch.randint(2 * reach + 1, (2,), generator=draw).tolist()
    height, width = images.shape[-2:]
    padded = F.pad(images, [reach] * 4, value=-1.0)
    return padded[..., down : down + height, right : right + width]
