"""The upscaler's network and objective: base, z, sizes, halo, gradients, ONNX."""

import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.export import Dim

from vaert.resample import axis_matrix
from vaert.resample import downscale as downscale_pixels
from vaert.trainer.conditional_elbo import MARGIN, Upscaling, downscale, small_and_large, turned
from vaert.trainer.models.conditional import Gaussian
from vaert.trainer.models.upscaler import (
    PROFILES,
    UpscaleGraph,
    UpscalerConfig,
    UpscalerVAE,
    bicubic_kernel,
)


def tiny(scale: int = 4) -> UpscalerConfig:
    return UpscalerConfig(scale=scale, channels=8, blocks=1, latents=3, posterior=8)


def awake(config: UpscalerConfig, seed: int = 0) -> UpscalerVAE:
    """A model whose zero layers are not zero, as after training."""
    torch.manual_seed(seed)
    model = UpscalerVAE(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def crops(count: int, side: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (9, 12)])
def test_a_new_model_is_bicubic(scale: int, size: tuple[int, int]) -> None:
    model = UpscalerVAE(tiny(scale))
    small = torch.rand(2, 3, *size)
    noise = torch.randn(2, model.config.latents, *size)
    rows, columns = (torch.from_numpy(axis_matrix(n, n * scale)).float() for n in size)
    torch.testing.assert_close(model(small, noise), (rows @ small @ columns.T).clamp(0, 1), atol=1e-5, rtol=0)


def test_bicubic_kernel_keeps_flat_areas_flat() -> None:
    kernel = bicubic_kernel(3)
    assert kernel.shape == (27, 1, 5, 5)
    torch.testing.assert_close(kernel.sum((1, 2, 3)), torch.ones(27))


def test_divergence_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (Gaussian(*torch.randn(2, 4, 5, generator=generator)) for _ in range(2))
    expected = kl_divergence(Normal(a.mean, a.log_std.exp()), Normal(b.mean, b.log_std.exp()))
    torch.testing.assert_close(a.divergence(b), expected)


def test_sample_has_the_stated_moments() -> None:
    moments = Gaussian(torch.tensor([2.0]), torch.tensor([-1.0]))
    drawn = moments.sample(torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)))
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(np.exp(-1), abs=0.02)


def test_noise_changes_the_picture_where_it_is_and_nowhere_far() -> None:
    model = awake(tiny(2))
    small, noise = torch.full((1, 3, 12, 12), 0.5), torch.zeros(1, 3, 12, 12)
    quiet = model(small, noise)
    noise[0, :, 2, 2] = 3
    changed = (model(small, noise) != quiet).any(1)[0]
    assert changed[2:8, 2:8].any()
    assert not changed[8:].any()  # the tail sees one small pixel further
    assert not changed[:, 8:].any()


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_halo_holds_all_that_a_pixel_depends_on(name: str) -> None:
    config = PROFILES[name]
    model = awake(UpscalerConfig(scale=config.scale, channels=4, blocks=config.blocks, latents=2, posterior=4))
    side, scale = 2 * config.halo + 7, config.scale
    small = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1), requires_grad=True)
    middle = side // 2
    features = model.features(small)
    large = model.decode(model.base(small), features, model.prior(features).mean)
    inside = slice(middle * scale, (middle + 1) * scale)
    large[0, :, inside, inside].sum().backward()  # type: ignore[no-untyped-call]
    assert small.grad is not None
    seen = torch.nonzero(small.grad[0].abs().sum(0))
    assert seen.min() == middle - config.halo
    assert seen.max() == middle + config.halo


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_profiles_stay_light(name: str) -> None:
    """At most about 0.4 M multiply-adds per small pixel in what runs after deployment."""
    model = UpscalerVAE(PROFILES[name])
    weights = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 4 and not n.startswith("posterior."))
    assert weights + model.base_kernel.numel() < 420_000


@pytest.mark.parametrize("scale", [2, 4])
def test_down_scaling_in_torch_matches_that_of_pictures(scale: int) -> None:
    batch = crops(2, 24)
    found = downscale(batch.permute(0, 3, 1, 2).float(), scale).permute(0, 2, 3, 1).numpy()
    expected = np.stack([downscale_pixels(picture.numpy(), scale) for picture in batch])
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 1e-3


def test_pairs_lie_on_top_of_each_other() -> None:
    """A slow ramp: the small picture is the large one's block means, margins included."""
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64))[None, :, :, None].repeat(3, 3).astype(np.uint8)
    small, large = small_and_large(torch.from_numpy(ramp), 4)
    side = 16 - 2 * MARGIN
    assert small.shape == (1, 3, side, side)
    assert large.shape == (1, 3, 4 * side, 4 * side)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(large, 4), small, atol=1.01 / 255, rtol=0)


def test_turns_are_the_eight_of_a_square() -> None:
    batch = crops(1, 5)
    seen = {turned(batch, torch.Generator().manual_seed(seed)).contiguous().numpy().tobytes() for seed in range(100)}
    assert len(seen) == 8


def test_objective_trains_every_parameter_and_repeats() -> None:
    model = awake(tiny()).train()
    objective = Upscaling(model)
    objective.progress = 1.0
    losses = []
    for _ in range(2):
        loss, metrics = objective(crops(2, 48), torch.Generator().manual_seed(3))
        losses.append(loss.item())
    loss.backward()
    assert losses[0] == losses[1]
    assert set(metrics) == {"psnr", "detail", "kl"}
    assert all(not m.requires_grad and m.ndim == 0 for m in metrics.values())
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_the_weight_of_the_kl_grows_with_the_run() -> None:
    objective = Upscaling(awake(tiny()))
    losses = []
    for progress in (0.0, 0.1, 0.2, 1.0):
        objective.progress = progress
        losses.append(objective(crops(1, 48), torch.Generator().manual_seed(0))[0].item())
    assert losses[0] < losses[1] < losses[2]
    assert losses[1] - losses[0] == pytest.approx(losses[2] - losses[1], rel=1e-3)
    assert losses[2] == losses[3]


def test_objective_learns_in_bfloat16() -> None:
    torch.manual_seed(0)
    model = UpscalerVAE(tiny(2))
    objective = Upscaling(model)
    objective.amp = True
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    y, x = np.mgrid[:28, :28]
    waves = [128 + 90 * np.sign(np.sin(0.9 * y + k) * np.sin(0.7 * x - k)) for k in range(3)]
    batch = torch.from_numpy(np.stack(waves, -1)[None].astype(np.uint8))
    found = []
    for step in range(60):
        loss, metrics = objective(batch, torch.Generator().manual_seed(step % 4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(metrics["psnr"].item())
    assert np.mean(found[-4:]) > np.mean(found[:4]) + 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[UpscaleGraph, Path]:
    graph = UpscaleGraph(awake(tiny())).eval()
    path = tmp_path_factory.mktemp("graph") / "upscale.onnx"
    sizes = {0: Dim("n"), 1: Dim("h"), 2: Dim("w")}
    example = crops(2, 6), torch.zeros(2, 6, 6, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(graph, example, dynamo=True, dynamic_shapes=(sizes, sizes), verbose=False)
    assert program is not None
    program.save(path)
    return graph, path


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 6)])
def test_onnx_runtime_gives_the_same_pixels(exported: tuple[UpscaleGraph, Path], size: tuple[int, int]) -> None:
    graph, path = exported
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, *size, 3), dtype=np.uint8)
    noise = rng.standard_normal((1, *size, 3)).astype(np.float32)
    names = [value.name for value in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (pixels, noise), strict=True)))
    with torch.no_grad():
        expected = graph(torch.from_numpy(pixels), torch.from_numpy(noise)).numpy()
    assert found.shape == (1, 4 * size[0], 4 * size[1], 3)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1
