"""Which sizes of pictures an engine takes, and the shapes of a graph's inputs that follow from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vaert.errors import BackendError, OptionError
from vaert.package import CODEC, DIGITS, LOSSLESS_DIGITS, RESTORER, UPSCALER, Manifest

Size = tuple[int, int]  # height, width
Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]  # smallest, the one to be fastest at, largest

PIXELS = "pixels"  # free size of the lossless digits' graphs: how many pixels a pass codes


@dataclass(frozen=True)
class Shapes:
    """Sizes of pictures in pixels, and of batches: smallest, the one that the engine is tuned for, and largest.

    OptionError if they are not in this order. Sizes are rounded up to the model's size rule when they are used.
    """

    minimum: Size = (1, 1)
    optimum: Size = (512, 768)
    maximum: Size = (2048, 2048)
    batch: tuple[int, int, int] = (1, 1, 1)

    def __post_init__(self) -> None:
        for low, middle, high in (*zip(self.minimum, self.optimum, self.maximum, strict=True), self.batch):
            if not 1 <= low <= middle <= high:
                raise OptionError(
                    f"shapes {self}: sizes must be at least 1 and grow, MIN:OPT:MAX like 64x64:512x768:2048x2048"
                )

    def __str__(self) -> str:
        sizes = ":".join(f"{height}x{width}" for height, width in (self.minimum, self.optimum, self.maximum))
        return sizes + (f" in batches of {':'.join(map(str, self.batch))}" if self.batch != (1, 1, 1) else "")

    @staticmethod
    def parse(text: str) -> Shapes:
        """`MIN:OPT:MAX`, each `HEIGHTxWIDTH` in pixels. OptionError."""
        found = re.fullmatch(r"(\d{1,6})x(\d{1,6}):(\d{1,6})x(\d{1,6}):(\d{1,6})x(\d{1,6})", text)
        if not found:
            raise OptionError(f"shapes {text!r}: expected MIN:OPT:MAX, each HEIGHTxWIDTH, like 64x64:512x768:2048x2048")
        a, b, c, d, e, f = map(int, found.groups())
        return Shapes((a, b), (c, d), (e, f))


DEFAULTS: Mapping[str, Shapes] = {
    CODEC: Shapes(),
    RESTORER: Shapes(),  # its tiles and their halo: 1152 + 2 * 288
    UPSCALER: Shapes(optimum=(384, 384), maximum=(1024, 1024)),  # small pixels
    DIGITS: Shapes(batch=(1, 64, 512)),
    LOSSLESS_DIGITS: Shapes(batch=(1, 64, 64)),
}


def default_shapes(manifest: Manifest) -> Shapes:
    """What engines take if nothing else is asked for: the `shapes` in the manifest's geometry, or what tiles need."""
    chosen = manifest.geometry.get("shapes")
    return Shapes.parse(str(chosen)) if chosen else DEFAULTS.get(manifest.kind, Shapes())


def shapes_around(usual: Shapes, batch: int, size: Size) -> Shapes:
    """For a size that the usual engine does not take: what it takes too, and up to the next power of two.

    Sides and batches within the usual range keep its largest values, so that such engines are few.
    """
    wanted = (*size, batch)
    best = (*usual.optimum, usual.batch[1])
    most = (*usual.maximum, usual.batch[2])
    grown = [_power_of_two(n) if n > limit else limit for n, limit in zip(wanted, most, strict=True)]
    tuned = [limit if n > old else middle for n, middle, old, limit in zip(wanted, best, most, grown, strict=True)]
    return Shapes((1, 1), (tuned[0], tuned[1]), (grown[0], grown[1]), (1, tuned[2], grown[2]))


def input_ranges(manifest: Manifest, graph: str, shapes: Shapes) -> dict[str, Range]:
    """Smallest, best and largest shape of each input of a graph. BackendError if a free size is unknown."""
    ranges = {}
    for tensor in manifest.graphs[graph]["inputs"]:
        dims = [_dimension(manifest, dim, shapes) for dim in tensor["shape"]]
        low, middle, high = (tuple(dim[k] for dim in dims) for k in range(3))
        ranges[tensor["name"]] = (low, middle, high)
    return ranges


def picture_size(manifest: Manifest, graph: str, shapes: Mapping[str, Shape]) -> tuple[int, Size]:
    """Batch and size of the picture, in pixels, that inputs of these shapes belong to; 1 where they do not tell."""
    batch, size = 1, [1, 1]
    for tensor in manifest.graphs[graph]["inputs"]:
        for dim, found in zip(tensor["shape"], shapes[tensor["name"]], strict=True):
            if dim == "batch":
                batch = max(batch, found)
            elif isinstance(dim, str) and dim != PIXELS:
                factor, axis, pixels = _unit(manifest, dim)
                size[axis] = max(size[axis], found * pixels // factor)
    return batch, (size[0], size[1])


def _power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()


def _dimension(manifest: Manifest, dim: int | str, shapes: Shapes) -> Shape:
    """Smallest, best and largest value of one dimension."""
    if isinstance(dim, int):
        return (dim, dim, dim)
    if dim == "batch":
        return shapes.batch
    if dim == PIXELS:
        total = int(manifest.geometry["height"]) * int(manifest.geometry["width"])
        return (1, -(-total // 4), total)
    factor, axis, pixels = _unit(manifest, dim)
    multiple = int(manifest.geometry["size_multiple"])
    sides = (size[axis] for size in (shapes.minimum, shapes.optimum, shapes.maximum))
    return tuple(factor * (-(-side // multiple) * multiple) // pixels for side in sides)


def _unit(manifest: Manifest, dim: str) -> tuple[int, int, int]:
    """Of `64*high`: the factor, 64, the axis of the picture (0 height, 1 width), and how many pixels one `high` is."""
    factor, symbol = dim.split("*") if "*" in dim else ("1", dim)
    found = _symbols(manifest).get(symbol)
    if found is None or not factor.isdecimal():
        raise BackendError(
            f"model {manifest.name}: its manifest has the free size {dim!r}, which the tensorrt backend does not know; "
            "export the model again with this version of vaert"
        )
    return int(factor), *found


def _symbols(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Names of the graphs' free sizes -> axis of the picture, and pixels to one unit."""
    geometry: Mapping[str, Any] = manifest.geometry
    multiple = int(geometry.get("size_multiple", 1))
    units = {"high": (0, multiple), "wide": (1, multiple)}
    if manifest.kind == CODEC:
        latent, hyper = int(geometry["latent_stride"]), int(geometry["hyper_stride"])
        units |= {"hyper_height": (0, hyper), "hyper_width": (1, hyper), "height": (0, latent), "width": (1, latent)}
        return units | {"row_pairs": (0, 2 * latent), "columns": (1, 2 * latent)}
    return units | {"height": (0, multiple), "width": (1, multiple)}
