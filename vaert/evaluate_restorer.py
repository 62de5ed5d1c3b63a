"""How well a restorer repairs JPEG's damage and fills holes, over a folder of clean pictures."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vaert.errors import DataError
from vaert.evaluate import find_images, read_rgb
from vaert.holes import made_hole
from vaert.metrics import psnr
from vaert.super_resolution import LARGE_FOLDER, luma_psnr

if TYPE_CHECKING:
    from vaert.runtime.restorer import Restorer

Pixels = npt.NDArray[np.uint8]
QUALITIES = (10, 20, 40)
CHROMA = "4:2:0"
TELEA_RADIUS = 5  # pixels; of the usual 3 to 5 the best on BSD100


@dataclass(frozen=True)
class Repair:
    """Means over pictures at one JPEG quality: PSNR in dB on Y before and after, least gain of a picture."""

    quality: int
    damaged: float
    restored: float
    least_gain: float

    @property
    def gain(self) -> float:
        """In dB."""
        return self.restored - self.damaged


@dataclass(frozen=True)
class RestorerEvaluation:
    """What `evaluate_restorer` found. hole and telea: mean PSNR in dB in the holes, of the model and of OpenCV."""

    model: str
    model_id: str  # hexadecimal
    images: str  # name of the folder
    pictures: int
    repairs: tuple[Repair, ...]
    hole: float
    telea: float
    hidden: float  # mean share of the pictures

    def to_dict(self) -> dict[str, object]:
        """The same as types that JSON knows."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for people to read."""
        return [
            f"{self.model} (model {self.model_id}), {self.images}, {self.pictures} pictures",
            *(
                f"JPEG quality {r.quality:2d}: {r.damaged:.2f} dB, restored {r.restored:.2f} dB, {r.gain:+.2f} dB "
                f"(least {r.least_gain:+.2f})"
                for r in self.repairs
            ),
            f"holes of {100 * self.hidden:.1f} % on average: {self.hole:.2f} dB, Telea {self.telea:.2f} dB, "
            f"{self.hole - self.telea:+.2f} dB",
            f"note: JPEG by Pillow, {CHROMA}, PSNR on Y of BT.601; in holes PSNR in RGB of hidden pixels, beside "
            f"OpenCV's INPAINT_TELEA of radius {TELEA_RADIUS}; all on bytes, means over pictures",
        ]


def evaluate_restorer(
    model: str | os.PathLike[str] | Restorer,
    images: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> RestorerEvaluation:
    """Measure `model` over the clean pictures in the folder `images`, or in its folder HR.

    Args:
        model: a bundled model's name, a package folder, or an opened model.
        images: folder. Picture number n of it, by name, gets the hole of seed n.
        progress: called with the number of finished pictures and of all pictures, after each picture.

    Raises:
        DataError: no such folder, no pictures in it, or one with alpha or of less than 2x2 pixels.
        ImageError, ModelError, BackendError: as the parts say.
    """
    from vaert.runtime.restorer import Restorer

    restorer = model if isinstance(model, Restorer) else Restorer(model)
    paths = find_images(images / LARGE_FOLDER if (images / LARGE_FOLDER).is_dir() else images)
    repairs, holes, shares = [], [], []
    for number, path in enumerate(paths):
        clean = read_rgb(path)
        if min(clean.shape[:2]) < 2:
            raise DataError(f"{path} has {clean.shape[1]}x{clean.shape[0]} pixels, expected at least 2x2: leave it out")
        found = []
        for quality in QUALITIES:
            damaged = compressed(clean, "JPEG", quality=quality, subsampling=CHROMA)
            found.append([luma_psnr(clean, p, shave=0) for p in (damaged, restorer.restore(damaged))])
        repairs.append(found)
        hidden = made_hole(*clean.shape[:2], seed=number)
        holed = np.where(hidden[..., None], 0, clean).astype(np.uint8)
        filled = restorer.restore(holed, hidden), telea(holed, hidden)
        holes.append([psnr(clean[hidden], p[hidden]) for p in filled])
        shares.append(float(hidden.mean()))
        if progress is not None:
            progress(number + 1, len(paths))
    manifest = restorer.package.manifest
    return RestorerEvaluation(
        model=manifest.name,
        model_id=f"{manifest.model_id:016x}",
        images=images.resolve().name,
        pictures=len(paths),
        repairs=tuple(repair(quality, [r[k] for r in repairs]) for k, quality in enumerate(QUALITIES)),
        hole=mean([h[0] for h in holes]),
        telea=mean([h[1] for h in holes]),
        hidden=mean(shares),
    )


def compressed(pixels: Pixels, kind: str, **options: Any) -> Pixels:
    """A picture, uint8 (H, W, 3), as it comes back from a file that Pillow wrote as `kind` ("JPEG", "WEBP")."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **options)
    return np.asarray(Image.open(stream).convert("RGB"))


def telea(pixels: Pixels, hidden: npt.NDArray[np.bool_], radius: float = TELEA_RADIUS) -> Pixels:
    """Holes filled by OpenCV (Telea, "An image inpainting technique based on the fast marching method", 2004)."""
    import cv2

    return np.asarray(cv2.inpaint(pixels, hidden.astype(np.uint8), radius, cv2.INPAINT_TELEA), np.uint8)


def repair(quality: int, before_and_after: Sequence[Sequence[float]]) -> Repair:
    """Means of pictures' PSNRs, damaged and restored."""
    damaged, restored = ([pair[k] for pair in before_and_after] for k in range(2))
    least = min(after - before for before, after in before_and_after)
    return Repair(quality, mean(damaged), mean(restored), least)


def mean(values: Sequence[float]) -> float:
    """Of some numbers."""
    return math.fsum(values) / len(values)
