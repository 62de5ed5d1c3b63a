"""Write a model package: graphs, tables, known answers, weights, manifest; verified before it is moved in place."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from vaert.errors import OutputError
from vaert.export.shared_weights import share, uses_weights
from vaert.export.source import Source
from vaert.package import FORMAT, MANIFEST, WEIGHTS, Manifest, Package

LICENCES = {  # SPDX
    "LICENSE_PHOTOS": "LicenseRef-vaert-weights-noncommercial-research",
    "LICENSE_DIGITS": "CC-BY-SA-3.0",
}


def write_package(source: Source, out: Path, *, precision: str, rates: dict[str, Any], force: bool) -> Package:
    """Export `source` into the folder `out`, whole or not at all.

    Raises OutputError (exists and not `force`, cannot be written) and ModelError (bound broken, verification failed).
    """
    _check_target(out, force=force)
    bounds, graphs, files = source.bounds(), source.graphs(), source.files()
    share(graphs.values(), files[WEIGHTS])
    files |= {f"{name}.onnx": graph.SerializeToString(deterministic=True) for name, graph in graphs.items()}
    files["LICENSE"] = (Path(__file__).parent / source.license_file).read_bytes()
    manifest = Manifest(
        name=source.profile,
        kind=source.kind,
        version=FORMAT,
        profile=source.profile,
        precision=precision,
        model_id=source.model_id,
        config=asdict(source.config),
        geometry=source.geometry,
        graphs={name: _facts(graph) for name, graph in graphs.items()},
        rates=rates,
        training=source.training,
        verification={"largest_sums": bounds} if bounds else {},
        licence=LICENCES[source.license_file],
        files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    )
    return _place(manifest, files, source, out, force=force)


def _check_target(out: Path, *, force: bool) -> None:
    """OutputError if `out` may not be written; only a package is ever replaced, whatever `force` says."""
    if not out.exists():
        return
    if not force:
        raise OutputError(f"{out} exists; remove it, choose another --out, or use --force")
    if not (out / MANIFEST).is_file():
        raise OutputError(f"{out} exists and is no model package, --force replaces nothing else; choose another --out")


def _place(manifest: Manifest, files: dict[str, bytes], source: Source, out: Path, *, force: bool) -> Package:
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
        report = source.verify(Package.open(scratch))
        manifest = replace(manifest, verification={**manifest.verification, **report})
        (scratch / MANIFEST).write_text(manifest.to_json(), "utf-8")
        _check_target(out, force=force)  # it may have appeared meanwhile
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
