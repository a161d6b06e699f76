"""AE-OT, end to end: autoencoder, transport of the latent codes, cut extension, generation."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aeot import _check, _io, _loop, _ranks, training
from aeot._check import ArrayLike
from aeot._environment import resolve_device
from aeot._estimator import positive
from aeot._rng import generator
from aeot.data import Dataset, distinct
from aeot.data.arrays import domain, facts_of, rows_of
from aeot.maps.brenier import METHODS, BrenierMap
from aeot.maps.conditional import ConditionalMap, Label, classes_of
from aeot.maps.drawing import Draw
from aeot.measures import Gaussian, Measure, UniformBall, UniformBox
from aeot.models.autoencoder import Autoencoder, AutoencoderOptions, split
from aeot.models.given import GivenAutoencoder, check_parts
from aeot.models.sharpening import choose_floor, sharpen, spectral_gain
from aeot.search.engines import ENGINES, bind
from aeot.search.nearest import nearest
from aeot.singular import singular_set
from aeot.solvers.conditional import ConditionalSolution, solve_conditional
from aeot.solvers.solution import Solution
from aeot.solvers.solve import is_exact, solve_semidiscrete

if TYPE_CHECKING:
    from typing_extensions import Self

_FUNCTION = "function"  # what a save has in place of one

# What can be transported to codes: name -> measure of a dimension.
SOURCES: dict[str, Callable[[int], Measure]] = {
    "cube": lambda d: UniformBox(dim=d),
    "gaussian": lambda d: Gaussian(dim=d),
    "ball": lambda d: UniformBall(dim=d),
}


@dataclass(kw_only=True, eq=False, repr=False)
class AEOT(AutoencoderOptions):
    """Generate by decoding what optimal transport makes of a simple source.

    An `Autoencoder` learns codes; `solve_semidiscrete` transports the uniform law of the unit cube,
    or another simple one, onto them; `find_singularities` finds where that map jumps from one mode
    to another; new codes come from the map extended between the codes of one mode, never across a
    jump, and the decoder turns them into images, which are sharpened to the power spectrum of the
    data (`models.sharpening`), for least squares leave a decoder blurred.

    Args:
        latent_dim: Numbers in a code. More restore finer detail, and need more data and a longer
            transport: 10 to 30 for simple images, 64 to 128 for photographs.
        architecture: Networks of the autoencoder: "residual" for images, "mlp" for vectors ("auto"
            chooses these); "infogan", the paper's, or "dcgan" from 64 pixels on.
        width: Channels of the first level of "residual" (None: 32) or "dcgan" (None: 64), or hidden
            units of "mlp" (None: 256); twice as many take up to four times as long.
        learning_rate: Adam's first step size while encoder and decoder train together; halve it if
            training diverges.
        decoder_rate: The same for the decoder alone, in the last third of the steps.
        batch_size: Rows of data in a training step; fewer take less memory.
        flips: Mirror images from left to right at random while the autoencoder is trained.
        shifts: Shift images by up to so many pixels then, repeating their borders.
        precision: Arithmetic of training: "float32", "bfloat16" (quicker where the processor or GPU
            has it), or "auto".
        autoencoder: One of your own in the place of a trained one: (encoder, decoder), two modules,
            or an object with ``encode`` and ``decode``, such as diffusers' AutoencoderKL;
            `aeot.models.given.GivenAutoencoder` says how it is used. Its codes have their own
            size and nothing is trained, so that what is above has to be left out.
        tol: How wrong the transport may be: the share of the mass that goes to other codes than it
            should, measured on fresh samples. Half as much takes up to four times as long. Its
            floor for N equal masses and m samples is about 0.4 sqrt(N / m).
        source: What is transported: "cube", uniform on [0, 1]^d; "gaussian", standard normal; or
            "ball", uniform on the unit ball.
        samples_per_site: Most source points that the transport may draw for each code, but 16 384
            and 64 a dimension in all whatever it is; None: as many as `tol` takes. A transport that
            is not certified by then is returned with a warning: with the 100 of Lei et al., of many
            codes, no `tol` below 0.04 can be.
        max_angle: Angle of adjacent planes, in radians, beyond which the map is cut (Lei et al.:
            0.75, or 0.68 for CIFAR-10), or the share of facets below it, such as "90%", or a
            function of (angles, jumps) that returns a mask; None: found from the codes, whatever
            their scale.
        level: Chance that what lies between two codes is off the data from which on the map is cut
            there, where no ``max_angle`` is given; 1: only between separate groups. 0.5 leaves out
            most of what lies between groups of one cloud, and redraws as many points.
        extension: How new codes come from the data's: "affine", "linear", "pair" or
            "inverse-distance"; see `BrenierMap.extend`.
        sharpen: Give decoded images the sharpness of the data where they are not flat.
        conditional: Solve one transport for each class of the data's labels, so that `sample` can
            be asked for a class; `fit` and `fit_transport` do so, too, where they get ``labels``.
        engine: What assigns points to cells: "auto", "numba", "triton", "torch", "keops" or
            "kdtree", all with the same result; see `solve_semidiscrete`.
        device: Where to compute, such as "cpu" or "cuda:1"; None: the first GPU, else the CPU.
        seed: Of everything random: the same seed, options and machine give the same result.

    Attributes:
        autoencoder_: The fitted `Autoencoder`, or the `GivenAutoencoder`.
        brenier_: The `BrenierMap` onto the codes; a `ConditionalMap` if there are classes.
        singular_: The `SingularSet` it is cut along; one for each class if there are classes.
        classes_: What the labels are called: the names in the order of the data's labels, or the
            labels themselves; empty without classes.
        gain_: How much each frequency of decoded images is amplified, (C, 2 H, W + 1); None for
            vectors.
        sharpening_: What it does, from images held out of the training if there are any: the
            ``floor`` of local variance below which little is sharpened, the ``error`` before and
            after, that in flat areas, ``flat_error``, and the share of frequencies that would need
            more than the gain may be, ``limited``; None for vectors.
        certificate_: What the solver promises: ``converged``, ``mass_error``,
            ``mass_error_upper``, ``message``, ``n_samples``, ``method``, ``engine``; with classes
            also ``classes``, the bound of each.
        data_: What the transport goes to: name, rows, shape, and a hash of some rows.
        merged_: How many rows were ``images`` equal to another one, or had equal ``codes``.
        sampled_: Account of the last `sample`: ``accepted``, ``rejected``, ``acceptance``,
            ``conceded`` (border points kept all the same, see `Draw`) and ``acceptance_by_mode``.
        history_: Records of the ``autoencoder`` and of the ``transport`` solver.
        seconds_: Time spent on ``autoencoder``, ``encoding``, ``transport`` and ``singular``.

    References:
        Lei, An, Guo, Su, Liu, Luo, Yau, Gu, A geometric understanding of deep learning,
        Engineering 6, 2020.

    Example:
        >>> plane = torch.randn(300, 2) @ torch.randn(2, 5)
        >>> model = AEOT(latent_dim=2, tol=0.05, precision="float32").fit(plane, steps=30)
        >>> model.sample(4, seed=1).shape
        torch.Size([4, 5])
    """

    autoencoder: Any = None
    tol: float = 0.05
    source: str = "cube"
    samples_per_site: float | None = None
    max_angle: float | str | singular_set.Criterion | None = None
    level: float = 1.0
    extension: str = "affine"
    sharpen: bool = True
    engine: str = "auto"
    conditional: bool = False

    _fitted_by = "brenier_"
    _learned = {
        "autoencoder_": dict | GivenAutoencoder,
        "brenier_": dict,
        "singular_": dict,
        "certificate_": dict,
    }
    _learned |= {"history_": dict[str, list], "seconds_": dict[str, float], "merged_": dict}
    _learned |= {"gain_": torch.Tensor | None, "sampled_": dict | None, "data_": dict | None}
    _learned |= {"classes_": tuple[str, ...] | tuple[int, ...] | None}
    _learned |= {"sharpening_": dict | None}  # saves of 0.2.0 and before have none
    _checks = AutoencoderOptions._checks | {
        "autoencoder": check_parts,
        "max_angle": singular_set.check_angle,
        "level": partial(_check.real, above=0, maximum=1),
        "source": partial(_check.choice, options=SOURCES),
        "samples_per_site": positive,
        "extension": partial(_check.choice, options=METHODS),
        "engine": partial(_check.choice, options=ENGINES),
    }

    @_ranks.together("AEOT.fit")
    def fit(
        self,
        data: Dataset | ArrayLike,
        *,
        labels: ArrayLike | None = None,
        steps: int | None = None,
        stop: str = "steps",
        held_out: Dataset | float = 0.05,
        checkpoint: str | os.PathLike | None = None,
        log: str | os.PathLike | None = None,
        on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Fit the autoencoder, then the transport onto the codes of all of `data`.

        Args:
            data: A data set, or anything `tensors` takes.
            labels: As in `fit_transport`.
            steps: Steps of the autoencoder; None: as `Autoencoder.fit` does.
            stop: "steps" or "plateau", as in `Autoencoder.fit`.
            held_out: As in `Autoencoder.fit`. A share held out of `data` is kept from the
                autoencoder's training alone: its codes are targets of the transport too.
            checkpoint: Directory for checkpoints; a stopped fit goes on from those it finds.
            log: File that gets one line of JSON per record.
            on_step: As in `Autoencoder.fit`.
            progress: Whether to show progress on stderr; None: a bar if that is a terminal, else a
                line a minute.

        Returns:
            The model itself.

        Raises:
            ValueError: If an argument is out of range or the data does not fit.
            KeyboardInterrupt: If Ctrl-C or SIGTERM came; the same call goes on from `checkpoint`.
        """
        self._check_arguments()
        data = domain("data", data)
        options: dict[str, Any] = {"checkpoint": checkpoint, "log": log, "on_step": on_step}
        training.check_options(progress=progress, **options)
        folder = None if checkpoint is None else Path(checkpoint) / "transport"
        self._classes(data, labels)
        # One minute between lines of progress, whatever runs.
        with _loop.Loop("", stops=False, progress=progress):
            self.fit_autoencoder(data, steps=steps, stop=stop, held_out=held_out, **options)
            return self.fit_transport(data, labels=labels, checkpoint=folder)

    @_ranks.together("AEOT.fit_autoencoder")
    def fit_autoencoder(
        self,
        data: Dataset | ArrayLike,
        *,
        steps: int | None = None,
        stop: str = "steps",
        held_out: Dataset | float = 0.05,
        checkpoint: str | os.PathLike | None = None,
        log: str | os.PathLike | None = None,
        on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
    ) -> Self:
        """Fit the autoencoder alone, as `fit` does; a fitted one can be set as ``autoencoder_``.

        Of a given ``autoencoder`` the errors are measured.
        """
        self._check_arguments()
        if self.autoencoder is not None:
            idle: dict[str, Any] = {"steps": (steps, None), "stop": (stop, "steps")}
            idle |= {"log": (log, None), "on_step": (on_step, None)}
            _check.unused("where an autoencoder is given, which is not trained", **idle)
        begun = time.perf_counter()
        data = domain("data", data)
        self._unseen = split(data, held_out, self.seed)[1]
        if self.autoencoder is not None:
            given = self._given(data.shape)
            given.measure(*split(data, held_out, self.seed), seed=self.seed)
            return self._take(given, begun)
        fitted = Autoencoder(**self._autoencoder_arguments()).fit(
            data,
            steps=steps,
            stop=stop,
            held_out=held_out,
            checkpoint=checkpoint,
            log=log,
            on_step=on_step,
        )
        return self._take(fitted, begun)

    def _given(self, shape: tuple[int, ...]) -> GivenAutoencoder:
        """Return the given autoencoder for such rows; refuse arguments that it makes idle."""
        given = GivenAutoencoder(self.autoencoder, shape)
        if self.latent_dim not in (type(self).latent_dim, given.latent_dim):
            must = f"be {given.latent_dim}, as codes of the given autoencoder are"
            raise _check.fail("latent_dim", must, self.latent_dim, "leave it out")
        names = {field.name for field in dataclasses.fields(AutoencoderOptions)}
        names -= {"latent_dim", "device", "seed"}
        self._check_unused(f"where an autoencoder is given, {given.name}", *names)
        return given

    def _take(self, fitted: Autoencoder | GivenAutoencoder, begun: float) -> Self:
        self._forget()
        self.autoencoder_ = fitted
        self.history_ = {"autoencoder": fitted.history_}
        earlier = getattr(fitted, "_earlier", 0.0)  # in processes that were stopped
        self.seconds_ = {"autoencoder": earlier + time.perf_counter() - begun}
        return self

    @_ranks.together("AEOT.fit_transport")
    def fit_transport(
        self,
        data: Dataset | ArrayLike,
        masses: ArrayLike | None = None,
        *,
        labels: ArrayLike | None = None,
        checkpoint: str | os.PathLike | None = None,
        on_step: Callable[[dict[str, Any]], bool | None] | None = None,
    ) -> Self:
        """Encode `data`, solve the transport onto its codes and find where the map jumps.

        Rows that are exact copies of another, and rows with equal codes, are merged and their
        masses added; a warning says how many. With classes each has a transport of its own, and
        rows of different classes are never merged.

        Args:
            data: What the autoencoder was trained on, or other rows of the same shape.
            masses: How often each row shall come, (n,), summing to 1; None: equally often.
            labels: Class of each row (n,), whole numbers or texts; None: those of `data` if the
                model is `conditional`, else no classes.
            checkpoint: Directory for checkpoints of the solver; it goes on from those it finds
                for the same codes, which on another machine may differ by rounding. An exact
                transport (codes of at most 3 numbers) starts anew.
            on_step: Passed to `solve_semidiscrete`.

        Returns:
            The model itself.

        Raises:
            NotFittedError: Without an autoencoder, fitted or given.
            ValueError: If the rows have another shape or the masses do not fit.
        """
        self._check_arguments()
        training.check_options(checkpoint=checkpoint, on_step=on_step)
        data = domain("data", data)
        if self.autoencoder is not None and not hasattr(self, "autoencoder_"):
            self.autoencoder_ = self._given(data.shape)
        self._check_fitted("autoencoder_")
        if len(data) < 2:
            raise _check.fail("data", "hold at least 2 rows", str(len(data)))
        names, numbers, known = self._classes(data, labels)
        begun = time.perf_counter()
        codes, masses, numbers = self._targets(data, _check.masses(masses, len(data)), numbers)
        self._set_sharpening(data)
        encoded = time.perf_counter()
        self._forget()
        source = SOURCES[self.source](self._code_size)
        if is_exact(source, len(codes)):
            checkpoint = None
        if checkpoint is not None:
            hashed = _io.digest({"codes": codes, "masses": masses})[:16]
            checkpoint = Path(checkpoint) / hashed
        recorded: dict[object, float] = {}  # seconds, by class

        def step(record: dict[str, Any]) -> bool | None:
            recorded[record.get("class")] = record["seconds"]
            return None if on_step is None else on_step(record)

        options: dict[str, Any] = {"tol": self.tol, "engine": self.engine, "seed": self.seed}
        options |= {"on_step": step, "checkpoint": checkpoint}
        if self.samples_per_site is not None:
            options["max_samples"] = max(1.0, self.samples_per_site * len(codes))
        if numbers is None:
            solve: Callable[[], Any] = partial(solve_semidiscrete, source, codes, masses, **options)
        else:
            called = [names[k] for k in numbers.tolist()]
            solve = partial(solve_conditional, source, codes, called, masses, **options)
        solution: Solution | ConditionalSolution = _io.anew_if_damaged(
            solve, checkpoint, removes=_ranks.rank() == 0
        )
        solved = time.perf_counter()
        self.data_ = facts_of(data)
        brenier: Any = solution.map(engine=self.engine)
        self.brenier_ = brenier
        rule = "level" if self.max_angle is None else "max_angle"
        cut: dict[str, Any] = {rule: getattr(self, rule), "seed": self.seed}

        def find(one: BrenierMap) -> singular_set.SingularSet:
            return singular_set.find_singularities(one, **cut)

        self.certificate_ = solution.certificate
        self.classes_ = known
        if isinstance(solution, ConditionalSolution):
            self.singular_: Any = tuple(find(one) for one in brenier.maps)
        else:
            self.singular_ = find(brenier)
        self.history_ = {**getattr(self, "history_", {}), "transport": solution.history}
        self.seconds_ = {
            **getattr(self, "seconds_", {}),
            "encoding": encoded - begun,
            # What was recorded counts the seconds of processes that were stopped, too.
            "transport": max(solved - encoded, sum(recorded.values())),
            "singular": time.perf_counter() - solved,
        }
        return self

    def _forget(self) -> None:
        """Drop the transport, which is that of other codes: what comes next may be stopped."""
        for name in ("brenier_", "singular_", "certificate_", "sampled_", "classes_"):
            vars(self).pop(name, None)

    def encode(self, data: Dataset | ArrayLike) -> torch.Tensor:
        """Return the codes (m, latent_dim) of images (m, ...), uint8 or in [-1, 1], or vectors."""
        self._check_fitted("autoencoder_")
        return self.autoencoder_.encode(data)

    def decode(self, codes: ArrayLike) -> torch.Tensor:
        """Return the images, in [-1, 1] and sharpened, or vectors of codes (m, latent_dim).

        ``autoencoder_.decode`` returns them as least squares would have them.
        """
        self._check_fitted("autoencoder_")
        images = self.autoencoder_.decode(codes)
        gain = getattr(self, "gain_", None)
        if not self.sharpen or gain is None:
            return images
        return sharpen(images, gain, (getattr(self, "sharpening_", None) or {}).get("floor", 0.0))

    def sample(self, n: int, *, seed: int = 0, labels: Any = None) -> torch.Tensor:  # noqa: ANN401
        """Generate `n` images; ``sampled_`` then says how many points were rejected.

        Args:
            n: How many.
            seed: The same seed and n give the same images.
            labels: One class for all, or (n,), one for each image, of a model with classes: as
                they were named, or whole numbers in the order of the data's names. None: every
                class gets its share of n, rounded such that it is right on average.

        Returns:
            (n, C, H, W) in [-1, 1], or (n, d), on the CPU.

        Raises:
            ValueError: If there is no such class, or the model has none.
        """
        return self.decode(self.draw(n, seed=seed, labels=labels).codes)

    def draw(self, n: int, *, seed: int = 0, labels: Any = None) -> Draw:  # noqa: ANN401
        """Generate `n` codes with the account of where they come from; see `sample`.

        With classes ``labels`` of the account numbers ``brenier_.classes``.
        """
        self._check_fitted()
        n = _check.rows("n", n, max(self._code_size, math.prod(self.autoencoder_.shape_)))
        seed = _check.seed("seed", seed)
        which: dict[str, Any] = {}
        if labels is not None:
            if not isinstance(self.brenier_, ConditionalMap):
                way_out = "fit with conditional=True, or with labels=, to have classes"
                must = "be left out of a model without classes"
                raise _check.fail("labels", must, _check.shown(labels), way_out)
            which["labels"] = self._named(labels)
        drawn = self.brenier_.draw(
            n,
            **which,
            singular=self.singular_,
            method=self.extension,
            generator=generator(seed, "sample"),
        )
        self.sampled_ = {
            "accepted": drawn.n_drawn - drawn.n_rejected,
            "rejected": drawn.n_rejected,
            "acceptance": drawn.acceptance,
            "conceded": drawn.n_conceded,
            "acceptance_by_mode": drawn.accepted.tolist(),
        }
        return drawn

    def interpolate(
        self, start: ArrayLike, end: ArrayLike, n: int = 9, *, along: str = "source"
    ) -> torch.Tensor:
        """Walk from one image to another, between the training codes nearest to both.

        Along the "source" it is a straight line there, between the centres of the two cells. Where
        it crosses the singular set the generated image jumps; it does not pass through a blend.
        Along the "codes" it is the way of `SingularSet.path` at even speed, from code to code in
        small steps that keep off what lies between groups of codes.

        Args:
            start: An image (C, H, W), uint8 or in [-1, 1], or a vector (d,).
            end: Another one.
            n: Number of images, both ends included.
            along: "source" or "codes".

        Returns:
            (n, C, H, W) or (n, d).

        Raises:
            ValueError: If a shape is not that of the training data, `n` is below 2, or the nearest
                training codes are of two classes, between which there is no line, or, along codes,
                of two groups that no way joins.

        References:
            Lei et al., 2020, section 6.2 and figure 12.
        """
        self._check_fitted()
        shape = self.autoencoder_.shape_
        n = _check.rows("n", n, max(self._code_size, math.prod(shape)), minimum=2)
        _check.choice("along", along, ("source", "codes"))
        rows = [_row(name, value, shape) for name, value in (("start", start), ("end", end))]
        codes = torch.cat([self.encode(row) for row in rows]).to(self.brenier_.sites)
        brenier, cut = self._near(codes)
        cells = nearest(codes, brenier.sites)[1][:, 0]
        if along == "codes":
            return self.decode(_evenly(brenier.sites[cut.path(*cells.tolist())], n))
        if brenier.centroids is None:
            brenier.estimate_moments()
        assert brenier.centroids is not None
        first, last = brenier.centroids[cells]
        share = torch.linspace(0, 1, n).to(first)[:, None]
        points = first + share * (last - first)
        codes = brenier.extend(points, cut, self.extension, generator=generator(self.seed, "path"))
        return self.decode(codes)

    def _near(self, codes: torch.Tensor) -> tuple[BrenierMap, singular_set.SingularSet]:
        """Return the map that two codes belong to, and its singular set."""
        if isinstance(self.brenier_, BrenierMap):
            return self.brenier_, self.singular_
        labels = self.brenier_.labels[nearest(codes, self.brenier_.sites)[1][:, 0]]
        start, end = (self.brenier_.classes[k] for k in labels.tolist())
        if start != end:
            got = f"{start!r} and {end!r}"
            raise _check.fail("start and end", "lie in one class", got)
        return self.brenier_.of(start), self.singular_[int(labels[0])]

    def summary(self) -> dict[str, Any]:
        """Return the numbers that say how good the fitted model is, as plain values."""
        self._check_fitted()
        return {
            "reconstruction": dict(self.autoencoder_.losses_),
            "precision": self.autoencoder_.precision_,
            "sharpening": dict(getattr(self, "sharpening_", None) or {}),
            "certificate": dict(self.certificate_),
            "targets": len(self.brenier_.sites),
            "merged": dict(self.merged_),
            "modes": sum(cut.n_components for cut in self._cuts),
            "singular_facets": sum(len(cut.pairs) for cut in self._cuts),
            "sampled": dict(getattr(self, "sampled_", {})),
            "seconds": dict(self.seconds_),
        }

    def forecast(self, data: Dataset | ArrayLike, *, steps: int | None = None) -> dict[str, float]:
        """Return how long the autoencoder will take about; see `Autoencoder.forecast`.

        The transport is not among it. With an ``autoencoder`` given, only the encoding is.
        """
        self._check_arguments()
        data = domain("data", data)
        if self.autoencoder is None:
            return Autoencoder(**self._autoencoder_arguments()).forecast(data, steps=steps)
        _check.unused("where an autoencoder is given, which is not trained", steps=(steps, None))
        some = data.subset(slice(0, 64))
        given = self._given(data.shape)
        begun = time.perf_counter()
        given.encode(some)
        return {"encoding": (time.perf_counter() - begun) * len(data) / len(some)}

    def save(
        self, path: str | os.PathLike, *, overwrite: bool = False, weights: bool = True
    ) -> None:
        """Write it to a directory, whole or not at all, as `Autoencoder.save` does.

        Where an ``autoencoder`` was given, ``AEOT.load(path, autoencoder=...)`` takes the same
        modules again: how they are made is never written, for that would be code. So is a
        ``max_angle`` that is a function: ``AEOT.load(path, max_angle=...)`` takes it again.

        Args:
            path: New or empty, or an earlier save of this class that may be replaced.
            overwrite: Whether it may.
            weights: Whether the weights of a given ``autoencoder`` are written, for `load` to put
                into the modules; else a hash of them, which it compares.

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If the directory holds something else, or an earlier save without
                `overwrite`, or cannot be written.
        """
        _check.flag("weights", weights)
        tensors, config = _io.pack(self.state(weights=weights))
        kind = type(self)
        card = _io.card(kind, self._page())
        _io.save(path, tensors, config, kind=kind.__name__, overwrite=overwrite, card=card)

    def state(self, *, weights: bool = True) -> dict[str, Any]:
        """Return what makes up the fitted model; see `Autoencoder.state`, and `save`."""
        state = super().state()
        parts = [_io.take_apart(cut, leave_out=BrenierMap) for cut in self._cuts]
        learned = {"singular_": parts[0]}
        if isinstance(self.brenier_, ConditionalMap):
            learned = {"singular_": {"classes": parts}}
            learned |= {"brenier_": self.brenier_.buffers_by_class()}
        if isinstance(self.autoencoder_, GivenAutoencoder):
            learned["autoencoder_"] = self.autoencoder_.state(weights=weights)
        arguments = state["arguments"] | {"autoencoder": None}
        if callable(self.max_angle):
            arguments["max_angle"] = _FUNCTION
            for part in parts:
                part["criterion"] = None
        return {"arguments": arguments, "learned": state["learned"] | learned}

    @classmethod
    def from_state(
        cls,
        state: dict[str, Any],
        *,
        device: str | torch.device | None = None,
        autoencoder: Any = None,  # noqa: ANN401 - as the argument of this name
        max_angle: singular_set.Criterion | None = None,
    ) -> Self:
        """Make the fitted model of which `state` returned the parts; see `load`."""
        learned: Any = state.get("learned") if isinstance(state, dict) else None
        kept: Any = learned.get("autoencoder_") if isinstance(learned, dict) else None
        was_given = isinstance(kept, dict) and isinstance(kept.get("given"), dict)
        if was_given and autoencoder is None:
            must = f"be passed: the model was fitted with {str(kept['given'].get('name'))[:80]}"
            way_out = "AEOT.load(path, autoencoder=...) takes the same modules"
            raise _check.fail("autoencoder", must, "None", way_out)
        if autoencoder is not None:
            if not was_given:
                must = "be None: the model trained its own and holds it"
                raise _check.fail("autoencoder", must, _check.shown(autoencoder))
            given = GivenAutoencoder.restored(autoencoder, kept)
            arguments = {**state["arguments"], "autoencoder": autoencoder}
            state = {"arguments": arguments, "learned": {**learned, "autoencoder_": given}}
        had: Any = state.get("arguments") if isinstance(state, dict) else None
        by_function = isinstance(had, dict) and had.get("max_angle") == _FUNCTION
        if by_function and not callable(max_angle):
            must = "be passed: the model was cut by a function, which is in no file"
            way_out = "AEOT.load(path, max_angle=...) takes the same function"
            raise _check.fail("max_angle", must, _check.shown(max_angle), way_out)
        if max_angle is not None:
            if not by_function:
                must = "be None: the model was cut by no function, and holds its rule"
                raise _check.fail("max_angle", must, _check.shown(max_angle))
            state = {**state, "arguments": {**state["arguments"], "max_angle": max_angle}}
        model = super().from_state(state, device=device)
        if max_angle is not None:
            cuts = tuple(_cut_by(max_angle, cut) for cut in model._cuts)
            model.singular_ = cuts if isinstance(model.singular_, tuple) else cuts[0]
        return model

    @property
    def _code_size(self) -> int:
        """Numbers of a code: what was asked for, or what a given autoencoder has."""
        return self.latent_dim if self.autoencoder is None else self.autoencoder_.latent_dim

    def _autoencoder_arguments(self) -> dict[str, Any]:
        shared = {field.name for field in dataclasses.fields(AutoencoderOptions)}
        return {name: value for name, value in self.arguments().items() if name in shared}

    @property
    def _cuts(self) -> tuple[singular_set.SingularSet, ...]:
        """The singular sets of all maps."""
        return self.singular_ if isinstance(self.singular_, tuple) else (self.singular_,)

    def _page(self) -> dict[str, dict[str, Any]]:
        page = super()._page() | {"Certificate": self.certificate_}
        if isinstance(self.autoencoder_, GivenAutoencoder):
            page["Arguments"] |= {"autoencoder": self.autoencoder_.name}
        if callable(self.max_angle):
            page["Arguments"] |= {"max_angle": f"{_FUNCTION}, to be passed to load"}
        return page

    def _restore(self, learned: dict[str, Any], device: torch.device) -> None:
        encoder = learned["autoencoder_"]
        if isinstance(encoder, dict):
            encoder = Autoencoder.from_state(encoder, device=self.device)
        parts: dict[str, Any] = {"autoencoder_": encoder}
        size = self.latent_dim if self.autoencoder is None else encoder.latent_dim
        source, buffers = SOURCES[self.source](size), learned["brenier_"]
        stored = learned["singular_"]
        if learned.get("classes_"):
            maps = ConditionalMap.from_buffers(source, self.engine, buffers).to(device)
            cuts = stored["classes"]
            if len(cuts) != len(maps.maps) or not {*maps.classes} <= {*learned["classes_"]}:
                raise _check.fail("classes_", "be those of the maps", _check.shown(cuts))
            parts["brenier_"] = maps
            parts["singular_"] = tuple(map(_cut_of, maps.maps, cuts))
        else:
            brenier = BrenierMap(source, engine=self.engine, **buffers).to(device)
            parts["brenier_"], parts["singular_"] = brenier, _cut_of(brenier, stored)
        super()._restore(learned | parts, device)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.max_angle is not None:
            self._check_unused("beside max_angle, which is another rule", "level")
        if self.engine != "auto":  # one that cannot be used is refused before training
            bind(self.engine, torch.empty(2, self.latent_dim, device=resolve_device(self.device)))

    def _set_sharpening(self, data: Dataset) -> None:
        """Find what decoded images must be amplified by, and where they are flat."""
        self.gain_, self.sharpening_ = None, None
        if len(data.shape) != 3:
            return
        pairs, most = [], max(2, min(5000, 2**23 // math.prod(data.shape)))  # bounds the memory
        for rows in (data, getattr(self, "_unseen", None) or data):
            some = torch.randperm(len(rows), generator=generator(self.seed, "sharpen"))
            images = rows[some[:most]].cpu()
            pairs.append((images, self.autoencoder_.decode(self.autoencoder_.encode(images))))
        self.gain_ = spectral_gain(*pairs[0])
        self.sharpening_ = choose_floor(*pairs[1], self.gain_)._asdict()

    def _classes(
        self,
        data: Dataset,
        labels: Any,  # noqa: ANN401
    ) -> tuple[tuple[Label, ...], torch.Tensor | None, tuple[Label, ...]]:
        """Return the classes of these rows, the number (n,) of each row's, and all known names."""
        if labels is not None:
            names, numbers = classes_of("labels", labels, len(data))
            return names, numbers, names
        if not self.conditional:
            return (), None, ()
        if data.labels is None:
            way_out = "pass labels=, or data with labels, such as a folder with a folder per class"
            raise _check.fail("data", "have labels for a conditional model", "none", way_out)
        if len({*data.classes}) == len(data.classes) > 0:
            return data.classes, data.labels.cpu(), data.classes
        names, numbers = classes_of("data.labels", data.labels, len(data))
        return names, numbers, names

    def _named(self, labels: Any) -> Any:  # noqa: ANN401
        """Return labels that number the data's names as these names, others as they are."""
        whole = torch.is_tensor(labels) or not isinstance(labels, str)
        if whole and all(isinstance(name, str) for name in self.classes_):
            table = np.asarray(labels.cpu() if torch.is_tensor(labels) else labels)
            known = {str(name) for name in self.classes_}
            if table.dtype.kind in "iu" and not {*map(str, table.flat)} <= known:
                if table.size and not 0 <= table.min() <= table.max() < len(self.classes_):
                    must = f"be names, or numbers from 0 to {len(self.classes_) - 1}"
                    raise _check.fail("labels", must, _check.shown(labels))
                return np.array(self.classes_)[table]
        return labels

    def _targets(
        self, data: Dataset, masses: torch.Tensor, numbers: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return codes of `data`, different in each class, masses of what shares one, and classes.

        Args:
            data: The rows.
            masses: (n,).
            numbers: (n,), the class of each row; None without classes.
        """
        first, group = _within(*distinct(data.values), numbers)
        merged = torch.zeros(len(first), dtype=torch.float64).index_add_(0, group, masses)
        codes = self.encode(data if len(first) == len(data) else data.subset(first))
        numbers = None if numbers is None else numbers[first]
        kept, group = _within(*distinct(codes), numbers)
        numbers = None if numbers is None else numbers[kept]
        masses = torch.zeros(len(kept), dtype=torch.float64).index_add_(0, group, merged)
        self.merged_ = {"images": len(data) - len(first), "codes": len(first) - len(kept)}
        if any(self.merged_.values()):
            _check.warn(
                f"{self.merged_['images']} of {len(data)} rows are exact copies of another and "
                f"{self.merged_['codes']} more have equal codes: they were merged and their "
                "masses added"
            )
        if len(kept) < 2:
            raise _check.fail("data", "have at least 2 different codes", str(len(kept)))
        return codes[kept].to(self.autoencoder_.compute_device), masses, numbers


def _within(
    first: torch.Tensor, kind: torch.Tensor, numbers: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep apart, of what `distinct` found equal, rows of different classes; the same form."""
    if numbers is None:
        return first, kind
    return distinct(torch.stack([kind, numbers], 1))


def _cut_of(brenier: BrenierMap, stored: dict[str, Any]) -> singular_set.SingularSet:
    """Make the singular set of a map that `take_apart` stored."""
    cut = _io.put_together(stored, vars(singular_set), brenier=brenier)
    _check_cut(cut, len(brenier.sites))
    return cut


def _cut_by(
    criterion: singular_set.Criterion, cut: singular_set.SingularSet
) -> singular_set.SingularSet:
    """Give a stored singular set its function back, if it is that function."""
    found = cut.facets.pairs[singular_set.ruled(criterion, cut.facets.angles, cut.facets.jumps)]
    if not torch.equal(found, cut.pairs):
        must = f"be the function that the model was cut by, which chose {len(cut.pairs)} facets"
        way_out = "pass the same function as to AEOT"
        raise _check.fail("max_angle", must, f"one that chooses {len(found)} or others", way_out)
    return dataclasses.replace(cut, criterion=criterion)


def _check_cut(cut: singular_set.SingularSet, n: int) -> None:
    """Raise a ValueError if a stored singular set does not fit a map of n sites."""
    numbers = {"pairs": cut.pairs, "links": cut.links, "facets": cut.facets.pairs}
    for name, pairs in (numbers | {"components": cut.components}).items():
        shape = (n,) if name == "components" else (len(pairs), 2)
        inside = pairs.shape == shape and pairs.dtype == torch.int64
        if not inside or (pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < n):
            got = _check.shown(pairs)
            raise _check.fail(f"singular_.{name}", f"be numbers of {n} cells of shape {shape}", got)
    for held in (cut, cut.facets):
        for name in ("angles", "jumps", "mass"):
            if getattr(held, name).shape != (len(held.pairs),):
                got = _check.shown(getattr(held, name))
                raise _check.fail(f"singular_.{name}", f"have shape ({len(held.pairs)},)", got)
    if cut.chances is not None:
        directions, whole = cut.chances.directions, cut.brenier.sites.shape
        if directions.shape != whole or not directions.is_floating_point():
            must = f"be real numbers of shape {tuple(whole)}"
            raise _check.fail("singular_.chances.directions", must, _check.shown(directions))


def _evenly(corners: torch.Tensor, n: int) -> torch.Tensor:
    """Return n points at even distances along the polygon through corners (k, d), ends included."""
    steps = (corners[1:] - corners[:-1]).norm(dim=1).double()
    along = torch.nn.functional.pad(steps.cumsum(0), (1, 0))
    at = torch.linspace(0, 1, n, dtype=torch.float64, device=along.device) * along[-1]
    if len(corners) < 2:
        return corners.expand(n, -1)
    left = torch.searchsorted(along, at, right=True).clamp(1, len(steps)) - 1
    share = ((at - along[left]) / steps[left].clamp(min=1e-300)).to(corners)[:, None]
    return corners[left] + share * (corners[left + 1] - corners[left])


def _row(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Dataset | torch.Tensor:
    """Return one image or vector of this shape as the only row of a batch."""
    found = _check.tensor(name, value)
    if found.shape != shape:
        raise _check.fail(name, f"have shape {shape}", f"shape {tuple(found.shape)}")
    return rows_of(name, found[None], shape)
