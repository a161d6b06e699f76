"""Semi-discrete optimal transport for generative modelling (AE-OT).

The public names are loaded on first use, so that ``import aeot`` and ``aeot --help`` are instant.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

# name -> the module that defines it
_PUBLIC = {
    "generator": "_rng",
    "ConvexPolygon": "measures",
    "Empirical": "measures",
    "Gaussian": "measures",
    "GridDensity": "measures",
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
    "ALI": "gan.inference",
    "BEGAN": "gan.generate",
    "ConditionalWGANGP": "gan.wasserstein",
    "CycleGAN": "gan.translate",
    "DRAGAN": "gan.generate",
    "FlowMatching": "gan.flow",
    "GAN": "gan.generate",
    "GLANN": "gan.implicit",
    "GLO": "gan.likelihood",
    "IMLE": "gan.implicit",
    "LSGAN": "gan.generate",
    "PacGAN": "gan.generate",
    "Pix2Pix": "gan.paired",
    "VAE": "gan.likelihood",
    "WGAN": "gan.wasserstein",
    "WGANGP": "gan.wasserstein",
    "power_diagram": "geometry.diagram",
    "singular_curves": "singular.curves",
    "singular_surfaces": "singular.curves",
    "BrenierMap": "maps.brenier",
    "SingularSet": "singular.singular_set",
    "find_singularities": "singular.singular_set",
    "Solution": "solvers.solution",
    "solve_exact": "solvers.exact",
    "solve_hierarchical": "solvers.hierarchy",
    "solve_semidiscrete": "solvers.solve",
    "SemiDiscreteOT": "solvers.estimator",
    "compare": "comparison.compare",
    "TransportTranslator": "models.translator",
    "AEOT": "models.aeot",
    "Autoencoder": "models.autoencoder",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module defines
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f"aeot.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    if name in ("data", "features", "metrics"):  # public modules; the others are imported by name
        return importlib.import_module(f"aeot.{name}")
    raise AttributeError(f"module 'aeot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
