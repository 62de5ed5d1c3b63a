"""Draw the pictures of docs/digits.md with the commands that the page shows, in few grey levels to keep them small."""

from __future__ import annotations

import argparse
import io
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks._machine import ROOT, require
from benchmarks.latency import vaert_program
from vaert.atomic import write_atomic
from vaert.evaluate_digits import evaluate_digits
from vaert.idx import Digits, load_split

PAIRS = ((3, 8), (7, 9), (5, 6), (1, 4))  # digits that are morphed
COLOURS = 64

Grey = npt.NDArray[np.uint8]


def main() -> int:
    """Draw everything into one folder."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.digits_pictures", description=__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    options.add_argument("--model", default="mnist-conv", help="bundled name or package folder (default: mnist-conv)")
    options.add_argument("--plane", default="mnist-mlp", help="a model of two latents (default: mnist-mlp)")
    options.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder of the pictures")
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    split = load_split(given.data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = generated(folder, ["-n", "64", "--model", given.model])
        write_grey(given.out / "digits_samples.png", samples)
        manifold = generated(folder, ["--manifold", "--steps", "15", "--model", given.plane])
        write_grey(given.out / "digits_manifold.png", manifold, scale=1)
        rows = [morph(folder, split, pair, model=given.model) for pair in PAIRS]
        write_grey(given.out / "digits_interpolation.png", np.concatenate(rows))
        for model, target in ((given.model, "digits_reconstructions.png"), (given.plane, "digits_plane.png")):
            plot = folder / target
            evaluate_digits(model, given.data, samples=1, plot=plot)
            write_atomic(given.out / target, fewer_colours(plot), force=True)
    for path in sorted(given.out.glob("digits_*.png")):
        print(path.name, path.stat().st_size)
    return 0


def generated(folder: Path, arguments: list[str]) -> Grey:
    """What `vaert generate` draws."""
    target = folder / "picture.png"
    line = [*vaert_program(), "generate", str(target), "--force", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"vaert generate ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return np.asarray(cv2.imread(str(target), cv2.IMREAD_GRAYSCALE), np.uint8)


def morph(folder: Path, split: Digits, pair: tuple[int, int], *, model: str) -> Grey:
    """From the first evaluation digit of one class to that of another, with two black rows below."""
    ends = []
    for label in pair:
        ends.append(str(folder / f"{label}.png"))
        cv2.imwrite(ends[-1], split.test[np.flatnonzero(split.test_labels == label)[0]])
    return np.pad(generated(folder, ["--interpolate", *ends, "--steps", "12", "--model", model]), ((0, 2), (0, 0)))


def write_grey(path: Path, picture: Grey, *, scale: int = 2) -> None:
    """Write it enlarged, in 16 levels of grey."""
    large = np.repeat(np.repeat(np.rint(picture / 17).astype(np.uint8) * 17, scale, 0), scale, 1)
    data: bytes = cv2.imencode(".png", large, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data, force=True)


def fewer_colours(plot: Path) -> bytes:
    """A plot as a PNG with a palette."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(plot).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
