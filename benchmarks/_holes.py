"""Fixed holes of the inpainting benchmark: made by seed, kept in tests/golden/masks.npz, as random draws may change.

python -m benchmarks._holes --images DIR  # makes the file anew
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks._machine import ROOT
from vaert.atomic import write_atomic
from vaert.evaluate import find_images, read_rgb
from vaert.holes import made_hole

Mask = npt.NDArray[np.bool_]
STORED = ROOT / "tests" / "golden" / "masks.npz"


def main() -> int:
    """Make a hole for every picture of a folder and write them."""
    options = argparse.ArgumentParser(prog="python -m benchmarks._holes", description=__doc__)
    options.add_argument("--images", type=Path, required=True, help="folder of pictures")
    options.add_argument("--out", type=Path, default=STORED, help=f"default: {STORED.relative_to(ROOT)}")
    given = options.parse_args()
    masks = {
        path.stem: made_hole(*read_rgb(path).shape[:2], seed=number)
        for number, path in enumerate(find_images(given.images))
    }
    data = packed(masks)
    write_atomic(given.out, data, force=True)
    print(f"{given.out}: {len(masks)} masks, {len(data)} bytes")
    return 0


def packed(masks: dict[str, Mask]) -> bytes:
    """Masks by name as one NPZ file: names, heights and widths, and all bits one after the other."""
    stream = io.BytesIO()
    bits = np.packbits(np.concatenate([mask.ravel() for mask in masks.values()]))
    shapes = np.array([mask.shape for mask in masks.values()], np.uint16)
    np.savez_compressed(stream, names=np.array(list(masks)), shapes=shapes, bits=bits)
    return stream.getvalue()


def stored(path: Path = STORED) -> dict[str, Mask]:
    """The kept masks by the names of their pictures, True where hidden."""
    with np.load(path) as archive:
        names, shapes, bits = archive["names"], archive["shapes"].astype(int), np.unpackbits(archive["bits"])
    starts = np.concatenate([[0], np.cumsum(shapes.prod(1))])
    return {
        str(name): bits[start : start + height * width].reshape(height, width).astype(np.bool_)
        for name, start, (height, width) in zip(names, starts, shapes, strict=False)
    }


if __name__ == "__main__":
    raise SystemExit(main())
