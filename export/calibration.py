"""What lower precision must know of a network: the ranges of its activations and how much each layer minds rounding.

Recorded once from training pictures, it travels with the package as `activations.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaert.errors import DataError, ModelError
from vaert.export.equalise import Exponents, equalise, find_exponents
from vaert.export.layers import layers
from vaert.export.rounding import Range, in_int8
from vaert.export.source import Pixels, Source
from vaert.export.trace import Network
from vaert.package import ACTIVATIONS, CPU_FLAVOUR, DIGITS, TENSORRT_FLAVOUR, Package

PICTURES, SIDE, DIGIT_PICTURES = 48, 256, 512
NOISE_PICTURES = 12  # of them, that the layers' noise is measured on
BINS = 4096
SHRINK = np.geomspace(1.0, 0.2, 33)  # of a range, so that what is inside is rounded finer
FLAVOURS = (CPU_FLAVOUR, TENSORRT_FLAVOUR)

Progress = Callable[[int, int], None]
"""Called with how many layers are done and how many there are."""


@dataclass(frozen=True)
class Layer:
    """One layer of a network on the calibration pictures."""

    input: Range
    output: Range
    largest: float  # absolute value that went in or came out
    macs: int  # multiply-adds, of all pictures together
    noise: Mapping[str, float]  # by flavour: mean squared error of the network's first output, this layer alone in int8


@dataclass(frozen=True)
class Activations:
    """Recorded from so many `pictures`: layers by name by graph, in the order they run, and scales of streams."""

    pictures: int
    graphs: Mapping[str, Mapping[str, Layer]]
    exponents: Mapping[str, Exponents]

    def to_bytes(self) -> bytes:
        """As JSON, floats with six digits."""
        graphs = {g: {n: _rounded(asdict(layer)) for n, layer in found.items()} for g, found in self.graphs.items()}
        values = {"pictures": self.pictures, "graphs": graphs, "exponents": self.exponents}
        return (json.dumps(values, separators=(",", ":")) + "\n").encode()

    @staticmethod
    def from_bytes(data: bytes) -> Activations:
        """Read what `to_bytes` wrote. ModelError if it is damaged."""
        try:
            raw = json.loads(data)
            graphs = {g: {n: _layer(v) for n, v in found.items()} for g, found in raw["graphs"].items()}
            exponents = {g: {s: [int(k) for k in v] for s, v in found.items()} for g, found in raw["exponents"].items()}
            return Activations(int(raw["pictures"]), graphs, exponents)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{ACTIVATIONS} is damaged ({error}); install the package again") from error


def read_activations(package: Package) -> Activations | None:
    """What travels with a package, None if nothing does. ModelError if it is damaged."""
    return Activations.from_bytes(package.read(ACTIVATIONS)) if ACTIVATIONS in package.manifest.files else None


def load_pictures(folder: Path, kind: str) -> list[Pixels]:
    """Calibration pictures: up to 48 crops, uint8 (256, 256, 3), or up to 512 digits, (28, 28, 1). DataError."""
    if kind == DIGITS:
        from vaert.idx import load_split

        return [digit[..., None] for digit in load_split(folder).train[:DIGIT_PICTURES]]
    from vaert.trainer.data import find_pictures, load_rgb

    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; --calibration takes a folder of pictures")
    paths, crops = find_pictures([folder]), list[Pixels]()
    step = max(1, len(paths) // (2 * PICTURES))  # some may be too small
    for path in (path for start in range(step) for path in paths[start::step]):
        pixels = load_rgb(path)
        top, left = ((n - SIDE) // 2 for n in pixels.shape[:2])
        if min(top, left) >= 0:
            crops.append(np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE]))
        if len(crops) == PICTURES:
            break
    if not crops:
        raise DataError(f"{folder} holds no picture of {SIDE}x{SIDE} pixels or more, which calibration needs")
    return crops


@torch.no_grad()
def record(source: Source, pictures: Sequence[Pixels], *, progress: Progress | None = None) -> Activations:
    """Run the networks of a source on calibration pictures."""
    networks, samples = source.networks(), source.samples(pictures)
    exponents = {name: find_exponents(network, samples[name]) for name, network in networks.items()}
    for name, network in networks.items():
        equalise(network, exponents[name])
    watched = {name: _watch(network, samples[name]) for name, network in networks.items()}
    total, done, graphs = sum(map(len, watched.values())), 0, dict[str, dict[str, Layer]]()
    for graph, network in networks.items():
        heard = samples[graph][:: max(1, len(samples[graph]) // NOISE_PICTURES)]
        modules, exact, graphs[graph] = layers(network.module), _outputs(network, heard), {}
        for name, (inside, outside, largest, macs) in watched[graph].items():
            noise = dict.fromkeys(FLAVOURS, 0.0)
            for flavour in FLAVOURS if network.tolerance else ():
                with in_int8(modules[name], (inside, outside), flavour):
                    found = _outputs(network, heard)
                errors = [float((a - b).square().mean()) for a, b in zip(found, exact, strict=True)]
                noise[flavour] = sum(errors) / len(errors)
            graphs[graph][name] = Layer(inside, outside, largest, macs, noise)
            done += 1
            if progress:
                progress(done, total)
    return Activations(len(pictures), graphs, exponents)


def _outputs(network: Network, samples: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [network.smooth(*inputs) for inputs in samples]


class _Watch:
    """Extremes and, in a second pass, the histogram of one tensor."""

    def __init__(self) -> None:
        self.low, self.high, self.counts = 0.0, 0.0, np.zeros(BINS)

    def extremes(self, x: Tensor) -> None:
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))

    def count(self, x: Tensor) -> None:
        self.counts += np.histogram(x.numpy(), BINS, (self.low, max(self.high, self.low + 1e-6)))[0]

    def range(self, slope: float) -> Range:
        """The ranges whose rounding, clipping included, has the least squared error after a LeakyReLU of this slope."""
        edges = np.linspace(self.low, max(self.high, self.low + 1e-6), BINS + 1)
        middle, largest = (edges[1:] + edges[:-1]) / 2, max(-self.low, self.high)
        weights = self.counts * np.where(middle < 0, slope**2, 1)
        lows = SHRINK if slope == 1 else np.geomspace(1.0, slope, 33)

        def error(low: float, high: float, steps: int) -> float:
            beyond = middle - np.clip(middle, low, high)
            return float((weights * np.where(beyond == 0, ((high - low) / steps) ** 2 / 12, beyond**2)).sum())

        pairs = [(a * self.low, b * self.high) for a in lows for b in SHRINK]
        low, high = min(pairs, key=lambda pair: error(pair[0], pair[1], 255))
        symmetric = min((k * largest for k in SHRINK), key=lambda k: error(-k, k, 254))
        return Range(float(low), float(high), float(symmetric))


def _watch(network: Network, samples: Sequence[tuple[Tensor, ...]]) -> dict[str, tuple[Range, Range, float, int]]:
    """Ranges of input and output, largest value and multiply-adds of each layer that runs, in that order."""
    watches, macs, modules = dict[str, tuple[_Watch, _Watch]](), dict[str, int](), layers(network.module)
    for second in (False, True):

        def look(name: str, x: Tensor, y: Tensor, second: bool = second) -> None:
            pair = watches.setdefault(name, (_Watch(), _Watch()))
            for watch, tensor in zip(pair, (x, y), strict=True):
                (watch.count if second else watch.extremes)(tensor)
            if second:
                macs[name] = macs.get(name, 0) + modules[name].weight.numel() * y.numel() // y.shape[1]

        hooks = [
            layer.register_forward_hook(lambda _, x, y, name=name, look=look: look(name, x[0], y))
            for name, layer in modules.items()
        ]
        _outputs(network, samples)
        for hook in hooks:
            hook.remove()
    largest = {name: max(-w.low if w.low < -w.high else w.high for w in pair) for name, pair in watches.items()}
    slopes = {name: stream.slope for stream in network.streams for name in stream.makers}
    return {
        n: (pair[0].range(1.0), pair[1].range(slopes.get(n, 1.0)), largest[n], macs[n]) for n, pair in watches.items()
    }


def _rounded(value: Any) -> Any:
    """Floats of a JSON value to six digits."""
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _layer(raw: Mapping[str, Any]) -> Layer:
    inside, outside = (Range(**{k: float(v) for k, v in raw[side].items()}) for side in ("input", "output"))
    noise = {flavour: float(raw["noise"][flavour]) for flavour in FLAVOURS}
    return Layer(inside, outside, float(raw["largest"]), int(raw["macs"]), noise)
