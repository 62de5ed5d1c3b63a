"""The restorer: a conditional VAE p(clean | damaged, mask, z) that repairs compression damage and fills holes.

A U-Net (Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015) from half
the picture's resolution down to 1/32. Its strides divide JPEG's 8x8 grid, so a position within a block is known by
construction. Ahead of it holes are filled smoothly by push and pull (Gortler et al., "The Lumigraph", SIGGRAPH 1996,
section 3.4), so that the network only has to add what is missing. The conditional VAE is that of the upscaler.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from vaert.trainer.models.blocks import Block
from vaert.trainer.models.conditional import PIXEL_MAX, Conditional, ResidualBlock

LEVELS = 5  # halvings of the resolution, by network and fill alike
SPREADS = 2  # passes of known values into unknown cells at the coarsest level of the fill
LEAST_KNOWN = 1e-4


@dataclass(frozen=True)
class RestorerConfig:
    """Shape of a restorer. `widths` and `blocks` go from half the resolution to 1/32; blocks are per side of the U."""

    scale: int = 2  # the network's finest resolution is the picture's, divided by this
    channels: int = 48  # at that resolution
    widths: tuple[int, ...] = (64, 96, 96, 96)
    blocks: tuple[int, ...] = (2, 2, 1, 2)  # the last ones are the bottom's
    before: int = 1  # dense blocks at the finest resolution on the way down
    after: int = 3  # and on the way up
    latents: int = 4  # channels of z
    posterior: int = 32

    @property
    def size_multiple(self) -> int:
        """Heights and widths are multiples of it, pixels."""
        return 1 << LEVELS

    @property
    def repair_halo(self) -> int:
        """As `halo`, where nothing is hidden there: what the network alone sees.

        From a pixel down to the bottom and back up by the longest way; a block reaches one cell of its level, a dense
        one two, the first and last convolution one.
        """
        reach = 1 + 2 * self.after
        for count in self.blocks:
            reach = -(-reach // 2) + count
        for count in reversed(self.blocks[:-1]):
            reach = 2 * reach + count
        reach = 2 * (2 * reach + 2 * self.before) + 1
        return -(-reach // self.size_multiple) * self.size_multiple

    @property
    def halo(self) -> int:
        """Pixels on each side of a cell of `size_multiple` that it may depend on, a multiple of it too.

        Beyond what the network sees, the fill reaches one cell by interpolation, from all levels together, and one by
        each spread.
        """
        return self.repair_halo + ((1 + SPREADS) << LEVELS)


PROFILES = {"restore": RestorerConfig()}


def filled(pixels: Tensor, hidden: Tensor) -> Tensor:
    """Pixels (N, 3, H, W) whose hidden ones, where `hidden` (N, 1, H, W) is 1 and not 0, continue the known smoothly.

    H and W are multiples of 2^LEVELS. Averages of known pixels are taken down to 1/32 (push) and come back by linear
    interpolation wherever nothing finer is known (pull).
    """
    known = 1 - hidden
    values = [(pixels * known, known)]
    for _ in range(LEVELS):
        values.append((F.avg_pool2d(values[-1][0], 2), F.avg_pool2d(values[-1][1], 2)))
    coarse, share = values.pop()
    for _ in range(SPREADS):
        near = F.avg_pool2d(coarse, 3, 1, 1), F.avg_pool2d(share, 3, 1, 1)
        coarse, share = (a + (1 - share) * b for a, b in zip((coarse, share), near, strict=True))
    picture = (coarse + 0.5 * LEAST_KNOWN) / (share + LEAST_KNOWN)  # middle grey where nothing is known
    for total, weight in reversed(values):
        wide = F.interpolate(picture, scale_factor=2, mode="bilinear", align_corners=False)
        picture = total + (1 - weight) * wide
    return picture


class RestorerVAE(Conditional):
    """See the module. The condition is (N, 4, H, W): `filled` pixels 0..1 and the mask, H and W multiples of 32."""

    def __init__(self, config: RestorerConfig) -> None:
        super().__init__(config)
        c = self.config = config
        wide = (c.channels, *c.widths)
        self.head = nn.Conv2d(4, c.channels, 4, 2, padding=1)
        self.before = nn.Sequential(*(ResidualBlock(c.channels) for _ in range(c.before)))
        pairs = list(pairwise(wide))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairs)
        self.left = nn.ModuleList(_blocks(b, n) for b, n in zip(c.widths, c.blocks, strict=True))
        self.right = nn.ModuleList(_blocks(b, n) for b, n in zip(c.widths[:-1], c.blocks, strict=False))
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairs)
        self.after = nn.Sequential(*(ResidualBlock(c.channels) for _ in range(c.after)))

    def base(self, condition: Tensor) -> Tensor:
        """What the network adds to: the filled pixels, (N, 3, H, W)."""
        return condition[:, :3]

    def picture(self, base: Tensor) -> Tensor:
        """The base as a picture, which it is here."""
        return base

    def features(self, condition: Tensor) -> Tensor:
        """What prior and decoder know, (N, 4, H, W) -> (N, channels, H / 2, W / 2)."""
        pixels, mask = condition[:, :3] - 0.5, condition[:, 3:]
        y: Tensor = self.before(self.head(torch.cat([pixels, mask], 1)))
        skips = [y]
        for down, left in zip(self.down, self.left, strict=True):
            skips.append(left(down(skips[-1])))
        y = skips.pop()
        for level in reversed(range(len(self.up))):
            y = F.pixel_shuffle(self.up[level](y), 2) + skips.pop()
            y = self.right[level - 1](y) if level else self.after(y)
        return y

    def decode(self, base: Tensor, features: Tensor, z: Tensor) -> Tensor:
        """Picture, not clamped, (N, 3, H, W), of base, features and z."""
        return F.pixel_shuffle(self.missing(features, z), self.scale) + base

    def forward(self, pixels: Tensor, hidden: Tensor) -> Tensor:
        """Restored picture 0..1 at the prior mean of pixels (N, 3, H, W) and mask (N, 1, H, W) of 0 and 1."""
        condition = torch.cat([filled(pixels, hidden), hidden], 1)
        features = self.features(condition)
        return self.decode(self.base(condition), features, self.prior(features).mean).clamp(0, 1)


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(channels, 2) for _ in range(count)))


class RestoreGraph(nn.Module):
    """`pixels` uint8 (N, H, W, 3), `mask` uint8 (N, H, W, 1) of 0 (known) and 1 (hidden) -> `restored` uint8 as pixels.

    The deployed form of `RestorerVAE.forward`; H and W are multiples of 32. Every pixel is repaired, hidden or not.
    """

    def __init__(self, model: RestorerVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """Shapes as above."""
        return torch.round(self.levels(pixels, mask)).permute(0, 2, 3, 1).to(torch.uint8)

    def levels(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """Pixels before rounding, (N, 3, H, W)."""
        x = pixels.float().permute(0, 3, 1, 2) / PIXEL_MAX
        restored: Tensor = self.model(x, mask.float().permute(0, 3, 1, 2))
        return restored * PIXEL_MAX
