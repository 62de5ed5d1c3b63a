"""Training pictures, run configs and checkpoints."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vaert.errors import DataError, ModelError, OutputError
from vaert.image import encode_image
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.config import CODEC_STAGES, Stage, TrainConfig
from vaert.trainer.data import Pictures, find_pictures, load_rgb
from vaert.trainer.draw import draw
from vaert.trainer.models.codec import CodecConfig, CodecVAE
from vaert.trainer.tasks import CODEC

TINY = CodecConfig(
    channels=12, latents=16, hyper=8, hidden=8, mix=12, encoder_blocks=1, decoder_blocks=1, expansion=2, anchors=4
)


def save_picture(path: Path, height: int, width: int, *, channels: int = 3, seed: int = 0) -> None:
    shape = (height, width, channels) if channels > 1 else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.write_bytes(encode_image(pixels, format="png"))


def test_pictures_are_found_in_sub_folders_and_sorted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("z.PNG", "a/b/x.jpg", "a/y.webp", "a/notes.txt"):
        (tmp_path / name).write_bytes(b"")
    found = [str(path.relative_to(tmp_path)) for path in find_pictures([tmp_path])]
    assert found == ["a/b/x.jpg", "a/y.webp", "z.PNG"]


def test_a_missing_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder; --data takes a folder of pictures"):
        find_pictures([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="holds no pictures"):
        find_pictures([tmp_path])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, channels: int) -> None:
    save_picture(tmp_path / "p.png", 20, 30, channels=channels)
    pixels = load_rgb(tmp_path / "p.png")
    assert pixels.shape == (20, 30, 3)
    if channels < 3:
        assert (pixels[..., 0] == pixels[..., 2]).all()


def test_unreadable_and_small_pictures_are_named_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "dangling.png").mkdir()  # a folder, so never listed
    save_picture(tmp_path / "good.png", 64, 64)
    save_picture(tmp_path / "small.png", 63, 200)
    pictures = Pictures.load([tmp_path])
    assert len(pictures.items) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("vaert: warning: skipped: ")
    assert "broken.png" in lines[0]
    assert "small.png is smaller than 64 pixels" in lines[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_without_permission_is_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_picture(tmp_path / "good.png", 64, 64)
    save_picture(tmp_path / "secret.png", 64, 64)
    (tmp_path / "secret.png").chmod(0)
    assert len(Pictures.load([tmp_path]).items) == 1
    assert "secret.png: Permission denied" in capsys.readouterr().err


def test_only_unreadable_pictures_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(DataError, match="no readable picture of 64 pixels a side or more in"):
        Pictures.load([tmp_path])


def test_one_picture_in_64_is_held_out_and_shards_are_disjoint(tmp_path: Path) -> None:
    for number in range(65):
        save_picture(tmp_path / f"{number:03}.png", 64, 64, seed=number)
    everything = Pictures.load([tmp_path])
    assert (len(everything.items), len(everything.held_out)) == (64, 1)
    np.testing.assert_array_equal(everything.held_out[0], load_rgb(tmp_path / "063.png"))
    shards = [Pictures.load([tmp_path], shard=(rank, 2)) for rank in (0, 1)]
    assert [len(shard.items) for shard in shards] == [33, 32]
    seen = {np.asarray(item).tobytes() for shard in shards for item in shard.items}
    assert len(seen) == 65


@pytest.mark.parametrize("size", [(64, 64), (64, 300), (127, 129), (400, 300)])
@pytest.mark.parametrize("crop", [64, 128, 192])
def test_crops_have_the_size_asked_for(size: tuple[int, int], crop: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    batch = Pictures([pixels], [pixels]).batch(np.random.default_rng(1), 6, crop)
    assert batch.shape == (6, crop, crop, 3)
    assert batch.dtype == np.uint8


def test_crops_of_paths_and_of_pixels_are_the_same(tmp_path: Path) -> None:
    save_picture(tmp_path / "p.png", 200, 150)
    path, pixels = tmp_path / "p.png", load_rgb(tmp_path / "p.png")
    from_path = Pictures([path], [pixels]).batch(np.random.default_rng(5), 4, 64)
    from_pixels = Pictures([pixels], [pixels]).batch(np.random.default_rng(5), 4, 64)
    np.testing.assert_array_equal(from_path, from_pixels)


def test_a_step_draws_the_same_again_and_every_part_of_its_key_matters() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    pictures, stage, cpu = Pictures([pixels], [pixels]), Stage(0, 2, 64), torch.device("cpu")
    crops, noise = draw(pictures, stage, (7, 8, 0), cpu)
    again, noise_again = draw(pictures, stage, (7, 8, 0), cpu)
    assert torch.equal(crops, again)
    assert noise.initial_seed() == noise_again.initial_seed()
    for key in ((6, 8, 0), (7, 9, 0), (7, 8, 1)):
        other, other_noise = draw(pictures, stage, key, cpu)
        assert not torch.equal(crops, other)
        assert noise.initial_seed() != other_noise.initial_seed()


def test_stages_begin_at_their_fraction_of_the_run() -> None:
    config = TrainConfig(steps=1000)
    for step, expected in ((0, 0), (249, 0), (250, 1), (799, 1), (800, 2), (999, 2)):
        assert config.stage(step) == CODEC_STAGES[expected]


def test_eight_steps_are_long_enough_and_seven_are_not() -> None:
    assert all(TrainConfig(steps=steps).long_enough for steps in range(8, 3000))
    assert not TrainConfig(steps=7).long_enough
    assert not TrainConfig(steps=1).long_enough


def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    model = CodecVAE(TINY)
    optimizer = torch.optim.Adam(model.parameters())
    state = model.state_dict()
    log = {"count": 3, "sums": {"loss": torch.tensor(1.5)}}
    config = TrainConfig(steps=77, stages=(Stage(0, 2, 64),))
    return Checkpoint("codec", "fast", TINY, config, 5, 1.25, state, state, optimizer.state_dict(), ("d",), 9, log)


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    saved = checkpoint()
    saved.save(tmp_path / "c.pt")
    loaded = Checkpoint.load(tmp_path / "c.pt")
    assert replace(loaded, model={}, ema={}, optimizer={}) == replace(saved, model={}, ema={}, optimizer={})
    for name, tensor in saved.ema.items():
        assert torch.equal(loaded.ema[name], tensor)
    model = loaded.ema_model()
    assert not model.training
    assert torch.equal(model.log_gain, saved.ema["log_gain"])


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    checkpoint().save(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"c\.pt: cannot be written: No space left on device"):
        replace(checkpoint(), step=6).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "foreign", "list"])
def test_a_damaged_checkpoint_is_a_model_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.pt"
    checkpoint().save(path)
    data = bytearray(path.read_bytes())
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("weights")
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flipped":
            place = data.index(weight_bytes(path))
            data[place] ^= 1
            path.write_bytes(data)
        case "foreign":
            torch.save({"format": 99}, path)
        case "list":
            torch.save([1, 2], path)
    with pytest.raises(ModelError, match=r"c\.pt is (damaged|a checkpoint of another vaert version)") as caught:
        Checkpoint.load(path)
    assert "\n" not in str(caught.value)


def weight_bytes(path: Path) -> bytes:
    """The bytes of a weight as they lie in the file."""
    weight: bytes = Checkpoint.load(path).ema["analysis.embed.weight"].numpy().tobytes()
    return weight


def test_a_missing_checkpoint_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.pt"):
        Checkpoint.load(tmp_path / "none.pt")


def test_weights_of_another_shape_are_a_model_error() -> None:
    other = replace(checkpoint(), model_config=replace(TINY, channels=16))
    with pytest.raises(ModelError, match="do not fit its own config"):
        other.ema_model()
    model = CodecVAE(other.model_config)
    with pytest.raises(ModelError, match="do not fit its own config"):
        other.restore(model, CodecVAE(other.model_config), torch.optim.Adam(model.parameters()))


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match="no profile named 'huge'; there are base, fast, hq"):
        CODEC.profile("huge")
