"""What any kind of model is made from before it becomes a package, and how such a source is found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn as nn
from torch import Tensor

from vaert.errors import ModelError
from vaert.export.trace import Network
from vaert.package import Package
from vaert.trainer.checkpoint import Checkpoint

Arrays = Mapping[str, npt.NDArray[Any]]
Pixels = npt.NDArray[np.uint8]


class Source(Protocol):
    """Everything that a package is made from; one class per kind of model."""

    @property
    def kind(self) -> str:
        """Kind of model; see `vaert.package.Manifest`, also for what follows."""

    @property
    def license_file(self) -> str:
        """Name of the licence of the weights, beside this module."""

    @property
    def profile(self) -> str:
        """Name of the config."""

    @property
    def config(self) -> Any:
        """Of the architecture, a frozen dataclass."""

    @property
    def model_id(self) -> int:
        """64-bit identity."""

    @property
    def geometry(self) -> Mapping[str, Any]:
        """What the runtime must know of the graphs' shapes."""

    @property
    def training(self) -> Mapping[str, Any]:
        """How the weights came about."""

    def bounds(self) -> Mapping[str, int]:
        """Largest sum of each exact layer; ModelError if one breaks the 2^24 bound."""

    def networks(self) -> dict[str, Network]:
        """The networks that may run in any precision, by the names of their graphs."""

    def exact_graphs(self) -> dict[str, onnx.ModelProto]:
        """The graphs that must give the same integers everywhere, by name: float32 in every precision."""

    def samples(self, pictures: Sequence[Pixels]) -> dict[str, list[tuple[Tensor, ...]]]:
        """Inputs of the networks, by name, that come of these pictures; see `vaert.export.calibration`."""

    def files(self) -> dict[str, bytes]:
        """The other files by name: tables, weights, known answers."""

    def verify(self, package: Package) -> dict[str, Any]:
        """Compare the written package with torch; the report for the manifest. ModelError if they disagree."""


class NothingExact:
    """The part of a `Source` of whose graphs no file depends on a single bit."""

    def bounds(self) -> dict[str, int]:
        """None."""
        return {}

    def exact_graphs(self) -> dict[str, onnx.ModelProto]:
        """None."""
        return {}


def identity(kind: str, arrays: Arrays) -> int:
    """64-bit identity of a model: hash over its arrays in a canonical order."""
    digest = hashlib.sha256(kind.encode())
    for name, array in sorted(arrays.items()):
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {little.dtype.str} {little.shape}".encode() + little.tobytes())
    return int.from_bytes(digest.digest()[:8], "little")


def half_weights(state: Mapping[str, Tensor], path: Path) -> dict[str, npt.NDArray[Any]]:
    """Weights of the checkpoint at `path` rounded to float16. ModelError if one is beyond its range."""
    weights = {name: tensor.cpu().numpy().astype(np.float16) for name, tensor in state.items()}
    if infinite := [name for name, array in weights.items() if not np.isfinite(array).all()]:
        raise ModelError(f"{path}: weights beyond float16's range in {infinite[0]}; train with a lower learning rate")
    return weights


def load_weights(model: nn.Module, weights: Arrays, *, profile: str) -> None:
    """Put stored weights into a model. ModelError if they do not fit it."""
    try:
        model.load_state_dict({name: torch.from_numpy(w.astype(np.float32)) for name, w in weights.items()})
    except RuntimeError as error:
        raise ModelError(f"weights do not fit {profile}: {str(error).splitlines()[0]}") from error


def trained(checkpoint: Checkpoint) -> dict[str, Any]:
    """How a checkpoint came about, for the manifest and the model card."""
    return {
        "data": list(checkpoint.data),
        "pictures": checkpoint.pictures,
        "steps": checkpoint.step,
        "hours": round(checkpoint.seconds / 3600, 2),
        "seed": checkpoint.train_config.seed,
    }
