"""Figures of the 2-D benchmark: the last samples of every row, and a GAN's over training."""

import math

import numpy as np
from matplotlib.figure import Figure

LIMITS = {"grid": 5.2, "ring": 1.5}


def last_of(samples, group, row):
    """(epoch, points) of the last samples kept, in the units of the raw data."""
    key = max((k for k in samples if k[:2] == (group, row)), key=lambda k: k[3])
    # The Wasserstein pair is trained in the scaling of its own experiments.
    unit = {"grid": 2.828, "ring": 0.707}[group] if row.startswith("WGAN") else 1.0
    return key[3], unit * samples[key]


def scatter(axis, points, limit, title):
    axis.scatter(*points.T, s=1.2, c="#1f5fa8", alpha=0.5, linewidths=0)
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)


def draw(group, panels, path):
    """The last samples of every row."""
    across = min(5, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(2.3 * across, 2.6 * down), layout="constrained")
    axes = np.atleast_1d(figure.subplots(down, across)).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (row, epoch, points) in zip(axes, panels, strict=False):
        scatter(axis, points, LIMITS[group], f"{row}\nepoch {epoch}" if epoch else row)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def typical(values):
    """The median within a tenth of every epoch: what a run comes back to between two collapses."""
    middle = np.empty(len(values))
    for at in range(len(values)):
        reach = at // 10
        middle[at] = np.median(values[at - reach : at + reach + 1])
    return middle


def trajectory(samples, histories, path):
    """A GAN's samples over training beside AE-OT's, and modes and quality against epochs."""
    stops = sorted(k for k in samples if k[:2] == ("grid", "GAN"))
    histories = {row: h for (group, row), h in histories.items() if group == "grid"}
    if not stops or not histories:
        return
    picked = np.unique(np.linspace(0, len(stops) - 1, min(5, len(stops))).round().astype(int))
    panels = [(f"GAN, epoch {stops[i][3]}", samples[stops[i]]) for i in picked]
    panels += [(k[1], samples[k]) for k in samples if k[:2] == ("grid", "AE-OT exact linear")]
    figure = Figure(figsize=(2.2 * max(len(panels), 4), 5.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(2.4, 3.2))
    axes = np.atleast_1d(top.subplots(1, len(panels)))
    for axis, (title, points) in zip(axes, panels, strict=True):
        scatter(axis, points, LIMITS["grid"], title)
    modes, quality = bottom.subplots(1, 2)
    for number, (row, runs) in enumerate(histories.items()):
        look = {"color": f"C{number}", "marker": "." if len(runs[0]) < 3 else None}
        for axis, metric, scale in ((modes, "modes", 1), (quality, "high_quality", 100)):
            values = [scale * np.array([h[metric] for h in run]) for run in runs]
            for run in values if row in ("GAN", "PacGAN4") else ():  # all eight cover each other
                axis.plot(np.arange(len(run)) + 1, run, lw=0.5, alpha=0.25, **look)
            # As far as every seed has come: a mean over fewer and fewer of them would jump.
            shared = min(map(len, values))
            middle = np.mean([typical(run[:shared]) for run in values], axis=0)
            axis.plot(np.arange(shared) + 1, middle, lw=1.8, label=row, **look)
    for axis, label, best, told in (
        (modes, "modes of 25", 25, "all modes: AE-OT, every seed"),
        (quality, "quality, %", 98.9, "98.9 %: an exact sampler"),
    ):
        axis.axhline(best, color="gray", lw=0.8, ls=":")
        axis.text(1, best, told, fontsize=7, color="0.3", va="bottom")
        axis.set(xlabel="epoch", ylabel=label, xscale="log", ylim=(0, 1.08 * best))
    title = "bold: median of the epochs around, mean of seeds\nthin: seeds of GAN and PacGAN4"
    place = {"loc": "upper left", "bbox_to_anchor": (0.02, 0.9)}
    quality.legend(fontsize=7, ncols=2, title=title, title_fontsize=7, **place)
    figure.savefig(path, dpi=110, bbox_inches="tight")
