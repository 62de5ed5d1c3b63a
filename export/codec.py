"""What a codec is made from before it becomes graphs: weights, prior integers, tables; of a checkpoint or package."""

from __future__ import annotations

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
from vaert.export.bounds import prove
from vaert.export.known_answers import known_answers, to_bytes
from vaert.export.prior_graph import anchor_graph, context_graph
from vaert.export.source import Pixels, half_weights, identity, trained
from vaert.export.tables import gaussian_table, integer_table
from vaert.export.trace import Network
from vaert.export.transforms import transforms
from vaert.package import CODEC, WEIGHTS, Package
from vaert.tables import Tables
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.models.codec import HYPER_MAX, CodecConfig, CodecVAE
from vaert.trainer.models.prior import SCALES, ExactPrior, IntegerLayer, scale_of

Arrays = dict[str, npt.NDArray[Any]]
TRANSFORMS = ("analysis", "synthesis", "hyper_analysis")
SIZE_MULTIPLE, LATENT_STRIDE, HYPER_STRIDE = 64, 16, 64
SAMPLED = (10.0, 35.0, 60.0, 85.0, 100.0)  # qualities of calibration


@dataclass(frozen=True)
class CodecSource:
    """Everything an exported codec is made from. `weights` are the float16 transforms by their module names.

    The weights are rounded to float16 once, here: the graphs of every precision are made from the rounded ones, so a
    package can be exported again without loss from a `weights.safetensors` of half the size.
    """

    kind: ClassVar[str] = CODEC
    license_file: ClassVar[str] = "LICENSE_PHOTOS"

    config: CodecConfig
    profile: str
    weights: Arrays
    layers: Mapping[str, IntegerLayer]
    context_shift: npt.NDArray[np.uint8]  # (M,)
    tables: Tables
    training: Mapping[str, Any]  # for the manifest and the model card

    @property
    def model_id(self) -> int:
        """64-bit identity over prior integers, tables and source weights."""
        return identity("vaert codec 1", {**self.prior_arrays(), **self.tables.arrays(), **self.weights})

    @property
    def geometry(self) -> dict[str, Any]:
        """See `vaert.package.Manifest`."""
        return {
            "size_multiple": SIZE_MULTIPLE,
            "latent_stride": LATENT_STRIDE,
            "hyper_stride": HYPER_STRIDE,
            "halo": _halos(self.config),
        }

    def bounds(self) -> dict[str, int]:
        """See `vaert.export.bounds.prove`: the largest sum of each layer of the prior."""
        return {bound.layer: bound.largest for bound in prove(self.layers)}

    def networks(self) -> dict[str, Network]:
        """The transforms by name."""
        return transforms(self.model())

    def exact_graphs(self) -> dict[str, onnx.ModelProto]:
        """The prior's graphs by name."""
        return {
            "prior_anchor": anchor_graph(self.layers),
            "prior_context": context_graph(self.layers, self.context_shift),
        }

    def samples(self, pictures: Sequence[Pixels]) -> dict[str, list[tuple[Tensor, ...]]]:
        """Pixels for the encoder, what comes of them for the others, each picture at one of the qualities in turn."""
        networks = self.networks()
        inputs: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in networks}
        for i, picture in enumerate(pictures):
            gain, inverse = map(torch.from_numpy, self.tables.gains(SAMPLED[i % len(SAMPLED)]))
            pixels = torch.from_numpy(picture)[None]
            with torch.no_grad():
                latents = networks["encoder"].module(pixels)
            inputs["encoder"].append((pixels,))
            inputs["hyper_encoder"].append((latents, gain))
            inputs["decoder"].append(((16 * torch.round(latents * gain)).to(torch.int32), inverse / 16))
        return inputs

    def files(self) -> dict[str, bytes]:
        """The other files by name."""
        return {
            "tables.npz": self.tables.to_bytes(),
            "known_answers.npz": to_bytes(known_answers(self.model().prior, self.layers)),
            WEIGHTS: save_safetensors({**self.weights, **self.prior_arrays()}),
        }

    def verify(self, package: Package) -> dict[str, Any]:
        """See `vaert.export.verify.verify`."""
        from vaert.export.verify import verify  # which needs this module

        return verify(package, self)

    def prior_arrays(self) -> Arrays:
        """Canonical integers of the prior, by name."""
        arrays: Arrays = {"prior.context_shift": self.context_shift}
        for name, layer in self.layers.items():
            arrays |= {f"prior.{name}.{field}": value for field, value in asdict(layer).items()}
        return arrays

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


def _halos(c: CodecConfig) -> dict[str, int]:
    """How far each network sees beyond a tile, pixels; tiles start and end on latents, those of hyper-latents on these.

    A block reaches one element (its depth-wise 3x3): 8 pixels at 1/8, 16 at 1/16; the hyper-encoder's two 3x3 of
    stride 2 reach 1 element at 1/16 and 1 at 1/32.
    """
    reach = {
        "encoder": (8 * c.encoder_blocks + 16, LATENT_STRIDE),
        "hyper_encoder": (16 + 32, HYPER_STRIDE),
        "decoder": (8 * c.decoder_blocks + 16, LATENT_STRIDE),
    }
    return {name: -(-pixels // multiple) * multiple for name, (pixels, multiple) in reach.items()}


def from_checkpoint(checkpoint: Checkpoint, path: Path) -> CodecSource:
    """The averaged weights of a training checkpoint, read from `path`. ModelError if its prior is not integer yet."""
    model = checkpoint.ema_model()
    if not model.prior.integer:
        done = f"{checkpoint.step} of {checkpoint.train_config.steps} steps"
        raise ModelError(f"{path} has no integer prior yet ({done}); let the training finish, then export")
    config, state = checkpoint.model_config, model.state_dict()
    weights = half_weights({k: v for k, v in state.items() if k.split(".")[0] in TRANSFORMS}, path)
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
    layers = {name: layer.export() for name, layer in model.prior.layers().items()}
    shift = model.prior.context_shift.numpy().astype(np.uint8)
    return CodecSource(config, checkpoint.profile, weights, layers, shift, tables, trained(checkpoint))


def from_package(package: Package) -> CodecSource:
    """The source that a package carries in `weights.safetensors`. ModelError if it has none."""
    arrays = load_safetensors(package.read(WEIGHTS))
    names = sorted({key.split(".")[1] for key in arrays if key.startswith("prior.") and key.endswith(".weight")})
    layers = {
        name: IntegerLayer(*(arrays[f"prior.{name}.{field}"] for field in ("weight", "bias", "shift")))
        for name in names
    }
    return CodecSource(
        config=CodecConfig(**package.manifest.config),
        profile=package.manifest.profile,
        weights={k: v for k, v in arrays.items() if not k.startswith("prior.")},
        layers=layers,
        context_shift=arrays["prior.context_shift"],
        tables=package.tables(),
        training=package.manifest.training,
    )
