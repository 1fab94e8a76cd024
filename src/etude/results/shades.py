"""Values as a small picture: a PNG in few colours, a pixel for each value."""

from __future__ import annotations

import io

import numpy as np

SHADES = 64  # more is not seen, and makes a page larger


def png(values: np.ndarray, limits: tuple[float, float]) -> bytes:
    """Values (height, width), the upper row first, from dark to light between two limits."""
    from matplotlib import colormaps
    from PIL import Image

    low, high = limits
    shade = np.clip((values - low) / ((high - low) or 1) * SHADES, 0, SHADES - 1).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(shade), "P")
    image.putpalette((colormaps["magma"].resampled(SHADES)(np.arange(SHADES))[:, :3] * 255).astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
