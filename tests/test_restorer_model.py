"""The restorer's network, its fill, its training data and objective."""

from pathlib import Path

import numpy as np
import pytest
import torch
from restorer_package import NARROW, awake
from torch import Tensor

from vaert.trainer import damage
from vaert.trainer.conditional_elbo import Restoration
from vaert.trainer.damage import DamagedPictures
from vaert.trainer.models.restorer import LEVELS, PROFILES, RestoreGraph, RestorerConfig, RestorerVAE, filled

CELL = 1 << LEVELS


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def holes(height: int, width: int) -> Tensor:
    """A mask with a large and a small hole, and hidden corners."""
    hidden = torch.zeros(1, 1, height, width)
    hidden[..., height // 4 : height // 2, width // 3 : width - width // 4] = 1
    hidden[..., :7, :3] = hidden[..., -9:, -40:] = hidden[..., height - 20, 5] = 1
    return hidden


def test_a_new_model_is_the_identity_where_nothing_is_hidden() -> None:
    model = RestorerVAE(NARROW)
    pixels = torch.rand(2, 3, 64, 96, generator=generator())
    torch.testing.assert_close(model(pixels, torch.zeros(2, 1, 64, 96)), pixels, atol=1e-6, rtol=0)


def test_a_new_model_fills_holes_and_leaves_the_rest() -> None:
    model, hidden = RestorerVAE(NARROW), holes(96, 128)
    pixels = torch.rand(1, 3, 96, 128, generator=generator())
    restored, known = model(pixels, hidden), (hidden == 0).expand(-1, 3, -1, -1)
    torch.testing.assert_close(restored[known], pixels[known], atol=1e-6, rtol=0)
    torch.testing.assert_close(restored, filled(pixels, hidden).clamp(0, 1), atol=1e-6, rtol=0)


def test_the_fill_does_not_look_at_hidden_pixels_and_stays_within_the_known() -> None:
    hidden = holes(128, 160)
    pixels = 0.3 + 0.4 * torch.rand(1, 3, 128, 160, generator=generator())
    found = filled(pixels, hidden)
    spoiled = torch.where(hidden.bool(), torch.rand(pixels.shape, generator=generator(1)), pixels)
    assert torch.equal(filled(spoiled, hidden), found)
    assert found.min() > 0.3 - 1e-3
    assert found.max() < 0.7 + 1e-3


def test_the_fill_continues_flat_and_sloping_pictures() -> None:
    hidden = torch.zeros(1, 1, 128, 128)
    hidden[..., 50:70, 40:90] = 1
    flat = torch.full((1, 3, 128, 128), 0.8)
    torch.testing.assert_close(filled(flat, hidden), flat, atol=1e-3, rtol=0)
    slope = torch.linspace(0, 1, 128).expand(1, 3, 128, 128)
    assert (filled(slope, hidden) - slope).abs().max() < 0.12  # against 0.5 for middle grey


def test_the_fill_is_middle_grey_where_nothing_is_known() -> None:
    found = filled(torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64))
    torch.testing.assert_close(found, torch.full_like(found, 0.5))


def test_hidden_pixels_do_not_matter_to_the_model() -> None:
    model, hidden = awake(), holes(96, 128)
    pixels = torch.rand(1, 3, 96, 128, generator=generator())
    spoiled = torch.where(hidden.bool(), 1 - pixels, pixels)
    assert torch.equal(model(spoiled, hidden), model(pixels, hidden))
    assert not torch.equal(model(pixels, hidden), model(pixels, 0 * hidden))


def reach(model: RestorerVAE, known_every: int | None) -> tuple[int, int]:
    """How far outside its cell the corners of a cell look, in pixels: at least over all, and at most."""
    cells = 2 * model.config.halo // CELL + 5
    side, first = cells * CELL, cells // 2 * CELL
    pixels = torch.rand(1, 3, side, side, generator=generator(1)).requires_grad_()
    hidden = torch.zeros(1, 1, side, side)
    if known_every is not None:
        hidden[:] = 1
        hidden[..., ::known_every, ::known_every] = 0
    hidden.requires_grad_()
    condition = torch.cat([filled(pixels, hidden), hidden], 1)
    features = model.features(condition)
    picture = model.decode(model.base(condition), features, model.prior(features).mean)
    distances = []
    for y, x in ((first, first), (first + CELL - 1, first + CELL - 1)):
        found = torch.autograd.grad(picture[0, :, y, x].sum(), (pixels, hidden), retain_graph=True)
        seen = torch.nonzero(torch.cat(found, 1).abs().sum((0, 1)))
        distances += [first - int(seen.min()), int(seen.max()) - (first + CELL - 1)]
    return min(distances), max(distances)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_halo_holds_all_that_a_pixel_depends_on(name: str) -> None:
    profile = PROFILES[name]
    config = RestorerConfig(
        channels=4, widths=(4,) * len(profile.widths), blocks=profile.blocks, before=profile.before,
        after=profile.after, latents=1, posterior=4,
    )  # fmt: skip
    assert (config.halo, config.repair_halo) == (profile.halo, profile.repair_halo)
    model = awake(config)
    _, furthest = reach(model, None)
    assert config.repair_halo - CELL < furthest <= config.repair_halo
    _, furthest = reach(model, known_every=37)
    assert config.halo - CELL < furthest <= config.halo


@pytest.mark.parametrize("config", [RestorerConfig(), NARROW, RestorerConfig(before=0, after=1, blocks=(1, 3, 2, 1))])
def test_halos_are_multiples_of_the_size_rule(config: RestorerConfig) -> None:
    assert config.repair_halo % config.size_multiple == config.halo % config.size_multiple == 0
    assert 0 < config.repair_halo < config.halo


def test_the_deployed_graph_is_the_model_in_bytes() -> None:
    model, hidden = awake(), holes(64, 96)
    pixels = torch.randint(256, (1, 64, 96, 3), generator=generator(), dtype=torch.uint8)
    found = RestoreGraph(model)(pixels, hidden.permute(0, 2, 3, 1).to(torch.uint8))
    expected = model(pixels.permute(0, 3, 1, 2) / 255, hidden)
    assert found.dtype == torch.uint8
    assert (found.permute(0, 3, 1, 2) - 255 * expected).abs().max() <= 0.5 + 1e-3


def pictures(tmp_path: Path) -> DamagedPictures:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        import cv2

        smooth = cv2.resize(
            rng.integers(0, 256, (12, 16, 3)).astype(np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC
        )
        assert cv2.imwrite(str(folder / f"{number}.png"), smooth)
    return DamagedPictures.load([folder], quiet=True)


def test_damage_is_a_function_of_the_generator(tmp_path: Path) -> None:
    data = pictures(tmp_path)
    first, again, other = (data.batch(np.random.default_rng(seed), 6, 64) for seed in (3, 3, 4))
    assert first.shape == (6, 64, 64, 7)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_damage_has_all_its_kinds_in_their_shares(tmp_path: Path) -> None:
    batch = pictures(tmp_path).batch(np.random.default_rng(0), 400, 64).astype(int)
    compressed = (batch[..., :3] != batch[..., 3:6]).any((1, 2, 3))
    with_hole = batch[..., 6].any((1, 2))
    shares = [(compressed & ~with_hole), (~compressed & with_hole), (compressed & with_hole), ~(compressed | with_hole)]
    wanted = [damage.DAMAGED, damage.HIDDEN, damage.BOTH, 1 - damage.DAMAGED - damage.HIDDEN - damage.BOTH]
    assert [share.mean() for share in shares] == pytest.approx(wanted, abs=0.07)
    assert np.unique(batch[..., 6]).tolist() == [0, 1]
    assert np.abs(batch[..., :3] - batch[..., 3:6]).mean() < 20  # damaged, but the same place


def test_the_jpeg_grid_is_at_the_corner_of_most_crops(tmp_path: Path) -> None:
    data, aligned = pictures(tmp_path), 0
    batch = data.batch(np.random.default_rng(1), 200, 64).astype(int)
    for crop in batch[(batch[..., :3] != batch[..., 3:6]).any((1, 2, 3))]:
        steps = np.abs(np.diff(crop[..., 3:6].sum(2), axis=1)).mean(0)  # a step at the blocks' borders
        aligned += int(np.argmax([steps[7 - k :: 8].mean() for k in range(8)]) == 0)
    assert aligned > 60


def test_holes_are_bounded_and_of_both_kinds() -> None:
    masks = [damage.hidden(96, np.random.default_rng(seed)) for seed in range(300)]
    shares = [mask.mean() for mask in masks]
    assert max(shares) <= damage.LARGEST_HOLE + 0.01
    assert np.mean(shares) > 0.05
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if rows.size:
            boxes.append(bool(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()))
    assert 0.3 < np.mean(boxes) < 0.6  # full boxes are rectangles


@pytest.mark.parametrize("seed", range(4))
def test_compression_changes_little_and_keeps_the_shape(seed: int) -> None:
    y, x = np.mgrid[:48, :56]
    pixels = np.stack([128 + 90 * np.sin(y / 9 + k) * np.cos(x / 7) for k in range(3)], -1).astype(np.uint8)
    found = damage.compress(pixels, np.random.default_rng(seed))
    assert found.shape == pixels.shape
    assert 0 < np.abs(found.astype(int) - pixels).mean() < 15  # RGB came back as RGB


def test_the_objective_trains_every_parameter_and_repeats(tmp_path: Path) -> None:
    model = awake().train()
    objective = Restoration(model)
    objective.progress = 1.0
    batch = torch.from_numpy(pictures(tmp_path).batch(np.random.default_rng(2), 4, 64))
    losses = []
    for _ in range(2):
        loss, metrics = objective(batch, generator(3))
        losses.append(loss.item())
    loss.backward()
    assert losses[0] == losses[1]
    assert set(metrics) == {"psnr", "detail", "kl"}
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_error_looks_at_luma_beside_rgb() -> None:
    objective, clean = Restoration(awake()), torch.full((1, 3, 8, 8), 0.5)
    known = torch.zeros(1, 4, 8, 8)
    red, blue = clean.clone(), clean.clone()
    red[:, 0] += 0.1
    blue[:, 2] += 0.1
    assert objective.error(red, clean, known) > objective.error(blue, clean, known) > 0
    assert objective.error(clean, clean, known) == 0
    assert objective.error(red, clean, known).item() == pytest.approx(0.5 * (0.1 / 3 + 0.299 * 0.1), rel=1e-4)


def test_the_best_guess_is_the_median_of_known_pixels_and_the_mean_of_hidden_ones() -> None:
    objective = Restoration(awake())
    target = torch.tensor([0.0, 0.0, 0.9]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    for hidden, best in ((0, 0.0), (1, 0.3)):
        given = torch.full((3, 4, 4, 4), float(hidden))
        guesses = np.linspace(0, 0.9, 10)
        errors = [objective.error(torch.full_like(target, guess), target, given).item() for guess in guesses]
        assert guesses[np.argmin(errors)] == pytest.approx(best)
