"""One Brenier map for each class of sites, and draws that keep the classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from aeot import _check, _io
from aeot._check import ArrayLike
from aeot._environment import plain_methods, resolve_device
from aeot._estimator import Saved
from aeot._rng import device_of
from aeot.maps.brenier import BrenierMap
from aeot.maps.drawing import Draw
from aeot.maps.extension import Cut
from aeot.measures import Measure, restored, stored

if TYPE_CHECKING:
    from typing_extensions import Self

Label = str | int


def classes_of(name: str, labels: Any, n: int) -> tuple[tuple[Label, ...], torch.Tensor]:  # noqa: ANN401
    """Return the classes that labels name, sorted, and the number of each label's class.

    Args:
        name: The argument, as the caller spells it.
        labels: (n,) whole numbers or texts: a list, an array, a tensor, a column of a table.
        n: How many there must be.

    Returns:
        The classes, and (n,) int64.

    Raises:
        ValueError: If they are too many or too few, missing somewhere, or neither whole numbers nor
            texts.
    """
    table = _check.labels(name, labels)
    must = f"be {n} classes, whole numbers or texts, one per row"
    if table.shape != (n,):
        raise _check.fail(name, must, f"shape {table.shape}")
    classes, numbers = np.unique(table, return_inverse=True)
    return tuple(classes.tolist()), torch.from_numpy(numbers.reshape(-1).astype(np.int64))


def class_numbers(name: str, labels: Any, classes: Sequence[Label], n: int) -> torch.Tensor:  # noqa: ANN401
    """Return the number in `classes` of one label, or of n labels, (n,) int64.

    A whole number may be written as text and the other way round.

    Raises:
        ValueError: If there is no such class, or the labels are not one or n.
    """
    table = _check.labels(name, labels)
    if table.ndim and table.shape != (n,):
        raise _check.fail(name, f"be one class or {n} classes", f"shape {table.shape}")
    known = {str(c): k for k, c in enumerate(classes)}
    kinds, inverse = np.unique(table, return_inverse=True)
    for kind in kinds.tolist():
        if str(kind) not in known:
            some = ", ".join(repr(c) for c in classes[:12]) + (", ..." if len(classes) > 12 else "")
            way_out = _check.meant(kind, map(str, classes))
            raise _check.fail(name, f"be among the classes {some}", repr(kind), way_out)
    numbers = torch.tensor([known[str(kind)] for kind in kinds.tolist()], dtype=torch.int64)
    return numbers[torch.from_numpy(inverse.reshape(-1))].expand(n).clone()


@plain_methods
class ConditionalMap(Saved, nn.Module):
    """The optimal transport maps from one source onto each class of sites.

    Site i belongs to class ``classes[labels[i]]``; its cell is one of the map of that class. All
    that is drawn for a class therefore comes from sites of that class, always.

    Args:
        maps: One `BrenierMap` for each class, of the same source and engine.
        classes: What the classes are called, in the order of `maps`.
        labels: (n,) int64, the number of each site's class. The sites of a class stand in their
            map in this order.
        shares: (k,) masses of the classes, summing to one; those of their sites if left out.

    Raises:
        ValueError: If maps, classes, labels and shares do not fit each other.

    Example:
        >>> import aeot, torch
        >>> sites = torch.rand(40, 2, generator=aeot.generator(0))
        >>> labels = ["left" if x < 0.5 else "right" for x in sites[:, 0].tolist()]
        >>> found = aeot.solve_conditional(aeot.UniformBox(dim=2), sites, labels)
        >>> draw = found.map().draw(6, labels="left", generator=aeot.generator(1))
        >>> {labels[i] for i in draw.owners.tolist()}
        {'left'}
    """

    labels: torch.Tensor
    shares: torch.Tensor
    maps: Any  # an nn.ModuleList of BrenierMaps

    def __init__(
        self,
        maps: Sequence[BrenierMap],
        classes: Sequence[Label],
        labels: torch.Tensor,
        *,
        shares: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        if not maps or len({(m.source.dim, m.engine) for m in maps}) > 1:
            raise _check.fail("maps", "be BrenierMaps of one source", _check.shown(list(maps)))
        sizes = [len(m.sites) for m in maps]
        if len(classes) != len(maps) or len(set(classes)) < len(maps):
            raise _check.fail("classes", f"be {len(maps)} names", _check.shown(list(classes)))
        counted = labels.ndim == 1 and labels.dtype == torch.int64 and bool((labels >= 0).all())
        if not counted or torch.bincount(labels, minlength=len(maps)).tolist() != sizes:
            must = "number the class of every site of the maps"
            raise _check.fail("labels", must, _check.shown(labels))
        if shares is None:
            shares = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
        shares = _check.masses(shares, len(maps), name="shares")
        self.maps, self.classes = nn.ModuleList(maps), tuple(classes)
        device = maps[0].sites.device
        self.register_buffer("labels", labels.to(device))
        self.register_buffer("shares", shares.to(device))

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> ConditionalMap:  # noqa: ANN401
        exact = self.shares
        super()._apply(fn, *args, **kwargs)
        self.shares = exact.to(self.shares.device)  # follow the device, keep float64
        return self

    def extra_repr(self) -> str:
        """What `print` shows beside the maps."""
        return f"classes={_check.shown(self.classes)}, {len(self.labels)} sites"

    @property
    def source(self) -> Measure:
        """The source measure."""
        return self.maps[0].source

    @property
    def engine(self) -> str:
        """What finds the cells."""
        return self.maps[0].engine

    @property
    def dim(self) -> int:
        """Dimension d."""
        return self.maps[0].dim

    @property
    def sites(self) -> torch.Tensor:
        """All sites (n, d), in the order of `labels`."""
        return self._gathered("sites")

    @property
    def heights(self) -> torch.Tensor:
        """Their heights (n,), each within its class."""
        return self._gathered("heights")

    @property
    def masses(self) -> torch.Tensor:
        """Their masses (n,) among all, float64."""
        return self._gathered("masses") * self.shares[self.labels]

    @property
    def centroids(self) -> torch.Tensor | None:
        """The centroids of their cells (n, d), None if a map has none."""
        return None if any(m.centroids is None for m in self.maps) else self._gathered("centroids")

    def _gathered(self, name: str) -> torch.Tensor:
        parts = [getattr(m, name) for m in self.maps]
        out = parts[0].new_empty(len(self.labels), *parts[0].shape[1:])
        for k, part in enumerate(parts):
            out[self._rows(k)] = part
        return out

    def _rows(self, k: int) -> torch.Tensor:
        """The sites of class number k, as they are numbered among all."""
        return (self.labels == k).nonzero()[:, 0]

    def of(self, label: Label) -> BrenierMap:
        """Return the map of one class.

        Raises:
            ValueError: If there is no such class.
        """
        return self.maps[int(class_numbers("label", label, self.classes, 1)[0])]

    def cell(self, points: ArrayLike, labels: Any) -> torch.Tensor:  # noqa: ANN401
        """Return the site that each point (m, d) is sent to in its class, (m,) int64.

        Args:
            points: Of the source.
            labels: One class for all points, or (m,), one for each.
        """
        points = _check.points("points", points, dim=self.dim, min_rows=0)
        numbers = class_numbers("labels", labels, self.classes, len(points))
        return self.cell_by_number(points, numbers)

    def cell_by_number(self, points: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return what `cell` does, for the numbers (m,) of the classes."""
        numbers = numbers.to(points.device)
        out = torch.empty(len(points), dtype=torch.int64, device=self.labels.device)
        for k in numbers.unique().tolist():
            chosen = numbers == k
            out[chosen.to(out.device)] = self._rows(k)[self.maps[k].cell(points[chosen])]
        return out

    def forward(self, points: ArrayLike, labels: Any) -> torch.Tensor:  # noqa: ANN401
        """Return the sites themselves, (m, d); see `cell`."""
        return self.sites[self.cell(points, labels)]

    def shared_out(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return the numbers of n classes (n,), each as often as its share says, in random order.

        Counts are those of systematic sampling: a share of n, rounded such that it is right on
        average.
        """
        device = device_of(generator)
        start = torch.rand(1, generator=generator, device=device, dtype=torch.float64).cpu()
        ends = n * self.shares.cpu().cumsum(0) + start
        ends[-1] = n + start
        counts = ends.floor().diff(prepend=start.new_zeros(1)).long()
        numbers = torch.repeat_interleave(torch.arange(len(self.maps)), counts)
        return numbers[torch.randperm(n, generator=generator, device=device).cpu()]

    def sample(
        self,
        n: int,
        *,
        labels: Any = None,  # noqa: ANN401
        singular: Sequence[Cut] | None = None,
        method: str = "affine",
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Return n generated codes, (n, d): `draw` with its defaults, without the account."""
        drawn = self.draw(n, labels=labels, singular=singular, method=method, generator=generator)
        return drawn.codes

    def draw(
        self,
        n: int,
        *,
        labels: Any = None,  # noqa: ANN401
        singular: Sequence[Cut] | None = None,
        method: str = "affine",
        boundary: str = "reject",
        balance: bool = True,
        generator: torch.Generator | None = None,
    ) -> Draw:
        """Return n generated codes with an account of what was rejected; see `BrenierMap.draw`.

        Args:
            n: How many codes.
            labels: One class for all, or (n,), one for each code. None: every class gets its share
                of n, rounded such that it is right on average, in random order.
            singular: Where each map is cut, in the order of `classes`; None: nowhere.
            method: As in `BrenierMap.extend`.
            boundary: As in `BrenierMap.draw`.
            balance: As there, within each class.
            generator: Source of all randomness.

        Returns:
            The codes; ``owners`` number the sites of all classes, ``labels`` say the class of each
            code, ``accepted`` holds the modes of the first class, then of the next, ...

        Raises:
            ValueError: For unknown options or classes, or a negative n.
        """
        n = _check.rows("n", n, self.dim, minimum=0)
        if singular is not None and (
            not isinstance(singular, (list, tuple)) or len(singular) != len(self.maps)
        ):
            must = f"be {len(self.maps)} singular sets, one for each class"
            raise _check.fail("singular", must, _check.shown(singular))
        if labels is None:
            numbers = self.shared_out(n, generator=generator)
        else:
            numbers = class_numbers("labels", labels, self.classes, n)
        like = self.maps[0].sites
        codes, points = like.new_empty(n, self.dim), like.new_empty(n, self.dim)
        owners = torch.empty(n, dtype=torch.int64, device=like.device)
        draws: list[Draw] = []
        accepted: list[torch.Tensor] = []
        for k, brenier in enumerate(self.maps):
            place = (numbers == k).nonzero()[:, 0].to(like.device)
            cut = None if singular is None else singular[k]
            if not len(place):
                modes = 1 if cut is None else int(cut.components.max()) + 1
                accepted.append(torch.ones(modes))
                continue
            draw = brenier.draw(
                len(place),
                singular=cut,
                method=method,
                boundary=boundary,
                balance=balance,
                generator=generator,
            )
            codes[place], owners[place] = draw.codes, self._rows(k)[draw.owners]
            points[place] = draw.points.to(like)
            accepted.append(draw.accepted)
            draws.append(draw)
        totals = {
            name: sum(getattr(draw, name) for draw in draws)
            for name in ("n_drawn", "n_rejected", "n_surplus", "n_conceded", "n_alone")
        }
        return Draw(
            codes=codes,
            points=points,
            owners=owners,
            accepted=torch.cat(accepted),
            labels=numbers.to(like.device),
            **totals,
        )

    def state(self) -> dict[str, Any]:
        """Return what makes it up: the ``source`` once, and of each class the ``maps``' buffers."""
        return self.buffers_by_class() | {"source": stored(self.source), "engine": self.engine}

    def buffers_by_class(self) -> dict[str, Any]:
        """Return all but the source and the engine, as nested dicts and lists."""
        return {
            "classes": list(self.classes),
            "labels": self.labels,
            "shares": self.shares,
            "maps": [dict(m.state_dict()) for m in self.maps],
        }

    @classmethod
    def from_state(
        cls,
        state: dict[str, Any],
        *,
        device: str | torch.device | None = None,
        source: Measure | None = None,
    ) -> Self:
        """Make the maps of which `state` returned the parts.

        Args:
            state: What `state` returned.
            device: Where to compute; None: the first GPU, else the CPU.
            source: The source, where it is a function and so is in no file.

        Raises:
            ValueError: If `source` is needed and missing, or another one.
            aeot._io.Damaged: If these are no parts of such maps.
        """
        where = resolve_device(device)
        mu = restored(state.get("source"), source)
        return cls.from_buffers(mu, state.get("engine"), state).to(where)

    @classmethod
    def from_buffers(cls, source: Measure, engine: Any, parts: dict[str, Any]) -> Self:  # noqa: ANN401
        """Make the maps of which `buffers_by_class` returned the parts.

        Raises:
            aeot._io.Damaged: If these are no parts of such maps.
        """
        kinds: dict[str, Any] = {
            "classes": list[str] | list[int],
            "maps": list[dict[str, torch.Tensor]],
        }
        kinds |= {"labels": torch.Tensor, "shares": torch.Tensor}
        for name, kind in kinds.items():
            if not _io.fits(parts.get(name), kind):
                raise _io.Damaged(f"{name} of conditional maps must be {kind}")
        try:
            maps = [BrenierMap(source, engine=engine, **buffers) for buffers in parts["maps"]]
            return cls(maps, parts["classes"], parts["labels"], shares=parts["shares"])
        except (TypeError, ValueError) as error:
            raise _io.Damaged(f"conditional maps must be whole, got {error}") from error

    def _page(self) -> dict[str, dict[str, Any]]:
        named = zip(self.classes, self.maps, strict=True)
        data = {f"class {label}": f"{len(brenier.sites)} sites" for label, brenier in named}
        return {"Data": {"dimension": self.dim, "source": self.source, **data}}
