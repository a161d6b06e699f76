"""How networks run over many rows: on which device, in which arithmetic, block by block."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from aeot import _check
from aeot.data import Dataset

PRECISIONS = ("auto", "float32", "bfloat16")
_BLOCK = 256  # rows per forward pass


def resolve_device(device: str | None) -> torch.device:
    """Return the named device; None: the first GPU, else the CPU.

    Raises:
        ValueError: If this machine has no such device.
    """
    if device is not None:
        return _check.device("device", device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the arithmetic that "auto" stands for: bfloat16 where the hardware computes in it.

    Args:
        precision: "auto", "float32" or "bfloat16".
        device: Where the networks run.

    Raises:
        ValueError: For any other name.

    Example:
        >>> resolve_precision("float32", torch.device("cpu"))
        'float32'
    """
    _check.choice("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"


class Rows:
    """Rows of a data set or tensor as float32 on one device, shifted and scaled.

    Args:
        data: A data set, or a tensor (n, ...).
        device: Where the rows go; bytes stay bytes until they are indexed.
        shift: Subtracted from every number.
        scale: Every number is divided by it.
    """

    def __init__(
        self,
        data: Dataset | torch.Tensor,
        device: torch.device,
        *,
        shift: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        self.data, self.device = data.to(device), device
        self.shift, self.scale = shift, scale

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: slice | torch.Tensor) -> torch.Tensor:
        if isinstance(index, torch.Tensor):
            index = index.to(self.device)
        rows = self.data[index].to(torch.float32)
        return rows if (self.shift, self.scale) == (0, 1) else (rows - self.shift) / self.scale


def apply(network: nn.Module, rows: Rows, *width: int) -> torch.Tensor:
    """Apply a network to all rows, without gradients.

    Every block has the same shape and the last one is padded, because matrix products round
    differently for other shapes: what a row gives does not depend on its company.

    Args:
        network: In eval mode.
        rows: n rows.
        width: Shape of one row of the result.

    Returns:
        (n, *width), float32, on the CPU.
    """
    out = torch.empty(len(rows), *width)
    with torch.inference_mode():
        for start in range(0, len(rows), _BLOCK):
            block = rows[slice(start, start + _BLOCK)]
            padded = F.pad(block, [0, 0] * (block.ndim - 1) + [0, _BLOCK - len(block)])
            out[start : start + len(block)] = network(padded)[: len(block)]
    return out
