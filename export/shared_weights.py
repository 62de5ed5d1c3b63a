"""Graphs that take their weights from `weights.safetensors`, so that a package holds them once.

ONNX lets an initializer name a file, an offset and a length ("external data", onnx.proto, TensorProto); a tensor in a
safetensors file is such a range of bytes.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from vaert.export.source import Arrays
from vaert.package import WEIGHTS, Package

LEAST = 1024  # bytes; smaller initializers stay in the graph
_LENGTH = struct.Struct("<Q")  # of the JSON at the start of a safetensors file


def weights_file(weights: Arrays) -> bytes:
    """A `weights.safetensors` of float16 weights, stored as float32, which graphs can use as they are."""
    return save_safetensors({name: np.ascontiguousarray(w.astype(np.float32)) for name, w in weights.items()})


def read_weights(package: Package) -> dict[str, npt.NDArray[Any]]:
    """The float16 weights that `weights_file` stored. ModelError if the file is missing or damaged."""
    return {name: w.astype(np.float16) for name, w in load_safetensors(package.read(WEIGHTS)).items()}


def share(graphs: Iterable[onnx.ModelProto], weights: bytes) -> None:
    """Point the initializers of graphs at equal float32 tensors in the `weights.safetensors` of content `weights`."""
    places = _places(weights)
    for graph in graphs:
        for tensor in graph.graph.initializer:
            place = places.get(_key(tuple(tensor.dims), tensor.raw_data))
            if tensor.data_type != onnx.TensorProto.FLOAT or place is None or len(tensor.raw_data) < LEAST:
                continue
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS), ("offset", place), ("length", 4 * int(np.prod(tensor.dims)))):
                tensor.external_data.add(key=key, value=str(value))


def uses_weights(graph: onnx.ModelProto) -> bool:
    """Whether a graph takes weights from `weights.safetensors`."""
    return any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.graph.initializer)


def _places(weights: bytes) -> dict[tuple[tuple[int, ...], bytes], int]:
    """Offsets in the file of its float32 tensors, by shape and content."""
    (size,) = _LENGTH.unpack_from(weights)
    start, places = _LENGTH.size + size, {}
    for name, entry in json.loads(weights[_LENGTH.size : start]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            first, last = (start + offset for offset in entry["data_offsets"])
            places[_key(tuple(entry["shape"]), weights[first:last])] = first
    return places


def _key(shape: tuple[int, ...], data: bytes) -> tuple[tuple[int, ...], bytes]:
    return shape, hashlib.sha256(data).digest()
