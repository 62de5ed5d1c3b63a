"""A torch module as ONNX, by torch's own exporter, without traces of the machine that exports."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
import torch.nn as nn
from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """A tensor of channels between layers, whose channels may be scaled; see `vaert.export.equalise`.

    makers, readers: layers that write into it, by sums, and that read it. A maker with more output channels than the
    stream is followed by a pixel shuffle. border: attribute of the graph's module that undoes the scales where the
    stream is the network's input or, if `makes_output`, its output. slope: of the LeakyReLU that its readers see it
    through, 1 for none.
    """

    name: str
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    border: str = ""
    makes_output: bool = False
    slope: float = 1.0


@dataclass(frozen=True)
class Network:
    """A torch module that becomes a graph: what precision changes and what calibration runs.

    example: inputs to trace it on. shapes: for each input which axes vary, None for none. tolerance: mean squared error
    that quantisation may add to the first output, in the output's own units. smooth: gives the first output before it
    is rounded, the module itself if it does not round.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    shapes: tuple[Mapping[int, Any] | None, ...]
    inputs: Sequence[str]
    outputs: Sequence[str]
    tolerance: float
    smooth: Callable[..., Tensor]
    streams: tuple[Stream, ...] = ()

    def trace(self) -> onnx.ModelProto:
        """The network as ONNX, checked."""
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own internals
            program = torch.onnx.export(
                self.module.eval(),
                self.example,
                dynamo=True,
                dynamic_shapes=self.shapes,
                input_names=list(self.inputs),
                output_names=list(self.outputs),
                opset_version=20,
                verbose=False,
            )
        assert program is not None
        return _cleaned(program.model_proto)


def _cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what the exporter says of the machine it ran on."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.metadata_props[:], model.graph.metadata_props[:]
    model.producer_name, model.producer_version = "vaert", ""
    onnx.checker.check_model(model, full_check=True)
    return model
