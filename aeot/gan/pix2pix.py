"""Image translation with pairs: pix2pix, deterministic or stochastic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.functional import interpolate, l1_loss, mse_loss

from aeot import _check
from aeot._check import ArrayLike
from aeot._rng import generator
from aeot.data.arrays import Dataset, Domains
from aeot.gan.estimator import natural
from aeot.gan.translator import ADVERSARIES, Translator, check_images, with_noise
from aeot.networks.generators import UNetGenerator


@dataclass(kw_only=True, eq=False, repr=False)
class Pix2Pix(Translator):
    """A generator that learns from pairs, judged by a discriminator that sees input and output.

    The generator lowers an adversarial loss plus `l1` times the mean difference from the partner. A
    step updates the discriminator first, then the generator.

    An L1 loss alone leads to the median of all partners an input might have. Where there are many
    right answers the generator needs noise: dropout (as published; it is largely ignored) or
    `noise_channels`, made effective by `diversity`. `aeot.gan_diagnostics.splitting.diversity`
    measures what the noise does, `aeot.gan_diagnostics.weights.l1_weight` what `l1` should be.

    Args:
        generator: "unet" (as published), "resnet", or "upscale", whose images of b are 2, 4, 8, ...
            times as large as those of a (`aeot.data.low_high` makes such pairs): residual blocks
            at the size of a, then stages that double it. The discriminator sees the small image
            with every pixel repeated.
        n_blocks: Residual blocks of "resnet" and "upscale"; None for 9 from 256 px on, else 6.
        filters: Channels of the first layer of all networks, of "upscale" in its last stage; 64 as
            published.
        n_layers: Depth of the discriminator: it judges patches of 1, 16, 34, 70, 142 px for
            0 to 4. Images of 32 px want 1 or 2.
        norm: "instance-affine" is what the published batch norm does at `batch_size=1`, in
            training and in use; "batch" for larger batches, "instance" or "none".
        adversary: "non-saturating", "least-squares", or "wasserstein": a critic with a gradient
            penalty, which sees the mean over patches. "none": no discriminator; the generator
            lowers the difference alone.
        l1: Weight of the difference from the partner.
        difference: "absolute", whose mean is least at the median of all partners that an input
            might have, or "squared", least at their mean: more blurred.
        dropout: Probability in the generator, on in use as in training. In a U-Net it sits in three
            places at 256 px, two at 128, one at 64 and nowhere below: small images need
            `noise_channels`.
        noise_channels: Constant planes of normal noise beside the input; 0 for none. An instance
            norm takes away what is constant over an image: prefer "batch", with batches, or "none".
        diversity: Weight of a loss that grows as two draws of the noise give more similar
            outputs; needs `noise_channels`. 1 in its paper.
        learning_rate: Of Adam, for both networks.
        betas: Of Adam.
        batch_size: Pairs per step.
        decay: Share of the steps, at their end, over which the rate falls linearly to zero.
        enlarge: Pairs are enlarged by this factor and cropped back at random; 1 for not at all.
        crop: Side of a square cropped at random from pairs as they are, in place of `enlarge`: 256
            for images loaded at 286, as published; in pixels of a; None: they are enlarged.
        flip: Whether to mirror pairs at random.
        upsampling: "transposed" convolutions in "resnet" and "upscale", or "resize", without
            checkerboards.
        penalty: Weight of the gradient penalty of "wasserstein".
        precision: "float32", or "bfloat16" for the networks' arithmetic.
        device: Where to train; None: the first GPU, else the CPU.
        seed: Fixes everything.

    References:
        P. Isola, J.-Y. Zhu, T. Zhou, A. Efros, "Image-to-image translation with conditional
        adversarial networks", 2017. Q. Mao and others, "Mode seeking generative adversarial
        networks for diverse image synthesis", 2019, equation 4 (`diversity`).

    Example:
        >>> from aeot.data import paired
        >>> x = torch.rand(4, 1, 16, 16) * 2 - 1
        >>> model = Pix2Pix(filters=4, n_layers=1).fit(paired(x, -x), steps=2)
        >>> model.translate(x).shape
        torch.Size([4, 1, 16, 16])
    """

    generator: str = "unet"
    norm: str = "instance-affine"
    adversary: str = "non-saturating"
    l1: float = 100.0
    difference: str = "absolute"
    dropout: float = 0.5
    noise_channels: int = 0
    diversity: float = 0.0

    _checks = Translator._checks | {
        "generator": partial(_check.choice, options=("unet", "resnet", "upscale")),
        "adversary": partial(_check.choice, options=(*ADVERSARIES, "none")),
        "dropout": partial(_check.real, minimum=0, maximum=0.999),
        "difference": partial(_check.choice, options=("absolute", "squared")),
        "noise_channels": natural,
    }

    def translate(
        self,
        x: Dataset | ArrayLike,
        *,
        to: str = "b",
        seed: int = 0,
        noise: bool = True,
    ) -> torch.Tensor:
        """Translate images of A into B.

        Args:
            x: Images (B, C, H, W) in [-1, 1], or a data set.
            to: "b", the only direction.
            seed: Of the noise; the same seed gives image i the same noise.
            noise: Whether dropout and noise channels are on; without, the planes are zero.

        Returns:
            (B, C', H, W) in [-1, 1], on the model's device; of "upscale" with larger sides.

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If `to` is not "b", or the channels, sides or range of `x` do not fit.
        """
        self._check_fitted()
        if not isinstance(to, str) or to != "b":
            raise _check.fail("to", "be 'b'", _check.shown(to))
        _check.flag("noise", noise)
        _check.seed("seed", seed)
        images = check_images(x, self.shape_, multiple=getattr(self.to_b_, "size", 4))
        if not noise and self.noise_channels:
            zeros = images.new_zeros(len(images), self.noise_channels)
            return self._in_blocks(self.to_b_, with_noise(images, zeros), seed=None)
        return self._in_blocks(
            self.to_b_,
            images,
            seed=_check.seed("seed", seed) if noise else None,
            noise_channels=self.noise_channels,
        )

    def _check_data(self, data: Domains) -> None:
        if not data.paired:
            raise _check.fail("data", "be paired", "unpaired domains", "use CycleGAN for those")
        if self.diversity and not self.noise_channels:
            way_out = "8 is a good number"
            raise _check.fail("noise_channels", "be >= 1 with diversity", 0, way_out)
        (_, *small), (_, *large) = self._cropped(data)
        times = large[0] // small[0]
        got = f"a of {small[0]} x {small[1]} and b of {large[0]} x {large[1]}"
        if self.generator != "upscale" and times != 1:
            way_out = "pass generator='upscale', which enlarges"
            raise _check.fail("data", "have images of one size in a and b", got, way_out)
        if self.generator == "upscale" and (times < 2 or times & (times - 1) or min(small) < 2):
            must = "have images in b that are 2, 4, 8, ... times as large as in a, at least 2 x 2"
            raise _check.fail("data", must, got, "aeot.data.low_high(b, 4, enlarge=False) has")

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.generator == "unet":
            way_out = "pass generator='resnet' or 'upscale'"
            self._check_unused("in a U-Net", "n_blocks", "upsampling", way_out=way_out)
        if not self._has_critic:
            self._check_unused("with adversary 'none', which has no critic", "n_layers")
            if not self.l1:
                raise _check.fail("l1", "be above 0 with adversary 'none'", self.l1)

    @property
    def _sides(self) -> int:  # type: ignore[override]
        return {"unet": 8, "resnet": 4, "upscale": 1}[self.generator]

    def _networks(self) -> dict[str, nn.Module]:
        (channels, *sides), outside = self.shape_, self.out_shape_[0]
        inside = channels + self.noise_channels
        if self.generator == "unet":
            side = math.gcd(*sides)
            size = min(side & -side, 256)  # the largest power of two that divides both sides
            self.to_b_: nn.Module = UNetGenerator(
                inside,
                outside,
                size,
                filters=self.filters,
                norm=self.norm,
                dropout=self.dropout,
            )
        else:
            times = self.out_shape_[1] // sides[0]
            self.to_b_ = self._resnet(inside, outside, self.dropout, times)
        if not self._has_critic:
            return {"to_b_": self.to_b_}
        self.critic_: nn.Module = self._critic(channels + outside)
        return {"to_b_": self.to_b_, "critic_": self.critic_}

    def _movers(self) -> dict[str, list[str]]:
        generators = {"generators": ["to_b"]}
        return generators | {"critics": ["critic"]} if self._has_critic else generators

    def _update(self, step: int, a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
        stream = generator(self.seed, "noise", step)

        def draw() -> tuple[torch.Tensor, torch.Tensor]:
            z = torch.randn(len(a), self.noise_channels, generator=stream).to(a)
            return z, self.to_b_(with_noise(a, z) if self.noise_channels else a)

        beside = interpolate(a, b.shape[2:])  # as it is, or with every pixel repeated

        def judged(image: torch.Tensor) -> torch.Tensor:  # the input stands beside it
            return self.critic_(torch.cat([beside, image], 1))

        z, fake = draw()
        losses: dict[str, torch.Tensor] = {}
        if self._has_critic:
            mixed = generator(self.seed, "penalty", step)
            losses["critic"] = self._critic_loss(judged, b, fake.detach(), mixed)
            self._descend(losses["critic"], "critics")
            losses["adversary"] = ADVERSARIES[self.adversary][1](judged(fake).float())
        if self.difference == "absolute":
            losses["l1"] = away = l1_loss(fake, b)
        else:
            losses["l2"] = away = mse_loss(fake, b)
        total = losses.get("adversary", 0) + self.l1 * away
        if self.diversity:
            other_z, other = draw()
            moved = (fake - other).float().abs().mean() / (z - other_z).abs().mean()
            losses["sameness"] = 1 / (moved + 1e-5)
            total = total + self.diversity * losses["sameness"]
        self._descend(total, "generators")
        return {name: float(loss.detach()) for name, loss in losses.items()}
