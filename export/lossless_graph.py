"""The lossless model as ONNX, node by node: only MatMul, Add, Mul by powers of two, Floor, Clip, Cast and Concat.

Written out instead of traced, because exactness rests on precisely these operators. What a pass sees is gathered by the
host. Weights are stored as float16, which holds -127..127 exactly, and widened when the graph is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from vaert.export.prior_graph import _Graph, _info
from vaert.trainer.models.lossless_order import CELLS, PIXELS
from vaert.trainer.models.mnist_lossless import LATENT_MAX, LOGITS, MEAN_MAX, SPREADS
from vaert.trainer.models.prior import IntegerLayer

Layers = Mapping[str, IntegerLayer]
WEIGHT = "_weight"


class _HalfGraph(_Graph):
    """A graph whose weights take two bytes each."""

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        if not name.endswith(WEIGHT):
            return super().constant(name, value)
        half = super().constant(f"{name}_half", value.astype(np.float16))
        return self.op("Cast", [half], name, to=TensorProto.FLOAT)

    def floating(self, x: str) -> str:
        return self.op("Cast", [x], f"{x}_float", to=TensorProto.FLOAT)

    def integers(self, x: str, layer: IntegerLayer, bounds: tuple[str, int, int, int]) -> None:
        """A last layer; bounds: name of the output, lowest and highest value, type."""
        output, low, high, kind = bounds
        value = self.clip(self.linear(x, layer, f"{output}_layer"), low, high, f"{output}_clipped")
        self.op("Cast", [value], output, to=kind)


def lossless_graphs(layers: Layers) -> dict[str, onnx.ModelProto]:
    """All graphs of a lossless model by name: encoder, decoder, and one for each pass over the pixels."""
    count = sum(name.startswith("o") for name in layers)
    graphs = {"lossless_encoder": _encoder(layers), "lossless_decoder": _decoder(layers)}
    return graphs | {f"lossless_pass{k}": _pass(layers, k) for k in range(count)}


def _encoder(layers: Layers) -> onnx.ModelProto:
    """`pixels` uint8 (N, 784) -> `mean` int32 and `spread` uint8, (N, L)."""
    g = _HalfGraph("lossless_encoder")
    x = g.op("Mul", [g.floating("pixels"), g.constant("one_half", np.array(0.5, np.float32))], "pixels_half")
    x = g.hidden(g.op("Floor", [x], "pixels_seen"), layers["e"], "e")
    g.integers(x, layers["mean"], ("mean", -MEAN_MAX, MEAN_MAX, TensorProto.INT32))
    g.integers(x, layers["spread"], ("spread", 0, SPREADS - 1, TensorProto.UINT8))
    latents = len(layers["mean"].bias)
    return g.model(
        [_info("pixels", TensorProto.UINT8, ("batch", PIXELS))],
        [
            _info("mean", TensorProto.INT32, ("batch", latents)),
            _info("spread", TensorProto.UINT8, ("batch", latents)),
        ],
    )


def _decoder(layers: Layers) -> onnx.ModelProto:
    """`latents` int32 (N, L), clamped to what the prior's table has, -> `features` float32 (N, cells, F)."""
    g = _HalfGraph("lossless_decoder")
    x = g.clip(g.floating("latents"), -LATENT_MAX, LATENT_MAX, "latents_clipped")
    x = g.hidden(g.hidden(x, layers["d"], "d"), layers["f"], "f")
    per_cell = len(layers["f"].bias) // CELLS
    shape = g.constant("features_shape", np.array([-1, CELLS, per_cell], np.int64))
    g.op("Reshape", [x, shape], "features")
    return g.model(
        [_info("latents", TensorProto.INT32, ("batch", layers["d"].weight.shape[1]))],
        [_info("features", TensorProto.FLOAT, ("batch", CELLS, per_cell))],
    )


def _pass(layers: Layers, k: int) -> onnx.ModelProto:
    """`features` float32 (N, P, F) and, but for pass 0, `seen` uint8 (N, P, K) -> `index` uint8 (N, P, nodes)."""
    g = _HalfGraph(f"lossless_pass{k}")
    per_cell = len(layers["f"].bias) // CELLS
    inputs, seen = [_info("features", TensorProto.FLOAT, ("batch", "pixels", per_cell))], "features"
    if known := layers[f"a{k}"].weight.shape[1] - per_cell:
        inputs.append(_info("seen", TensorProto.UINT8, ("batch", "pixels", known)))
        seen = g.op("Concat", ["features", g.floating("seen")], "context", axis=2)
    x = g.hidden(g.hidden(seen, layers[f"a{k}"], "a"), layers[f"b{k}"], "b")
    last = layers[f"o{k}"]
    g.integers(x, last, ("index", 0, LOGITS - 1, TensorProto.UINT8))
    return g.model(inputs, [_info("index", TensorProto.UINT8, ("batch", "pixels", len(last.bias)))])
