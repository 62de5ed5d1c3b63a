"""Sizes of digits in the formats of pictures, at the lowest quality that reaches a fidelity: one file each, and sheets.

A sheet is one picture of all digits, the form in which a format's header costs next to nothing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks._machine import require
from vaert.idx import SIDE
from vaert.runtime.digits import mean_psnr

Digits = npt.NDArray[np.uint8]
ROW = 40  # digits of a sheet's row
PITCHES = (SIDE, 32)  # pixels from digit to digit on a sheet: as they are, or on the grid of the formats' blocks
HIGHEST = 100
LOWEST = {"JPEG": 1, "WebP": 0, "AVIF": 0}  # qualities of Pillow
OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"optimize": True}, "WebP": {"method": 6}, "AVIF": {"speed": 0}}
SHEET_OPTIONS = OPTIONS | {"AVIF": {"speed": 2}}
SMALL = 16  # side of a digit that is scaled down


@dataclass(frozen=True)
class Coded:
    """Digits as a format gives them back: whole files, quality as the format counts it, None where there is none."""

    bytes_per_digit: float
    psnr_db: float  # mean over digits
    psnr_of_mean_error_db: float
    quality: int | None


def measured(digits: Digits, decoded: Digits, *, size: int, quality: int | None = None) -> Coded:
    """The figures of digits that take `size` bytes together."""
    each, error = mean_psnr(digits, decoded), psnr_of_mean_error(digits, decoded)
    return Coded(round(size / len(digits), 3), round(each, 3), round(error, 3), quality)


def psnr_of_mean_error(digits: Digits, decoded: Digits) -> float:
    """PSNR in dB of the mean squared error over all pixels, at most 100."""
    error = np.square(digits.astype(np.float64) - decoded).mean()
    return float(min(100.0, 10 * math.log10(255**2 / max(error, 1e-9))))


def one_file_each(name: str, digits: Digits, target: float) -> Coded:
    """The lowest quality at which the mean PSNR is at least `target`, a file for every digit."""

    def attempt(quality: int) -> Coded:
        files = [save(digit, name, quality=quality, **OPTIONS[name]) for digit in digits]
        decoded = np.stack([load(data) for data in files])
        return measured(digits, decoded, size=sum(map(len, files)), quality=quality)

    return lowest(attempt, LOWEST[name], target)


def sheet(name: str, digits: Digits, target: float) -> Coded:
    """The same for one file with all digits, at the better pitch."""
    found = []
    for pitch in PITCHES:

        def attempt(quality: int, pitch: int = pitch) -> Coded:
            data = save(joined(digits, pitch), name, quality=quality, **SHEET_OPTIONS[name])
            return measured(digits, apart(load(data), len(digits), pitch), size=len(data), quality=quality)

        found.append(lowest(attempt, LOWEST[name], target))
    return min(found, key=lambda coded: coded.bytes_per_digit)


def png(digits: Digits) -> dict[str, Coded]:
    """Optimised PNG, which loses nothing: a file each, and the better sheet."""
    files = [save(digit, "PNG", optimize=True) for digit in digits]
    decoded = np.stack([load(data) for data in files])
    require(np.array_equal(decoded, digits), "PNG changed a digit")
    least = min(len(save(joined(digits, pitch), "PNG", optimize=True)) for pitch in PITCHES)
    each = measured(digits, decoded, size=sum(map(len, files)))
    return {"one file each": each, "sheet": measured(digits, decoded, size=least)}


def scaled_down(digits: Digits) -> tuple[str, Coded]:
    """Digits of 16x16 pixels, a byte each, scaled back: the best of OpenCV's pairs of filters, and its name."""
    down = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
    up = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "Lanczos": cv2.INTER_LANCZOS4}
    found = {}
    for one, shrink in down.items():
        small = [cv2.resize(digit, (SMALL, SMALL), interpolation=shrink) for digit in digits]
        for other, grow in up.items():
            large = np.stack([cv2.resize(digit, (SIDE, SIDE), interpolation=grow) for digit in small])
            found[f"{one} down, {other} up"] = measured(
                digits, np.asarray(large, np.uint8), size=SMALL * SMALL * len(digits)
            )
    best = max(found, key=lambda pair: found[pair].psnr_db)
    return best, found[best]


def lowest(attempt: Callable[[int], Coded], least: int, target: float) -> Coded:
    """What `attempt` gives at the lowest quality that reaches `target`, by bisection; fidelity grows with quality."""
    found = attempt(least)
    low, high = least, HIGHEST
    if found.psnr_db >= target:
        return found
    found = attempt(high)
    require(found.psnr_db >= target, f"quality {high} gives {found.psnr_db} dB, wanted {target}")
    while high - low > 1:
        middle = (low + high) // 2
        tried = attempt(middle)
        if tried.psnr_db >= target:
            high, found = middle, tried
        else:
            low = middle
    return found


def joined(digits: Digits, pitch: int) -> Digits:
    """One picture with a digit every `pitch` pixels, ROW in a row; black in between and where digits are left over."""
    down = -(-len(digits) // ROW)
    cells = np.zeros((down * ROW, pitch, pitch), np.uint8)
    cells[: len(digits), :SIDE, :SIDE] = digits
    return np.ascontiguousarray(
        cells.reshape(down, ROW, pitch, pitch).transpose(0, 2, 1, 3).reshape(down * pitch, ROW * pitch)
    )


def apart(picture: Digits, count: int, pitch: int) -> Digits:
    """The digits that `joined` put together."""
    down = picture.shape[0] // pitch
    cells = picture.reshape(down, pitch, ROW, pitch).transpose(0, 2, 1, 3).reshape(-1, pitch, pitch)
    return np.ascontiguousarray(cells[:count, :SIDE, :SIDE])


def save(picture: Digits, name: str, **options: Any) -> bytes:
    """A file of Pillow's."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, name, **options)
    return buffer.getvalue()


def load(data: bytes) -> Digits:
    """Its grey values."""
    from PIL import Image

    return np.array(Image.open(io.BytesIO(data)).convert("L"))
