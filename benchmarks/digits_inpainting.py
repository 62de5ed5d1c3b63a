"""How well is the hidden half of a digit inferred, against filling, OpenCV's inpainting and ridge regression?

The bottom half and the right half of digits that nothing was trained on are hidden. Fidelity is the mean over digits of
PSNR over the hidden pixels alone. The regression goes from the known to the hidden pixels, is trained on the digits
that the VAE was trained on, and has the penalty that does best on the last of them when trained on the others. Telea
has the radius that does best on the very digits that it is measured on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks._machine import ROOT, Bar, finish, model_facts, parser, require
from benchmarks.digits_pictures import write_grey
from vaert.idx import SIDE, load_split
from vaert.metrics import psnr
from vaert.runtime.digit_vae import DigitVAE, mosaic
from vaert.runtime.inpainting import inpaint

NAME = "digits_inpainting"
SEED = 0
SHOWN = 10  # digits of the picture, of each half
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # of pixels in 0..1
RADII = (1.0, 2.0, 3.0, 5.0, 10.0)
HELD_OUT = 1000

Digits = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
OURS = "vaert"


@dataclass(frozen=True)
class Filled:
    """Digits with their hidden half restored by one method, and what was chosen for it."""

    digits: Digits
    choice: str = ""


def main() -> int:
    """Measure, check, draw and write."""
    options = parser(str(__doc__), NAME)
    options.set_defaults(model="mnist-conv")
    options.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    options.add_argument("--count", type=int, help="of the digits, drawn with a seed (default: all)")
    options.add_argument("--threads", type=int, default=2, help="of the networks (default: 2)")
    options.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "digits_inpainting.png")
    given = options.parse_args()
    split = load_split(given.data)
    digits = drawn(split.test, given.count)
    vae = DigitVAE(given.model, threads=given.threads)
    results: dict[str, Any] = {"model": model_facts(vae.package), "data": split.description, "digits": len(digits)}
    results |= {"seed": SEED, "threads": given.threads, "psnr_db": {}, "choices": {}, "ms_per_digit": {}}
    rows = []
    for name, hidden in masks().items():
        damaged = np.where(hidden, 0, digits).astype(np.uint8)
        started = time.perf_counter_ns()
        restored = {OURS: Filled(np.stack([inpaint(vae, digit, hidden, seed=SEED) for digit in damaged]))}
        results["ms_per_digit"][name] = round((time.perf_counter_ns() - started) / 1e6 / len(digits), 2)
        restored |= others(split.train, digits, hidden)
        for method, filled in restored.items():
            require(np.array_equal(filled.digits[:, ~hidden], digits[:, ~hidden]), f"{method} changed known pixels")
        results["psnr_db"][name] = {m: round(hidden_psnr(digits, f.digits, hidden), 3) for m, f in restored.items()}
        results["choices"][name] = {method: filled.choice for method, filled in restored.items() if filled.choice}
        print(name, results["psnr_db"][name], flush=True)
        shown = (digits, damaged, restored["Telea"].digits, restored["ridge regression"].digits, restored[OURS].digits)
        rows.append([one[:SHOWN] for one in shown])
    draw(rows, given.picture)
    return finish(NAME, given.out, results=results, bars=bars(results))


def drawn(digits: Digits, count: int | None) -> Digits:
    """`count` of the digits, the same every time; all of them for None."""
    if count is None:
        return digits
    require(1 <= count <= len(digits), f"--count {count}, expected 1 to {len(digits)}")
    return digits[np.sort(np.random.default_rng(SEED).choice(len(digits), count, replace=False))]


def masks() -> dict[str, Mask]:
    """What is hidden, by name."""
    bottom, right = np.zeros((2, SIDE, SIDE), np.bool_)
    bottom[SIDE // 2 :], right[:, SIDE // 2 :] = True, True
    return {"bottom half": bottom, "right half": right}


def hidden_psnr(digits: Digits, restored: Digits, hidden: Mask) -> float:
    """Mean over digits of the PSNR in dB over the hidden pixels."""
    return float(np.mean([psnr(a[hidden], b[hidden]) for a, b in zip(digits, restored, strict=True)]))


def others(train: Digits, digits: Digits, hidden: Mask) -> dict[str, Filled]:
    """The other methods by name; what `digits` hold where they are hidden is only used to compare."""
    known = np.where(hidden, 0, digits).astype(np.uint8)
    means = np.rint(known[:, ~hidden].mean(1, keepdims=True))
    return {
        "mean of the known pixels": Filled(_put(known, hidden, means)),
        "Telea": _best_telea(digits, known, hidden),
        "ridge regression": _best_ridge(train, known, hidden),
    }


def _put(known: Digits, hidden: Mask, values: npt.NDArray[np.floating[Any]]) -> Digits:
    """Copies with hidden pixels of these levels, (N, hidden) or (N, 1)."""
    filled = known.copy()
    filled[:, hidden] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return filled


def _best_telea(digits: Digits, known: Digits, hidden: Mask) -> Filled:
    """Telea, "An image inpainting technique based on the fast marching method", 2004; the radius in its favour."""
    mask = hidden.astype(np.uint8)
    tried = {
        radius: np.stack([cv2.inpaint(digit, mask, radius, cv2.INPAINT_TELEA) for digit in known]) for radius in RADII
    }
    best = max(tried, key=lambda radius: hidden_psnr(digits, np.asarray(tried[radius], np.uint8), hidden))
    return Filled(np.asarray(tried[best], np.uint8), f"radius {best:g}")


def _best_ridge(train: Digits, known: Digits, hidden: Mask) -> Filled:
    """The penalty is chosen on training digits that the regression has not seen."""
    seen, unseen = train[:-HELD_OUT], train[-HELD_OUT:]
    blind = np.where(hidden, 0, unseen).astype(np.uint8)
    scores = {p: hidden_psnr(unseen, _put(blind, hidden, ridge(seen, hidden, p)(blind)), hidden) for p in PENALTIES}
    best = max(scores, key=lambda penalty: scores[penalty])
    return Filled(_put(known, hidden, ridge(train, hidden, best)(known)), f"penalty {best:g}")


def ridge(train: Digits, hidden: Mask, penalty: float) -> Callable[[Digits], npt.NDArray[np.float64]]:
    """Regression from known to hidden pixels: a function from digits (N, 28, 28) to levels (N, hidden)."""
    x, y = train[:, ~hidden] / 255, train[:, hidden] / 255
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (y - y_mean))
    return lambda digits: np.asarray(255 * ((digits[:, ~hidden] / 255 - x_mean) @ weights + y_mean))


def draw(rows: list[list[Digits]], path: Path) -> None:
    """Original, damaged, Telea, regression and ours, a row each, for both halves side by side; twice their size."""
    blocks = [mosaic(np.concatenate(block), columns=SHOWN) for block in rows]
    gap = np.zeros((blocks[0].shape[0], SIDE // 2), np.uint8)
    picture = np.concatenate([blocks[0], gap, *blocks[1:]], 1)
    write_grey(path, picture)


def bars(results: dict[str, Any]) -> list[Bar]:
    """Above every other method, for each half."""
    made = []
    for name, found in results["psnr_db"].items():
        rest = {method: value for method, value in found.items() if method != OURS}
        best = max(rest, key=lambda method: rest[method])
        ours = found[OURS]
        made.append(
            Bar(f"{name} hidden, PSNR there", f"above {best}, {rest[best]} dB", f"{ours} dB", ours > rest[best])
        )
    return made


if __name__ == "__main__":
    raise SystemExit(main())
