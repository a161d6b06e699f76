"""Minorities, and data that cannot be brought together
======================================================

Eight groups on a ring, one of which has 2 % of the data. Is it still there in what a generator
makes, and how much of it? A plain GAN, WGAN-GP with the same networks and steps, one whose data are
re-weighted, one whose penalty counts every group alike, one that sees the group, and the transport,
to which the share of each group is an argument. The plain GAN is left with three or four of the
eight groups and nothing of the minority. Re-weighting finds it, with a third of the share it asks
for; one that sees the group, and the transport, have nearly what they are told.

Then the same data lie with four clients of two groups each, and stay there. Federated averaging
(McMahan et al., 2017) trains a whole WGAN-GP at every client for some steps and takes the mean of
all weights, again and again. After every step of plain gradient descent that is one training on all
data; Adam's steps, each scaled by its own client's gradients, average to another one. After every
fiftieth it is a mean of four generators of different things, which need not generate any of them.
Or each client keeps a critic, and one generator hears the mean of what they say. It then lowers the
mean distance to the clients' laws, and what is least in that is not their mixture: between four
corners of a square of side 2 the middle is at 1.41 from each, and their even mixture at 1.71.
Beside all these, transport from pooled codes, which needs them in one place. In these few steps no
adversarial row is done: what training longer would find of the minority is not answered here.

Seeds: 0, 1, 2, of networks, batches and noise; the data are drawn with 0.
"""

import copy
import math
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.svm import SVC

import aeot
from aeot.gan import losses
from aeot.metrics import mode_coverage
from aeot.networks.discriminators import MLPCritic
from aeot.networks.generators import MLPGenerator

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps and one seed
steps = 10 if quick else 400

# %%
# The last group has 2 % of the rows, the others 14 % each.
even = aeot.data.toy("ring", 8000)
modes, std = even.info["modes"], even.info["std"] * 5  # wider: every method finds the others
g = aeot.generator(0)
shares = torch.tensor([0.14] * 7 + [0.02], dtype=torch.float64)
groups = torch.multinomial(shares, 4000, replacement=True, generator=g)
points = (modes[groups] + std * torch.randn(4000, 2, generator=g)).float()
data = aeot.tensors(points, groups)


def evened(groups):
    """Weights of rows under which every group has the same share; they sum to 1."""
    counts = torch.bincount(groups).double()
    return 1 / (len(counts) * counts[groups])


def told(name, samples, rows):
    """Modes found, samples inside, and the minority's share."""
    found = mode_coverage(samples, modes, std)
    near = torch.cdist(samples.double(), modes).argmin(1)
    good = torch.cdist(samples.double(), modes).amin(1) < 3 * std
    share = float(((near == 7) & good).double().mean())
    shown.setdefault(name, samples)  # of the first seed
    rows.setdefault(name, []).append((found["modes"], found["high_quality"], share))


plain = {"latent_dim": 2, "hidden": 64, "learning_rate": 2e-3, "batch_size": 128}
plain |= {"betas": (0.5, 0.9), "critic_steps": 5}
rows: dict = {}
shown: dict = {"the data": points[:2500]}
seeds = range(1 if quick else 3)
for seed in seeds:
    plain["seed"] = seed
    same = plain | {"penalty": 0.1}
    kwargs = {"steps": steps}
    gan = aeot.GAN(**plain, prior="normal", architecture="mlp")  # those that WGAN-GP has
    told("GAN", gan.fit(data, **kwargs).sample(2500), rows)
    told("WGAN-GP", aeot.WGANGP(**same).fit(data, **kwargs).sample(2500), rows)
    # Re-weighting: the minority's rows repeated until it is as large as the others.
    drawn = aeot.generator(seed)
    again = torch.multinomial(evened(groups), 4000, replacement=True, generator=drawn)
    told(
        "WGAN-GP, re-weighted",
        aeot.WGANGP(**same).fit(data.subset(again), **kwargs).sample(2500),
        rows,
    )
    told(
        "WGAN-GP, penalty per group",
        aeot.WGANGP(**same, grouped=True).fit(data, **kwargs).sample(2500),
        rows,
    )
    told(
        "WGAN-GP, group as condition",
        aeot.ConditionalWGANGP(**same).fit(data, **kwargs).sample(2500),
        rows,
    )
    some = torch.randperm(4000, generator=aeot.generator(seed))[:1000]
    sites, kinds = points[some], groups[some]
    square = aeot.UniformBox(dim=2)
    for name, masses in (
        ("transport, masses of the data", None),
        ("transport, equal mass of groups", evened(kinds)),
    ):
        masses = None if masses is None else masses / masses.sum()
        brenier = aeot.solve_exact(square, sites, masses).map()
        cut = aeot.find_singularities(brenier)
        drawn = brenier.draw(2500, singular=cut, generator=aeot.generator(seed)).codes
        told(name, drawn, rows)

# %%
# The same with pictures: digits, of which nearly all fours are taken away. The autoencoder learns
# from what is left, and the masses say how much of each the transport makes.
digits = aeot.dataset("digits")
kept = torch.rand(len(digits), generator=aeot.generator(0)) < 0.18
few = digits.subset(((digits.labels != 4) | kept).nonzero()[:, 0])
judge = SVC().fit(digits[:].flatten(1), digits.labels)
fours: dict = {}
for seed in seeds:
    tol = 0.3 if quick else 0.05
    model = aeot.AEOT(latent_dim=16, batch_size=128, tol=tol, device="cpu", seed=seed)
    model.fit_autoencoder(few, steps=3 if quick else 200)
    for name, masses in (("of the data", None), ("equal for digits", evened(few.labels))):
        model.fit_transport(few, masses=masses)
        made = judge.predict(model.sample(2000, seed=seed).cpu().flatten(1))
        fours.setdefault(name, []).append(float((made == 4).mean()))

# %%
# Four clients, groups 0 and 1, 2 and 3, ... Nobody sees another's data.
owner = groups // 2


def critic_update(generator, critic, mover, rows):
    """One step of a critic on some of a client's rows."""
    real = rows[torch.randint(len(rows), (128,))]
    fake = generator(torch.randn(128, 2)).detach()
    loss = losses.wasserstein_critic_loss(critic(real), critic(fake))
    middle = losses.interpolate(real, fake)
    loss = loss + losses.gradient_penalty(critic, middle, weight=0.1)[0]
    mover.zero_grad()
    loss.backward()
    mover.step()


def generator_update(generator, mover, score):
    """One step of a generator towards larger scores."""
    loss = -score(generator(torch.randn(128, 2)))
    mover.zero_grad()
    loss.backward()
    mover.step()


def average(networks, shares):
    """Give all networks, of one shape, the mean of their weights by shares that sum to 1."""
    with torch.no_grad():
        for same in zip(*(network.parameters() for network in networks), strict=True):
            mean = sum(share * weights for share, weights in zip(shares, same, strict=True))
            for weights in same:
                weights.copy_(mean)


def adam(networks):
    return [torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.5, 0.9)) for net in networks]


def started(seed):
    torch.manual_seed(seed)
    return MLPGenerator(2, 2, hidden=64, layers=3, batch_norm=False), MLPCritic(2, hidden=64)


def local_critics(shares, seed):
    """One generator against the weighted mean of one critic per client."""
    generator, first = started(seed)
    critics = [copy.deepcopy(first) for _ in shares]
    (mover,), movers = adam([generator]), adam(critics)
    for _ in range(steps):
        for k, critic in enumerate(critics):
            for _ in range(2):
                critic_update(generator, critic, movers[k], points[owner == k])

        # The mean of critics is a critic of no law: it asks each sample to please all clients.
        def score(fake):
            said = [critic(fake).mean() for critic in critics]
            return sum(share * value for share, value in zip(shares, said, strict=True))

        generator_update(generator, mover, score)
    with torch.no_grad():
        return generator(torch.randn(2500, 2))


def federated(shares, seed, local):
    """Federated averaging of whole models: `local` updates between two means."""
    generator, critic = started(seed)
    generators = [copy.deepcopy(generator) for _ in shares]
    critics = [copy.deepcopy(critic) for _ in shares]
    movers, critic_movers = adam(generators), adam(critics)
    for step in range(steps):
        for k, (one, judge) in enumerate(zip(generators, critics, strict=True)):
            for _ in range(2):
                critic_update(one, judge, critic_movers[k], points[owner == k])
            generator_update(one, movers[k], lambda fake, judge=judge: judge(fake).mean())
        if (step + 1) % local == 0:
            average(generators, shares)
            average(critics, shares)
    average(generators, shares)
    with torch.no_grad():
        return generators[0](torch.randn(2500, 2))


size = torch.bincount(owner).double()
size = (size / size.sum()).tolist()
for seed in seeds:
    told("federated averaging, each step", federated(size, seed, 1), rows)
    told("federated averaging, each 50th", federated(size, seed, 50), rows)
    told("four local critics, by size", local_critics(size, seed), rows)
    told("four local critics, alike", local_critics([0.25] * 4, seed), rows)
print(f"seeds {[*seeds]}: modes of 8, share of samples inside one, share in the minority of 2 %;")
print("means and their standard errors")
for name, found in rows.items():
    values = torch.tensor(found, dtype=torch.float64)
    off = (values.var(0, correction=0) / (len(found) - 1 or math.nan)).sqrt()
    modes_found, inside, minority = values.mean(0)
    print(
        f"{name:33}{modes_found:4.1f} ± {off[0]:.1f}  {inside:6.1%} ± {off[1]:5.1%}"
        f"  {minority:6.2%} ± {off[2]:5.2%}"
    )

print(f"AE-OT on digits, {float((few.labels == 4).double().mean()):.2%} of which are fours:")
for name, found in fours.items():
    share = np.mean(found)
    off = np.std(found, ddof=len(found) > 1) / len(found) ** 0.5
    print(f"masses {name}: {share:.2%} ± {off:.2%} of the samples are fours")

# %%
figure = Figure(figsize=(12, 4.6), layout="constrained")
for axis, (name, samples) in zip(figure.subplots(2, 6).flat, shown.items(), strict=True):
    axis.scatter(*samples.T, s=2, color="#0b62c4", alpha=0.3, lw=0)
    axis.scatter(*modes[7], s=260, facecolors="none", edgecolors="#c81e3a", label="the minority")
    axis.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
    axis.set_title(name.replace(", ", ",\n"), fontsize=9)
figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", frameon=False)
figure.savefig(OUT / "67_minorities_and_clients.png", dpi=110)
