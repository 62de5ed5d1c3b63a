"""Pictures of any number of channels for networks that take RGB alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def split(image: Pixels) -> tuple[Pixels, Pixels | None]:
    """RGB (H, W, 3), of grey three equal channels, and alpha (H, W) or None, of (H, W) or (H, W, 2 | 3 | 4)."""
    flat = image[..., None] if image.ndim == 2 else image
    channels = flat.shape[2]
    alpha = np.ascontiguousarray(flat[..., -1]) if channels in (2, 4) else None
    colour = flat[..., :1].repeat(3, axis=2) if channels < 3 else flat[..., :3]
    return np.ascontiguousarray(colour), alpha


def join(colour: Pixels, alpha: Pixels | None, *, grey: bool) -> Pixels:
    """What `split` took apart, after a network changed it: grey is the mean of the three channels, rounded."""
    pixels = colour
    if grey:
        pixels = ((colour.sum(2, dtype=np.uint16) + 1) // 3).astype(np.uint8)
    return pixels if alpha is None else np.dstack([pixels, alpha])


def is_grey(image: Pixels) -> bool:
    """Whether a picture is grey, with alpha or without, by its shape."""
    return image.ndim == 2 or image.shape[2] == 2
