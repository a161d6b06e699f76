"""Images for the page: many small ones in one PNG, as a data URI."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from aeot.data import to_uint8


def sprite(images: torch.Tensor, columns: int) -> dict[str, Any]:
    """Lay images out in rows of one PNG.

    Args:
        images: (B, C, H, W), uint8 or floats in [-1, 1], one or three channels.
        columns: Images a row.

    Returns:
        ``uri``, ``width`` and ``height`` of one image in pixels, ``columns``, ``count``.
    """
    images = images if images.dtype == torch.uint8 else to_uint8(images)
    tiles = images.permute(0, 2, 3, 1).cpu().numpy()
    count, height, width, channels = tiles.shape
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    full = np.zeros((rows * columns, height, width, channels), np.uint8)
    full[:count] = tiles
    sheet = full.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    sheet = sheet.reshape(rows * height, columns * width, channels)
    buffer = io.BytesIO()
    Image.fromarray(sheet.squeeze(2) if channels == 1 else sheet).save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"uri": uri, "width": width, "height": height, "columns": columns, "count": count}
