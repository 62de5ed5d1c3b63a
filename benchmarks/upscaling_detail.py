"""Is the upscaler a VAE: how much does z hold, what does `--detail` draw, and is 0 always the same?

KL(q(z | HR, LR) || p(z | LR)) comes from the package's weights in torch; all else from what the runtime makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks._machine import ROOT, Bar, finish, model_facts, parser, require
from benchmarks.side_by_side import draw
from vaert.evaluate import Pixels
from vaert.export.upscaler import from_package
from vaert.package import find_package
from vaert.resample import upscale as bicubic
from vaert.runtime.upscaler import Upscaler
from vaert.super_resolution import Pair, find_pairs, luma, luma_psnr, read_pair
from vaert.trainer.models.upscaler import UpscalerVAE

NAME = "upscaling_detail"
DETAILS = (0.0, 0.5, 1.0)
SEEDS = 8
ACTIVE = 0.01  # nats: a channel of z below it holds nothing (Burda et al. 2016 count units in the same way)
KL_BAR, SPREAD_BAR = 0.1, 1.0


def main() -> int:
    """Measure, check and write."""
    options = parser(str(__doc__), NAME, model="upscale-x4")
    options.add_argument(
        "--images", type=Path, required=True, help="folder with HR and LRx2 or LRx4 (Set14 for the bars)"
    )
    options.add_argument("--picture", default="img_001", help="name of the picture that is drawn (default: img_001)")
    options.add_argument("--crop", type=int, nargs=4, default=(230, 60, 150, 150), metavar=("Y", "X", "H", "W"))
    options.add_argument("--drawing", type=Path, default=ROOT / "docs" / "images" / f"{NAME}.png", help="PNG to write")
    given = options.parse_args()
    package = find_package(given.model)
    upscaler, model = Upscaler(package), from_package(package).model()
    pairs = find_pairs(given.images, upscaler.scale)
    found = [measure(pair, upscaler, model) for pair in pairs]
    means = {key: mean([f[key] for f in found]) for key in found[0] if key not in ("name", "kl_by_channel")}
    kl = np.mean([f["kl_by_channel"] for f in found], axis=0)
    drawn = [pair for pair in pairs if pair.name == given.picture]
    require(len(drawn) == 1, f"{given.images} has no {given.picture}")
    panels = compare(drawn[0], upscaler)
    draw([(label, enlarged(pixels, given.crop)) for label, pixels in panels], (0, 0, *twice(given.crop)), given.drawing)
    results = {
        "model": model_facts(package),
        "images": given.images.name,
        "pictures": len(pairs),
        "latents_per_small_pixel": len(kl),
        "kl_nats_by_channel": [round(float(value), 4) for value in kl],
        "active_channels": int((kl > ACTIVE).sum()),
        "means": means,
        "of_each_picture": [{k: v for k, v in f.items() if k != "kl_by_channel"} for f in found],
        "drawn": {"picture": given.picture, "crop": list(given.crop)},
        "units": {
            "kl": "nats per latent",
            "spread": f"levels: standard deviation over {SEEDS} seeds at detail 1, mean over samples",
            "laplacian_*": "mean square of the Laplacian of Y",
            "psnr_*": "dB on Y",
        },
    }
    return finish(NAME, given.out, results=results, bars=bars(means))


def measure(pair: Pair, upscaler: Upscaler, model: UpscalerVAE) -> dict[str, Any]:
    """All figures of one picture; stops the benchmark if detail 0 is not always the same."""
    large, small = read_pair(pair)
    made = {detail: upscaler.upscale(small, detail=detail) for detail in DETAILS}
    require(
        all(np.array_equal(made[0.0], upscaler.upscale(small, detail=0, seed=seed)) for seed in (0, 1)),
        f"{pair.name}: detail 0 gives other bytes the second time",
    )
    seeds = np.stack([upscaler.upscale(small, detail=1, seed=seed) for seed in range(SEEDS)]).astype(np.float32)
    kl = divergence(large, small, model)
    return {
        "name": pair.name,
        "kl": round(float(kl.mean()), 4),
        "kl_by_channel": kl,
        "spread": round(float(seeds.std(0, ddof=1).mean()), 3),
        "laplacian_hr": laplacian(large, upscaler.scale),
        **{f"laplacian_{detail:g}": laplacian(made[detail], upscaler.scale) for detail in DETAILS},
        "laplacian_bicubic": laplacian(bicubic(small, upscaler.scale), upscaler.scale),
        **{f"psnr_{detail:g}": round(luma_psnr(large, made[detail], shave=upscaler.scale), 3) for detail in DETAILS},
    }


@torch.no_grad()
def divergence(large: Pixels, small: Pixels, model: UpscalerVAE) -> np.ndarray[Any, np.dtype[np.float64]]:
    """KL of every channel of z in nats, (latents,), means over positions."""
    rows, columns = (side // model.scale for side in large.shape[:2])
    hr, lr = tensor(large[: rows * model.scale, : columns * model.scale]), tensor(small[:rows, :columns])
    features, base = model.features(lr), model.base(lr)
    prior = model.prior(features)
    posterior = model.posterior(hr - model.picture(base), features, prior)
    return np.asarray(posterior.divergence(prior).mean((0, 2, 3)), np.float64)


def tensor(pixels: Pixels) -> Tensor:
    """Bytes (H, W[, 3]) as 0..1, (1, 3, H, W)."""
    colour = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(colour)).permute(2, 0, 1)[None].float() / 255


def laplacian(pixels: Pixels, shave: int) -> float:
    """Mean square of the 5-point Laplacian of Y, `shave` pixels cut off at every edge."""
    response = cv2.Laplacian(luma(pixels).astype(np.float64), cv2.CV_64F)
    return round(float(np.square(response[shave:-shave, shave:-shave]).mean()), 2)


def mean(values: Sequence[float]) -> float:
    """Mean over pictures."""
    return round(float(np.mean(values)), 4)


def compare(pair: Pair, upscaler: Upscaler) -> list[tuple[str, Pixels]]:
    """What is drawn, with labels."""
    large, small = read_pair(pair)
    panels = [("bicubic", bicubic(small, upscaler.scale))]
    panels += [(f"detail {detail:g}", upscaler.upscale(small, detail=detail)) for detail in DETAILS]
    return [*panels, ("original", large)]


def enlarged(pixels: Pixels, crop: Sequence[int]) -> Pixels:
    """A crop (y, x, height, width), every pixel as 2x2."""
    y, x, height, width = crop
    part = pixels[y : y + height, x : x + width]
    part = part if part.ndim == 3 else np.repeat(part[..., None], 3, axis=2)
    return part.repeat(2, axis=0).repeat(2, axis=1)


def twice(crop: Sequence[int]) -> tuple[int, int]:
    """Height and width of an enlarged crop."""
    return 2 * crop[2], 2 * crop[3]


def bars(means: dict[str, float]) -> list[Bar]:
    """What a conditional VAE must show."""
    original, plain, drawn = (means[f"laplacian_{key}"] for key in ("hr", "0", "1"))
    return [
        Bar("KL of posterior and prior", f"above {KL_BAR} nats per latent", f"{means['kl']:.3f}", means["kl"] > KL_BAR),
        Bar(
            f"standard deviation over {SEEDS} seeds, detail 1",
            f"at least {SPREAD_BAR:g} level",
            f"{means['spread']:.2f} levels",
            means["spread"] >= SPREAD_BAR,
        ),
        Bar(
            "Laplacian energy",
            "nearer to the original at detail 1 than at 0",
            f"{plain:.0f} at 0, {drawn:.0f} at 1, original {original:.0f}",
            abs(drawn - original) < abs(plain - original),
        ),
        Bar("detail 0", "the same bytes every time", "in every picture", True),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
