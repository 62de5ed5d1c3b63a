"""The graphs of a model in one precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx

from vaert.errors import ModelError
from vaert.export import quantise_cpu, quantise_tensorrt
from vaert.export.calibration import Activations, Layer
from vaert.export.equalise import equalise
from vaert.export.layers import HALF_MARGIN, LARGEST_HALF, halved, source_name
from vaert.export.layers import layers as named_layers
from vaert.export.plan import Plan, plan
from vaert.export.source import Source
from vaert.export.tensorrt_lint import lint
from vaert.export.trace import Network
from vaert.package import CPU_FLAVOUR, TENSORRT_FLAVOUR


@dataclass(frozen=True)
class Converted:
    """Graphs by the names of their files, without `.onnx`.

    flavours: of graphs that there are several of, files by flavour. facts: what was left out and why, for the manifest.
    networks: of fp16, torch's, which show on a CPU what float16 does.
    """

    graphs: dict[str, onnx.ModelProto]
    flavours: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)


def convert(source: Source, precision: str, activations: Activations | None) -> Converted:
    """The graphs of `source` in a precision; the exact ones are float32 in each.

    Raises ModelError: activations are needed and there are none, or a graph is not what TensorRT takes.
    """
    networks, exact = source.networks(), source.exact_graphs()
    if precision == "fp32" or not networks:
        converted = Converted({name: network.trace() for name, network in networks.items()})
    else:
        if activations is None:
            raise ModelError(
                f"{source.profile} has no recorded activations, which {precision} needs: "
                "give a folder of pictures with --calibration"
            )
        _check_activations(networks, activations, source.profile)
        for name, network in networks.items():
            equalise(network, activations.exponents[name])
        converted = (_fp16 if precision == "fp16" else _int8)(networks, activations)
    for name, graph in {**converted.graphs, **exact}.items():
        if name not in {files[CPU_FLAVOUR] for files in converted.flavours.values()}:
            _check(graph, name)
    return replace(converted, graphs={**converted.graphs, **exact})


def overflowing(layers: Mapping[str, Layer]) -> list[str]:
    """The layers whose values come near the largest float16."""
    return [name for name, layer in layers.items() if layer.largest * HALF_MARGIN > LARGEST_HALF]


def _fp16(networks: Mapping[str, Network], activations: Activations) -> Converted:
    kept = {name: overflowing(activations.graphs[name]) for name in networks}
    half = {name: _halved(network, kept[name]) for name, network in networks.items()}
    graphs = {name: network.trace() for name, network in half.items()}
    return Converted(graphs, facts={"kept_in_fp32": kept}, networks=half)


def _int8(networks: Mapping[str, Network], activations: Activations) -> Converted:
    graphs, flavours, facts = dict[str, onnx.ModelProto](), dict[str, dict[str, str]](), dict[str, Any]()
    for name, network in networks.items():
        layers, files = activations.graphs[name], {CPU_FLAVOUR: name, TENSORRT_FLAVOUR: f"{name}_{TENSORRT_FLAVOUR}"}
        plans = {flavour: plan(layers, flavour, network.tolerance) for flavour in files}
        chosen = {flavour: {n: layers[n] for n in found.layers} for flavour, found in plans.items()}
        wide = network.trace()
        _check_layers(wide, layers)
        half = _halved(network, kept := overflowing(layers)).trace()
        graphs[files[CPU_FLAVOUR]] = quantise_cpu.quantised(wide, chosen[CPU_FLAVOUR])
        graphs[files[TENSORRT_FLAVOUR]] = quantise_tensorrt.quantised(half, chosen[TENSORRT_FLAVOUR])
        flavours[name] = files
        facts[name] = {flavour: _facts(found) for flavour, found in plans.items()}
        facts[name][TENSORRT_FLAVOUR]["kept_in_fp32"] = [n for n in kept if n not in chosen[TENSORRT_FLAVOUR]]
    return Converted(graphs, flavours, {"int8": facts})


def _facts(found: Plan) -> dict[str, Any]:
    """What the manifest says of a plan."""
    return {
        "share_in_int8": round(found.share, 4),
        "layers_in_int8": len(found.layers),
        "left_out": list(found.left_out),
        "noise": float(f"{found.noise:.3g}"),
    }


def _halved(network: Network, keep: list[str]) -> Network:
    module = halved(network.module, keep=keep)
    return replace(network, module=module, smooth=module)


def _check_activations(networks: Mapping[str, Network], activations: Activations, profile: str) -> None:
    """ModelError if activations were recorded from networks of other layers or streams, as by another version."""
    for name, network in networks.items():
        scaled, recorded = activations.exponents.get(name, {}), activations.graphs.get(name, {})
        streams = {stream.name for stream in network.streams}
        if set(scaled) != streams or not recorded or not set(recorded) <= set(named_layers(network.module)):
            raise ModelError(
                f"the activations of {profile} do not belong to its {name}, another version recorded them: "
                "record them anew with --calibration"
            )


def _check_layers(graph: onnx.ModelProto, layers: Mapping[str, Layer]) -> None:
    """ModelError if a graph lacks the weights of a layer: the exporter keeps equal weights of several layers once."""
    there = {source_name(name) for node in graph.graph.node for name in node.input}
    if missing := [name for name in layers if name not in there]:
        raise ModelError(
            f"layer {missing[0]} has the same weights as another one, as before training, so it cannot be put in int8: "
            "train the model first"
        )


def _check(graph: onnx.ModelProto, name: str) -> None:
    if found := lint(graph, graph=name):
        raise ModelError(f"TensorRT would refuse graph {found[0]}; this is a fault of the export, nothing was written")
