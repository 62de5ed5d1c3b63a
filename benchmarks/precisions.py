"""fp16 and int8 against fp32: rate, PSNR and latents of the codec on a folder of pictures, share of int8, speed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._machine import Bar, finish, interleaved, parser, summary
from benchmarks._precision_matrix import cross_decoding, every_model, open_codecs
from vaert.bd_rate import Curve, bd_rate
from vaert.export import PRECISIONS
from vaert.export.calibration import read_activations
from vaert.export.parity import TensorRtGraphsOnCpu
from vaert.export.precision import convert
from vaert.export.registry import from_package
from vaert.export.torch_backend import TorchBackend
from vaert.package import Package
from vaert.runtime.backends import Backend, OnnxRuntimeCpu
from vaert.runtime.codec import Codec
from vaert.runtime.compare import CodecRow, Comparison, compare
from vaert.trainer.data import find_pictures, load_rgb

MODEL = "fast"
QUALITIES = (1.0, 10.0, 25.0, 40.0, 55.0, 70.0, 85.0, 100.0)
EVERY = (1.0, *(5.0 * n for n in range(1, 21)))  # those that a model's rates were measured at
Pixels = npt.NDArray[np.uint8]
HALF_RATE, HALF_PSNR, INT8_LOSS, INT8_SHARE = 0.001, 0.02, 3.0, 0.6


def main() -> int:
    """Export, compare, decode across, time; code 0 if every bar is met."""
    options = parser(str(__doc__), "precisions", model=None)
    options.add_argument("--images", type=Path, required=True, help="folder of pictures")
    given = options.parse_args()
    pictures = [load_rgb(path) for path in find_pictures([given.images])]
    with tempfile.TemporaryDirectory(prefix="vaert-") as folder:
        models = list(every_model(Path(folder)))
        packages = {p: Package.open(Path(folder) / f"{MODEL}-{p}") for p in PRECISIONS}
        milliseconds = speed(packages, pictures[0])
        results, bars = measured(packages, pictures)
    wrong = [row for row in models if row["faults"]]
    bars.insert(0, Bar("packages with faults", "none", f"{len(wrong)} of {len(models)}", not wrong))
    results = {"models": models, "milliseconds": milliseconds, **results}
    return finish("precisions", given.out, results=results, bars=bars)


def measured(packages: dict[str, Package], pictures: list[Pixels]) -> tuple[dict[str, Any], list[Bar]]:
    """The codec's figures on the pictures, and the bars."""
    fp32 = packages["fp32"]
    half = TorchBackend(convert(from_package(fp32), "fp16", read_activations(fp32)).networks)
    ways: dict[str, tuple[str, Backend]] = {
        "fp16, torch": ("fp16", half),
        "fp16, cpu": ("fp16", OnnxRuntimeCpu()),
        "int8, cpu": ("int8", OnnxRuntimeCpu()),
        "int8, cpu without optimisation": ("int8", OnnxRuntimeCpu(optimisation="none")),
        "int8, tensorrt's graphs on the cpu": ("int8", TensorRtGraphsOnCpu()),
    }
    found: dict[str, Comparison] = {}
    for way, (precision, backend) in ways.items():
        chosen = EVERY if precision == "fp16" else QUALITIES
        found[way] = compare(packages[precision], fp32, pictures, backend=backend, qualities=chosen)
        print(f"== {way}", *found[way].lines(), sep="\n", flush=True)
    plain: dict[str, tuple[str, Backend]] = {
        "fp32, cpu": ("fp32", OnnxRuntimeCpu()),
        "fp32, cpu without optimisation": ("fp32", OnnxRuntimeCpu(optimisation="none")),
    }
    crossed = cross_decoding(open_codecs(packages, {**plain, **ways}), pictures)
    losses = {way: loss(comparison) for way, comparison in found.items()}
    shares = packages["int8"].manifest.verification["int8"]
    results = {
        "images": len(pictures),
        "comparisons": {way: comparison.to_dict() for way, comparison in found.items()},
        "bd_rate_loss_percent": losses,
        "int8": shares,
        "cross_decoding": crossed,
    }
    return results, bars_of(found, losses, shares, crossed)


def loss(comparison: Comparison) -> float:
    """BD-rate against the reference over all PSNR that it reaches, percent."""
    rows = [row for row in comparison.rows if isinstance(row, CodecRow)]
    reference = Curve("fp32", tuple(r.reference_bpp for r in rows), tuple(r.reference_psnr for r in rows))
    test = Curve("test", tuple(r.bpp for r in rows), tuple(r.psnr for r in rows))
    return bd_rate(reference, test, interval=(min(reference.psnr), max(reference.psnr))).percent


def speed(packages: dict[str, Package], picture: Pixels) -> dict[str, float]:
    """Median milliseconds of encoder and decoder, and of whole calls, at the size of the picture, on two threads."""
    runs: dict[str, Any] = {}
    for name in ("fp32", "int8"):
        package = packages[name]
        codec = Codec(package, backend=OnnxRuntimeCpu(threads=2))
        data = codec.compress(picture)
        pixels, networks = np.ascontiguousarray(picture)[None], codec._networks
        height, width = networks.padded(*picture.shape[:2])
        pixels = np.pad(pixels, ((0, 0), (0, height - pixels.shape[1]), (0, width - pixels.shape[2]), (0, 0)), "edge")
        latents = np.zeros((1, height // 16, width // 16, int(package.manifest.config["latents"])), np.int32)
        scale = np.ones(latents.shape[3], np.float32)
        runs[f"{name} encoder"] = lambda n=networks, p=pixels: n.encoder.run({"pixels": p})
        runs[f"{name} decoder"] = lambda n=networks, y=latents, s=scale: n.decoder.run({"latents": y, "scale": s})
        runs[f"{name} compress"] = lambda c=codec: c.compress(picture)
        runs[f"{name} decompress"] = lambda c=codec, d=data: c.decompress(d)
    return {name: summary(times).p50_ms for name, times in interleaved(runs, runs=30, warm_up=3).items()}


def bars_of(
    found: dict[str, Comparison], losses: dict[str, float], shares: dict[str, Any], crossed: dict[str, Any]
) -> list[Bar]:
    """What was asked for beside what was found."""
    rows = found["fp16, torch"].to_dict()["rows"]
    rate, psnr = (max(abs(row[key]) for row in rows) for key in ("rate_change", "psnr_change"))
    different = sum(count for readers in crossed["different"].values() for count in readers.values())
    different += sum(r["latents_different"] for c in found.values() for r in c.to_dict()["rows"])
    compared = sum(r["latents_compared"] for c in found.values() for r in c.to_dict()["rows"])
    compared += crossed["latents_compared"]
    share = min(shares[graph]["cpu"]["share_in_int8"] for graph in ("encoder", "decoder"))
    lost = losses["int8, cpu"]
    return [
        Bar("fp16 by torch, largest change of rate", "<= 0.1 %", f"{100 * rate:.3f} %", rate <= HALF_RATE),
        Bar("fp16 by torch, largest change of PSNR", "<= 0.02 dB", f"{psnr:.4f} dB", psnr <= HALF_PSNR),
        Bar("int8, CPU flavour, BD-rate loss", "<= 3 %", f"{lost:.2f} %", lost <= INT8_LOSS),
        Bar("int8 share of multiply-adds", ">= 60 %", f"{100 * share:.0f} %", share >= INT8_SHARE),
        Bar("latents different when all decode the files of all", "0", f"{different} of {compared}", not different),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
