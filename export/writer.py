"""Write a model package: graphs, tables, known answers, weights, manifest; verified before it is moved in place."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from vaert.errors import OutputError
from vaert.export.calibration import Activations
from vaert.export.precision import Converted
from vaert.export.shared_weights import share, uses_weights
from vaert.export.source import Source
from vaert.package import ACTIVATIONS, CPU_FLAVOUR, FORMAT, MANIFEST, WEIGHTS, Manifest, Package

LICENCES = {  # SPDX
    "LICENSE_PHOTOS": "LicenseRef-vaert-weights-noncommercial-research",
    "LICENSE_DIGITS": "CC-BY-SA-3.0",
}


@dataclass(frozen=True)
class Content:
    """What goes into a package. shapes: sizes that TensorRT engines are made for, MIN:OPT:MAX, or None."""

    source: Source
    precision: str
    converted: Converted
    activations: Activations | None
    rates: dict[str, Any]
    shapes: str | None = None

    def files(self) -> dict[str, bytes]:
        """The files by name. What another export starts from, weights and activations, goes into fp32 packages."""
        files, graphs = self.source.files(), self.converted.graphs
        if self.precision == "fp32":
            share(graphs.values(), files[WEIGHTS])
            if self.activations is not None:
                files[ACTIVATIONS] = self.activations.to_bytes()
        else:
            del files[WEIGHTS]
        files |= {f"{name}.onnx": graph.SerializeToString(deterministic=True) for name, graph in graphs.items()}
        return files | {"LICENSE": (Path(__file__).parent / self.source.license_file).read_bytes()}


def write_package(content: Content, out: Path, *, check: Callable[[Package], dict[str, Any]], force: bool) -> Package:
    """Write a package into the folder `out`, whole or not at all; `check` gives the manifest's report on it.

    Raises OutputError (exists and not `force`, cannot be written) and ModelError (bound broken, `check` failed).
    """
    check_target(out, force=force)
    source, converted = content.source, content.converted
    bounds, files = source.bounds(), content.files()
    manifest = Manifest(
        name=source.profile,
        kind=source.kind,
        version=FORMAT,
        profile=source.profile,
        precision=content.precision,
        model_id=source.model_id,
        config=asdict(source.config),
        geometry={**source.geometry, **({"shapes": content.shapes} if content.shapes else {})},
        graphs=_graphs(converted),
        rates=content.rates,
        training=source.training,
        verification={**({"largest_sums": bounds} if bounds else {}), **converted.facts},
        licence=LICENCES[source.license_file],
        files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    )
    return _place(manifest, files, check, out, force=force)


def check_target(out: Path, *, force: bool) -> None:
    """OutputError if `out` may not be written; only a package is ever replaced, whatever `force` says."""
    if not out.exists():
        return
    if not force:
        raise OutputError(f"{out} exists; remove it, choose another --out, or use --force")
    if not (out / MANIFEST).is_file():
        raise OutputError(f"{out} exists and is no model package, --force replaces nothing else; choose another --out")


def _place(
    manifest: Manifest, files: dict[str, bytes], check: Callable[[Package], dict[str, Any]], out: Path, *, force: bool
) -> Package:
    """Write beside the target, verify there, then rename."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".vaert-", suffix=".tmp", dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out.parent} cannot be written ({error.strerror})") from error
    try:
        scratch.chmod(0o755)
        for name, data in files.items():
            (scratch / name).write_bytes(data)
        (scratch / MANIFEST).write_text(manifest.to_json(), "utf-8")
        manifest = replace(manifest, verification={**manifest.verification, **check(Package.open(scratch))})
        (scratch / MANIFEST).write_text(manifest.to_json(), "utf-8")
        check_target(out, force=force)  # it may have appeared meanwhile
        _swap_in(scratch, out)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Package.open(out)


def _swap_in(scratch: Path, out: Path) -> None:
    """Give `scratch` the name `out`; a folder cannot replace another in one step, so a failure in between is undone."""
    if not out.exists():
        scratch.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=".vaert-", suffix=".tmp", dir=out.parent))
    try:
        out.rename(aside / "old")
        try:
            scratch.rename(out)
        except BaseException:
            (aside / "old").rename(out)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _graphs(converted: Converted) -> dict[str, dict[str, Any]]:
    """What the manifest says of all graphs; those that exist in several flavours under one name."""
    second = {
        file for files in converted.flavours.values() for flavour, file in files.items() if flavour != CPU_FLAVOUR
    }
    graphs = {name: _facts(graph) for name, graph in converted.graphs.items() if name not in second}
    for name, files in converted.flavours.items():
        graphs[name]["flavours"] = {flavour: f"{file}.onnx" for flavour, file in files.items()}
    return graphs


def _facts(graph: onnx.ModelProto) -> dict[str, Any]:
    """What the manifest says of a graph."""
    facts: dict[str, Any] = {"inputs": _tensors(graph.graph.input), "outputs": _tensors(graph.graph.output)}
    return facts | ({"files": [WEIGHTS]} if uses_weights(graph) else {})


def _tensors(values: Any) -> list[dict[str, Any]]:
    """Name, type and shape of graph inputs or outputs."""
    return [
        {
            "name": v.name,
            "type": onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type).lower(),
            "shape": [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim],
        }
        for v in values
    ]
