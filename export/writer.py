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
from vaert.export.bounds import prove
from vaert.export.known_answers import known_answers, to_bytes
from vaert.export.prior_graph import anchor_graph, context_graph
from vaert.export.source import CodecSource
from vaert.export.transforms import transform_graphs
from vaert.export.verify import verify
from vaert.package import CODEC, FORMAT, MANIFEST, Manifest, Package

SIZE_MULTIPLE, LATENT_STRIDE, HYPER_STRIDE = 64, 16, 64
LICENCE = "LicenseRef-vaert-weights-noncommercial-research"


def write_package(source: CodecSource, out: Path, *, precision: str, rates: dict[str, Any], force: bool) -> Package:
    """Export `source` into the folder `out`, whole or not at all.

    Raises OutputError (exists and not `force`, cannot be written) and ModelError (bound broken, verification failed).
    """
    _check_target(out, force=force)
    bounds = prove(source.layers)
    model = source.model()
    graphs = {
        **transform_graphs(source.model()),
        "prior_anchor": anchor_graph(source.layers),
        "prior_context": context_graph(source.layers, source.context_shift),
    }
    files = {f"{name}.onnx": graph.SerializeToString(deterministic=True) for name, graph in graphs.items()}
    files["tables.npz"] = source.tables.to_bytes()
    files["known_answers.npz"] = to_bytes(known_answers(model.prior, source.layers))
    files["weights.safetensors"] = source.safetensors()
    files["LICENSE"] = (Path(__file__).parent / "WEIGHTS_LICENSE").read_bytes()
    manifest = Manifest(
        name=source.profile,
        kind=CODEC,
        version=FORMAT,
        profile=source.profile,
        precision=precision,
        model_id=source.model_id,
        config=asdict(source.config),
        size_multiple=SIZE_MULTIPLE,
        latent_stride=LATENT_STRIDE,
        hyper_stride=HYPER_STRIDE,
        halo=_halos(source),
        graphs={
            name: {"inputs": _tensors(g.graph.input), "outputs": _tensors(g.graph.output)} for name, g in graphs.items()
        },
        rates=rates,
        training=source.training,
        verification={"prior_bounds": {b.layer: b.largest for b in bounds}},
        licence=LICENCE,
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


def _place(manifest: Manifest, files: dict[str, bytes], source: CodecSource, out: Path, *, force: bool) -> Package:
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
        report = verify(Package.open(scratch), source)
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


def _halos(source: CodecSource) -> dict[str, int]:
    """How far each network sees beyond a tile, rounded up to the size rule, pixels.

    A block reaches one element (its depth-wise 3x3): 8 pixels at 1/8, 16 at 1/16; the hyper-encoder's two 3x3 of
    stride 2 reach 1 element at 1/16 and 1 at 1/32.
    """
    c = source.config
    reach = {
        "encoder": 8 * c.encoder_blocks + 16,
        "hyper_encoder": 16 + 32,
        "decoder": 8 * c.decoder_blocks + 16 + 8,
    }
    return {name: -(-pixels // SIZE_MULTIPLE) * SIZE_MULTIPLE for name, pixels in reach.items()}


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
