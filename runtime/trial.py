"""Does a backend compute a package right? Exact integers where the package has known answers, else next to the CPU."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from vaert.lossless_tables import LosslessTables
from vaert.package import CODEC, LOSSLESS_DIGITS, RESTORER, UPSCALER, Package
from vaert.runtime.backends import Backend, OnnxRuntimeCpu
from vaert.runtime.lossless import LosslessNetworks
from vaert.runtime.made import made_digits, made_picture
from vaert.runtime.prior import Prior

Array = npt.NDArray[Any]
SIDE = 64  # pixels of the picture that is tried: a multiple of every size rule
ERRORS = {"fp32": 0.02, "fp16": 0.05, "int8": 0.4}
"""Root mean square difference from the CPU over an output's deviation, by precision; int8 has two kinds of graphs."""


def wrong_answers(package: Package, backend: Backend) -> str:
    """One line that says what the backend computes wrong, "" if nothing. BackendError if it cannot run the package."""
    kind = package.manifest.kind
    if kind in (CODEC, LOSSLESS_DIGITS):
        return inexact(package, backend)
    return unlike_cpu(package, backend)


def inexact(package: Package, backend: Backend) -> str:
    """Which known answer of the package's exact graphs the backend misses, in one line; "" if none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if package.manifest.kind == CODEC:
            Prior(package, backend)
        else:
            LosslessNetworks(package, backend, LosslessTables.from_bytes(package.read("tables.npz")))
    found = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    return found[0].removesuffix("; it runs on the CPU instead") if found else ""


def unlike_cpu(package: Package, backend: Backend) -> str:
    """Which output of the graphs is too far from the CPU's on a small picture, in one line; "" if none."""
    cpu = OnnxRuntimeCpu()
    limit = ERRORS.get(package.manifest.precision, ERRORS["fp32"])
    for graph, inputs in sample_inputs(package).items():
        expected, found = (one.load(package, graph).run(inputs) for one in (cpu, backend))
        for name, right in expected.items():
            error = relative_error(found.get(name), right)
            if not error <= limit:
                return (
                    f"the {backend.name} backend computes {name} of {graph} wrong: {error:.2g} of its deviation away "
                    f"from the CPU, expected at most {limit:g}"
                )
    return ""


def sample_inputs(package: Package) -> dict[str, dict[str, Array]]:
    """Small inputs by name of the graphs that turn pictures into pictures or latents, by graph."""
    manifest = package.manifest
    picture = made_picture(SIDE, SIDE)[None]
    if manifest.kind == CODEC:
        latents = int(manifest.config["latents"])
        _, inverse = package.tables().gains(50)
        side = SIDE // int(manifest.geometry["latent_stride"])
        s = np.random.default_rng(0).integers(-24, 25, (1, side, side, latents), np.int32)
        return {"encoder": {"pixels": picture}, "decoder": {"latents": s, "scale": inverse / np.float32(16)}}
    if manifest.kind == UPSCALER:
        shape = (1, SIDE, SIDE, int(manifest.geometry["latents"]))
        return {"upscaler": {"pixels": picture, "noise": np.zeros(shape, np.float32)}}
    if manifest.kind == RESTORER:
        mask = np.zeros((1, SIDE, SIDE, 1), np.uint8)
        mask[:, SIDE // 4 : SIDE // 2, SIDE // 4 : SIDE // 2] = 1
        return {"restorer": {"pixels": picture, "mask": mask}}
    z = np.random.default_rng(0).standard_normal((4, int(manifest.geometry["latents"]))).astype(np.float32)
    return {"encoder": {"pixels": made_digits(4)[..., None]}, "decoder": {"latents": z}}


def relative_error(found: Array | None, right: Array) -> float:
    """Root mean square difference over the deviation of `right`; infinite for another shape or type, or no numbers."""
    if found is None or found.shape != right.shape or found.dtype != right.dtype:
        return float("inf")
    a, b = found.astype(np.float64), right.astype(np.float64)
    if not np.isfinite(a).all():
        return float("inf")
    return float(np.sqrt(np.square(a - b).mean()) / (b.std() + 1e-6))
