"""One export from end to end: source, calibration, graphs, package, comparison with fp32."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaert.errors import OptionError
from vaert.export import PRECISIONS, Progress
from vaert.export.calibration import Activations, load_pictures, read_activations, record
from vaert.export.parity import for_manifest, parity
from vaert.export.precision import Converted, convert
from vaert.export.registry import from_checkpoint, from_package
from vaert.export.source import Source
from vaert.export.writer import Content, check_target, write_package
from vaert.package import MANIFEST, Package, find_package
from vaert.runtime.backends.shapes import Shapes


@dataclass(frozen=True)
class Order:
    """What is asked for; see `vaert.export.export_model`.

    shapes: sizes that TensorRT engines are made for, MIN:OPT:MAX, each HEIGHTxWIDTH; what the runtime's tiles need if
    None.
    """

    source: str
    precision: str
    calibration: Path | None = None
    shapes: str | None = None


@dataclass(frozen=True)
class _Found:
    """What the order's source is: a package, if it is none a checkpoint."""

    source: Source
    package: Package | None
    activations: Activations | None

    @property
    def rates(self) -> dict[str, Any]:
        return dict(self.package.manifest.rates) if self.package else {}


def run(order: Order, out: Path | None, *, force: bool, progress: Progress | None = None) -> Package:
    """Carry out an order. Errors as in `vaert.export.export_model`."""
    if order.precision not in PRECISIONS:
        raise OptionError(f"precision {order.precision!r} is none of {', '.join(PRECISIONS)}")
    if order.shapes:
        Shapes.parse(order.shapes)
    found = _find(order.source)
    _check_uses(order, found.source)
    target = out or Path(f"{found.source.profile}-{order.precision}")
    check_target(target, force=force)
    activations = found.activations
    if order.calibration is not None:
        activations = _record(found.source, order.calibration, progress)
    converted = convert(found.source, order.precision, activations)
    content = Content(found.source, order.precision, converted, activations, found.rates, order.shapes)
    if not converted.facts:  # nothing was changed: fp32, or every graph is exact
        return write_package(content, target, check=found.source.verify, force=force)
    with tempfile.TemporaryDirectory(prefix="vaert-") as folder:
        reference = found.package or write_fp32(found.source, Path(folder) / "fp32")
        check = _against(reference, converted, progress)
        return write_package(content, target, check=check, force=force)


def _check_uses(order: Order, source: Source) -> None:
    """OptionError if something is asked for that models of this kind have no use for."""
    if order.calibration is not None and not source.networks():
        raise OptionError(f"--calibration has no use with {source.profile}, whose graphs stay exact: leave it out")
    if order.shapes and "size_multiple" not in source.geometry:
        raise OptionError(f"--shapes has no use with {source.profile}, whose pictures have one size: leave it out")


def _find(source: str) -> _Found:
    path = Path(source)
    if path.is_dir() and not (path / MANIFEST).is_file() and (path / "checkpoint.pt").is_file():
        path = path / "checkpoint.pt"
    if path.is_file():
        return _Found(from_checkpoint(path), None, None)
    package = find_package(source)
    return _Found(from_package(package), package, read_activations(package))


def _record(source: Source, folder: Path, progress: Progress | None) -> Activations:
    pictures = load_pictures(folder, source.kind)
    report = None if progress is None else lambda done, total: progress("layers", done, total)
    return record(source, pictures, progress=report)


def write_fp32(source: Source, out: Path, *, force: bool = False) -> Package:
    """The plain package of a source, without activations or rates."""
    content = Content(source, "fp32", convert(source, "fp32", None), None, {})
    return write_package(content, out, check=source.verify, force=force)


def _against(
    reference: Package, converted: Converted, progress: Progress | None
) -> Callable[[Package], dict[str, Any]]:
    def check(package: Package) -> dict[str, Any]:
        return {"against": "fp32", **for_manifest(parity(package, reference, converted, progress=progress))}

    return check
