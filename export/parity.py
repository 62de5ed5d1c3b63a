"""A lower precision against fp32: what it changes in rate and quality, on real pictures, in each way that it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from vaert.errors import ModelError
from vaert.export.precision import Converted
from vaert.export.source import Pixels
from vaert.export.torch_backend import TorchBackend
from vaert.idx import read_idx
from vaert.image import read_image
from vaert.package import DIGITS, TENSORRT_FLAVOUR, Package
from vaert.runtime.backends import Backend, OnnxRuntimeCpu
from vaert.runtime.compare import Comparison, compare

Progress = Callable[[str, int, int], None]
"""Called with what is compared, how many pictures are done and how many there are."""


class TensorRtGraphsOnCpu(OnnxRuntimeCpu):
    """ONNX Runtime on the graphs made for TensorRT: their rounding to 8 bits, not their speed.

    Without its optimisation, which makes integers of the biases of float16 layers by way of float16 and overflows.
    """

    name = "onnxruntime, tensorrt flavour"
    flavour = TENSORRT_FLAVOUR

    def __init__(self) -> None:
        super().__init__(optimisation="none")


def ways(converted: Converted, precision: str) -> dict[str, Backend]:
    """How graphs of a precision are run to be judged, by name."""
    if precision == "fp16":
        return {"torch": TorchBackend(converted.networks), "cpu": OnnxRuntimeCpu()}
    return {"cpu": OnnxRuntimeCpu(), "tensorrt": TensorRtGraphsOnCpu()}


def parity(
    package: Package, reference: Package, converted: Converted, *, progress: Progress | None = None
) -> dict[str, Comparison]:
    """Compare a package with its fp32 reference on the pictures that come with this module.

    Raises ModelError: something that must be equal is not, or quality changes more than the precision may.
    """
    precision, found = package.manifest.precision, dict[str, Comparison]()
    for way, backend in ways(converted, precision).items():
        report = None if progress is None else lambda done, total, way=way: progress(f"pictures, {way}", done, total)
        with closing(backend):
            found[way] = compare(package, reference, _pictures(package.manifest.kind), backend=backend, progress=report)
        if faults := found[way].faults():
            raise ModelError(f"{package.manifest.name} in {precision} ({way}) is not what it should be: {faults[0]}")
    return found


def for_manifest(found: dict[str, Comparison]) -> dict[str, Any]:
    """What the manifest says of comparisons: their rows."""
    return {way: {"pictures": c.images, "rows": c.to_dict()["rows"]} for way, c in found.items()}


def _pictures(kind: str) -> Sequence[Pixels] | Pixels:
    folder = Path(__file__).parent / "pictures"
    if kind == DIGITS:
        return read_idx(folder / "digits.idx3-ubyte.gz")
    return [read_image(file.read_bytes(), name=file.name).pixels for file in sorted(folder.glob("*.png"))]
