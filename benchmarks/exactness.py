"""Do all engines, settings and tilings decode a file to the same integers?"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._machine import ROOT, Bar, add_pictures, finish, model_facts, parser, pictures, require
from benchmarks.memory import mirrored
from vaert import bitstream
from vaert.evaluate import Pixels, read_rgb
from vaert.export.codec import from_package
from vaert.export.verify import torch_latents
from vaert.package import Package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.codec import Codec

NAME = "exactness"
QUALITIES = (5.0, 50.0, 95.0)
TILE = 256
LARGE = (2200, 2304)  # height and width of the tiled picture: two groups of the format along each side
Latents = npt.NDArray[np.int32]
Decoder = Callable[[bytes], Latents]


def main() -> int:
    """Measure, check and write."""
    options = parser(str(__doc__), NAME)
    add_pictures(options)
    given = options.parse_args()
    chosen = pictures(given)
    codec = Codec(given.model)
    decoders = all_decoders(codec.package)
    different = dict.fromkeys(decoders, 0)
    elements = 0
    for path in chosen:
        picture = read_rgb(path)
        for quality in QUALITIES:
            data = codec.compress(picture, quality)
            elements += check_encoder(codec, picture, data)
            for name, count in differences(codec, data, decoders).items():
                different[name] += count
        print(f"{path.name} done", flush=True)
    tiled = tiling(codec.package, read_rgb(chosen[0]))
    results = {
        "model": model_facts(codec.package),
        "files": len(chosen) * len(QUALITIES),
        "qualities": QUALITIES,
        "latents_each_decoder": elements,
        "different_latents": different,
        "tiling": tiled,
    }
    return finish(NAME, given.out, results=results, bars=bars(different, tiled, elements))


def all_decoders(package: Package) -> dict[str, Decoder]:
    """Every way to decode that is compared with ONNX Runtime's default."""
    made: dict[str, Decoder] = {}
    for threads in (1, 2):
        for optimisation in ("all", "none"):
            backend = OnnxRuntimeCpu(threads=threads, optimisation=optimisation)
            codec = Codec(package, backend=backend)
            name = f"ONNX Runtime, threads {threads}, optimisation {optimisation}"
            made[name] = lambda data, codec=codec: codec.decode_latents(bitstream.parse_photo(data))  # type: ignore[misc]
    source = from_package(package)
    made["torch, float32"] = lambda data: torch_latents(package, data, source)
    reference = reference_decoder()
    made["numpy, int64 reference"] = lambda data: reference(package, data)
    return made


def reference_decoder() -> Callable[[Package, bytes], Latents]:
    """The independent implementation that the tests use; `tests` is no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("reference_prior", ROOT / "tests" / "reference_prior.py")
    require(spec is not None and spec.loader is not None, "tests/reference_prior.py is missing")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    decode: Callable[[Package, bytes], Latents] = module.decode
    return decode


def check_encoder(codec: Codec, picture: Pixels, data: bytes) -> int:
    """What the encoder meant is what its own decoder reads; returns how many latents that are."""
    stream = bitstream.parse_photo(data)
    attempt = codec.attempt(codec.analyse(picture), round(stream.header.quality * 256))
    found = codec.decode_latents(stream)
    groups = list(attempt.groups())
    meant = groups[0].quantised.latents[0]
    require(len(groups) == 1, "the pictures of this part must fit one group, 2048x2048")
    require(np.array_equal(found, meant), "the decoder reads other latents than the encoder wrote")
    return found.size


def differences(codec: Codec, data: bytes, decoders: dict[str, Decoder]) -> dict[str, int]:
    """Latents that each decoder gives otherwise than the codec; a decoder that fails has all of them different."""
    wanted = codec.decode_latents(bitstream.parse_photo(data))
    counts = {}
    for name, decode in decoders.items():
        started = time.perf_counter()
        found = decode(data)
        require(found.dtype == np.int32, f"{name} gives {found.dtype}, expected int32")
        same_shape = found.shape == wanted.shape
        counts[name] = int(np.count_nonzero(found != wanted)) if same_shape else wanted.size
        if time.perf_counter() - started > 30:
            print(f"{name}: {time.perf_counter() - started:.0f} s for one file", flush=True)
    return counts


def tiling(package: Package, photograph: Pixels) -> dict[str, Any]:
    """Small tiles against none, on a picture of several groups."""
    picture = mirrored(photograph, *LARGE)
    side = -(-max(LARGE) // 64) * 64
    whole, tiled = Codec(package, tile=side), Codec(package, tile=TILE)
    data = whole.compress(picture, 50)
    stream = bitstream.parse_photo(data)
    latents = [codec.decode_latents(stream) for codec in (whole, tiled)]
    pixels = [codec.decompress(data).astype(np.int16) for codec in (whole, tiled)]
    step = np.abs(pixels[0] - pixels[1])
    require(pixels[0].shape == picture.shape, f"the decoded picture has shape {pixels[0].shape}")
    return {
        "width": LARGE[1],
        "height": LARGE[0],
        "groups": len(stream.latents),
        "tile": TILE,
        "different_latents": int(np.count_nonzero(latents[0] != latents[1])),
        "different_samples": int(np.count_nonzero(step)),
        "largest_difference_levels": int(step.max()),
        "same_file_when_compressing_tiled": tiled.compress(picture, 50) == data,
    }


def bars(different: dict[str, int], tiled: dict[str, Any], elements: int) -> list[Bar]:
    """Counts beside the bars, all of which are zero, or one level for pixels."""
    total, least = sum(different.values()), len(different)
    return [
        Bar("latents that differ between decoders", "0", f"{total} of {least} x {elements}", total == 0),
        Bar(
            f"latents that differ with tiles of {TILE}",
            "0",
            f"{tiled['different_latents']}",
            tiled["different_latents"] == 0,
        ),
        Bar(
            f"pixels with tiles of {TILE}, largest difference",
            "at most 1 level",
            f"{tiled['largest_difference_levels']}, in {tiled['different_samples']} samples",
            tiled["largest_difference_levels"] <= 1,
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
