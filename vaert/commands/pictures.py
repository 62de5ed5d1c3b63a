"""Grey pictures as inputs and lossless ones as outputs, for `vaert generate` and `vaert restore`."""

from pathlib import Path
from typing import TYPE_CHECKING

from vaert.commands.files import read_input
from vaert.commands.options import MAX_PIXELS
from vaert.commands.report import STREAM
from vaert.errors import ImageError

if TYPE_CHECKING:  # numpy loads on first use
    import numpy as np
    from numpy.typing import NDArray

LOSSY = ("jpg",)


def read_grey(path: str, *, what: str, max_pixels: int = MAX_PIXELS) -> "NDArray[np.uint8]":
    """The file's picture as uint8 (H, W); one whose three channels are equal counts as grey.

    Args:
        path: a file's path or `-` for standard input.
        what: what the picture is for, in messages: "a digit".
        max_pixels: refuse larger pictures before they are decoded.

    Raises:
        ImageError: no such file, unreadable, or in colour or with alpha.
    """
    from vaert.image import read_image

    data = read_input(path, max_pixels=max_pixels, error=ImageError)
    pixels = read_image(data, name=path, max_pixels=max_pixels).pixels
    if pixels.ndim == 3:
        if pixels.shape[2] != 3 or (pixels != pixels[..., :1]).any():
            found = "alpha" if pixels.shape[2] in (2, 4) else "colours"
            raise ImageError(f"{path} has {found}, expected {what} in grey without alpha: convert it to grey first")
        pixels = pixels[..., 0].copy()
    return pixels


def lossless_format(path: str) -> str:
    """Format that the ending of an output names, PNG for `-`; ImageError for one that changes pixels or is unknown."""
    from vaert.image import format_from_path

    found = "png" if path == STREAM else format_from_path(path)
    if found in LOSSY:
        raise ImageError(f"{path}: {Path(path).suffix} changes pixels, expected a lossless format: use .png")
    return found
