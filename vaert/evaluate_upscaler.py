"""PSNR on Y of an upscaler over a folder of HR and LR pictures, beside bicubic enlarging of the same LR pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vaert.resample import upscale as bicubic
from vaert.super_resolution import find_pairs, luma_psnr, read_pair

if TYPE_CHECKING:
    from vaert.runtime.upscaler import Upscaler

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PictureResult:
    """One picture: size of the large one, PSNR in dB on Y of the model's and of bicubic's result."""

    name: str
    width: int
    height: int
    psnr: float
    bicubic: float


@dataclass(frozen=True)
class UpscalerEvaluation:
    """What `evaluate_upscaler` found; the means are over pictures."""

    model: str
    model_id: str  # hexadecimal
    scale: int
    images: str  # name of the folder
    psnr: float
    bicubic: float
    pictures: tuple[PictureResult, ...]

    def to_dict(self) -> dict[str, object]:
        """The same as types that JSON knows."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for people to read."""
        head = f"{self.model} (model {self.model_id}), {self.images}, {len(self.pictures)} pictures"
        names = max(len(p.name) for p in self.pictures)
        rows = [f"{p.name:<{names}}  {p.psnr:.2f} dB, bicubic {p.bicubic:.2f} dB" for p in self.pictures]
        means = f"mean: {self.psnr:.2f} dB, bicubic {self.bicubic:.2f} dB, {self.psnr - self.bicubic:+.2f} dB"
        how = f"note: PSNR on Y of BT.601, {self.scale} pixels cut off at every edge, on bytes"
        return [head, *rows, means, how]


def evaluate_upscaler(
    model: str | os.PathLike[str] | Upscaler,
    images: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> UpscalerEvaluation:
    """Measure `model` at its best guess (detail 0) over the pairs in the folder `images`.

    Args:
        model: a bundled model's name, a package folder, or an opened model.
        images: folder with HR and LRx2 or LRx4, or of large pictures; see `vaert.super_resolution.find_pairs`.
        progress: called with the number of finished pictures and of all pictures, after each picture.

    Raises:
        DataError: no such folder, no pairs in it, or pictures that do not belong together.
        ImageError, ModelError, BackendError, OptionError: as the parts say.
    """
    from vaert.runtime.upscaler import Upscaler

    upscaler = model if isinstance(model, Upscaler) else Upscaler(model)
    scale, manifest = upscaler.scale, upscaler.package.manifest
    pairs, results = find_pairs(images, scale), []
    for number, pair in enumerate(pairs, 1):
        large, small = read_pair(pair)
        ours, theirs = (
            luma_psnr(large, made, shave=scale) for made in (upscaler.upscale(small), bicubic(small, scale))
        )
        results.append(PictureResult(pair.name, large.shape[1], large.shape[0], ours, theirs))
        if progress is not None:
            progress(number, len(pairs))
    return UpscalerEvaluation(
        model=manifest.name,
        model_id=f"{manifest.model_id:016x}",
        scale=scale,
        images=images.resolve().name,
        psnr=_mean([r.psnr for r in results]),
        bicubic=_mean([r.bicubic for r in results]),
        pictures=tuple(results),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
