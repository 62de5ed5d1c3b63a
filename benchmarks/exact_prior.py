"""What do the prior's integers cost: one checkpoint, its prior once in integers and once in float, how many BD points?

The float prior is the same trained network without rounding: weights, activations, means and scale indices stay real
numbers; elements whose index is below 1 are skipped in both. Rates are the model's own (no files), so that nothing else
differs. Also: how many elements are not coded because their scale index is 0, and what that costs against coding them.

A checkpoint from before the integers, with ranges recorded, is measured as it is and converted without fine-tuning. A
finished one was trained for its integers, so with --fine-tune both priors are first trained alike for some more steps,
on the same frozen transforms.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks._machine import ROOT, Bar, finish
from vaert.anchors import JPEG_OPTIONS, JPEG_QUALITIES, JPEG_RATES, mean_curve, pillow_rate_psnr
from vaert.bd_rate import Curve, bd_rate, psnr_interval
from vaert.evaluate import find_images, read_rgb
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.config import Stage
from vaert.trainer.data import Pictures
from vaert.trainer.draw import draw
from vaert.trainer.models.blocks import round_st
from vaert.trainer.models.codec import CodecVAE, gaussian_bits
from vaert.trainer.models.prior import ExactPrior, Moments, PriorLayer, neighbours, scale_of
from vaert.trainer.objective import RateDistortion
from vaert.trainer.plots import rate_distortion

NAME = "exact_prior"
QUALITIES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0)
BAR_POINTS = 1.0
LEARNING_RATE = 3e-4


class FloatLayer(PriorLayer):
    """A frozen layer's computation without its roundings and without the upper clamp."""

    def forward(self, a: Tensor) -> Tensor:
        """Real numbers on the integer scale."""
        y = F.conv2d(a, self.weight * self.weight_scale, self.bias * self.bias_scale)
        return F.relu(y) if self.hidden else y


class FloatPrior(ExactPrior):
    """A frozen prior's computation without its roundings; the context sees latents unclamped."""

    def context_moments(self, features: Tensor, anchors: Tensor) -> Moments:
        """As in `ExactPrior`, in real numbers."""
        seen = anchors * torch.exp2(4 - self.context_shift)[None, :, None, None]
        return self._moments(self.o1(self.a1(torch.cat([features, self.near(neighbours(seen))], 1))))


class EverythingCoded(CodecVAE):
    """The codec with elements of scale index 0 coded like all others; counts them in `skipped`, per quality."""

    skipped: list[list[float]]

    def _half(self, y: Tensor, p: Moments, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        self.skipped[-1].append(float((p.index < 1).float().mean()))
        rounded = round_st(y - p.mean)
        return rounded + p.mean, gaussian_bits(rounded, scale_of(p.index))


def everything_coded(model: CodecVAE, pictures: Sequence[npt.NDArray[np.uint8]]) -> tuple[Curve, list[float]]:
    """The curve without skipping, and the share of skipped elements per quality."""
    model.__class__ = EverythingCoded
    assert isinstance(model, EverythingCoded)
    model.skipped, rows = [], []
    for quality in QUALITIES:
        model.skipped.append([])
        rows += rate_distortion(model, pictures, [quality])
    return curve("everything coded", rows), [float(np.mean(shares)) for shares in model.skipped]


def as_float(model: Any) -> None:
    """Turn a loaded model's prior into its float twin, in place."""
    model.prior.__class__ = FloatPrior
    for layer in model.prior.layers().values():
        layer.__class__ = FloatLayer


def curve(name: str, rows: Sequence[tuple[float, float]]) -> Curve:
    """A curve of (bpp, PSNR) rows."""
    return Curve(name, tuple(r[0] for r in rows), tuple(r[1] for r in rows))


def fine_tune(model: CodecVAE, data: Sequence[Path], steps: int) -> None:
    """Train the prior alone, transforms and gains frozen, with the learning rate going down to zero."""
    pictures = Pictures.load(data)
    model.requires_grad_(False)
    model.prior.requires_grad_(True)
    optimizer = torch.optim.Adam(model.prior.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    objective = RateDistortion(model)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        loss, _ = objective(*draw(pictures, Stage(0, 4, 128), (1, step, 0), torch.device("cpu")))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.prior.parameters(), 1.0)
        optimizer.step()


def main() -> int:
    """Measure both, compare each with JPEG."""
    options = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    options.add_argument("--checkpoint", type=Path, required=True, help="checkpoint.pt of a finished training")
    options.add_argument("--images", type=Path, required=True, help="folder of pictures")
    options.add_argument("--fine-tune", type=int, default=0, metavar="STEPS", help="train both priors first")
    options.add_argument("--data", type=Path, action="append", default=[], help="training pictures for --fine-tune")
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / f"{NAME}.json", help="JSON file")
    given = options.parse_args()
    checkpoint = Checkpoint.load(given.checkpoint)
    pictures = [read_rgb(path) for path in find_images(given.images)]
    jpeg = mean_curve(
        "JPEG", [[pillow_rate_psnr(p, "JPEG", quality=q, **JPEG_OPTIONS) for q in JPEG_QUALITIES] for p in pictures]
    )
    low, high, _ = psnr_interval(jpeg, *JPEG_RATES)
    rates = {}
    for kind in ("integer", "float"):
        model = checkpoint.ema_model()
        if kind == "float" and model.prior.integer:
            as_float(model)
        elif kind == "integer" and not model.prior.integer:
            model.prior.freeze()
        if given.fine_tune:
            fine_tune(model, given.data, given.fine_tune)
        rates[kind] = curve(kind, rate_distortion(model, pictures, QUALITIES))
        print(kind, [f"{b:.4f} {p:.3f}" for b, p in zip(rates[kind].bpp, rates[kind].psnr, strict=True)], flush=True)
    model = checkpoint.ema_model()
    if not model.prior.integer:
        model.prior.freeze()
    rates["everything coded"], shares = everything_coded(model, pictures)
    against = {kind: bd_rate(jpeg, found, interval=(low, high)).percent for kind, found in rates.items()}
    lost = against["integer"] - against["float"]
    bar = Bar(
        "float against integer prior, same checkpoint", "at most 1 BD point lost", f"{lost:+.2f}", lost <= BAR_POINTS
    )
    return finish(
        NAME,
        given.out,
        results={
            "images": len(pictures),
            "fine_tuned_steps": given.fine_tune,
            "bd_rate_against_jpeg_percent": {kind: round(value, 2) for kind, value in against.items()},
            "points": {
                k: [[round(b, 4), round(p, 3)] for b, p in zip(c.bpp, c.psnr, strict=True)] for k, c in rates.items()
            },
            "share_not_coded": {f"{q:g}": round(share, 4) for q, share in zip(QUALITIES, shares, strict=True)},
        },
        bars=[bar],
    )


if __name__ == "__main__":
    raise SystemExit(main())
