"""The games of the 2-D mode-collapse benchmark, in the arithmetic of `planar_network`."""

import math

import numpy as np
from planar_network import Network


def _sigmoid(x):
    return np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def check_finite(game, where, **numbers):
    """Raise FloatingPointError with the name of a number or network that is not finite.

    The passes alone do not show every NaN: a maximum may pass over it.
    """
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise FloatingPointError(f"{where}: {name} became {number}")
    for name, network in game.networks.items():
        if not math.isfinite(network.theta @ network.theta):
            raise FloatingPointError(f"{where}: weights of the {name} are no longer finite")


def play(game, real, noise, share, where):
    """Train on an epoch drawn beforehand; a turn of `Wasserstein` is one of its critic.

    Args:
        game: One of the games below.
        real: Data (turns, packing * batch, 2).
        noise: Latents (turns, noises * batch, 2).
        share: Fractions in [0, 1) (turns, batch), which WGAN-GP's penalty takes.
        where: What an error begins with.

    Returns:
        What the last turn said of itself.
    """
    facts = {}
    for turn, batch in enumerate(zip(real, noise, share, strict=True)):
        facts = game.turn(turn, *batch)
        check_finite(game, f"{where}, step {turn + 1}", **facts)
    return facts


NORM = ["norm"] * 4 + ["none"]
MAXOUT = ["maxout"] * 3 + ["none"]
RELU = ["relu"] * 3 + ["none"]


class Game:
    """GAN and PacGAN-m, both gradients taken at the same point; also minibatch discrimination."""

    batch, rate, beta = 100, 1e-4, (0.8, 0.999)

    def __init__(self, packing=1, kernels=0):
        self.packing = self.noises = packing
        self.generator = Network([2, *[400] * 4, 2], NORM)
        self.critic = Network([2 * packing, *[200] * 3, 1], MAXOUT, kernels=kernels)
        self.networks = {"generator": self.generator, "critic": self.critic}

    def turn(self, turn, real, noise, share):
        return {"critic_loss": float(self.step(real, noise))}

    def step(self, real, noise):
        """One update on real (packing * batch, 2) and noise (packing * batch, 2)."""
        n, generator, critic = self.batch, self.generator, self.critic
        passes = [
            generator.forward(part, call=i) for i, part in enumerate(np.split(noise, self.packing))
        ]
        real = np.concatenate(np.split(real, self.packing), axis=1)
        fake = np.concatenate([out for out, _ in passes], axis=1)
        if critic.kernels:
            slope, losses = self._apart(real, fake)
        else:
            scores, memory = critic.forward(np.concatenate([real, fake]))
            good, bad = scores[:n, 0], scores[n:, 0]
            weight = np.concatenate([-_sigmoid(-good), _sigmoid(bad)]) / n
            slope, _ = critic.backward(memory, np.ones_like(scores), weight)
            slope = slope[n:] * (-_sigmoid(-bad) / n)[:, None]
            losses = _softplus(-good).mean() + _softplus(bad).mean()
        for i, (_, memory) in enumerate(passes):
            part = np.ascontiguousarray(slope[:, 2 * i : 2 * i + 2])
            generator.backward(memory, part, accumulate=i > 0, inputs=False)
        for network in self.networks.values():
            network.adam(self.rate, *self.beta)
        return losses

    def _apart(self, real, fake):
        # Samples of a batch are compared, so rows mix: one pass back for each of the two losses.
        n, critic = self.batch, self.critic
        good, memory = critic.forward(real, call=0)
        critic.backward(memory, -_sigmoid(-good) / n, inputs=False)
        bad, memory = critic.forward(fake, call=1)
        critic.backward(memory, _sigmoid(bad) / n, accumulate=True, inputs=False)
        slope, _ = critic.backward(memory, -_sigmoid(-bad) / n, parameters=False)
        return slope, _softplus(-good).mean() + _softplus(bad).mean()


class Inference(Game):
    """ALI: pairs (x, E(x, noise)) against (G(z), z)."""

    def __init__(self):
        super().__init__()
        self.noises = 2
        self.critic = Network([4, *[200] * 3, 1], MAXOUT)
        self.encoder = Network([4, 400, 400, 2], ["norm", "norm", "none"])
        self.networks = {
            "generator": self.generator,
            "encoder": self.encoder,
            "critic": self.critic,
        }

    def step(self, real, noise):
        """One update; noise (2 * batch, 2): latents, then the encoder's."""
        n, critic = self.batch, self.critic
        latent, blur = np.split(noise, 2)
        fake, generator_memory = self.generator.forward(latent)
        code, encoder_memory = self.encoder.forward(np.concatenate([real, blur], axis=1))
        pairs = np.concatenate([np.hstack([real, code]), np.hstack([fake, latent])])
        scores, memory = critic.forward(pairs)
        good, bad = scores[:n, 0], scores[n:, 0]
        weight = np.concatenate([-_sigmoid(-good), _sigmoid(bad)]) / n
        slope, _ = critic.backward(memory, np.ones_like(scores), weight)
        to_code = slope[:n, 2:] * (_sigmoid(good) / n)[:, None]
        to_fake = slope[n:, :2] * (-_sigmoid(-bad) / n)[:, None]
        self.encoder.backward(encoder_memory, to_code, inputs=False)
        self.generator.backward(generator_memory, to_fake, inputs=False)
        for network in self.networks.values():
            network.adam(self.rate, *self.beta)
        return _softplus(-good).mean() + _softplus(bad).mean()


class Wasserstein:
    """WGAN and WGAN-GP as their authors run them on toy data: plain MLPs, five critic steps."""

    batch, critic_steps, packing, noises = 256, 5, 1, 2

    def __init__(self, penalty=0.1, clip=None):
        self.penalty, self.clip = penalty, clip
        self.generator = Network([2, *[512] * 3, 2], RELU)
        self.critic = Network([2, *[512] * 3, 1], RELU)
        self.networks = {"generator": self.generator, "critic": self.critic}
        self.rate = 1e-4 if clip is None else 5e-5
        self.norms = np.ones(1, np.float32)
        self.gap = 0.0

    def turn(self, turn, real, noise, share):
        """A step of the critic; after every fifth, one of the generator on the other noise."""
        mine, generators = np.split(noise, 2)
        self.critic_step(real, mine, share)
        if (turn + 1) % self.critic_steps == 0:
            self.generator_step(generators)
        slopes = {"gradient_norm": float(self.norms.mean())} if self.clip is None else {}
        return {"gap": self.gap} | slopes

    def _move(self, network):
        if self.clip is None:
            network.adam(self.rate, 0.5, 0.9)
        else:
            network.rmsprop(self.rate)

    def critic_step(self, real, noise, share):
        """One critic update on real (batch, 2), noise (batch, 2) and fractions (batch,)."""
        n, critic = self.batch, self.critic
        if self.clip is not None:
            np.clip(critic.theta, -self.clip, self.clip, out=critic.theta)
        fake, _ = self.generator.forward(noise)
        scores, memory = critic.forward(np.concatenate([real, fake]))
        slope = np.full((2 * n, 1), 1 / n, np.float32)
        slope[:n] *= -1
        critic.backward(memory, slope, inputs=False)
        self.gap = float(scores[:n].mean() - scores[n:].mean())
        if self.clip is None:
            points = fake + share[:, None] * (real - fake)
            self.norms = critic.slope_penalty(points, self.penalty)
        self._move(critic)

    def generator_step(self, noise):
        """One generator update."""
        fake, memory = self.generator.forward(noise)
        scores, judged = self.critic.forward(fake)
        slope = np.full_like(scores, -1 / self.batch)
        slope, _ = self.critic.backward(judged, slope, parameters=False)
        self.generator.backward(memory, slope, inputs=False)
        self._move(self.generator)
