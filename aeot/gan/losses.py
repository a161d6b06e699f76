"""The parts of a GAN: losses, Lipschitz penalties and constraints, packing. All are minimised."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import relu, softplus

from aeot import _check

_EPS = 1e-12  # under the root: a zero gradient then has a zero derivative instead of NaN

Critic = Callable[..., torch.Tensor]


# On raw scores: a discriminator has no last sigmoid, D = sigmoid(score).
def logistic_critic_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Return -mean log D(real) - mean log(1 - D(fake)), the discriminator's loss of a GAN.

    Args:
        real: Scores of real samples, any shape.
        fake: Scores of generated samples.

    Returns:
        A scalar.

    References:
        Goodfellow et al., Generative adversarial nets, 2014, eq. 1.

    Example:
        >>> import torch
        >>> round(float(logistic_critic_loss(torch.zeros(3), torch.zeros(3))), 4)  # 2 log 2
        1.3863
    """
    return softplus(-real).mean() + softplus(fake).mean()


def minimax_generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """Return mean log(1 - D(fake)): the other side of the same game, flat where D wins."""
    return -softplus(fake).mean()


def nonsaturating_generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """Return -mean log D(fake), steep where the minimax loss is flat."""
    return softplus(-fake).mean()


def least_squares_critic_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Return the mean of (real - 1)^2 / 2 plus that of fake^2 / 2 (Mao et al. 2017, eq. 2)."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """Return the mean of (fake - 1)^2 / 2."""
    return (fake - 1).square().mean() / 2


def wasserstein_critic_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Return mean fake - mean real: minus the estimate of the Wasserstein distance."""
    return fake.mean() - real.mean()


def wasserstein_generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """Return -mean fake."""
    return -fake.mean()


# name -> (critic loss of real and fake scores, generator loss of fake scores)
LOSSES = {
    "minimax": (logistic_critic_loss, minimax_generator_loss),
    "non-saturating": (logistic_critic_loss, nonsaturating_generator_loss),
    "least-squares": (least_squares_critic_loss, least_squares_generator_loss),
    "wasserstein": (wasserstein_critic_loss, wasserstein_generator_loss),
}


def ali_generator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Return -mean log(1 - D(real pair)) - mean log D(fake pair), for encoder and generator.

    A real pair is (x, E(x)), a fake pair (G(z), z): the encoder's gradient is in the first term.

    References:
        Dumoulin et al., Adversarially learned inference, 2017, algorithm 1.
    """
    return softplus(real).mean() + softplus(-fake).mean()


# Lipschitz penalties.
def interpolate(
    real: torch.Tensor,
    fake: torch.Tensor,
    *,
    where: str = "mixed",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return the points at which the critic's gradient is penalised.

    Args:
        real: (B, ...).
        fake: (B, ...), row b is paired with row b of `real`.
        where: "mixed": a uniform point of each segment, one fraction per sample; "real" or
            "fake": those samples themselves.
        generator: Where the fractions are drawn from.

    Returns:
        (B, ...), detached.

    Raises:
        ValueError: If the shapes differ or `where` is unknown.

    References:
        Gulrajani et al., Improved training of Wasserstein GANs, 2017, algorithm 1.
    """
    _check.choice("where", where, ("mixed", "real", "fake"))
    if real.shape != fake.shape:
        raise _check.fail("fake", f"have the shape of real, {tuple(real.shape)}", tuple(fake.shape))
    if where != "mixed":
        return (real if where == "real" else fake).detach()
    shape = (len(real), *[1] * (real.ndim - 1))
    # On the stream's device: one seed then draws the same numbers wherever the samples are.
    device = real.device if generator is None else generator.device
    share = torch.rand(shape, generator=generator, dtype=real.dtype, device=device)
    return torch.lerp(fake.detach(), real.detach(), share.to(real.device))


def perturb(real: torch.Tensor, *, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return points around the data, DRAGAN's place for the penalty.

    Each sample moves by a uniform fraction of ``std(batch) / 2 * U(0, 1)`` noise, the form used
    in the large comparison of Lucic et al. (2018).

    Args:
        real: (B, ...).
        generator: Where noise and fractions are drawn from.

    Returns:
        (B, ...), detached.
    """
    real = real.detach()

    def uniform(*shape: int) -> torch.Tensor:
        # On the stream's device: one seed then draws the same numbers wherever the samples are.
        device = real.device if generator is None else generator.device
        return torch.rand(shape, generator=generator, dtype=real.dtype, device=device)

    noise, share = uniform(*real.shape), uniform(len(real), *[1] * (real.ndim - 1))
    return real + (share * 0.5 * noise).to(real.device) * real.std(correction=0)


def gradient_norms(critic: Critic, points: torch.Tensor, *fixed: torch.Tensor) -> torch.Tensor:
    """Return |gradient of critic(points, *fixed) in points|, one per sample, differentiable.

    The norm runs over every axis but the first, in float32 or better whatever autocast says. A
    critic that does not depend on its points has slope 0 (1e-6 here, for the sake of the root).
    The critic must treat samples one by one: with batch normalisation a per-sample gradient does
    not exist.

    Args:
        critic: Maps (B, ...) and further inputs to one score per sample.
        points: (B, ...).
        fixed: Inputs in which no gradient is taken, such as conditions.

    Returns:
        (B,).

    Example:
        >>> import torch
        >>> w = torch.tensor([3.0, 4.0])
        >>> gradient_norms(lambda x: x @ w, torch.zeros(2, 2))
        tensor([5., 5.])
    """
    with torch.enable_grad(), torch.autocast(points.device.type, enabled=False):
        points = points.detach().to(torch.promote_types(points.dtype, torch.float32))
        points.requires_grad_()
        score = critic(points, *fixed).sum()
        slope = torch.zeros_like(points)
        if score.requires_grad:
            (slope,) = torch.autograd.grad(
                score, points, create_graph=True, allow_unused=True, materialize_grads=True
            )
        return (slope.unsqueeze(-1).flatten(1).square().sum(1) + _EPS).sqrt()


def slope_penalty(
    norms: torch.Tensor, *, weight: float = 10.0, target: float = 1.0, one_sided: bool = False
) -> torch.Tensor:
    """Return weight * mean (norms - target)^2; one-sided, only norms above the target count.

    Args:
        norms: Gradient norms, any shape.
        weight: Lambda, >= 0.
        target: The slope that costs nothing: 1 for WGAN-GP, 0 for a zero-centred penalty.
        one_sided: Let smaller slopes go free.

    Returns:
        A scalar.

    Raises:
        ValueError: If `weight` is negative or not finite.

    References:
        Gulrajani et al. 2017, eq. 3; the one-sided form is Petzka et al. 2018.
    """
    _check.real("weight", weight, minimum=0)
    excess = norms - target
    return weight * (relu(excess) if one_sided else excess).square().mean()


def gradient_penalty(
    critic: Critic,
    points: torch.Tensor,
    *fixed: torch.Tensor,
    weight: float = 10.0,
    one_sided: bool = False,
    groups: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the penalty on a critic's slope at given points, and the mean slopes found there.

    One penalty over all samples lets frequent conditions hide the steep critic of a rare one:
    with `groups` every group counts alike.

    Args:
        critic: Maps (B, ...) and `fixed` to one score per sample.
        points: (B, ...), from `interpolate` or `perturb`.
        fixed: Inputs in which no gradient is taken, such as conditions.
        weight: Lambda, >= 0.
        one_sided: See `slope_penalty`.
        groups: (B,) whole numbers, or None for one penalty over all samples.

    Returns:
        The penalty; ``gradient_norm`` and, for each group k that is present, ``gradient_norm_k``.

    Example:
        A linear critic has the same slope everywhere, so the penalty is weight (|w| - 1)^2:

        >>> import torch
        >>> w = torch.tensor([3.0, 4.0])
        >>> gradient_penalty(lambda x: x @ w, torch.zeros(5, 2), weight=10.0)
        (tensor(160.), {'gradient_norm': 5.0})
    """
    norms = gradient_norms(critic, points, *fixed)
    facts = {"gradient_norm": norms.detach().mean().item()}
    if groups is None:
        return slope_penalty(norms, weight=weight, one_sided=one_sided), facts
    parts = []
    for group in groups.unique().tolist():
        inside = norms[groups == group]
        parts.append(slope_penalty(inside, weight=weight, one_sided=one_sided))
        facts[f"gradient_norm_{int(group)}"] = inside.detach().mean().item()
    return torch.stack(parts).mean(), facts


def edge_penalty(
    values: torch.Tensor, edges: torch.Tensor, lengths: torch.Tensor, *, weight: float = 10.0
) -> torch.Tensor:
    """Return weight * mean max(0, |f_i - f_j| - length_ij)^2 over the edges of a graph.

    Zero exactly if f is 1-Lipschitz for the shortest-path distance: that is what the edges bound.

    Args:
        values: Critic values on the nodes, (n,).
        edges: (k, 2) node indices.
        lengths: (k,), positive.
        weight: Lambda, >= 0.

    Returns:
        A scalar.
    """
    _check.real("weight", weight, minimum=0)
    steps = (values[edges[:, 0]] - values[edges[:, 1]]).abs()
    return weight * relu(steps - lengths).square().mean()


# Constraints on the weights of a critic, in place of a penalty on its slopes.
@torch.no_grad()
def clip_weights(module: nn.Module, bound: float) -> None:
    """Clamp every parameter to [-bound, bound] in place: WGAN's first Lipschitz constraint.

    References:
        Arjovsky et al., Wasserstein GAN, 2017, algorithm 1.
    """
    for parameter in module.parameters():
        parameter.clamp_(-bound, bound)


def spectral_normalise(module: nn.Module) -> nn.Module:
    """Divide the weight of each linear and convolution layer by its largest singular value.

    One power iteration per forward pass. For a convolution the matrix is (out, in * kh * kw):
    that bounds the matrix, not quite the convolution as an operator.

    Args:
        module: Changed in place.

    Returns:
        The same module.

    References:
        Miyato et al., Spectral normalization for generative adversarial networks, 2018, eq. 8.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.utils.parametrizations.spectral_norm(layer)
    return module


# What is done to samples, and BEGAN's balance.
def pack(samples: torch.Tensor, size: int) -> torch.Tensor:
    """Join `size` samples into one input of a packed discriminator, along axis 1.

    Args:
        samples: (size * B, d) or (size * B, C, H, W): `size` parts, row b takes row b of each.
        size: How many samples a row holds.

    Returns:
        (B, size * d) or (B, size * C, H, W).

    Raises:
        ValueError: If the batch is not a multiple of `size`.

    References:
        Lin et al., PacGAN: the power of two samples in generative adversarial networks, 2018.

    Example:
        >>> import torch
        >>> pack(torch.tensor([[1], [2], [3], [4]]), 2)
        tensor([[1, 3],
                [2, 4]])
    """
    _check.integer("size", size)
    if len(samples) % size:
        raise _check.fail(
            "samples", f"have a multiple of {size} rows to be packed", str(len(samples))
        )
    return torch.cat(samples.chunk(size), dim=1)


def equilibrium(
    balance: float, real: float, fake: float, *, ratio: float = 0.75, rate: float = 1e-3
) -> float:
    """Return BEGAN's next balance k, clipped to [0, 1]: k + rate (ratio L(real) - L(fake)).

    References:
        Berthelot et al., BEGAN: boundary equilibrium generative adversarial networks, 2017, eq. 5.
    """
    return min(max(balance + rate * (ratio * real - fake), 0.0), 1.0)
