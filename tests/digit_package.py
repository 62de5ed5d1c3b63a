"""A package of kind digits made by hand: a linear VAE over smooth strokes, whose posterior is known in closed form."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from vaert.package import DIGITS, FORMAT, MANIFEST, Manifest, Package

SIDE = 28
OPSET = 17
CONTRAST = 6.0  # of the pictures, about the largest logit of a latent of 1

Float = npt.NDArray[np.float32]


def basis(latents: int) -> Float:
    """Smooth pictures, orthonormal, (784, latents): the lowest frequencies of a cosine transform."""
    cosine = np.array([np.cos(np.pi * k * (np.arange(SIDE) + 0.5) / SIDE) for k in range(SIDE)])
    cosine /= np.linalg.norm(cosine, axis=1, keepdims=True)
    order = sorted(((u, v) for u in range(8) for v in range(8)), key=lambda f: (sum(f), f))[1 : latents + 1]
    return np.stack([np.outer(cosine[u], cosine[v]).ravel() for u, v in order], 1).astype(np.float32)


def make_package(
    folder: Path,
    *,
    latents: int = 6,
    likelihood: str = "bernoulli",
    variance: float = 0.02,
    name: str = "by-hand",
    contrast: float = CONTRAST,
    log_variance: float = -3.0,
) -> Package:
    """Write a package: logits are `basis` times z, `contrast` times 7, and the encoder undoes it from pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    u = basis(latents) * np.float32(contrast * SIDE / 4)
    # Around a half, sigmoid is linear with slope a quarter: (pixel - 1/2) * 4 is the logit, up to saturation.
    back = (u / np.square(u).sum(0) * 4).astype(np.float32)
    save(folder, "encoder", encoder(back, log_variance))
    save(folder, "decoder", decoder(u))
    manifest = Manifest(
        name=name,
        kind=DIGITS,
        version=FORMAT,
        profile="by-hand",
        precision="fp32",
        model_id=0xD161,
        config={"latents": latents, "likelihood": likelihood, "variance": variance},
        geometry={"height": SIDE, "width": SIDE, "latents": latents},
        graphs={},
        rates={},
        training={},
        verification={},
        licence="none",
        files=checksums(folder),
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return Package.open(folder)


def rewrite(folder: Path, **fields: Any) -> None:
    """Change fields of a package's manifest."""
    raw = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(raw | fields))


def checksums(folder: Path) -> Mapping[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.onnx"))}


def save(folder: Path, name: str, model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: Mapping[str, Any]) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "digits", inputs, outputs, weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def encoder(back: Float, log_variance: float) -> onnx.ModelProto:
    latents = back.shape[1]
    node = helper.make_node
    nodes = [
        node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
        node("Div", ["levels", "white"], ["x"]),
        node("Sub", ["x", "half"], ["centred"]),
        node("Reshape", ["centred", "flat"], ["row"]),
        node("MatMul", ["row", "back"], ["mean"]),
        node("Mul", ["mean", "zero"], ["nothing"]),
        node("Add", ["nothing", "spread"], ["log_variance"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIDE, SIDE, 1])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", latents]) for name in ("mean", "log_variance")
    ]
    constants = {
        "white": np.float32(255),
        "half": np.float32(0.5),
        "flat": np.array([-1, SIDE * SIDE]),
        "back": back,
        "zero": np.float32(0),
        "spread": np.float32(log_variance),
    }
    return graph(nodes, [pixels], outputs, constants)


def decoder(u: Float) -> onnx.ModelProto:
    latents = u.shape[1]
    node = helper.make_node
    nodes = [
        node("MatMul", ["latents", "u"], ["row"]),
        node("Reshape", ["row", "square"], ["logits"]),
        node("Sigmoid", ["logits"], ["x"]),
        node("Mul", ["x", "white"], ["levels"]),
        node("Round", ["levels"], ["whole"]),
        node("Cast", ["whole"], ["pixels"], to=TensorProto.UINT8),
    ]
    z = helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["N", latents])
    outputs = [
        helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIDE, SIDE, 1]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", SIDE, SIDE, 1]),
    ]
    constants = {
        "u": np.ascontiguousarray(u.T),
        "square": np.array([-1, SIDE, SIDE, 1]),
        "white": np.float32(255),
    }
    return graph(nodes, [z], outputs, constants)
