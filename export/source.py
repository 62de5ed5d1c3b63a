"""What a model is made from before it becomes graphs: weights, prior integers, tables; of a checkpoint or package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from vaert.errors import ModelError
from vaert.export.tables import gaussian_table, integer_table
from vaert.package import Package
from vaert.tables import Tables
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.models.codec import HYPER_MAX, CodecConfig, CodecVAE
from vaert.trainer.models.prior import SCALES, ExactPrior, IntegerLayer, scale_of

Arrays = dict[str, npt.NDArray[Any]]
TRANSFORMS = ("analysis", "synthesis", "hyper_analysis")


@dataclass(frozen=True)
class CodecSource:
    """Everything an exported codec is made from. `weights` are the float16 transforms by their module names.

    The weights are rounded to float16 once, here: the graphs of every precision are made from the rounded ones, so a
    package can be exported again without loss from a `weights.safetensors` of half the size.
    """

    config: CodecConfig
    profile: str
    weights: Arrays
    layers: Mapping[str, IntegerLayer]
    context_shift: npt.NDArray[np.uint8]  # (M,)
    tables: Tables
    training: Mapping[str, Any]  # for the manifest and the model card

    @property
    def model_id(self) -> int:
        """64-bit identity: hash over prior integers, tables and source weights, in a canonical order."""
        digest = hashlib.sha256(b"vaert codec 1")
        for name, array in sorted({**self.prior_arrays(), **self.tables.arrays(), **self.weights}.items()):
            little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
            digest.update(f"{name} {little.dtype.str} {little.shape}".encode() + little.tobytes())
        return int.from_bytes(digest.digest()[:8], "little")

    def prior_arrays(self) -> Arrays:
        """Canonical integers of the prior, by name."""
        arrays: Arrays = {"prior.context_shift": self.context_shift}
        for name, layer in self.layers.items():
            arrays |= {f"prior.{name}.{field}": value for field, value in asdict(layer).items()}
        return arrays

    def safetensors(self) -> bytes:
        """The `weights.safetensors` from which `from_package` rebuilds this source."""
        return save_safetensors({**self.weights, **self.prior_arrays()})

    def model(self) -> CodecVAE:
        """The torch model of these weights and integers, in evaluation mode."""
        model = CodecVAE(self.config)
        state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in self.weights.items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        wrong = [name for name in missing if name.split(".")[0] in TRANSFORMS] + unexpected
        if wrong:
            raise ModelError(f"weights do not fit the profile: {', '.join(wrong[:3])}")
        load_integers(model.prior, self.layers, self.context_shift)
        with torch.no_grad():
            model.log_gain.copy_(torch.from_numpy(self.tables.log_gain))
            model.log_inverse_gain.copy_(torch.from_numpy(self.tables.log_inverse_gain))
        return model.eval()


@torch.no_grad()
def load_integers(prior: ExactPrior, layers: Mapping[str, IntegerLayer], context_shift: npt.NDArray[np.uint8]) -> None:
    """Put shipped integers into a torch prior, which then reproduces them exactly."""
    for name, layer in prior.layers().items():
        integers = layers[name]
        shift = torch.from_numpy(integers.shift.astype(np.float32))
        layer.shift.copy_(shift)
        layer.weight.copy_(torch.from_numpy(integers.weight.astype(np.float32))[:, :, None, None])
        layer.weight.mul_(torch.exp2(-shift)[:, None, None, None])
        layer.bias.copy_(torch.from_numpy(integers.bias.astype(np.float32)) * torch.exp2(-shift))
        layer.weight_scale.fill_(1.0)
        layer.bias_scale.fill_(1.0)
    prior.context_shift.copy_(torch.from_numpy(context_shift.astype(np.float32)))
    prior.frozen.fill_(True)
    prior._sync()


def from_checkpoint(path: Path) -> CodecSource:
    """The averaged weights of a training checkpoint. ModelError if its prior is not integer yet."""
    checkpoint = Checkpoint.load(path)
    model = checkpoint.ema_model()
    if not model.prior.integer:
        done = f"{checkpoint.step} of {checkpoint.train_config.steps} steps"
        raise ModelError(f"{path} has no integer prior yet ({done}); let the training finish, then export")
    config, state = checkpoint.model_config, model.state_dict()
    weights = {k: v.numpy().astype(np.float16) for k, v in state.items() if k.split(".")[0] in TRANSFORMS}
    if infinite := [name for name, array in weights.items() if not np.isfinite(array).all()]:
        raise ModelError(f"{path}: weights beyond float16's range in {infinite[0]}; train with a lower learning rate")
    z = torch.arange(-HYPER_MAX, HYPER_MAX + 1.0, dtype=torch.float64)
    with torch.no_grad():
        density = model.density.double().probability(z[None, None, :, None].expand(1, config.hyper, -1, 1))
    scales = scale_of(torch.arange(SCALES, dtype=torch.float64)).numpy()
    tables = Tables(
        hyper=np.stack([integer_table(row) for row in density[0, :, :, 0].numpy()]),
        scale=tuple(gaussian_table(scale) for scale in scales[1:]),
        log_gain=model.log_gain.detach().numpy(),
        log_inverse_gain=model.log_inverse_gain.detach().numpy(),
    )
    training = {
        "data": list(checkpoint.data),
        "pictures": checkpoint.pictures,
        "steps": checkpoint.step,
        "hours": round(checkpoint.seconds / 3600, 2),
        "seed": checkpoint.train_config.seed,
    }
    layers = {name: layer.export() for name, layer in model.prior.layers().items()}
    shift = model.prior.context_shift.numpy().astype(np.uint8)
    return CodecSource(config, checkpoint.profile, weights, layers, shift, tables, training)


def from_package(package: Package) -> CodecSource:
    """The source that a package carries in `weights.safetensors`. ModelError if it has none."""
    arrays = load_safetensors(package.read("weights.safetensors"))
    names = sorted({key.split(".")[1] for key in arrays if key.startswith("prior.") and key.endswith(".weight")})
    layers = {
        name: IntegerLayer(*(arrays[f"prior.{name}.{field}"] for field in ("weight", "bias", "shift")))
        for name in names
    }
    source = CodecSource(
        config=CodecConfig(**package.manifest.config),
        profile=package.manifest.profile,
        weights={k: v for k, v in arrays.items() if not k.startswith("prior.")},
        layers=layers,
        context_shift=arrays["prior.context_shift"],
        tables=package.tables(),
        training=package.manifest.training,
    )
    if source.model_id != package.manifest.model_id:
        raise ModelError(f"{package.path}: weights.safetensors is not what this package's graphs were made from")
    return source
