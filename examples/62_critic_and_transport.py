"""The slope of a critic beside the transport
============================================

At its best the critic of WGAN-GP has slope 1, and its slope points where the transport of the
linear cost sends a sample. Here its field is drawn beside the displacement of the optimal plan,
and the angle between them is measured. Then the number that WGAN-GP reports while it trains, the
gap between scores, is set beside a distance measured without the critic: do they fall together?
One seed does not say, for the correlation is small once training has settled, and rounding changes
it: five networks are trained, and a t-test says whether the mean differs from 0.

Seeds: 0, of data and the critic; 0 to 4, of networks; 1 of fresh data, 2 of samples.
"""

import sys
from pathlib import Path

import scipy.optimize
import scipy.stats
import torch
from matplotlib.figure import Figure

import aeot
from aeot.gan_diagnostics import critics
from aeot.metrics import frechet_distance, sliced_wasserstein

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps and two seeds

# %%
# Data on a ring, samples from a Gaussian inside it.
ring = aeot.data.toy("ring", 4000)[:] * 1.0
blob = 0.3 * torch.randn(4000, 2, generator=aeot.generator(0)) + torch.tensor([0.3, 0.0])


def drawn(x):
    return lambda n, s: x[torch.randint(len(x), (n,), generator=s)]


def displacement(x, y):
    """Where the cheapest plan onto points y sends each point of x, both (n, 2), as a vector."""
    _, columns = scipy.optimize.linear_sum_assignment(torch.cdist(x, y).numpy())
    return y[columns] - x


def agreement(critic, x, moved):
    """Cosine of the critic's slope and the displacement, (n,): 1 where it leads the same way."""
    return critics.alignment(critic, x, -moved)  # which asks where data would go to be samples


critic = critics.fit_critic(drawn(ring), drawn(blob), steps=100 if quick else 800)
n = 300 if quick else 1000
x, y = blob[:n], ring[:n]
moved = displacement(x, y)
cosine = agreement(critic, x, moved)
print(f"critic's slope against the plan: median cosine {float(cosine.median()):.3f}, ", end="")
print(f"{float((cosine > 0.9).double().mean()):.0%} above 0.9")
slope = critics.slopes(critic, x).norm(dim=1)
distance = float(moved.norm(dim=1).mean())
print(
    f"slope {float(slope.mean()):.3f} +- {float(slope.std()):.3f}; distance {distance:.3f}, ",
    end="",
)
value = critics.estimate(critic, ring, blob)
print(f"critic's estimate {value:.3f}, corrected {critics.corrected(value, 10.0):.3f}")

# %%
# The score gap over training, and two distances to fresh data at the same marks.
held = aeot.data.toy("ring", 4000, seed=1)[:]
steps = 100 if quick else 800


def progress(seed):
    """Steps, score gaps, Frechet distances and sliced W2 at 20 marks of one training, (4, 20)."""
    marks = []
    model = aeot.WGANGP(
        latent_dim=2, hidden=64, penalty=0.1, learning_rate=1e-3, batch_size=256, seed=seed
    )

    def mark(step, record):
        if step % (steps // 20) == 0:
            samples = model.sample(4000, seed=2)
            found = frechet_distance(samples, held), sliced_wasserstein(samples, held)
            marks.append((step, record["score_gap"], *found))

    model.fit(aeot.data.toy("ring", 4000), steps=steps, on_step=mark)
    return torch.tensor(marks, dtype=torch.float64).T


def correlations(gap, distance):
    """Rank correlations, over all marks and over the second half of them."""
    half = slice(len(gap) // 2, None)
    return [
        float(scipy.stats.spearmanr(gap[part], distance[part]).statistic)
        for part in (slice(None), half)
    ]


def verdict(values):
    """Mean of what several seeds gave, its standard error, and what a t-test at 5 % says of it."""
    values = torch.tensor(values, dtype=torch.float64)
    test = scipy.stats.ttest_1samp(values.numpy(), 0)
    said = "above 0" if test.statistic > 0 else "below 0"
    said = said if test.pvalue < 0.05 else "within errors of 0"
    return f"{values.mean():.2f} ± {values.std() / len(values) ** 0.5:.2f}, {said}"


runs = [progress(seed) for seed in range(2 if quick else 5)]
for k, name in ((2, "Frechet distance"), (3, "sliced W2")):
    whole, late = zip(*(correlations(run[1], run[k]) for run in runs), strict=True)
    print(f"rank correlation of the score gap with the {name}, {len(runs)} seeds:")
    print(f"    over training {verdict(whole)}; in its second half {verdict(late)};")
    lost = [a - b for a, b in zip(whole, late, strict=True)]
    print(f"    the first minus the second {verdict(lost)}")
step, gap, fd, sw = runs[0]

# %%
figure = Figure(figsize=(12, 3.6), layout="constrained")
one, two, three = figure.subplots(1, 3)
some = slice(0, 100)
for axis, arrows, title in (
    (one, critics.slopes(critic, x), "critic's slope at samples"),
    (two, moved, "displacement of the optimal plan"),
):
    axis.scatter(*y.T, s=3, color="#9aa5b1", label="data")
    axis.quiver(
        *x[some].T,
        *arrows[some].T,
        color="#0b62c4",
        angles="xy",
        scale_units="xy",
        scale=2.5,
        width=0.004,
    )
    axis.set(title=title, aspect="equal", xlim=(-1.6, 1.6), ylim=(-1.6, 1.6))
for name, values in (("score gap", gap), ("Frechet distance", fd), ("sliced W2", sw)):
    three.plot(step, values / values.max(), ".-", label=name)
three.set(title="over training, seed 0,\neach over its maximum", xlabel="step")
three.legend(frameon=False)
figure.savefig(OUT / "62_critic_and_transport.png", dpi=120)
