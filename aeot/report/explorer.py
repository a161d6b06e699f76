"""What the latent explorer shows: a plane picture of the codes, and paths decoded beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from aeot import _check
from aeot._rng import generator, stream_seed
from aeot.data import Dataset
from aeot.models.aeot import AEOT
from aeot.report.page import sprite
from aeot.search.nearest import nearest

_NEIGHBOURS = 6
_FRAMES = 11
_PAIRS = 250  # lines drawn at most


def explorer(
    model: AEOT,
    training: Dataset | None,
    *,
    shown: int = 900,
    anchors: int = 12,
    picture: str = "tsne",
    seed: int = 0,
) -> dict[str, Any]:
    """Prepare the latent explorer of a fitted model of images.

    Args:
        model: A fitted model.
        training: What it was fitted to, for images and classes; None: decoded codes stand in.
        shown: Codes in the picture; the ends of the heaviest singular facets come first.
        anchors: Codes between which paths are decoded beforehand: all pairs of them.
        picture: "tsne" or "pca".
        seed: Of the choices and of t-SNE.

    Returns:
        Plain values: ``points`` [x, y] in the unit square, ``labels``, ``modes``, ``classes``,
        ``near`` (neighbours of each point), ``apart`` (whether the cut separates them) and
        ``scores`` (`SingularSet.score` of each), ``pairs`` (shown codes across the cut, ``across``
        in all) and ``strength`` (their scores), ``anchors``,
        ``snap`` (anchor nearest to each point), ``jumps`` (per pair of anchors, the frames after
        which the cut path jumps across the singular set), ``largest`` (the frame after which it
        moves most), ``thumbs`` and ``frames`` (sprites; one row per pair of anchors, first the
        uncut path).
    """
    _check.choice("picture", picture, ["tsne", "pca"])
    sites = model.brenier_.sites.cpu()
    index, pairs = _chosen(model, min(shown, len(sites)), seed)
    drawn = pairs[:_PAIRS]  # the heaviest
    codes = sites[index]
    labels, images = _known(model, training, codes)
    plane = _plane(codes, picture, seed)
    k = min(_NEIGHBOURS + 1, len(index))
    near = nearest(codes, codes, k)[1][:, 1:]
    sides = index.repeat_interleave(k - 1), index[near.flatten()]
    apart = model.singular_.crosses(*sides)
    scores = model.singular_.score(*sides).cpu().reshape(near.shape)
    strength = model.singular_.score(*index[drawn].T).cpu()
    chosen = _anchors(codes, labels, min(anchors, len(index)), seed)
    snap = nearest(codes, codes[chosen])[1][:, 0]
    frames, jumps, largest = _paths(model, index[chosen])
    classes = training.classes if labels is not None and training is not None else ()
    return {
        "picture": "t-SNE" if picture == "tsne" else "PCA",
        "total": len(sites),
        "points": np.round(plane, 4).tolist(),
        "labels": None if labels is None else labels.tolist(),
        "classes": list(classes),
        "modes": model.singular_.components.cpu()[index].tolist(),
        "near": near.tolist(),
        "apart": apart.cpu().reshape(near.shape).int().tolist(),
        "scores": _rounded(scores),
        "pairs": drawn.tolist(),
        "strength": _rounded(strength),
        "across": len(pairs),
        "anchors": chosen.tolist(),
        "snap": snap.tolist(),
        "jumps": jumps,
        "largest": largest,
        "steps": _FRAMES,
        "thumbs": sprite(images, 30),
        "frames": None if frames is None else sprite(frames, 2 * _FRAMES),
    }


def _rounded(values: torch.Tensor) -> list:
    return np.round(values.numpy(), 3).tolist()


def _chosen(model: AEOT, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which sites to show, and the singular pairs among them, renumbered."""
    cut = model.singular_
    heavy = cut.pairs.cpu()[cut.mass.cpu().argsort(descending=True)]
    first = heavy[: count // 4].flatten().unique()
    order = torch.randperm(len(model.brenier_.sites), generator=generator(seed, "shown"))
    rest = order[~torch.isin(order, first)][: count - len(first)]
    index = torch.cat([first, rest]).sort().values
    place = torch.full((len(order),), -1, dtype=torch.int64)
    place[index] = torch.arange(len(index))
    pairs = place[heavy]
    return index, pairs[(pairs >= 0).all(dim=1)]


def _known(
    model: AEOT, training: Dataset | None, codes: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return classes (or None) and images of codes."""
    if training is None:
        return None, model.decode(codes)
    every = model.encode(training)
    rows = nearest(codes, every)[1][:, 0]  # the row whose code it is
    labels = None if training.labels is None else training.labels[rows].cpu()
    return labels, training[rows]


def _plane(codes: torch.Tensor, picture: str, seed: int) -> np.ndarray:
    values = codes.double().numpy()
    state = stream_seed(seed, "picture") % 2**32
    if picture == "pca" or len(values) < 10:
        plane = PCA(min(2, *values.shape), random_state=state).fit_transform(values)
    else:
        perplexity = min(30.0, (len(values) - 1) / 3)
        plane = TSNE(perplexity=perplexity, init="pca", random_state=state).fit_transform(values)
    if plane.shape[1] == 1:
        plane = np.hstack([plane, np.zeros_like(plane)])
    low, high = plane.min(axis=0), plane.max(axis=0)
    return (plane - low) / np.maximum(high - low, 1e-12)


def _anchors(
    codes: torch.Tensor, labels: torch.Tensor | None, count: int, seed: int
) -> torch.Tensor:
    """Choose codes spread over every class: the ones nearest to the centres of k-means."""
    groups = [codes] if labels is None else [codes[labels == c] for c in labels.unique()]
    if len(groups) > count:
        groups = [codes]
    state = stream_seed(seed, "anchors") % 2**32
    centres = []
    for group in groups:
        k = min(count // len(groups), len(group))
        fitted = KMeans(k, n_init=1, random_state=state).fit(group.double().numpy())
        centres.append(torch.from_numpy(fitted.cluster_centers_).to(codes))
    return nearest(torch.cat(centres), codes)[1][:, 0].unique()


def _paths(
    model: AEOT, cells: torch.Tensor
) -> tuple[torch.Tensor | None, list[list[int]], list[int]]:
    """Decode, between all pairs of cells, the straight line of codes and the map's own path.

    Also say after which frames that path crosses the cut, and after which its step is largest.
    """
    first, last = torch.combinations(torch.arange(len(cells))).T
    if not len(first):
        return None, [], []
    brenier = model.brenier_
    if brenier.centroids is None:
        brenier.estimate_moments()
    assert brenier.centroids is not None
    along = torch.linspace(0, 1, _FRAMES)[:, None]

    def between(ends: torch.Tensor) -> torch.Tensor:
        a, b = ends[first][:, None], ends[last][:, None]
        return (a + along.to(ends) * (b - a)).flatten(0, 1)

    points = between(brenier.centroids[cells])
    stream = generator(model.seed, "path")
    mapped = brenier.extend(points, model.singular_, model.extension, generator=stream)
    owners = brenier.cell(points).reshape(-1, _FRAMES)
    crossed = model.singular_.crosses(owners[:, :-1].flatten(), owners[:, 1:].flatten())
    uncut = model.decode(between(brenier.sites[cells]))
    shape = (len(first), _FRAMES, *uncut.shape[1:])
    both = torch.cat([uncut.reshape(shape), model.decode(mapped).reshape(shape)], dim=1)
    jumps = [row.nonzero()[:, 0].tolist() for row in crossed.reshape(len(first), -1)]
    moves = mapped.reshape(len(first), _FRAMES, -1).diff(dim=1).norm(dim=2)
    return both.flatten(0, 1), jumps, moves.argmax(dim=1).tolist()
