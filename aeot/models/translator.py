"""Image translation by transport: no adversary, no cycle, one map between two sets of codes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aeot import _check, _io, _ranks, training
from aeot._check import ArrayLike
from aeot._estimator import Estimator, positive
from aeot.data.arrays import Dataset, Domains, rows_of
from aeot.maps.brenier import BrenierMap
from aeot.measures import Sampler
from aeot.models.autoencoder import Autoencoder
from aeot.search.nearest import nearest
from aeot.solvers.solve import solve_semidiscrete

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(kw_only=True, eq=False, repr=False)
class TransportTranslator(Estimator):
    """Translates by semi-discrete optimal transport between the codes of two domains.

    One autoencoder learns both domains. Its codes of domain A, smoothed, are the source measure
    and its codes of domain B the sites; the extended transport map carries codes from A to B and
    the decoder makes them images. A second map goes the other way. Of all ways to turn one
    distribution of codes into the other, this one moves them least on average, which is all that
    makes an image resemble its translation: with a poor code it may not.

    Args:
        latent_dim: Size of the codes.
        smoothing: The source is the codes plus normal noise whose length is about this share of
            the median distance between neighbouring codes.
        max_sites: Codes of each domain to use, chosen at random; None for all. The solves take
            seconds for thousands and minutes for tens of thousands.
        tol: Of the solver: total variation between cell masses and site masses.
        device: Of the autoencoder; None: the first GPU, else the CPU.
        seed: Fixes everything.

    Attributes:
        autoencoder_: The fitted `Autoencoder`.
        maps_: ``{"b": BrenierMap, "a": BrenierMap}``, by where they lead.
        certificates_: For each map, whether the solver converged and its measured error.

    References:
        N. Lei et al., "A geometric understanding of deep learning", 2020, for the semi-discrete
        map and its extension; here the source is another data set instead of noise.

    Example:
        >>> from aeot.data import unpaired
        >>> x = torch.rand(60, 1, 16, 16) - 1  # dark
        >>> model = TransportTranslator(latent_dim=2, tol=0.3)
        >>> _ = model.fit(unpaired(x, -x), steps=6)
        >>> model.translate(x[:4], to="b").shape
        torch.Size([4, 1, 16, 16])
    """

    latent_dim: int = 32
    smoothing: float = 0.5
    max_sites: int | None = None
    tol: float = 0.05
    device: str | None = None
    seed: int = 0

    _fitted_by = "maps_"
    _learned = {"autoencoder_": dict, "maps_": dict[str, dict], "certificates_": dict[str, dict]}
    _checks = Estimator._checks | {
        "smoothing": positive,
        "max_sites": partial(_check.integer, minimum=2),
    }

    @_ranks.together("fit")
    def fit(
        self,
        data: Domains,
        *,
        steps: int | None = None,
        autoencoder: Autoencoder | None = None,
        checkpoint: str | os.PathLike | None = None,
        on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Train the autoencoder on both domains and solve both transports.

        Args:
            data: `aeot.unpaired(a, b)`.
            steps: Of the autoencoder; None for its default.
            autoencoder: A fitted one to use; ``steps`` and ``on_step`` are of no training then.
            checkpoint: Directory for checkpoints, of the training and of both transports; a fit
                that was stopped goes on from those it finds.
            on_step: Called by the autoencoder's training.
            progress: Whether to show progress on stderr; None: a bar if that is a terminal, else a
                line a minute.

        Returns:
            Itself.

        Raises:
            ValueError: If an argument is out of range or does not fit the data.
        """
        self._check_arguments()
        if steps is not None:
            _check.integer("steps", steps, minimum=2)
        if autoencoder is not None:
            _check.instance("autoencoder", autoencoder, Autoencoder)
            where = "where an autoencoder is given"
            _check.unused(where, steps=(steps, None), on_step=(on_step, None))
        training.check_options(checkpoint=checkpoint, on_step=on_step, progress=progress)
        if not isinstance(data, Domains):
            raise _check.fail("data", "be made by aeot.unpaired(a, b)", type(data).__name__)
        if data.a.shape != data.b.shape:
            raise _check.fail("data.b", f"have rows of shape {data.a.shape}", str(data.b.shape))
        for name, side in (("a", data.a), ("b", data.b)):
            if len(side) < 2:
                raise _check.fail(f"data.{name}", "hold at least 2 images", str(len(side)))
        if autoencoder is None:
            same = data.a.values.dtype == data.b.values.dtype
            sides = [side.values[:] if same else side[:] for side in (data.a, data.b)]
            both = Dataset(torch.cat(sides), data.name)
            autoencoder = Autoencoder(
                latent_dim=self.latent_dim, device=self.device, seed=self.seed
            ).fit(both, steps=steps, checkpoint=checkpoint, on_step=on_step, progress=progress)
        elif autoencoder.latent_dim != self.latent_dim:
            got = f"{self.latent_dim} against {autoencoder.latent_dim}"
            raise _check.fail("latent_dim", "be that of the autoencoder", got)
        stream = torch.Generator().manual_seed(self.seed & (2**63 - 1))
        targets = {}
        for name, side in (("a", data.a), ("b", data.b)):
            codes = autoencoder.encode(side)
            if self.max_sites is not None and len(codes) > self.max_sites:
                codes = codes[torch.randperm(len(codes), generator=stream)[: self.max_sites]]
            sites, counts = codes.unique(dim=0, return_counts=True)
            if len(sites) < 2:
                raise _check.fail(f"data.{name}", "have at least 2 different codes", len(sites))
            targets[name] = (sites, counts.double() / counts.sum())
        maps: dict[str, BrenierMap] = {}
        certificates: dict[str, dict[str, Any]] = {}
        for there, back in (("b", "a"), ("a", "b")):
            source = self._source(*targets[back])
            folder = None
            if checkpoint is not None:  # codes may differ by rounding on another machine
                targeted = {f"{name}{k}": x for name in "ab" for k, x in enumerate(targets[name])}
                folder = Path(checkpoint) / f"transport_to_{there}" / _io.digest(targeted)[:16]
            solve = partial(
                solve_semidiscrete,
                source,
                *targets[there],
                tol=self.tol,
                seed=self.seed,
                checkpoint=folder,
                progress=progress,
            )
            solution = _io.anew_if_damaged(solve, folder, removes=_ranks.rank() == 0)
            # The source is clumps far smaller than its extent: what a cell's spread is must be
            # measured on its own points, not as a difference of two large variances.
            brenier = BrenierMap(source, solution.sites, solution.heights, masses=solution.masses)
            brenier.estimate_moments(seed=self.seed)
            maps[there] = brenier
            names = ["converged", "mass_error", "mass_error_upper", "message"]
            certificates[there] = {name: getattr(solution, name) for name in names}
        # All at once: a fit that was stopped leaves what was learned before.
        self.autoencoder_, self.maps_, self.certificates_ = autoencoder, maps, certificates
        return self

    def translate(self, x: Dataset | ArrayLike, *, to: str = "b") -> torch.Tensor:
        """Translate images to the other domain.

        Args:
            x: Images (B, C, H, W) in [-1, 1] of the size trained on, or a data set.
            to: "b" for images of A, "a" for images of B.

        Returns:
            (B, C, H, W) in [-1, 1], on the CPU.

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If the images have another shape.
        """
        self._check_fitted()
        _check.choice("to", to, ("a", "b"))
        codes = self.autoencoder_.encode(rows_of("x", x, self.autoencoder_.shape_))
        return self.autoencoder_.decode(self.maps_[to].extend(codes).to(torch.float32))

    def _restore(self, learned: dict[str, Any], device: torch.device) -> None:
        stored, maps = learned["maps_"], {}
        for there, back in (("b", "a"), ("a", "b")):
            source = self._source(stored[back]["sites"], stored[back]["masses"])
            maps[there] = BrenierMap(source, **stored[there])
        autoencoder = Autoencoder.from_state(learned["autoencoder_"], device=self.device)
        super()._restore(learned | {"autoencoder_": autoencoder, "maps_": maps}, device)

    def _source(self, codes: torch.Tensor, masses: torch.Tensor) -> Sampler:
        """Return the measure of codes drawn by their masses and moved by a little noise."""
        some = codes[:: max(1, len(codes) // 500)]
        apart = nearest(some, codes, 2)[0][:, 1].median()
        width = self.smoothing * float(apart) / codes.shape[1] ** 0.5

        def draw(n: int, generator: torch.Generator | None) -> torch.Tensor:
            rows = torch.multinomial(masses, n, replacement=True, generator=generator)
            noise = torch.randn(n, codes.shape[1], generator=generator)
            return codes[rows] + width * noise

        return Sampler(draw, dim=codes.shape[1])
