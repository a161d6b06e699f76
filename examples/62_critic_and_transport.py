"""The slope of a critic beside the transport
============================================

At its best the critic of WGAN-GP has slope 1, and its slope points where the transport of the
linear cost sends a sample. Here its field is drawn beside the displacement of the optimal plan,
and the angle between them is measured. Then the number that WGAN-GP reports while it trains, the
gap between scores, is set beside a distance measured without the critic: do they fall together?

Seeds: 0, of data and networks; 1 of fresh data, 2 of samples.
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
quick = "--quick" in sys.argv  # fewer steps

# %%
# Data on a ring, samples from a Gaussian inside it.
ring = aeot.data.toy("ring", 4000)[:] * 1.0
blob = 0.3 * torch.randn(4000, 2, generator=aeot.generator(0)) + torch.tensor([0.3, 0.0])


def drawn(x):
    return lambda n, s: x[torch.randint(len(x), (n,), generator=s)]


critic = critics.fit_critic(drawn(ring), drawn(blob), steps=100 if quick else 800)
n = 300 if quick else 1000
x, y = blob[:n], ring[:n]
rows, columns = scipy.optimize.linear_sum_assignment(torch.cdist(x, y).numpy())
moved = y[columns] - x
cosine = critics.alignment(critic, x, -moved)
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
marks, held = [], aeot.data.toy("ring", 4000, seed=1)[:]
steps = 100 if quick else 1200
model = aeot.WGANGP(latent_dim=2, hidden=64, penalty=0.1, learning_rate=1e-3, batch_size=256)


def mark(step, record):
    if step % (steps // 20) == 0:
        samples = model.sample(4000, seed=2)
        found = frechet_distance(samples, held), sliced_wasserstein(samples, held)
        marks.append((step, record["score_gap"], *found))


model.fit(aeot.data.toy("ring", 4000), steps=steps, on_step=mark)
step, gap, fd, sw = torch.tensor(marks, dtype=torch.float64).T
for name, other in (("Frechet distance", fd), ("sliced W2", sw)):
    whole = scipy.stats.spearmanr(gap, other).statistic
    late = scipy.stats.spearmanr(gap[len(gap) // 2 :], other[len(gap) // 2 :]).statistic
    print(f"rank correlation of the score gap with the {name}: {whole:.2f}, ", end="")
    print(f"{late:.2f} in the second half of training")

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
three.set(title="over training, each over its maximum", xlabel="step")
three.legend(frameon=False)
figure.savefig(OUT / "62_critic_and_transport.png", dpi=120)
