"""Every model in every precision, and files of every precision and engine decoded by every other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vaert import bitstream
from vaert.export import PRECISIONS, export_model
from vaert.package import Package, bundled_models
from vaert.runtime.codec import Codec, quality_to_u16
from vaert.runtime.verify import verify

QUALITIES = (10.0, 50.0, 90.0)
Pixels = npt.NDArray[np.uint8]


def every_model(folder: Path) -> Iterator[dict[str, Any]]:
    """Export each bundled model in each precision into `folder`, then verify it on the CPU; a row each."""
    for model in bundled_models():
        for precision in PRECISIONS:
            package = export_model(model, folder / f"{model}-{precision}", precision=precision)
            checked, facts = verify(package, backend="cpu"), package.manifest.verification
            yield {
                "model": model,
                "precision": precision,
                "bytes": package.size,
                "graphs": {f.name: f.stat().st_size for f in sorted(package.path.glob("*.onnx"))},
                "known_answers_exact": checked.exact,
                "faults": list(checked.faults()),
                "share_in_int8": {
                    graph: {flavour: found["share_in_int8"] for flavour, found in flavours.items()}
                    for graph, flavours in facts.get("int8", {}).items()
                },
                "ways": {way: worst(facts[way]["rows"]) for way in ("torch", "cpu", "tensorrt") if way in facts},
            }


def worst(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a comparison's rows: the largest changes of rate and PSNR, the largest difference of a sample."""
    found = {
        "psnr_change": max((row["psnr_change"] for row in rows), key=abs),
        "levels": max(r["levels"] for r in rows),
    }
    rates = [row["rate_change"] for row in rows if "rate_change" in row]
    return {**found, **({"rate_change": max(rates, key=abs)} if rates else {})}


def cross_decoding(codecs: Mapping[str, Codec], pictures: Sequence[Pixels]) -> dict[str, Any]:
    """Files that each codec writes, decoded by all of them: how many latents are not the first decoder's."""
    different = {writer: dict.fromkeys(codecs, 0) for writer in codecs}
    compared = 0
    for picture in pictures:
        for writer, codec in codecs.items():
            analysed = codec.analyse(picture)
            for quality in QUALITIES:
                data = codec.write(analysed, codec.attempt(analysed, quality_to_u16(quality)))
                stream = bitstream.parse_photo(data)
                decoded = {reader: other.decode_latents(stream) for reader, other in codecs.items()}
                first = next(iter(decoded.values()))
                for reader, latents in decoded.items():
                    different[writer][reader] += int(np.count_nonzero(latents != first))
                    compared += latents.size
    return {"pictures": len(pictures), "qualities": QUALITIES, "latents_compared": compared, "different": different}


def open_codecs(packages: Mapping[str, Package], ways: Mapping[str, tuple[str, Any]]) -> dict[str, Codec]:
    """A codec for each way, which names a precision and a backend."""
    return {way: Codec(packages[precision], backend=backend) for way, (precision, backend) in ways.items()}
