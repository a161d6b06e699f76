"""Image translation without pairs: CycleGAN."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import l1_loss

from aeot import _check
from aeot._check import ArrayLike
from aeot._estimator import positive
from aeot._rng import generator
from aeot.data.arrays import Dataset, Domains
from aeot.data.filters import STEP
from aeot.gan.estimator import natural
from aeot.gan.sinkhorn import sinkhorn_divergence
from aeot.gan.translator import ADVERSARIES, ImagePool, Translator, check_images


@dataclass(kw_only=True, eq=False, repr=False)
class CycleGAN(Translator):
    """Two generators that translate between two collections of images, and back.

    Each must fool a discriminator of the other domain, return what the other generator
    translated (`cycle`), and leave alone images that are already where they should be
    (`identity`). A step updates both generators with the discriminators frozen, then both
    discriminators on real images and on fakes from a pool of past ones.

    Nothing here forbids hiding the input in faint detail of the output instead of translating it;
    `aeot.gan_diagnostics.steganography` measures that and `cycle_noise` works against it.

    Args:
        n_blocks: Residual blocks of the generators; None for 9 from 256 px on, else 6.
        filters: Channels of the first layer of all networks; 64 as published; 32 needs about a
            quarter of the arithmetic.
        n_layers: Depth of the discriminators: they judge patches of 1, 16, 34, 70, 142 px for
            0 to 4. Images of 32 px want 1 or 2.
        norm: "instance" (as in the published code), "instance-affine", "batch" or "none".
        adversary: "least-squares" or "non-saturating": trained discriminators. "wasserstein":
            critics with a gradient penalty, which see the mean over patches. "sinkhorn": none;
            the generators lower the debiased Sinkhorn divergence between the batch of fakes and
            the batch of real images, pixels taken as coordinates. Needs batches of 2, better 64.
        blur: Of the Sinkhorn divergence: the root mean square per pixel below which two images
            count as the same.
        cycle: Weight of the cycle loss, mean absolute differences.
        identity: Weight of the identity loss, as a share of `cycle`.
        cycle_noise: Standard deviation, in 8-bit levels, of noise on the translation before the
            way back: what is hidden in fewer levels is lost.
        pool_size: Past fakes kept for each discriminator.
        learning_rate: Adam's step size, for all networks; 2e-4 as published.
        betas: How fast Adam forgets slopes and their squares, as in [0.5,0.999].
        batch_size: Images of each domain per step; 1 as published.
        decay: Share of the steps, at their end, over which the rate falls linearly to zero.
        enlarge: Images are enlarged by this factor and cropped back at random; 1 for not at all.
        crop: Side of a square cropped at random from images as they are, in place of `enlarge`:
            256 for images loaded at 286, as published; None: they are enlarged.
        flip: Whether to mirror images at random.
        upsampling: "transposed" convolutions in the generators, or "resize", without checkerboards.
        penalty: Weight of the gradient penalty of "wasserstein".
        precision: "float32", or "bfloat16" for the networks' arithmetic.
        device: Where to train; None: the first GPU, else the CPU.
        seed: Of everything random: the same seed gives the same networks.

    References:
        J.-Y. Zhu, T. Park, P. Isola, A. Efros, "Unpaired image-to-image translation using
        cycle-consistent adversarial networks", 2017. X. Mao and others, "Least squares generative
        adversarial networks", 2017. A. Genevay, G. Peyre, M. Cuturi, "Learning generative models
        with Sinkhorn divergences", 2018 (the "sinkhorn" adversary).

    Example:
        >>> from aeot.data import unpaired
        >>> dark, light = torch.full((4, 1, 16, 16), -0.5), torch.full((4, 1, 16, 16), 0.5)
        >>> model = CycleGAN(filters=4, n_blocks=1, n_layers=1)
        >>> _ = model.fit(unpaired(dark, light), steps=2)
        >>> model.translate(dark, to="b").shape
        torch.Size([4, 1, 16, 16])
    """

    adversary: str = "least-squares"
    blur: float = 0.05
    cycle: float = 10.0
    identity: float = 0.5
    cycle_noise: float = 0.0
    pool_size: int = 50

    _checks = Translator._checks | {
        "adversary": partial(_check.choice, options=(*ADVERSARIES, "sinkhorn")),
        "blur": positive,
        "pool_size": natural,
    }

    def translate(self, x: Dataset | ArrayLike, *, to: str = "b") -> torch.Tensor:
        """Translate images to the other domain.

        Args:
            x: Images (B, C, H, W) in [-1, 1] with sides that are multiples of 4, or a data set.
            to: "b" for images of A, "a" for images of B.

        Returns:
            (B, C, H, W) in [-1, 1], on the model's device.

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If the channels, sides or range of `x` do not fit.
        """
        self._check_fitted()
        _check.choice("to", to, ("a", "b"))
        images = check_images(x, self.shape_)
        return self._in_blocks(self.to_b_ if to == "b" else self.to_a_, images, seed=None)

    def _check_data(self, data: Domains) -> None:
        if data.paired:
            way_out = "aeot.unpaired(data.a, data.b), or Pix2Pix for pairs"
            raise _check.fail("data", "be unpaired", "paired domains", way_out)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.adversary != "sinkhorn":
            self._check_unused("unless adversary is 'sinkhorn'", "blur")
            return
        self._check_unused("with 'sinkhorn', which has no critic", "pool_size")
        if self.batch_size < 2:
            way_out = "64 is a good size"
            raise _check.fail("batch_size", "be >= 2 for 'sinkhorn'", self.batch_size, way_out)

    def _networks(self) -> dict[str, nn.Module]:
        channels = self.shape_[0]
        self.to_b_: nn.Module = self._resnet(channels, channels)
        self.to_a_: nn.Module = self._resnet(channels, channels)
        networks = {"to_b_": self.to_b_, "to_a_": self.to_a_}
        if self._has_critic:
            networks |= {name: self._critic(channels) for name in ("critic_a_", "critic_b_")}
        return networks

    def _movers(self) -> dict[str, list[str]]:
        generators = {"generators": ["to_b", "to_a"]}
        if not self._has_critic:
            return generators
        return generators | {"critics": ["critic_a", "critic_b"]}

    def _states(self) -> dict[str, Any]:
        self._pools = {name: ImagePool(self.pool_size) for name in "ab"}
        pools = {f"pool_{name}": pool for name, pool in self._pools.items()}
        return super()._states() | (pools if self._has_critic else {})

    def _update(self, step: int, a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
        fake_b, fake_a = self.to_b_(a), self.to_a_(b)
        losses = {
            "adversary_a": self._fool("a", fake_a, a),
            "adversary_b": self._fool("b", fake_b, b),
        }
        total = losses["adversary_a"] + losses["adversary_b"]
        if self.cycle:
            stream = generator(self.seed, "cycle noise", step)
            losses["cycle_a"] = l1_loss(self.to_a_(self._disturb(fake_b, stream)), a)
            losses["cycle_b"] = l1_loss(self.to_b_(self._disturb(fake_a, stream)), b)
            total = total + self.cycle * (losses["cycle_a"] + losses["cycle_b"])
        if self.cycle and self.identity:
            losses["identity_a"] = l1_loss(self.to_a_(a), a)
            losses["identity_b"] = l1_loss(self.to_b_(b), b)
            same = losses["identity_a"] + losses["identity_b"]
            total = total + self.cycle * self.identity * same
        self._descend(total, "generators")
        if self._has_critic:
            stream = generator(self.seed, "pool", step)
            mixed = generator(self.seed, "penalty", step)
            for name, real, fake in (("a", a, fake_a), ("b", b, fake_b)):
                critic = self._modules[f"critic_{name}"]
                past = self._pools[name].query(fake, stream)
                losses[f"critic_{name}"] = self._critic_loss(critic, real, past, mixed)
            self._descend(losses["critic_a"] + losses["critic_b"], "critics")
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _fool(self, name: str, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        if self.adversary == "sinkhorn":
            # Divided by the root of the number of pixels, distances do not depend on the size.
            x, y = (side.float().flatten(1) / math.sqrt(side[0].numel()) for side in (fake, real))
            return sinkhorn_divergence(x, y, blur=self.blur)
        return ADVERSARIES[self.adversary][1](self._modules[f"critic_{name}"](fake).float())

    def _disturb(self, fake: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        if not self.cycle_noise:
            return fake
        noise = torch.randn(fake.shape, generator=stream).to(fake)
        return fake + self.cycle_noise * STEP * noise
