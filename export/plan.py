"""Which layers of a graph are put in int8: as many multiply-adds as the tolerance allows, the least sensitive first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vaert.export.calibration import Layer


@dataclass(frozen=True)
class Plan:
    """Layers in int8 and in float, in the order they run.

    share: of the multiply-adds that are in int8. noise: mean squared error of the network's first output that the
    layers cause, the sum of what each causes alone.
    """

    layers: tuple[str, ...]
    left_out: tuple[str, ...]
    share: float
    noise: float


def plan(layers: Mapping[str, Layer], flavour: str, tolerance: float) -> Plan:
    """Take layers in the order of the noise that each multiply-add costs, while their sum stays within tolerance."""
    chosen, noise = set[str](), 0.0
    for name, layer in sorted(layers.items(), key=lambda item: item[1].noise[flavour] / item[1].macs):
        if noise + layer.noise[flavour] <= tolerance and tolerance > 0:
            chosen.add(name)
            noise += layer.noise[flavour]
    return Plan(
        layers=tuple(n for n in layers if n in chosen),
        left_out=tuple(n for n in layers if n not in chosen),
        share=sum(layers[n].macs for n in chosen) / max(1, sum(layer.macs for layer in layers.values())),
        noise=noise,
    )
