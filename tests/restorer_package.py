"""A restorer of a few channels with random weights, exported: as deep as the real one, so the halo is its own."""

import tempfile
from functools import cache
from pathlib import Path

import torch

from vaert.export.pipeline import write_fp32
from vaert.export.restorer import RestorerSource
from vaert.export.source import half_weights
from vaert.package import Package
from vaert.trainer.models.restorer import RestorerConfig, RestorerVAE

_FOLDER = tempfile.TemporaryDirectory(prefix="vaert-test-")  # removed at exit
NARROW = RestorerConfig(channels=4, widths=(4, 4, 4, 4), latents=1, posterior=4)


def awake(config: RestorerConfig = NARROW, *, noise: float = 0.15) -> RestorerVAE:
    """A model whose zero layers are not zero, as after training, and strong enough that the whole halo counts."""
    torch.manual_seed(5)
    model = RestorerVAE(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model.eval()


def make_source(*, noise: float = 0.15) -> RestorerSource:
    """With `noise` 0 known pixels stay as they are, and holes get what the fill makes of them."""
    weights = half_weights(awake(noise=noise).state_dict(), Path("made"))
    return RestorerSource(NARROW, "restore", weights, {"steps": 0})


@cache
def shared_package() -> Package:
    """The package of `make_source()`, made once, since tracing takes long; not to be changed."""
    return write_fp32(make_source(), Path(_FOLDER.name, "restore"))
