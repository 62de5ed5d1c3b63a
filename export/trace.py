"""A torch module as ONNX, by torch's own exporter, without traces of the machine that exports."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
import torch.nn as nn
from torch import Tensor


def trace(
    graph: nn.Module,
    inputs: tuple[Tensor, ...],
    shapes: tuple[Mapping[int, Any] | None, ...],
    *,
    names: tuple[Sequence[str], Sequence[str]],
) -> onnx.ModelProto:
    """Run the exporter on example inputs; `shapes` says which of their axes vary, `names` is inputs and outputs."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            graph.eval(),
            inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(names[0]),
            output_names=list(names[1]),
            opset_version=20,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # traces with paths of the exporting machine
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.metadata_props[:], model.graph.metadata_props[:]
    model.producer_name, model.producer_version = "vaert", ""
    onnx.checker.check_model(model, full_check=True)
    return model
