"""Networks of papers with random weights, as packages that our backend runs: for their speed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

from vaert.export.trace import Network
from vaert.package import FORMAT, MANIFEST, UPSCALER, Manifest, Package

GRAPH = "network"


class Block(nn.Module):
    """EDSR's residual block: convolution, ReLU, convolution; the baseline scales nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> same."""
        y: Tensor = x + self.second(F.relu(self.first(x)))
        return y


class EdsrBaseline(nn.Module):
    """Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", 2017: 16 blocks of 64, x4.

    Table 1 and figure 3: no normalisation, a long skip, x4 as two pixel shuffles by 2.
    """

    def __init__(self, channels: int = 64, blocks: int = 16) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        last = nn.Conv2d(channels, channels, 3, padding=1)
        self.body = nn.Sequential(*(Block(channels) for _ in range(blocks)), last)
        enlarge = (nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2))
        again = (nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2))
        self.tail = nn.Sequential(*enlarge, *again, nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, 4 H, 4 W)."""
        features = self.head(x)
        y: Tensor = self.tail(features + self.body(features))
        return y


class Espcn(nn.Module):
    """Shi et al., "Real-Time Single Image and Video Super-Resolution [...]", 2016, section 3.2: 5-3-3, tanh.

    For RGB; the paper upscales luma alone.
    """

    def __init__(self, scale: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(64, 32, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(32, 3 * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, scale H, scale W)."""
        y: Tensor = self.layers(x)
        return y


class Bytes(nn.Module):
    """A network between bytes: `pixels` uint8 (N, H, W, 3) -> `large` uint8 (N, 4 H, 4 W, 3), as our own graph."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Shapes as above."""
        large = self.network(pixels.permute(0, 3, 1, 2).float() / 255).clamp(0, 1)
        return torch.round(large * 255).permute(0, 2, 3, 1).to(torch.uint8)


PEERS: Mapping[str, Callable[[], nn.Module]] = {"EDSR-baseline": EdsrBaseline, "ESPCN": Espcn}


def export(name: str, folder: Path) -> Package:
    """Write a peer's package, whose one graph is GRAPH, below `folder`."""
    torch.manual_seed(0)
    sizes = {0: Dim("batch"), 1: Dim("height"), 2: Dim("width")}
    example = torch.zeros(2, 6, 7, 3, dtype=torch.uint8)
    peer = Bytes(PEERS[name]())
    data = Network(peer, (example,), (sizes,), ["pixels"], ["large"], 0.0, peer).trace().SerializeToString()
    manifest = Manifest(
        name=name,
        kind=UPSCALER,
        version=FORMAT,
        profile=name,
        precision="fp32",
        model_id=0,
        config={},
        geometry={},
        graphs={},
        rates={},
        training={},
        verification={},
        licence="none",
        files={f"{GRAPH}.onnx": hashlib.sha256(data).hexdigest()},
    )
    target = folder / name
    target.mkdir()
    (target / f"{GRAPH}.onnx").write_bytes(data)
    (target / MANIFEST).write_text(manifest.to_json(), "utf-8")
    return Package.open(target)


def multiply_adds(network: Callable[..., Tensor], *inputs: Tensor) -> int:
    """Multiply-adds of one run per small pixel; the first input is (1, ..., H, W)."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(*inputs)
    return round(counter.get_total_flops() / 2 / (inputs[0].shape[-1] * inputs[0].shape[-2]))
