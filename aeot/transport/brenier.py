"""The Brenier map of given heights: cells, map, potential, extension, sampling."""

from __future__ import annotations

import torch
from torch import nn

from aeot.measures import Measure


class BrenierMap(nn.Module):
    """The semi-discrete optimal transport map x -> y_i on the power cell W_i.

    Args:
        source: The source measure mu.
        sites: (n, d).
        heights: (n,), float64.
        masses: Target masses (n,); equal if left out.
        centroids: Mean of the source inside each cell (n, d), if known.
    """

    def __init__(
        self,
        source: Measure,
        sites: torch.Tensor,
        heights: torch.Tensor,
        *,
        masses: torch.Tensor | None = None,
        centroids: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.register_buffer("sites", sites)
        self.register_buffer("heights", heights)
        self.register_buffer("masses", masses)
        self.register_buffer("centroids", centroids)
