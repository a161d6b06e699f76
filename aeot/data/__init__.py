"""Data sets held in memory, and the batches every model trains on."""

from aeot.data.arrays import (
    Dataset,
    Domains,
    distinct,
    gray_colour,
    indices,
    loader,
    low_high,
    resize,
    tensors,
    to_uint8,
    unpaired,
)
from aeot.data.folder import images, paired
from aeot.data.named import dataset
from aeot.data.toys import toy

__all__ = [
    "Dataset",
    "Domains",
    "dataset",
    "distinct",
    "gray_colour",
    "images",
    "indices",
    "loader",
    "low_high",
    "paired",
    "resize",
    "tensors",
    "to_uint8",
    "toy",
    "unpaired",
]
