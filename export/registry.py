"""Which class makes packages of which kind of model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vaert.errors import ModelError
from vaert.export import codec, digits, lossless, restorer, upscaler
from vaert.export.source import Source
from vaert.package import CODEC, DIGITS, LOSSLESS_DIGITS, RESTORER, UPSCALER, WEIGHTS, Package
from vaert.trainer.checkpoint import Checkpoint

_FROM_CHECKPOINT: dict[str, Callable[[Checkpoint, Path], Source]] = {
    "codec": codec.from_checkpoint,
    "mnist-mlp": digits.from_checkpoint,
    "mnist-conv": digits.from_checkpoint,
    "mnist-lossless": lossless.from_checkpoint,
    "upscale-x2": upscaler.from_checkpoint,
    "upscale-x4": upscaler.from_checkpoint,
    "restore": restorer.from_checkpoint,
}
_FROM_PACKAGE: dict[str, Callable[[Package], Source]] = {
    CODEC: codec.from_package,
    DIGITS: digits.from_package,
    LOSSLESS_DIGITS: lossless.from_package,
    UPSCALER: upscaler.from_package,
    RESTORER: restorer.from_package,
}


def from_checkpoint(path: Path) -> Source:
    """The source of a checkpoint file. ModelError if it is damaged, unfinished or of an unknown kind."""
    checkpoint = Checkpoint.load(path)
    return _FROM_CHECKPOINT[checkpoint.kind](checkpoint, path)


def from_package(package: Package) -> Source:
    """The source that a package carries. ModelError if it has none or is of an unknown kind."""
    kind = package.manifest.kind
    if kind not in _FROM_PACKAGE:
        raise ModelError(f"{package.path} is of kind {kind!r}, which this version cannot export")
    if WEIGHTS not in package.manifest.files:
        raise ModelError(
            f"{package.path} carries no weights, as only fp32 packages do: export the fp32 package of "
            f"{package.manifest.name} or the checkpoint instead"
        )
    source = _FROM_PACKAGE[kind](package)
    if source.model_id != package.manifest.model_id:
        raise ModelError(f"{package.path}: weights.safetensors is not what this package's graphs were made from")
    return source
