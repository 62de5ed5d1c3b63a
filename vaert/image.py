"""Images in and out: files to 8-bit pixels and back, refusing everything that 8-bit pixels cannot hold faithfully."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from vaert._facts import Facts, damaged
from vaert.errors import BackendError, ImageError, OptionError

if TYPE_CHECKING:  # numpy loads on first use
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MAX_PIXELS", "Picture", "check_pixels", "encode_image", "format_from_path", "read_image"]

MAX_PIXELS = 2**28
"""Default of the limit on width * height."""

_ENDINGS = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".webp": "webp",
    ".bmp": "bmp",
    ".tif": "tif",
    ".tiff": "tif",
    ".ppm": "ppm",
    ".pgm": "pgm",
    ".pnm": "pnm",
}
_HOLD_ALPHA = ("png", "webp")
_LONGEST_SIDE = {"jpg": 65500, "webp": 16383}
# Debian's package for each library that opencv-python links to but does not bring.
_PACKAGES = {
    "libGL": "libgl1",
    "libglib": "libglib2.0-0",
    "libgthread": "libglib2.0-0",
    "libSM": "libsm6",
    "libXext": "libxext6",
    "libXrender": "libxrender1",
}
# A guess: some cameras pad the last scan by a few bytes, which libjpeg reports and which harms nothing.
_HARMLESS_PADDING = 16


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    `pixels` is uint8 [height, width] (grey), [height, width, 2] (grey, alpha), 3 (RGB) or 4 (RGBA), C-contiguous, with
    alpha not multiplied in; `dropped` names the metadata that the file had and the pixels do not.
    """

    pixels: "NDArray[np.uint8]"
    dropped: tuple[str, ...]


def read_image(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in the file content `data`, turned as its EXIF orientation says.

    Args:
        data: a whole PNG, JPEG, WebP, BMP, GIF, TIFF or PNM file.
        name: what to call it in messages.
        max_pixels: refuse larger pictures before they are decoded.

    Raises:
        ImageError: not an image, cut, damaged, too large, or not one still image of 8-bit grey or RGB samples.
        BackendError: OpenCV cannot be imported.
    """
    from vaert._sniff import sniff

    facts = sniff(data, name)
    if facts.width < 1 or facts.height < 1:
        raise damaged(name, f"its header says {facts.width}x{facts.height} pixels")
    if facts.width * facts.height > max_pixels:
        raise ImageError(
            f"{name}: the image has {facts.width}x{facts.height} = {facts.width * facts.height} pixels, "
            f"the limit is {max_pixels}: raise it with --max-pixels"
        )
    import numpy as np

    pixels = _with_grey_alpha(_decode(facts, name), facts)
    return Picture(np.ascontiguousarray(_upright(pixels, facts.orientation)), facts.dropped)


def encode_image(pixels: "NDArray[np.uint8]", *, format: str) -> bytes:  # noqa: A002 - the public term
    """File content of `pixels` (see `check_pixels`) as "png", "jpg", "webp", "bmp", "tif", "ppm", "pgm" or "pnm".

    All are lossless but JPEG, which is written at quality 95 without chroma subsampling. A grey picture becomes RGB
    in a WebP or PPM file.

    Raises:
        ImageError: unknown format, or one that cannot hold these pixels.
        OptionError: `pixels` is not an image.
        BackendError: OpenCV cannot be imported.
    """
    pixels = check_pixels(pixels)
    kind = _ENDINGS.get(f".{format.lower().removeprefix('.')}")
    if kind is None:
        raise ImageError(f"unknown image format {format!r}: use one of {', '.join(sorted(set(_ENDINGS.values())))}")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels in (2, 4) and kind not in _HOLD_ALPHA:
        raise ImageError(f"{kind} cannot hold the image's alpha channel: use {' or '.join(_HOLD_ALPHA)}")
    if kind == "pgm" and channels == 3:
        raise ImageError("pgm cannot hold colour: use ppm or png")
    if max(pixels.shape[:2]) > (longest := _LONGEST_SIDE.get(kind, max(pixels.shape[:2]))):
        raise ImageError(
            f"{kind} holds at most {longest} pixels a side, the image has {pixels.shape[1]}x{pixels.shape[0]}: use png"
        )
    if kind == "png" and channels == 2:
        from vaert._png import write_grey_alpha

        return write_grey_alpha(pixels)
    return _encode(pixels, kind)


def format_from_path(path: str | os.PathLike[str]) -> str:
    """Format for `encode_image` that the ending of `path` names, whatever its case.

    Raises:
        ImageError: an unknown ending.
    """
    ending = Path(path).suffix.lower()
    if ending not in _ENDINGS:
        raise ImageError(f"{os.fspath(path)}: unknown image ending {ending!r}: use one of {' '.join(_ENDINGS)}")
    return _ENDINGS[ending]


def check_pixels(array: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
    """`array` itself if it is an image in memory, or a C-contiguous copy if only its layout is not.

    An image is uint8 [height, width] (grey) or [height, width, 2 | 3 | 4] (grey + alpha, RGB, RGBA), at least 1x1.

    Raises:
        OptionError: anything else.
    """
    import numpy as np

    if not isinstance(array, np.ndarray):
        raise OptionError(f"an image must be a numpy array, found {type(array).__name__}: use numpy.asarray(image)")
    if array.dtype != np.uint8:
        raise OptionError(f"an image must be uint8 (0 to 255), found {array.dtype}: scale and convert it first")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (2, 3, 4)):
        raise OptionError(
            f"an image must have shape (height, width) or (height, width, 2 to 4), found {array.shape}: reshape it"
        )
    if array.shape[0] < 1 or array.shape[1] < 1:
        raise OptionError(f"an image must have at least 1x1 pixels, found shape {array.shape}")
    return np.ascontiguousarray(array)


def _cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise BackendError(_import_advice(error)) from error
    return cv2


def _import_advice(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"OpenCV is not installed ({error}): pip install opencv-python"
    text = " ".join(str(error).split())
    found = re.search(r"(lib\w+)[\w.-]*\.so", text)
    package = _PACKAGES.get(found[1]) if found else None
    return f"OpenCV cannot be loaded ({text}): apt-get install {package or 'libgl1 libglib2.0-0'}"


def _decode(facts: Facts, name: str) -> "NDArray[np.uint8]":
    """Pixels as stored, channels in the order RGB(A)."""
    import numpy as np

    from vaert._quiet import call_quietly

    cv2 = _cv2()
    raw = np.frombuffer(facts.body, np.uint8)

    def work() -> "NDArray[np.uint8] | None":
        try:
            decoded: NDArray[np.uint8] | None = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
        except cv2.error:
            return None
        return decoded

    pixels, complaints = call_quietly(cv2, work)
    for line in complaints:
        if _means_damage(line):
            raise damaged(name, f"libjpeg: {line}")
    if pixels is None:
        raise damaged(name, f"the {facts.format} cannot be decoded")
    if pixels.dtype != np.uint8 or pixels.shape[:2] != (facts.height, facts.width):
        raise damaged(
            name,
            f"decoded to {pixels.shape[1]}x{pixels.shape[0]} {pixels.dtype}, "
            f"its header says {facts.width}x{facts.height} of 8 bits",
        )
    if pixels.ndim == 3:
        order = [2, 1, 0, 3][: pixels.shape[2]]
        pixels = pixels[:, :, order]
    return pixels


def _means_damage(line: str) -> bool:
    if padding := re.match(r"Corrupt JPEG data: (\d+) extraneous bytes", line):
        return int(padding[1]) > _HARMLESS_PADDING
    return line.startswith(("Corrupt JPEG data", "Premature end of JPEG"))


def _with_grey_alpha(pixels: "NDArray[np.uint8]", facts: Facts) -> "NDArray[np.uint8]":
    """Grey + alpha as two channels; OpenCV decodes it to four, and does not know a transparent grey level."""
    import numpy as np

    if facts.grey_alpha and pixels.ndim == 3:
        return pixels[:, :, [0, 3]]
    if facts.grey_key is not None and pixels.ndim == 2:
        alpha = np.where(pixels == facts.grey_key, 0, 255).astype(np.uint8)
        return np.stack([pixels, alpha], axis=2)
    return pixels


def _upright(pixels: "NDArray[np.uint8]", orientation: int) -> "NDArray[np.uint8]":
    """`pixels` turned from EXIF `orientation` (1 to 8) to upright: 5 to 8 swap axes, then rows or columns flip."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _encode(pixels: "NDArray[np.uint8]", kind: str) -> bytes:
    cv2 = _cv2()
    if pixels.ndim == 3:
        import numpy as np

        order = {2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
        pixels = np.ascontiguousarray(pixels[:, :, order])
    elif kind == "ppm":
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    options: list[int] = []
    if kind == "jpg":
        full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full]
    elif kind == "png" and hasattr(cv2, "IMWRITE_PNG_FILTER"):  # absent before OpenCV 4.11
        options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG]  # photographs: 3 to 12 % smaller, as fast
    elif kind == "webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, 101]
        if hasattr(cv2, "IMWRITE_WEBP_LOSSLESS_MODE"):  # keeps colours under alpha 0; absent before OpenCV 4.12
            options = [cv2.IMWRITE_WEBP_LOSSLESS_MODE, cv2.IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR]
    from vaert._quiet import call_quietly

    def work() -> bytes | None:
        try:
            good, content = cv2.imencode(f".{kind}", pixels, options)
        except cv2.error:
            return None
        return bytes(content) if good else None

    encoded, _ = call_quietly(cv2, work)
    if encoded is None:
        raise ImageError(f"OpenCV cannot write {pixels.shape[1]}x{pixels.shape[0]} pixels as {kind}: use png")
    return encoded
