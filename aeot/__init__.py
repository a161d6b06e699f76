"""Semi-discrete optimal transport for generative modelling (AE-OT).

The public names are loaded on first use, so that ``import aeot`` and ``aeot --help`` are instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names once more, for type checkers and editors
    from aeot import data as data
    from aeot import features as features
    from aeot import metrics as metrics
    from aeot._ranks import alone as alone
    from aeot._rng import generator as generator
    from aeot.comparison.compare import compare as compare
    from aeot.data import dataset as dataset
    from aeot.data import images as images
    from aeot.data import loader as loader
    from aeot.data import paired as paired
    from aeot.data import tensors as tensors
    from aeot.data import to_uint8 as to_uint8
    from aeot.data import unpaired as unpaired
    from aeot.gan.ali import ALI as ALI
    from aeot.gan.cyclegan import CycleGAN as CycleGAN
    from aeot.gan.flow_matching import FlowMatching as FlowMatching
    from aeot.gan.gan import BEGAN as BEGAN
    from aeot.gan.gan import DRAGAN as DRAGAN
    from aeot.gan.gan import GAN as GAN
    from aeot.gan.gan import LSGAN as LSGAN
    from aeot.gan.gan import PacGAN as PacGAN
    from aeot.gan.glo import GLO as GLO
    from aeot.gan.imle import GLANN as GLANN
    from aeot.gan.imle import IMLE as IMLE
    from aeot.gan.pix2pix import Pix2Pix as Pix2Pix
    from aeot.gan.vae import VAE as VAE
    from aeot.gan.wasserstein import WGAN as WGAN
    from aeot.gan.wasserstein import WGANGP as WGANGP
    from aeot.gan.wasserstein import ConditionalWGANGP as ConditionalWGANGP
    from aeot.geometry.diagram import power_diagram as power_diagram
    from aeot.maps.brenier import BrenierMap as BrenierMap
    from aeot.maps.conditional import ConditionalMap as ConditionalMap
    from aeot.maps.coupling import coupling as coupling
    from aeot.measures import ConvexPolygon as ConvexPolygon
    from aeot.measures import Empirical as Empirical
    from aeot.measures import Gaussian as Gaussian
    from aeot.measures import GridDensity as GridDensity
    from aeot.measures import Polygon as Polygon
    from aeot.measures import Radial as Radial
    from aeot.measures import Sampler as Sampler
    from aeot.measures import UniformBall as UniformBall
    from aeot.measures import UniformBox as UniformBox
    from aeot.models.aeot import AEOT as AEOT
    from aeot.models.autoencoder import Autoencoder as Autoencoder
    from aeot.models.translator import TransportTranslator as TransportTranslator
    from aeot.search.heights import cost_sites as cost_sites
    from aeot.singular.curves import singular_curves as singular_curves
    from aeot.singular.curves import singular_surfaces as singular_surfaces
    from aeot.singular.singular_set import SingularSet as SingularSet
    from aeot.singular.singular_set import find_singularities as find_singularities
    from aeot.solvers.conditional import ConditionalSolution as ConditionalSolution
    from aeot.solvers.conditional import solve_conditional as solve_conditional
    from aeot.solvers.estimator import SemiDiscreteOT as SemiDiscreteOT
    from aeot.solvers.exact import solve_exact as solve_exact
    from aeot.solvers.hierarchy import solve_hierarchical as solve_hierarchical
    from aeot.solvers.polar import polar_factorisation as polar_factorisation
    from aeot.solvers.solution import Solution as Solution
    from aeot.solvers.solve import solve_semidiscrete as solve_semidiscrete
    from aeot.solvers.update import update_solution as update_solution

__version__ = "0.2.0"

# name -> the module that defines it
_PUBLIC = {
    "alone": "_ranks",
    "generator": "_rng",
    "ConvexPolygon": "measures",
    "Empirical": "measures",
    "Gaussian": "measures",
    "GridDensity": "measures",
    "Polygon": "measures",
    "Radial": "measures",
    "Sampler": "measures",
    "UniformBall": "measures",
    "UniformBox": "measures",
    "dataset": "data",
    "images": "data",
    "loader": "data",
    "paired": "data",
    "tensors": "data",
    "to_uint8": "data",
    "unpaired": "data",
    "ALI": "gan.ali",
    "BEGAN": "gan.gan",
    "ConditionalWGANGP": "gan.wasserstein",
    "CycleGAN": "gan.cyclegan",
    "DRAGAN": "gan.gan",
    "FlowMatching": "gan.flow_matching",
    "GAN": "gan.gan",
    "GLANN": "gan.imle",
    "GLO": "gan.glo",
    "IMLE": "gan.imle",
    "LSGAN": "gan.gan",
    "PacGAN": "gan.gan",
    "Pix2Pix": "gan.pix2pix",
    "VAE": "gan.vae",
    "WGAN": "gan.wasserstein",
    "WGANGP": "gan.wasserstein",
    "power_diagram": "geometry.diagram",
    "cost_sites": "search.heights",
    "singular_curves": "singular.curves",
    "singular_surfaces": "singular.curves",
    "BrenierMap": "maps.brenier",
    "coupling": "maps.coupling",
    "ConditionalMap": "maps.conditional",
    "SingularSet": "singular.singular_set",
    "find_singularities": "singular.singular_set",
    "polar_factorisation": "solvers.polar",
    "ConditionalSolution": "solvers.conditional",
    "solve_conditional": "solvers.conditional",
    "Solution": "solvers.solution",
    "solve_exact": "solvers.exact",
    "solve_hierarchical": "solvers.hierarchy",
    "solve_semidiscrete": "solvers.solve",
    "update_solution": "solvers.update",
    "SemiDiscreteOT": "solvers.estimator",
    "compare": "comparison.compare",
    "TransportTranslator": "models.translator",
    "AEOT": "models.aeot",
    "Autoencoder": "models.autoencoder",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


if not TYPE_CHECKING:  # or a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name in _PUBLIC:
            value = getattr(importlib.import_module(f"aeot.{_PUBLIC[name]}"), name)
            globals()[name] = value
            return value
        if name in ("data", "features", "metrics"):  # public modules; others are imported by name
            return importlib.import_module(f"aeot.{name}")
        raise AttributeError(f"module 'aeot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
