"""What a lossless package is made from, of a checkpoint or of another package: the integers of layers and tables."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import torch
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from torch import Tensor

from vaert.errors import ModelError
from vaert.export.bounds import LIMIT, row_sums
from vaert.export.lossless_check import known_answers, verify
from vaert.export.lossless_graph import lossless_graphs
from vaert.export.source import Pixels, identity, trained
from vaert.export.tables import integer_table
from vaert.export.trace import Network
from vaert.lossless_tables import LosslessTables
from vaert.package import LOSSLESS_DIGITS, Package
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.models.lossless_order import SIDE, passes, tree
from vaert.trainer.models.mnist_lossless import (
    GRID,
    INPUT_MAX,
    LATENT_MAX,
    LOGITS,
    OFFSET_MAX,
    SPREADS,
    ExactNets,
    LosslessConfig,
    LosslessVAE,
    logit_of,
    spread_of,
)
from vaert.trainer.models.prior import HIDDEN_MAX, IntegerLayer

Arrays = dict[str, npt.NDArray[Any]]
FIELDS = ("weight", "bias", "shift")


@dataclass(frozen=True)
class LosslessSource:
    """Everything an exported lossless model is made from: the integers of its layers, and its tables."""

    kind: ClassVar[str] = LOSSLESS_DIGITS
    license_file: ClassVar[str] = "LICENSE_DIGITS"

    config: LosslessConfig
    profile: str
    layers: Mapping[str, IntegerLayer]
    tables: LosslessTables
    training: dict[str, Any]

    @property
    def geometry(self) -> dict[str, Any]:
        """See `vaert.package.Manifest`; levels: 256, or 2 for the values 0 and 255."""
        return {"height": SIDE, "width": SIDE, "latents": self.config.latents, "levels": self.config.levels}

    @property
    def model_id(self) -> int:
        """64-bit identity over integers and tables."""
        return identity("vaert lossless digits 1", {**self.integers(), **self.tables.arrays()})

    def integers(self) -> Arrays:
        """Integers of all layers by name."""
        return {f"{n}.{field}": value for n, layer in self.layers.items() for field, value in asdict(layer).items()}

    def networks(self) -> dict[str, Network]:
        """None: everything here is exact."""
        return {}

    def exact_graphs(self) -> dict[str, onnx.ModelProto]:
        """The graphs by name."""
        return lossless_graphs(self.layers)

    def samples(self, pictures: Sequence[Pixels]) -> dict[str, list[tuple[Tensor, ...]]]:
        """None."""
        return {}

    def files(self) -> dict[str, bytes]:
        """Files beside the graphs by name."""
        answers = io.BytesIO()
        np.savez_compressed(answers, allow_pickle=False, **known_answers(self.nets(), self.layers))
        return {
            "tables.npz": self.tables.to_bytes(),
            "known_answers.npz": answers.getvalue(),
            "weights.safetensors": save_safetensors(self.integers()),
        }

    def bounds(self) -> dict[str, int]:
        """Largest sum of each layer, below 2^24 so that float32 carries it; ModelError names the first row beyond."""
        largest = {}
        for name, layer in self.layers.items():
            highest = {"e": INPUT_MAX, "d": LATENT_MAX}.get(name, HIDDEN_MAX)  # known pixels reach 255 as well
            sums = row_sums(layer, highest)
            row = int(sums.argmax())
            if sums[row] >= LIMIT:
                raise ModelError(
                    f"layer {name}, row {row}: sums can reach {int(sums[row])}; float32 is exact only below {LIMIT}; "
                    "train with smaller weights or fewer inputs"
                )
            largest[name] = int(sums[row])
        return largest

    def nets(self) -> ExactNets:
        """The torch networks that compute these integers."""
        nets = ExactNets(self.config)
        with torch.no_grad():
            for name, layer in nets.layers().items():
                given = self.layers[name]
                shift = torch.from_numpy(given.shift.astype(np.float32))
                layer.shift.copy_(shift)
                layer.weight.copy_(torch.from_numpy(given.weight.astype(np.float32))[:, :, None, None])
                layer.weight.mul_(torch.exp2(-shift)[:, None, None, None])
                layer.bias.copy_(torch.from_numpy(given.bias.astype(np.float32)) * torch.exp2(-shift))
            nets.frozen.fill_(True)
        nets._sync()
        return nets.eval()

    def verify(self, package: Package) -> dict[str, Any]:
        """Check a written package against torch; the report for the manifest. ModelError if they disagree."""
        return verify(package, self.config.levels)


def from_checkpoint(checkpoint: Checkpoint, path: Path) -> LosslessSource:
    """The averaged weights of a training checkpoint, read from `path`. ModelError if the training is not finished."""
    model: LosslessVAE = checkpoint.ema_model()
    if not model.nets.integer:
        done = f"{checkpoint.step} of {checkpoint.train_config.steps} steps"
        raise ModelError(f"{path} has no integer networks yet ({done}); let the training finish, then export")
    return from_model(model, checkpoint.profile, training=trained(checkpoint))


def from_model(model: LosslessVAE, profile: str, *, training: dict[str, Any]) -> LosslessSource:
    """The source of a model whose networks are integer."""
    layers = {name: layer.export() for name, layer in model.nets.layers().items()}
    return LosslessSource(model.config, profile, layers, make_tables(model), training)


def from_package(package: Package) -> LosslessSource:
    """The source that a package carries. ModelError if its weights do not fit its config."""
    arrays, manifest = load_safetensors(package.read("weights.safetensors")), package.manifest
    config = LosslessConfig(**manifest.config)
    names = list(ExactNets(config).layers())
    if set(arrays) != {f"{name}.{field}" for name in names for field in FIELDS}:
        raise ModelError(f"{package.path}: weights.safetensors does not fit {manifest.profile}")
    layers = {name: IntegerLayer(*(arrays[f"{name}.{field}"] for field in FIELDS)) for name in names}
    tables = LosslessTables.from_bytes(package.read("tables.npz"))
    return LosslessSource(config, manifest.profile, layers, tables, dict(manifest.training))


def make_tables(model: LosslessVAE) -> LosslessTables:
    """Probabilities of a trained model as integers over 2^24."""
    spreads = spread_of(torch.arange(SPREADS, dtype=torch.float64)).numpy() * GRID
    logits = logit_of(torch.arange(LOGITS, dtype=torch.float64))
    decision = torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], 1).numpy()
    with torch.no_grad():
        leaf = model.leaf_log_probabilities().double().exp().numpy()
    return LosslessTables(
        passes=passes(model.config.context),
        tree=tree(model.config.levels),
        prior=integer_table(_normal(LATENT_MAX, GRID)),
        posterior=np.stack([integer_table(_normal(OFFSET_MAX, spread)) for spread in spreads]),
        decision=np.stack([integer_table(row) for row in decision]),
        leaves=tuple(integer_table(leaf[i, :count]) for i, (_, count) in enumerate(model.tree.leaves)),
    )


def _normal(reach: int, deviation: float) -> npt.NDArray[np.float64]:
    """Probabilities of round(v), v ~ N(0, deviation^2), for -reach..reach, (2 reach + 1,)."""
    edges = (np.arange(-reach, reach + 2) - 0.5) / (deviation * math.sqrt(2))
    # Of the tail on its own side, so that small differences keep their digits.
    tail = np.array([math.erfc(abs(e)) for e in edges.tolist()])
    return np.asarray(np.where(edges[:-1] * edges[1:] < 0, 2 - tail[:-1] - tail[1:], np.abs(np.diff(tail))) / 2)
