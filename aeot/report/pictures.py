"""Images for the page: many small ones in one PNG, as a data URI."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image
from torchvision.utils import make_grid

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
    count, channels, height, width = images.shape
    columns = max(1, min(columns, count))
    sheet = make_grid(images.cpu(), columns, padding=0)[:channels].permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(sheet.squeeze(2) if channels == 1 else sheet).save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"uri": uri, "width": width, "height": height, "columns": columns, "count": count}
