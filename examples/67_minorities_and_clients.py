"""Minorities, and data that cannot be brought together
======================================================

Eight groups on a ring, one of which has 2 % of the data. Is it still there in what a generator
makes, and how much of it? A plain WGAN-GP, one whose data are re-weighted, one whose penalty counts
every group alike, and the transport, to which the share of each group is an argument.

Then the same data lie with four clients of two groups each, and stay there: one critic per client,
a generator that hears the mean of them, weighed by how much data each has. Beside it, transport
from pooled codes, which needs them in one place.
"""

import sys
from pathlib import Path

import torch

import aeot
from aeot.gan import losses
from aeot.metrics import mode_coverage
from aeot.networks.discriminators import MLPCritic
from aeot.networks.generators import MLPGenerator

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps and one seed
steps = 10 if quick else 2000

# %%
# The last group has 2 % of the rows, the others 14 % each.
even = aeot.data.toy("ring", 8000)
modes, std = even.info["modes"], even.info["std"] * 5  # wider: every method finds the others
g = aeot.generator(0)
shares = torch.tensor([0.14] * 7 + [0.02], dtype=torch.float64)
groups = torch.multinomial(shares, 4000, replacement=True, generator=g)
points = (modes[groups] + std * torch.randn(4000, 2, generator=g)).float()
data = aeot.tensors(points, groups)


def told(name, samples, rows):
    """Modes found, samples inside, and the minority's share."""
    found = mode_coverage(samples, modes, std)
    near = torch.cdist(samples.double(), modes).argmin(1)
    good = torch.cdist(samples.double(), modes).amin(1) < 3 * std
    share = float(((near == 7) & good).double().mean())
    rows.setdefault(name, []).append((found["modes"], found["high_quality"], share))


same = {"latent_dim": 2, "hidden": 64, "penalty": 0.1, "learning_rate": 1e-3, "batch_size": 128}
rows: dict = {}
for seed in range(1 if quick else 3):
    same["seed"] = seed
    kwargs = {"steps": steps}
    told("WGAN-GP", aeot.WGANGP(**same).fit(data, **kwargs).sample(2500), rows)
    # Re-weighting: the minority's rows repeated until it is as large as the others.
    wanted = 1 / (8 * torch.bincount(groups).double()[groups])
    again = torch.multinomial(wanted, 4000, replacement=True, generator=aeot.generator(seed))
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
    some = torch.randperm(4000, generator=aeot.generator(seed))[: 200 if quick else 1000]
    sites, kinds = points[some], groups[some]
    square = aeot.UniformBox(dim=2)
    for name, masses in (
        ("transport, masses of the data", None),
        ("transport, equal mass of groups", 1 / (8 * torch.bincount(kinds).double()[kinds])),
    ):
        masses = None if masses is None else masses / masses.sum()
        brenier = aeot.solve_exact(square, sites, masses).map()
        cut = aeot.find_singularities(brenier)
        drawn = brenier.draw(2500, singular=cut, generator=aeot.generator(seed)).codes
        told(name, drawn, rows)

# %%
# Four clients, groups 0 and 1, 2 and 3, ... Their critics never see each other's data.
owner = groups // 2


def federated(weights, seed):
    """A generator against the weighted mean of one critic per client."""
    torch.manual_seed(seed)
    generator = MLPGenerator(2, 2, hidden=64, layers=3, batch_norm=False)
    clients = [MLPCritic(2, hidden=64) for _ in range(4)]
    local = [points[owner == k] for k in range(4)]
    options = {"lr": 1e-3, "betas": (0.5, 0.9)}
    mover = torch.optim.Adam(generator.parameters(), **options)
    movers = [torch.optim.Adam(critic.parameters(), **options) for critic in clients]
    for _ in range(steps):
        for critic, step, rows in zip(clients, movers, local, strict=True):
            for _ in range(2):
                real = rows[torch.randint(len(rows), (128,))]
                fake = generator(torch.randn(128, 2)).detach()
                middle = losses.interpolate(real, fake)
                loss = losses.wasserstein_critic_loss(critic(real), critic(fake))
                loss = loss + losses.gradient_penalty(critic, middle, weight=0.1)[0]
                step.zero_grad()
                loss.backward()
                step.step()
        fake = generator(torch.randn(128, 2))
        # The mean of critics asks each sample to please all clients at once.
        scores = torch.stack([critic(fake).mean() for critic in clients])
        loss = -(weights * scores).sum()
        mover.zero_grad()
        loss.backward()
        mover.step()
    with torch.no_grad():
        return generator(torch.randn(2500, 2))


for seed in range(1 if quick else 3):
    size = torch.bincount(owner).double()
    told("four local critics, by size", federated((size / size.sum()).float(), seed), rows)
    told("four local critics, alike", federated(torch.full((4,), 0.25), seed), rows)
print("modes of 8, share of samples inside one, share in the minority of 2 % (means over seeds)")
for name, found in rows.items():
    found_modes, inside, minority = torch.tensor(found).mean(0).tolist()
    print(f"{name:35} {found_modes:4.1f}  {inside:6.1%}  {minority:6.2%}")
