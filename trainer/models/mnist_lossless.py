"""A VAE of digits for lossless coding by bits-back: every network that drives the coder is in exact integers.

q(z | x) gives each latent a mean on a grid and one of 32 standard deviations; p(x | z) takes the pixels in passes
(`vaert.trainer.models.lossless_order`) and gives the probability of every decision of each pixel's tree from the
latents and from the pixels already known around it. Bits-back with ANS: Townsend, Bird & Barber, "Practical lossless
compression with latent variables using bits back coding", ICLR 2019. Layers are those of the codec's exact prior:
trained in float, then frozen, then trained on as simulated integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from vaert.trainer.models.blocks import clamp_st, round_st
from vaert.trainer.models.lossless_order import CELLS, PIXELS, passes, tree
from vaert.trainer.models.prior import HIDDEN_MAX, ExactLayers, PriorLayer

GRID = 32.0  # latents per standard deviation of the prior
MEAN_MAX, OFFSET_MAX = 127, 128  # of a posterior's mean, and of a latent's distance from it, grid steps
LATENT_MAX = MEAN_MAX + OFFSET_MAX
SPREADS = 32  # standard deviations that a posterior may have
SPREAD_STEP = math.log(64.0) / (SPREADS - 1)  # from 1/64 of the prior's to the prior's own
SPREAD_SCALE = 16.0  # indices per unit of the network's float output
LOGITS = 128  # logits that a decision may have
LOGIT_SCALE = 6.0  # indices per unit of log odds: they reach +-10.6
INPUT_MAX, SEEN_MAX = 127, 255  # the encoder sees half of each pixel's value


@dataclass(frozen=True)
class LosslessConfig:
    """Shape of a lossless model. Pixels have 256 levels, or the 2 levels 0 and 255."""

    levels: int = 256
    latents: int = 16
    hidden: int = 128
    features: int = 8  # of each cell of 2 x 2 pixels, from the latents
    context: int = 20  # known neighbours that a pixel sees
    width: int = 32  # of the layers that see them


PROFILES = {"mnist-lossless": LosslessConfig(), "mnist-lossless-binary": LosslessConfig(levels=2)}


def spread_of(index: Tensor) -> Tensor:
    """Standard deviation of a posterior, in units of the prior's, from its (possibly fractional) index; same shape."""
    return torch.exp((index - (SPREADS - 1)) * SPREAD_STEP)


def logit_of(index: Tensor) -> Tensor:
    """Log odds of answer 1 from an index; same shape."""
    return (index - (LOGITS - 1) / 2) / LOGIT_SCALE


@dataclass(frozen=True)
class Posterior:
    """q(z | x), each (N, L)."""

    mean: Tensor  # grid steps; whole once frozen
    index: Tensor  # 0..31; whole once frozen


class ExactNets(ExactLayers):
    """All layers of the model. In float until `freeze`, in simulated integers after it.

    Encoder: `e` hidden, `mean`, `spread`. Decoder: `d` hidden, `f` features. Pass k: `a{k}`, `b{k}` hidden, `o{k}`
    logits.
    """

    def __init__(self, config: LosslessConfig) -> None:
        super().__init__()
        self.config = config
        self.passes, self.nodes = passes(config.context), len(tree(config.levels).children)
        self.e = PriorLayer(PIXELS, config.hidden, hidden=True)
        self.mean = PriorLayer(config.hidden, config.latents, hidden=False)
        self.spread = PriorLayer(config.hidden, config.latents, hidden=False)
        self.d = PriorLayer(config.latents, config.hidden, hidden=True)
        self.f = PriorLayer(config.hidden, CELLS * config.features, hidden=True)
        for k, one in enumerate(self.passes):
            inputs = config.features + one.neighbours.shape[1]
            self.add_module(f"a{k}", PriorLayer(inputs, config.width, hidden=True))
            self.add_module(f"b{k}", PriorLayer(config.width, config.width, hidden=True))
            self.add_module(f"o{k}", PriorLayer(config.width, self.nodes, hidden=False))
            for name, array in (("pixels", one.pixels), ("cells", one.cells), ("neighbours", one.neighbours)):
                self.register_buffer(f"{name}{k}", torch.from_numpy(array.astype(np.int64)), persistent=False)
        for out in (self.mean, self.spread):
            nn.init.normal_(out.weight, std=0.01)

    @torch.no_grad()
    def freeze(self) -> None:
        """Turn the trained float networks into integers; ranges must have been observed."""
        layers = self.layers()
        scale = {n: HIDDEN_MAX / (1.1 * layer.peak.clamp_min(1e-3)) for n, layer in layers.items() if layer.hidden}
        fixed = {"input": float(INPUT_MAX), "z": GRID, "mean": GRID, "spread": SPREAD_SCALE}
        fixed |= {f"o{k}": LOGIT_SCALE for k in range(len(self.passes))}
        scale |= {name: torch.full_like(scale["e"], value) for name, value in fixed.items()}
        self.mean.bias.add_(0.5 / GRID)  # layers round down
        self.spread.bias.add_((SPREADS - 1 + 0.5) / SPREAD_SCALE)
        before = {"e": "input", "mean": "e", "spread": "e", "d": "z", "f": "d"}
        for k in range(len(self.passes)):
            # Features and known pixels share the scale of the features from here on.
            layers[f"a{k}"].weight[:, self.config.features :] *= scale["f"] / SEEN_MAX
            layers[f"o{k}"].bias.add_(LOGITS / 2 / LOGIT_SCALE)
            before |= {f"a{k}": "f", f"b{k}": f"a{k}", f"o{k}": f"b{k}"}
        for name, layer in layers.items():
            layer.freeze(scale[before[name]], scale[name])
        self.frozen.fill_(True)
        self._sync()

    def posterior(self, x: Tensor) -> Posterior:
        """q(z | x) of pixels 0..255, (N, 784)."""
        half = torch.floor(x / 2)
        h = self.e((half if self.integer else half / INPUT_MAX)[:, :, None, None])
        mean, spread = self.mean(h).flatten(1), self.spread(h).flatten(1)
        if not self.integer:
            mean, spread = mean * GRID, spread * SPREAD_SCALE + (SPREADS - 1)
        return Posterior(clamp_st(mean, -MEAN_MAX, MEAN_MAX), clamp_st(spread, 0, SPREADS - 1))

    def features(self, z: Tensor) -> Tensor:
        """Latents in grid steps, (N, L), to features, (N, cells, F)."""
        h: Tensor = self.f(self.d((z if self.integer else z / GRID)[:, :, None, None]))
        return h.reshape(len(z), CELLS, self.config.features)

    def logits(self, k: int, features: Tensor, seen: Tensor) -> Tensor:
        """Pass k: features (N, P, F) and known pixels 0..255, (N, P, K), to log odds, (N, P, nodes)."""
        x = torch.cat([features, seen if self.integer else seen / SEEN_MAX], 2).transpose(1, 2)[..., None]
        for letter in "abo":
            x = self.get_submodule(f"{letter}{k}")(x)
        logits = x[..., 0].transpose(1, 2)
        return logit_of(clamp_st(logits, 0, LOGITS - 1)) if self.integer else logits

    def inputs(self, k: int, features: Tensor, padded: Tensor) -> tuple[Tensor, Tensor]:
        """What pass k sees, from all features and from the pixels with a 0 appended, (N, 785)."""
        return features[:, self.get_buffer(f"cells{k}")], padded[:, self.get_buffer(f"neighbours{k}")]


class LosslessVAE(nn.Module):
    """Networks, prior N(0, 1) and the leaves' tables."""

    asked: Tensor
    ends: Tensor
    place: Tensor
    outside: Tensor

    def __init__(self, config: LosslessConfig) -> None:
        super().__init__()
        self.config, self.nets, self.tree = config, ExactNets(config), tree(config.levels)
        asked, ends = self.tree.answers()
        ends = np.maximum(ends, 0)  # values that the tree does not know are never asked for
        first, count = self.tree.leaves.T
        self.leaf_logits = nn.Parameter(torch.zeros(len(first), int(count.max())))
        constants = {
            "asked": torch.from_numpy(asked),
            "ends": torch.from_numpy(ends.astype(np.int64)),
            "place": torch.arange(256) - torch.from_numpy(first[ends].astype(np.int64)),  # within the leaf
            "outside": torch.arange(int(count.max()))[None] >= torch.from_numpy(count.astype(np.int64))[:, None],
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def leaf_log_probabilities(self) -> Tensor:
        """Natural logarithm of each value's probability in its leaf, (leaves, most values); -inf beyond the leaf."""
        return F.log_softmax(self.leaf_logits.masked_fill(self.outside, -math.inf), 1)

    def pass_bits(self, logits: Tensor, values: Tensor) -> Tensor:
        """Bits of pixels 0..255, int64 (N, P), given their decisions' log odds, (N, P, nodes): (N,)."""
        first = values > 0  # the only decision of most pixels
        nats = F.softplus(torch.where(first, -logits[..., 0], logits[..., 0])).sum(1)
        if self.config.levels > 2:
            digit, pixel = first.nonzero(as_tuple=True)
            value = values[digit, pixel]
            asked = self.asked[value, 1:]
            chosen = F.softplus((1.0 - 2.0 * asked) * logits[digit, pixel, 1:]) * (asked >= 0)
            leaf = self.leaf_log_probabilities()[self.ends[value], self.place[value]]
            nats = nats.index_add(0, digit, chosen.sum(1) - leaf)
        return nats / math.log(2)

    def forward(self, digits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """uint8 (N, 28, 28) to bits of the latents net of those that come back, and bits of the pixels: (N,) each.

        One sample of z; the sum is minus the ELBO (Kingma & Welling 2014, eq. 10), in bits.
        """
        values = digits.flatten(1).long()
        q = self.nets.posterior(values.float())
        spread, mean = spread_of(q.index), q.mean / GRID
        kl = (0.5 * (mean.square() + spread.square() - 1) - torch.log(spread)).sum(1) / math.log(2)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        offset = clamp_st(spread * noise * GRID, -OFFSET_MAX, OFFSET_MAX)
        features = self.nets.features(q.mean + (round_st(offset) if self.nets.integer else offset))
        padded, bits = F.pad(values.float(), (0, 1)), torch.zeros_like(kl)
        for k in range(len(self.nets.passes)):
            logits = self.nets.logits(k, *self.nets.inputs(k, features, padded))
            bits = bits + self.pass_bits(logits, values[:, self.nets.get_buffer(f"pixels{k}")])
        return kl, bits
