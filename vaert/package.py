"""Model packages: a folder with a manifest, graphs, tables and known answers. Read here, written by `vaert.export`."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vaert.errors import ModelError
from vaert.tables import Tables

FORMAT = 1
MANIFEST, WEIGHTS, ACTIVATIONS = "manifest.json", "weights.safetensors", "activations.json"
BUNDLED = Path(__file__).parent / "models"
# Flavours of a graph: how the engine that runs it quantises.
CPU_FLAVOUR, TENSORRT_FLAVOUR = "cpu", "tensorrt"
# Kinds of model.
CODEC, DIGITS, LOSSLESS_DIGITS, UPSCALER, RESTORER = "codec", "digits", "lossless_digits", "upscaler", "restorer"


@dataclass(frozen=True)
class Manifest:
    """What a package is.

    geometry of a codec, in pixels: size_multiple (graphs take heights and widths that are multiples of it),
    latent_stride, hyper_stride, and halo: how far outside a tile encoder, hyper_encoder and decoder look. Of digits:
    height, width, and the number of latents. Of an upscaler: size_multiple, scale, latents (channels of its noise), and
    halo: small pixels outside a tile that reach a large pixel in it. Of a restorer, in pixels: size_multiple, and halo:
    how far outside a tile it looks to `repair` it, and to `fill` holes in what it looks at.
    """

    name: str
    kind: str  # CODEC, ...
    version: int  # of the package format
    profile: str
    precision: str  # "fp32", "fp16", "int8"
    model_id: int  # 64-bit, the same for every precision of one model
    config: Mapping[str, Any]  # of the architecture
    geometry: Mapping[str, Any]  # what the runtime must know of the graphs' shapes; its fields depend on the kind
    graphs: Mapping[str, Mapping[str, Any]]  # graph name -> inputs, outputs (name, type, shape); other files, flavours
    rates: Mapping[str, Any]  # measured: quality -> bits per pixel and PSNR, and on what
    training: Mapping[str, Any]
    verification: Mapping[str, Any]
    licence: str
    files: Mapping[str, str]  # file name -> SHA-256, hexadecimal

    def to_json(self) -> str:
        """Canonical JSON; the model id is written in hexadecimal."""
        values = asdict(self) | {"model_id": f"{self.model_id:016x}"}
        return json.dumps(values, indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Parse; ModelError says what is missing or wrong."""
        try:
            raw = json.loads(text)
            if raw["version"] != FORMAT:
                raise ModelError(
                    f"package format {raw['version']} is not {FORMAT}: it belongs to another vaert version"
                )
            raw["model_id"] = int(raw["model_id"], 16)
            unknown = set(raw) - {f.name for f in fields(Manifest)}
            if unknown or any(not re.fullmatch(r"[\w.-]+", name) for name in raw["files"]):
                raise ModelError("manifest.json has fields or file names that are not allowed")
            return Manifest(**raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"manifest.json is damaged ({error})") from error


@dataclass(frozen=True)
class Package:
    """One opened package. Files are checked against the manifest when they are read."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Package:
        """Open a package folder; ModelError if it is none or its manifest is damaged."""
        folder = Path(path)
        try:
            text = (folder / MANIFEST).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{folder} is not a model package: {MANIFEST} cannot be read") from error
        try:
            return Package(folder, Manifest.from_json(text))
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from error

    def require(self, *kinds: str) -> Package:
        """This package, if it is of one of these kinds; ModelError otherwise."""
        if self.manifest.kind not in kinds:
            raise ModelError(
                f"model {self.manifest.name} is of kind {self.manifest.kind}, this needs {' or '.join(kinds)}: "
                "choose another --model (vaert models lists them)"
            )
        return self

    def read(self, name: str) -> bytes:
        """The bytes of one file; ModelError if it is missing or not what the manifest says."""
        wanted = self.manifest.files.get(name)
        if wanted is None:
            raise ModelError(f"{self.path} has no {name}; install the package again")
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise ModelError(
                f"{self.path / name} cannot be read ({error.strerror}); install the package again"
            ) from error
        if hashlib.sha256(data).hexdigest() != wanted:
            raise ModelError(
                f"{self.path / name} is damaged: its SHA-256 is not the manifest's; install the package again"
            )
        return data

    def graph_file(self, name: str, flavour: str = CPU_FLAVOUR) -> str:
        """Name of a graph's file: an int8 package holds some graphs twice, as CPUs and as TensorRT quantise."""
        flavours: Mapping[str, str] = self.manifest.graphs.get(name, {}).get("flavours", {})
        return flavours.get(flavour, f"{name}.onnx")

    def read_graph(self, name: str, flavour: str = CPU_FLAVOUR) -> bytes:
        """The bytes of a graph, once the files in this folder that it refers to are checked as well. ModelError."""
        for other in self.manifest.graphs.get(name, {}).get("files", ()):
            self.read(other)
        return self.read(self.graph_file(name, flavour))

    def tables(self) -> Tables:
        """Entropy tables and gains."""
        return Tables.from_bytes(self.read("tables.npz"))

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum((self.path / name).stat().st_size for name in self.manifest.files)


def bundled_models() -> tuple[str, ...]:
    """Names of the packages that come with vaert, sorted."""
    return tuple(sorted(p.parent.name for p in BUNDLED.glob(f"*/{MANIFEST}")))


def find_package(model: str | os.PathLike[str]) -> Package:
    """A bundled package by name, or any by its folder; ModelError lists what there is."""
    if isinstance(model, str) and model in bundled_models():
        return Package.open(BUNDLED / model)
    if (Path(model) / MANIFEST).is_file():
        return Package.open(model)
    raise ModelError(
        f"no model {str(model)!r}: give a package folder or one of {', '.join(bundled_models()) or 'none'}"
    )


def find_by_id(model_id: int) -> Package:
    """The bundled package that wrote a file; ModelError if there is none."""
    for name in bundled_models():
        package = Package.open(BUNDLED / name)
        if package.manifest.model_id == model_id:
            return package
    raise ModelError(
        f"the file was made by model {model_id:016x}, which is not installed; name its package with --model"
    )
