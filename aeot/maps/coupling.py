"""Pairs (noise, data) of a transport map, for training flow-matching models."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from scipy.special import ndtri
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, get_worker_info

from aeot import _check, _io, _loop
from aeot._check import ArrayLike
from aeot._environment import plain_methods, plain_torch, processes
from aeot._rng import forked, generator, stream_seed
from aeot.data.arrays import Dataset, tensors
from aeot.maps.brenier import BrenierMap
from aeot.maps.conditional import ConditionalMap
from aeot.measures import Empirical, Gaussian, Measure, UniformBall, UniformBox

_KIND = "pairs"
_BLOCK = 4096  # points of a source that can only be sampled; part of the definition of its keys
_AT_ONCE = 1 << 22  # numbers in the points whose cells are found at a time
_ROUND_EPOCHS, _ROUND_PAIRS = 64, 1 << 16  # a round has so many, and at least so many pairs
_GROUP_PAIRS = 1 << 14  # pairs of small epochs that are found together
_ROUND_KEYS = 1 << 36
_LEAST_MASS = 1 / 16  # share of its mass that a cell must have to be waited for
_LAST = 1 << 32  # item of which a start may ask
_LAW = 1 << 14  # points that tell the size of a source
_HEAVY = 0.1  # degrees of freedom in a square, below which squares say nothing
_SINGLES = 256  # pairs made together where they are handed out one by one


class Solved(Protocol):
    """What has a map to offer: a `Solution`, or a `ConditionalSolution`."""

    def map(self) -> BrenierMap | ConditionalMap:
        """Return it."""
        ...


# Keys and sites of an epoch, and its noise where that is kept
_Epoch = tuple[torch.Tensor, torch.Tensor, "torch.Tensor | None"]
Rows = ArrayLike | Dataset | TorchDataset | Callable[[int], Any]


class Pairs(NamedTuple):
    """Points of the source with the data that the map sends them to.

    Attributes:
        noise: (B, d), or (B, C, H, W) where the data have that shape and as many numbers.
        index: The site of each, whose cell holds the noise (B,), int64.
        data: What belongs to that site (B, ...), after `transform`.
        label: Its label (B,), int64; -1 where there are no labels.
    """

    noise: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # tuples have a method of that name
    data: torch.Tensor
    label: torch.Tensor


@plain_torch()
def coupling(
    transport: Solved | BrenierMap | ConditionalMap,
    data: Rows | None = None,
    *,
    labels: ArrayLike | None = None,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    flips: bool = False,
    batch_size: int | None = None,
    epoch_size: int | None = None,
    seed: int = 0,
    start: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
) -> Coupling:
    """Make an endless data set of pairs (noise, data) that the transport map couples.

    Noise is drawn from the source, and its datum is the one whose cell holds it. In every epoch
    each datum comes exactly as often as its mass says: once, for equal masses and epochs of n
    pairs. For that, noise which falls in a cell that has enough waits for a later epoch; no pair
    is changed, and given its datum the noise of a pair has the law of the source inside the cell.
    So the noise of an epoch differs from the source by the map's error in total variation, no more.

    Where each class has a map of its own that holds for each class: noise is independent of the
    class, which comes as often as its mass says, and goes to a datum of it by its map.

    Args:
        transport: A `Solution` or a `BrenierMap`, or those of classes, `ConditionalSolution` or
            `ConditionalMap`; `SemiDiscreteOT` holds one as ``solution_``.
        data: What belongs to each site, in the order of the sites: an array (n, ...), a `Dataset`,
            a torch map-style data set (of rows, or of rows with labels), or a function of the
            site's number. Bytes of images go to [-1, 1]; the sites themselves if left out.
        labels: Class of each row (n,), int64; those of the data set if it has some, else, where
            classes have maps of their own, these, or, if they are texts, their places in
            ``transport.classes``.
        transform: Applied to every row; random ones draw from torch's generator, which is seeded
            for each pair.
        flips: The map has 2 n sites for n rows of data: site n + i is row i with its last axis
            reversed, which is done when it is asked for. Labels are those of the row.
        batch_size: Pairs in each item, for ``DataLoader(pairs, batch_size=None)``, whose batches
            are then the same for any number of workers. None: an item is one pair.
        epoch_size: Pairs per epoch; as many as sites if left out.
        seed: Of noise and order.
        start: The first item to yield (of all ranks together), to go on where one was stopped.
        rank: Number of this process among `world_size`, which share the items; under torchrun
            (``RANK``, ``WORLD_SIZE``) known of itself.
        world_size: How many they are.

    Returns:
        The data set: iterate over it, or give it to a `torch.utils.data.DataLoader`.

    Raises:
        ValueError: If an argument does not fit, or a cell of the solution is empty.

    References:
        S. Zhang, A. Mousavi-Hosseini, M. Klein, M. Cuturi, "Flow matching with semidiscrete
        couplings", 2025; A. Tong et al., "Improving and generalizing flow-based generative models
        with minibatch optimal transport", 2024.

    Example:
        >>> import aeot, torch
        >>> codes = torch.randn(40, 2, generator=aeot.generator(0))
        >>> solution = aeot.solve_semidiscrete(aeot.Gaussian(dim=2), codes)
        >>> pairs = aeot.coupling(solution, codes, batch_size=20)
        >>> noise, index, data, label = next(iter(pairs))
        >>> bool((data == solution.map()(noise)).all())
        True
        >>> torch.cat([pairs.batch(0).index, pairs.batch(1).index]).bincount().unique()
        tensor([1])
    """
    maps = BrenierMap, ConditionalMap
    brenier: Any = transport
    if not isinstance(transport, maps) and callable(getattr(transport, "map", None)):
        brenier = transport.map()
    if not isinstance(brenier, maps):
        way_out = "a fitted SemiDiscreteOT has one in solution_, of the rows sites_"
        must = "be a Solution or a BrenierMap, or those of classes"
        raise _check.fail("transport", must, _check.shown(transport), way_out)
    _check_solution(transport)
    n = len(brenier.sites)
    if _check.flag("flips", flips) and n % 2:
        must = "have two sites for each row of data, the second half for flipped rows"
        raise _check.fail("transport", must, f"{n} sites", "solve for both, or pass flips=False")
    rows = n // 2 if flips else n
    found, known = _rows(data, brenier, rows)
    _check.callback("transform", transform)
    if known is None and isinstance(brenier, ConditionalMap):
        known = _class_labels(brenier)[:rows]
    given = _labels(labels, known, rows)
    if given is not None and isinstance(brenier, ConditionalMap):
        _check_classes(brenier, given)
    pairs = Coupling(brenier, found, given)
    pairs.transform, pairs.flips = transform, bool(flips)
    pairs.batch_size = None if batch_size is None else _check.integer("batch_size", batch_size)
    if epoch_size is not None:
        pairs.epoch_size = _check.integer("epoch_size", epoch_size)
    pairs.seed = _check.seed("seed", seed)
    pairs.start = _check.integer("start", start, minimum=0, maximum=_LAST)
    if (rank is None) != (world_size is None):
        got = f"rank={_check.shown(rank)}, world_size={_check.shown(world_size)}"
        raise _check.fail("rank", "be given together with world_size", got)
    if rank is not None:
        world_size = _check.integer("world_size", world_size)
        pairs.share = _check.integer("rank", rank, minimum=0, maximum=world_size - 1), world_size
    return pairs


@plain_methods
class Coupling(IterableDataset):
    """An endless data set of `Pairs`; `aeot.coupling` makes one.

    Item k depends on the map, the data, the seed and k alone. Each worker and each rank finds the
    cells of all noise for itself, so that none waits for another: where that takes long,
    `save_pairs` once and `load_pairs`. It is a sampler of torchcfm as well: `sample_plan`.

    Attributes:
        brenier: The map.
        data: The rows of data.
        labels: Class of each row (n,), int64, or None.
        transform: Applied to each row.
        flips: Whether the second half of the sites are flipped rows.
        batch_size: Pairs per item, or None.
        epoch_size: Pairs per epoch.
        seed: Of noise and order.
        start: The first item.
    """

    def __init__(
        self,
        brenier: BrenierMap | ConditionalMap,
        data: torch.Tensor | Dataset | Callable[[int], Any],
        labels: torch.Tensor | None,
    ) -> None:
        self.brenier, self.data, self.labels = brenier, data, labels
        self.transform: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.flips, self.seed, self.start = False, 0, 0
        self.batch_size: int | None = None
        self.epoch_size = self._n = len(brenier.sites)
        self.share: tuple[int, int] | None = None
        self._stored: dict[str, torch.Tensor] | None = None
        self._round: _Round | None = None
        # Mean, mean square and degrees of freedom of the source; rows of noise and their squares
        self._law: tuple[torch.Tensor, float, float] | None = None
        self._known: dict[int, int] | None = None  # number of the class of each label
        self._seen = (0, 0.0)
        self._ready: dict[int, _Epoch] = {}  # some that follow each other, in no order
        self._current: tuple[int, _Epoch] | None = None

    def __repr__(self) -> str:
        return f"Coupling({self.brenier.source!r}, {self._n} sites, seed={self.seed})"

    def __iter__(self) -> Iterator[Pairs]:
        rank, world_size = self.share or processes()
        worker = get_worker_info()
        inner, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        item, stride = self.start + rank + world_size * inner, world_size * workers
        while True:
            if self.batch_size is not None:
                yield self.batch(item)
                item += stride
                continue
            with plain_torch():
                some = self._at(item + stride * torch.arange(_SINGLES))
            yield from (Pairs(*parts) for parts in zip(*some, strict=True))
            item += stride * _SINGLES

    def batch(self, number: int) -> Pairs:
        """Return batch `number` of the sequence, counted from 0 whatever `start` is.

        Raises:
            ValueError: If there is no `batch_size`, or the number is negative.
        """
        if self.batch_size is None:
            raise _check.fail("batch_size", "be given for batches", "None")
        first = _check.integer("number", number, minimum=0, maximum=_LAST) * self.batch_size
        return self._at(torch.arange(first, first + self.batch_size))

    def noise(self, keys: ArrayLike) -> torch.Tensor:
        """Return the points of the source that belong to keys (m,), (m, d)."""
        found = _check.tensor("keys", keys)
        if found.ndim != 1 or found.is_floating_point() or bool((found < 0).any()):
            raise _check.fail("keys", "be whole numbers >= 0, (m,)", _check.shown(found))
        return _noise(self.brenier.source, self.seed, found.to(torch.int64))

    def digest(self) -> str:
        """Return what tells these pairs from those of another map, source or seed."""
        keys = ["sites", "heights", "masses"]
        if isinstance(self.brenier, ConditionalMap):
            keys += ["labels"]
        parts = {key: getattr(self.brenier, key) for key in keys}
        return _io.digest(parts | {"noise": self.noise(torch.arange(64))})

    def epoch(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and sites of an epoch, in its order, each (epoch_size,), int64."""
        return self._epoch(_check.integer("number", number, minimum=0, maximum=_LAST))[:2]

    def _epoch(self, number: int) -> _Epoch:
        # Keys, sites, and the noise of sources whose points come in blocks, cheapest together.
        if self._current is not None and self._current[0] == number:
            return self._current[1]
        if number not in self._ready:
            first, found = self._drawn(number)
            points: Sequence[torch.Tensor | None] = [None] * len(found)
            if not _width(self.brenier.source):
                points = self.noise(torch.cat([keys for keys, _ in found])).split(self.epoch_size)
            self._ready = {
                first + k: (*pair, part)
                for k, (pair, part) in enumerate(zip(found, points, strict=True))
            }
        keys, index, noise = self._ready[number]
        stream = generator(self.seed, "coupling order", number)
        order = torch.randperm(len(keys), generator=stream)
        epoch = keys[order], index[order], None if noise is None else noise[order]
        self._current = number, epoch
        return epoch

    def _drawn(self, number: int) -> tuple[int, list[tuple[torch.Tensor, torch.Tensor]]]:
        # Keys and sites of some epochs, this one among them, and the number of the first.
        if self._stored is not None:
            first = number * self.epoch_size % len(self._stored["keys"])
            part = slice(first, first + self.epoch_size)
            return number, [(self._stored["keys"][part], self._stored["index"][part].long())]
        length = max(_ROUND_EPOCHS, -(-_ROUND_PAIRS // self.epoch_size))
        at = number // length
        if self._round is None or self._round.next > number or at > self._round.at:
            self._round = _Round(self.brenier, self.seed, at, length, self.epoch_size)
        while True:
            first, found = self._round.next, self._round.take()
            if self._round.next > number:
                return first, found

    def _at(self, positions: torch.Tensor) -> Pairs:
        # The pairs at these places of the endless row of epochs, in rising order.
        epochs = positions // self.epoch_size
        noise, index = [], []
        for number in epochs.unique().tolist():
            keys, sites, ready = self._epoch(number)
            places = positions[epochs == number] % self.epoch_size
            if ready is None:
                noise.append(_noise(self.brenier.source, self.seed, keys[places]))
            else:
                noise.append(ready[places])
            index.append(sites[places])
        owner = torch.cat(index)
        data, label = self._lookup(owner)
        if self.transform is not None:
            made = []
            for position, row in zip(positions.tolist(), data, strict=True):
                with forked(self.seed, "coupling transform", position):
                    made.append(self.transform(row))
            data = _stacked("transform", made)
        points = torch.cat(noise)
        if data.ndim > 2 and data[0].numel() == points.shape[1]:
            points = points.reshape(data.shape)
        return Pairs(points, owner, data, label)

    def _lookup(self, sites: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # The rows of data of these sites, before `transform`, and their labels.
        half = self._n // 2
        row = sites % half if self.flips else sites
        label = torch.full_like(row, -1) if self.labels is None else self.labels[row]
        if isinstance(self.data, (torch.Tensor, Dataset)):
            place = self.data.device if isinstance(self.data, torch.Tensor) else row.device
            data = self.data[row.to(place)]
        else:
            parts = [self.data(i) for i in row.tolist()]
            if isinstance(parts[0], (tuple, list)):  # rows with labels, as torchvision has them
                if self.labels is None and len(parts[0]) > 1:
                    told = _check.labels("labels", [part[1] for part in parts])
                    if told.dtype != np.int64:
                        way_out = "pass labels= to aeot.coupling"
                        raise _check.fail("data", "have labels that are numbers", told[0], way_out)
                    label = torch.from_numpy(told)
                parts = [part[0] for part in parts]
            data = _stacked("data", parts)
        if self.flips:
            mirrored = (sites >= half).to(data.device).view(-1, *[1] * (data.ndim - 1))
            data = torch.where(mirrored, data.flip(-1), data)
        return data, label

    # Stored pairs

    def save_pairs(
        self, path: str | os.PathLike, *, epochs: int = 16, overwrite: bool = False
    ) -> None:
        """Write the pairs of the first epochs as keys and sites, 12 bytes a pair.

        Args:
            path: Directory, new or empty, or with earlier pairs that may be replaced.
            epochs: How many.
            overwrite: Whether they may.

        Raises:
            ValueError: If something else is there, or earlier pairs without `overwrite`.
        """
        epochs = _check.integer("epochs", epochs)
        _check.flag("overwrite", overwrite)
        _io.check_writable(path, kind=_KIND, overwrite=overwrite)
        if 12 * epochs * self.epoch_size > _check.memory():
            most = _check.memory() // (12 * self.epoch_size)
            must = f"be at most {most}: pairs are held in memory until they are written"
            raise _check.fail("epochs", must, str(epochs), "epochs beyond the file repeat it")
        keys = torch.empty(epochs * self.epoch_size, dtype=torch.int64)
        index = torch.empty(len(keys), dtype=torch.int32)
        number = 0
        while number < epochs:
            first, found = self._drawn(number)
            for number, pairs in enumerate(found[: epochs - first], first):
                part = slice(number * self.epoch_size, (number + 1) * self.epoch_size)
                keys[part], index[part] = pairs
            number += 1
        facts = {"seed": str(self.seed), "epoch_size": self.epoch_size, "map": self.digest()}
        _io.save(path, {"keys": keys, "index": index}, facts, kind=_KIND, overwrite=overwrite)

    def load_pairs(self, path: str | os.PathLike) -> Coupling:
        """Return the same data set with pairs of a file, which is mapped into memory.

        Epochs beyond those of the file are those of the file again, each in a new order.

        Args:
            path: What `save_pairs` wrote; epochs are as long as they were there.

        Raises:
            ValueError: If it is of another map, source or seed.
            aeot._io.Damaged: If a byte of it was changed.
        """
        stored, facts = _io.load(path, kind=_KIND)
        if (facts.get("seed"), facts.get("map")) != (str(self.seed), self.digest()):
            got = f"those of another map, or of seed {str(facts.get('seed'))[:20]}"
            raise _check.fail("path", "hold pairs of this map, source and seed", got, "save anew")
        with _io.using(path):
            keys, index = stored.get("keys"), stored.get("index")
            size = facts.get("epoch_size")
            if (
                not (isinstance(size, int) and size > 0 and keys is not None and index is not None)
                or (keys.dtype, index.dtype) != (torch.int64, torch.int32)
                or keys.ndim != 1
                or keys.shape != index.shape
                or len(keys) == 0
                or len(keys) % size
                or int(keys.min()) < 0
                or int(index.min()) < 0
                or int(index.max()) >= self._n
            ):
                raise _io.Damaged("it must hold keys and sites of whole epochs")
        other = copy.copy(self)
        other._stored, other.epoch_size = stored, size
        other._round, other._ready, other._current = None, {}, None
        return other

    # The interface of torchcfm

    def sample_plan(
        self,
        x0: torch.Tensor,
        x1: torch.Tensor,
        replace: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return noise and the data coupled with it, as torchcfm's ``OTPlanSampler`` does.

        ``FM.ot_sampler = pairs`` is all that their loops need.

        Args:
            x0: Noise from the source (B, ...), d numbers a row.
            x1: A batch of data; only its dtype and device are looked at, for the data coupled with
                `x0` are others.
            replace: Not used.

        Returns:
            `x0` as it is, and the data (B, ...).

        Raises:
            ValueError: If `x0` is not of the shape or the size of the source's points.
        """
        return self.sample_plan_with_labels(x0, x1, replace=replace)[:2]

    def sample_plan_with_labels(
        self,
        x0: torch.Tensor,
        x1: torch.Tensor,
        y0: torch.Tensor | None = None,
        y1: torch.Tensor | None = None,
        replace: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return noise, data, `y0`, and the labels of the data, None if there are none.

        Args:
            x0: As in `sample_plan`.
            x1: As in `sample_plan`.
            y0: Labels of the noise, returned.
            y1: Labels of `x1`; only their dtype and device are looked at. Where classes have maps
                of their own, they say which map each point of `x0` takes, and so are the labels of
                the data that come back.
            replace: Not used.

        Raises:
            ValueError: As in `sample_plan`, or if `y1` is given and the coupling has no labels, or
                not given where classes have maps of their own.
        """
        del replace
        x0, x1 = _check.array("x0", x0), _check.tensor("x1", x1)
        points = _check.points("x0", x0.flatten(1) if x0.ndim > 1 else x0, dim=self.brenier.dim)
        self._check_size(points)
        numbers = self._classes_of(y1, len(points))
        data, label = self._lookup(_cells(self.brenier, points, numbers))
        if self.transform is not None:
            data = _stacked("transform", [self.transform(row) for row in data])
        data = data.to(x1) if x1.is_floating_point() else data.to(x1.device)
        if bool((label >= 0).all()):
            return x0, data, y0, label.to(x1.device if y1 is None else y1)
        if y1 is not None:
            got = "labels in a loop whose coupling has none"
            raise _check.fail("y1", "be None", got, "pass labels= to aeot.coupling")
        return x0, data, y0, None

    def _classes_of(self, y1: torch.Tensor | None, count: int) -> torch.Tensor | None:
        # The numbers of the classes that labels mean; None where there is one map for all.
        if not isinstance(self.brenier, ConditionalMap):
            return None
        if y1 is None:
            way_out = "guided_sample_location_and_conditional_flow(x0, x1, y1=y1) passes them"
            must = "say the class of each row: every class has a map of its own"
            raise _check.fail("y1", must, "None", way_out)
        wanted = _check.tensor("y1", y1)
        if self._known is None:
            assert self.labels is not None
            owners = self.brenier.labels[: len(self.labels)].tolist()
            both = {*zip(self.labels.tolist(), owners, strict=True)}
            if len(both) > len({label for label, _ in both}):
                must = "differ from class to class, for a batch to be told whose maps it takes"
                raise _check.fail("labels", must, "one that two classes share", "leave them out")
            self._known = dict(both)
        if wanted.shape != (count,):
            raise _check.fail("y1", f"be {count} labels, one per row", _check.shown(y1))
        strange = sorted({*wanted.tolist()} - self._known.keys())
        if strange:
            must = f"be labels among {_check.shown(sorted(self._known))}"
            raise _check.fail("y1", must, _check.shown(strange[0]), "Coupling.labels has them")
        return torch.tensor([self._known[label] for label in wanted.tolist()])

    def _check_size(self, points: torch.Tensor) -> None:
        # Refuse noise that cannot be of this source, going by the mean square of all that came.
        if self._law is None:
            x = self.brenier.source.sample(_LAW, generator=generator(0, "law")).cpu().double()
            square = (x - x.mean(0)).square().sum(1)
            size = float(square.mean())
            # A sum of squares with as many degrees of freedom has that spread.
            self._law = x.mean(0), size, 2 * size**2 / max(float(square.var()), 1e-300)
        mean, right, freedom = self._law
        square = (points.detach().cpu().double() - mean).square().sum(1)
        batch = len(points), float(square.sum())
        self._seen = self._seen[0] + batch[0], self._seen[1] + batch[1]
        if freedom < _HEAVY:
            return
        # All that came, and this alone, as there are many batches: far in the tails either way.
        for (count, total), errors in ((self._seen, 5), (batch, 7)):
            ratio = max(total / count / max(right, 1e-300), 1e-300)
            # The cube root is nearly normal (E. B. Wilson, M. M. Hilferty, "The distribution of
            # chi-square", 1931).
            spread = 2 / (9 * count * freedom) + 2 / (9 * _LAW * freedom)
            far = abs(ratio ** (1 / 3) - 1 + spread) > errors * spread**0.5
            if far and abs(np.log(ratio)) > 0.1:
                self._seen = 0, 0.0
                must = f"be noise from {self.brenier.source!r}, with its mean square distance"
                got = f"{total / count:.3g} from its mean where {right:.3g} is right"
                way_out = "solve the transport from the law of your noise"
                raise _check.fail("x0", must, got, way_out)


class _Round:
    """Epochs that share their draws: noise that one does not need waits for the next.

    Args:
        brenier: The map.
        seed: Of the noise.
        at: Number of the round.
        length: Its epochs.
        size: Pairs per epoch.

    Attributes:
        next: The first epoch that `take` returns next.
    """

    def __init__(
        self, brenier: BrenierMap | ConditionalMap, seed: int, at: int, length: int, size: int
    ) -> None:
        self.brenier, self.seed, self.at, self.size = brenier, seed, at, size
        self.next, self.last = at * length, (at + 1) * length
        self.drawn = 0
        self.keys = self.cells = torch.empty(0, dtype=torch.int64)

    def take(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return keys and cells (size,) of some epochs: of each cell the first that are left."""
        masses = self.brenier.masses.cpu()
        after = min(self.next + max(1, _GROUP_PAIRS // self.size), self.last)
        ends = _counts(masses, self.size, self.seed, range(self.next, after)).cumsum(0)
        have = self._fill(masses, ends[-1])
        order = self.cells.argsort(stable=True)
        starts = have.cumsum(0) - have
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order)) - starts[self.cells[order]]
        # How many of a cell's ends are not beyond its rank, found for all cells in one row of them.
        far = len(order) + int(ends[-1].max()) + 1
        row = ends.T + far * torch.arange(len(masses))[:, None]
        epoch = torch.searchsorted(row.flatten(), rank + far * self.cells, right=True)
        epoch -= len(ends) * self.cells
        found = [(self.keys[part], self.cells[part]) for part in _parts(epoch, len(ends))]
        later = epoch == len(ends)
        self.keys, self.cells, self.next = self.keys[later], self.cells[later], after
        return found

    def _fill(self, masses: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        # Draw until each cell has its points, and return how many it has (n,).
        n, begun = len(masses), self.drawn
        # Draws after which a cell of a sixteenth of its mass has its points but for one in n.
        most = (wanted / masses).max().item() / _LEAST_MASS * (1 + float(np.log(n))) + 1024
        while True:
            have = torch.bincount(self.cells, minlength=n)
            missing = (wanted - have).clamp(min=0)
            if not bool(missing.any()):
                return have
            if self.drawn - begun > most:
                poor = int((missing / masses).argmax())
                got = f"{int(have[poor])} of {int(wanted[poor])} for site {poor}"
                must = f"give each site its share of {self.drawn} points"
                raise _check.fail("transport", must, got, "solve for a smaller tol")
            _loop.beat()
            need = max((missing / masses).max().item(), 1024)
            self._draw(int(min(need, max(_AT_ONCE // self.brenier.dim, 1024))))

    def _draw(self, count: int) -> None:
        count = -(-count // _BLOCK) * _BLOCK
        keys = self.at * _ROUND_KEYS + self.drawn + torch.arange(count)
        points = _noise(self.brenier.source, self.seed, keys)
        numbers: torch.Tensor | None = None
        if isinstance(self.brenier, ConditionalMap):  # each key has a class, by the shares of these
            share = _uniform(stream_seed(self.seed, "coupling classes"), keys.numpy(), 1)[:, 0]
            ends = self.brenier.shares.cpu().cumsum(0)[:-1]
            numbers = torch.searchsorted(ends, torch.from_numpy(share), right=True)
        cells = _cells(self.brenier, points, numbers)
        # Together, so that a signal leaves a round that can go on.
        both = torch.cat([self.keys, keys]), torch.cat([self.cells, cells])
        (self.keys, self.cells), self.drawn = both, self.drawn + count


def _cells(
    brenier: BrenierMap | ConditionalMap, points: torch.Tensor, numbers: torch.Tensor | None
) -> torch.Tensor:
    """Return the cells of points (m, d), each in the map of its class if there are classes."""
    if isinstance(brenier, ConditionalMap):
        assert numbers is not None
        return brenier.cell_by_number(points.to(brenier.labels.device), numbers).cpu()
    return brenier.cell(points.to(brenier.sites.device)).cpu()


def _parts(kind: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Places of the entries 0, 1, ..., count - 1 of `kind`, each in order."""
    order = kind.argsort(stable=True)
    sizes = torch.bincount(kind, minlength=count)[:count]
    return list(order[: int(sizes.sum())].split(sizes.tolist()))


def _counts(masses: torch.Tensor, size: int, seed: int, epochs: range) -> torch.Tensor:
    """How often each site comes in these epochs (epochs, n): size * masses, rounded up or down.

    Systematic sampling with a start that turns by the golden ratio: over many epochs all
    masses are met, up to a few pairs.
    """
    first = stream_seed(seed, "coupling counts") / 2.0**64
    turn = (first + torch.tensor(epochs, dtype=torch.float64) * 0.6180339887498949) % 1.0
    turn = 1e-6 + turn * (1 - 2e-6)  # no whole number of pairs is rounded down
    ends = size * masses.cumsum(0) / masses.sum() + turn[:, None]
    ends[:, -1] = size + turn
    return ends.floor().diff(dim=1, prepend=ends.new_zeros(len(epochs), 1)).long()


def _width(source: Measure) -> int:
    """Uniform numbers that make one point; 0 for sources that can only be sampled."""
    widths = {UniformBox: source.dim, Gaussian: source.dim, UniformBall: source.dim + 1}
    return {**widths, Empirical: 1}.get(type(source), 0)


def _noise(source: Measure, seed: int, keys: torch.Tensor) -> torch.Tensor:
    """The point of the source that belongs to each key, (m, d), alone or with others."""
    width, keys = _width(source), keys.cpu()
    if not width:
        block, row = keys // _BLOCK, keys % _BLOCK
        numbers, which = block.unique(return_inverse=True)
        out = None
        for k, number in enumerate(numbers.tolist()):
            stream = generator(seed, "coupling noise", number)
            points = source.sample(_BLOCK, generator=stream).cpu()
            out = points.new_empty(len(keys), source.dim) if out is None else out
            out[which == k] = points[row[which == k]]
        return torch.empty(0, source.dim) if out is None else out
    u = _uniform(stream_seed(seed, "coupling noise"), keys.numpy(), width)
    if isinstance(source, Empirical):
        rows = torch.from_numpy((u[:, 0] * len(source.points)).astype(np.int64))
        return source.points.detach().cpu()[rows.clamp(max=len(source.points) - 1)]
    if isinstance(source, UniformBox):
        low, high = (corner.double().cpu().numpy() for corner in (source.low, source.high))
        x = low + (high - low) * u
    elif isinstance(source, UniformBall):
        z = ndtri(u[:, :-1])
        lengths = u[:, -1] ** (1 / source.dim) / np.sqrt(np.einsum("ij,ij->i", z, z))
        x = source.center.double().cpu().numpy() + source.radius * lengths[:, None] * z
    else:
        assert isinstance(source, Gaussian)
        factor, z = source.factor.double().cpu().numpy(), ndtri(u)
        x = source.mean.double().cpu().numpy() + z * factor.diagonal()
        if np.any(factor != np.diag(factor.diagonal())):
            # Column by column: a product of matrices rounds a row as its neighbours are many.
            for j in range(source.dim - 1):
                x[:, j + 1 :] += z[:, j : j + 1] * factor[j + 1 :, j]
    return torch.from_numpy(x).to(source.dtype)


def _uniform(seed: int, keys: np.ndarray, width: int) -> np.ndarray:
    """Numbers in (0, 1) of keys (m,): (m, width), float64, each of its key and column alone.

    References:
        G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014: their
        SplitMix64, whose n-th output needs none of those before.
    """
    z: Any = keys.astype(np.uint64)[:, None] * np.uint64(width) + np.arange(width, dtype=np.uint64)
    z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _check_solution(transport: Any) -> None:  # noqa: ANN401 - a Solution, or a map
    """Refuse a solution with empty cells, and warn of one without a certificate."""
    classes: Any = getattr(transport, "classes", (None,))
    for label, part in zip(classes, getattr(transport, "solutions", (transport,)), strict=False):
        masses = getattr(part, "cell_masses", None)
        if masses is not None and bool((masses <= 0).any()):
            got = f"no mass for site {int((masses <= 0).nonzero()[0])}"
            got += "" if label is None else f" of class {label!r}"
            raise _check.fail("transport", "give every site a cell", got, "solve for a smaller tol")
    if getattr(transport, "converged", True) is False:
        error = float(getattr(transport, "mass_error", float("nan")))
        told = "the noise of an epoch differs from the source by that in total variation"
        _check.warn(f"transport has not converged, its error is {error:.3g}; {told}")


def _rows(
    data: Any,  # noqa: ANN401 - Rows or None
    brenier: BrenierMap | ConditionalMap,
    n: int,
) -> tuple[torch.Tensor | Dataset | Callable[[int], Any], torch.Tensor | None]:
    """What gives the rows of data by their number, and the labels that came with them."""
    way_out = "one for each site, in the order of the sites; equal rows have one site"
    labels = None
    if data is None:
        data = brenier.sites.detach()[:n]
    if isinstance(data, TorchDataset) or (callable(data) and not hasattr(data, "__array__")):
        count = len(data) if hasattr(data, "__len__") else n
        if isinstance(data, IterableDataset):
            must, way_out = "be a map-style data set", "one with __getitem__; or pass an array"
            raise _check.fail("data", must, _check.shown(data), way_out)
        found: Any = data.__getitem__ if isinstance(data, TorchDataset) else data
    else:
        if not isinstance(data, Dataset):
            data = _check.tensor("data", data).detach()
            if data.ndim == 0:
                raise _check.fail("data", f"hold {n} rows", _check.shown(data), way_out)
            if data.dtype == torch.uint8 and data.ndim in (3, 4):
                data = tensors(data, name="data")
            elif not data.is_floating_point():
                data = _check.array("data", data)
        else:
            labels = data.labels
        found, count = data, len(data)
    if count != n:
        raise _check.fail("data", f"hold {n} rows", f"{count}", way_out)
    if isinstance(data, torch.Tensor) and _is_shuffled(data, brenier.sites.detach()):
        must, way_out = "have the order of the sites", "leave data out, or pass them as solved for"
        raise _check.fail("data", must, "the sites in another order", way_out)
    return found, labels


def _is_shuffled(data: torch.Tensor, sites: torch.Tensor) -> bool:
    """Whether data are the sites in another order, as the sorted ones of `SemiDiscreteOT` are."""
    if data.shape != sites.shape:
        return False
    rows, known = (part.cpu().to(sites.dtype).double().sum(1) for part in (data, sites))
    return not torch.equal(rows, known) and torch.equal(rows.sort()[0], known.sort()[0])


def _class_labels(brenier: ConditionalMap) -> torch.Tensor:
    """Return the class of each site (n,), int64: itself where classes are integers."""
    numbers = brenier.labels.cpu()
    if all(isinstance(name, int) for name in brenier.classes):
        return torch.tensor([int(name) for name in brenier.classes])[numbers]
    return numbers


def _check_classes(brenier: ConditionalMap, labels: torch.Tensor) -> None:
    """Refuse labels (n,) that are classes of a map, but others than those it was solved for."""
    own = _class_labels(brenier)[: len(labels)]
    wrong = (labels != own).nonzero()[:, 0]
    if len(wrong) and {*labels.tolist()} <= {*own.tolist()}:
        row = int(wrong[0])
        must = f"be the classes that the map was solved for, {int(own[row])} in row {row}"
        way_out = "leave labels out, and the map's are taken"
        raise _check.fail("labels", must, str(int(labels[row])), way_out)


def _labels(labels: ArrayLike | None, known: torch.Tensor | None, n: int) -> torch.Tensor | None:
    if labels is None:
        return None if known is None else known.cpu()
    found = _check.labels("labels", labels)
    if found.shape != (n,) or found.dtype != np.int64 or found.min() < 0:
        must, way_out = f"be {n} whole numbers >= 0, one per row", ""
        if found.dtype != np.int64:
            way_out = "number them: np.unique(labels, return_inverse=True)[1]"
        raise _check.fail("labels", must, _check.shown(found), way_out)
    return torch.from_numpy(found)


def _stacked(name: str, rows: list[Any]) -> torch.Tensor:
    """Return what the caller's function `name` made of some rows, (m, ...)."""
    try:
        return torch.stack([torch.as_tensor(row) for row in rows])
    except (TypeError, ValueError, RuntimeError) as error:
        shapes = [_check.shown(row) for row in rows]
        odd = [shape for shape in shapes if shape != shapes[0]]
        got = " and ".join([shapes[0], *odd[:1]])
        raise _check.fail(name, "give arrays of numbers, all of one shape", got) from error
