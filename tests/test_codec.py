"""The codec on pictures of every kind and size, its options, and the files and backends that it must refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaert import bitstream
from vaert.bitstream import Kind
from vaert.errors import BitstreamError, ImageError, ModelError, OptionError, VaertError
from vaert.image import encode_image, read_image
from vaert.runtime.codec import Codec

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
SIZES = ((1, 1), (1, 65), (63, 64), (64, 64), (65, 130), (200, 333))


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec("fast", threads=1)


@pytest.fixture(scope="module")
def kodim23(root: Path) -> Pixels:
    return read_image((root / "examples/kodim23.png").read_bytes(), name="kodim23", max_pixels=2**20).pixels


def picture(kodim23: Pixels, size: tuple[int, int], channels: int) -> Pixels:
    """A crop of that many channels; alpha is noise over a ramp."""
    crop = kodim23[100 : 100 + size[0], 200 : 200 + size[1]]
    ramp = np.add.outer(np.arange(size[0]), np.arange(size[1]))
    alpha = ((ramp + np.random.default_rng(0).integers(0, 9, size)) % 256).astype(np.uint8)
    if channels == 1:
        return crop[..., 1]
    if channels == 2:
        return np.dstack([crop[..., 1], alpha])
    return crop if channels == 3 else np.dstack([crop, alpha])


def psnr(a: Pixels, b: Pixels) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.square(a.astype(float) - b).mean())))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_round_trip(codec: Codec, kodim23: Pixels, size: tuple[int, int], channels: int) -> None:
    original = picture(kodim23, size, channels)
    data = codec.compress(original, 70)
    decoded = codec.decompress(data)
    assert decoded.dtype == np.uint8
    assert decoded.shape == original.shape
    colours = channels - (channels in (2, 4))
    flat, seen = (x.reshape(*size, -1) for x in (original, decoded))
    assert np.array_equal(seen[..., colours:], flat[..., colours:])
    assert psnr(seen[..., :colours], flat[..., :colours]) > 26
    header = bitstream.read_header(data)
    assert (header.height, header.width, header.channels) == (*size, channels)
    assert header.model_id == codec.package.manifest.model_id


def test_decoded_is_what_the_encoder_expects(codec: Codec, kodim23: Pixels) -> None:
    crop = kodim23[:100, :150]
    analysed = codec.analyse(crop)
    attempt = codec.attempt(analysed, 50 * 256)
    assert np.array_equal(codec.reconstruct(analysed, attempt), codec.decompress(codec.write(analysed, attempt)))


def test_the_default_quality_is_60(codec: Codec, kodim23: Pixels) -> None:
    assert codec.compress(kodim23[:64, :64]) == codec.compress(kodim23[:64, :64], 60)


def test_quality_orders_size_and_fidelity(codec: Codec, kodim23: Pixels) -> None:
    crop = kodim23[100:356, 200:456]
    files = [codec.compress(crop, quality) for quality in (1, 30.5, 60, 100)]
    fidelity = [psnr(codec.decompress(data), crop) for data in files]
    assert sorted(fidelity) == fidelity
    assert sorted(map(len, files)) == [len(data) for data in files]
    assert bitstream.read_header(files[1]).quality == 30.5


@pytest.mark.parametrize("quality", [0, 0.99, 100.01, -1, 1e300, float("nan"), float("inf")])
def test_quality_outside_its_range(codec: Codec, quality: float) -> None:
    with pytest.raises(OptionError, match="quality must be 1 to 100, not"):
        codec.compress(np.zeros((4, 4, 3), np.uint8), quality)


def test_conflicting_targets(codec: Codec) -> None:
    with pytest.raises(OptionError, match="give one of quality, bpp, size and psnr, not quality and psnr"):
        codec.compress(np.zeros((4, 4, 3), np.uint8), 50, psnr=30)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 5), (0, 4, 3), (4, 0), (2, 2, 2, 2)])
def test_arrays_that_are_no_pictures(codec: Codec, shape: tuple[int, ...]) -> None:
    with pytest.raises(VaertError):
        codec.compress(np.zeros(shape, np.uint8))


def test_only_bytes_are_pixels(codec: Codec) -> None:
    with pytest.raises(VaertError, match="uint8"):
        codec.compress(np.zeros((4, 4, 3), np.float32))


def test_any_memory_layout(codec: Codec, kodim23: Pixels) -> None:
    crop = np.ascontiguousarray(kodim23[:70, :90])
    expected = codec.compress(crop, 40)
    fixed = crop.copy()
    fixed.flags.writeable = False
    for other in (
        kodim23[:70, :90],
        np.asfortranarray(crop),
        crop[::-1][::-1],
        crop[..., ::-1].copy()[..., ::-1],
        fixed,
    ):
        assert codec.compress(other, 40) == expected
    grey = crop[..., 0]
    assert codec.compress(grey, 40) == codec.compress(grey.copy(), 40)
    assert codec.compress(crop[..., :2], 40) == codec.compress(crop[..., :2].copy(), 40)


def test_input_is_left_alone(codec: Codec, kodim23: Pixels) -> None:
    crop = np.dstack([kodim23[:70, :90], kodim23[:70, :90, 0]])
    before = crop.copy()
    codec.compress(crop, 40)
    assert np.array_equal(crop, before)


def test_files_repeat(codec: Codec, kodim23: Pixels) -> None:
    crop = kodim23[:130, :90]
    assert codec.compress(crop, 33) == codec.compress(crop, 33) == Codec("fast", threads=2).compress(crop, 33)


def test_another_models_file(codec: Codec, kodim23: Pixels) -> None:
    data = codec.compress(kodim23[:64, :64])
    stream = bitstream.parse_photo(data)
    other = bitstream.write(replace(stream, header=replace(stream.header, model_id=0xABC)))
    with pytest.raises(ModelError, match=r"made by model 0000000000000abc, not by .*--model"):
        codec.decompress(other)
    with pytest.raises(ModelError, match="made by model 0000000000000abc, which is not installed"):
        Codec.for_file(other)
    assert np.array_equal(Codec.for_file(data, threads=1).decompress(data), codec.decompress(data))


@pytest.mark.parametrize("kind", [Kind.DIGITS, Kind.LOSSLESS_DIGITS])
def test_other_kinds_of_file(codec: Codec, kodim23: Pixels, kind: Kind) -> None:
    stream = bitstream.parse_photo(codec.compress(kodim23[:64, :64]))
    header = replace(stream.header, kind=kind, width=28, height=28, channels=1, quality_u16=bitstream.LOSSLESS_QUALITY)
    other = bitstream.write(bitstream.DigitsStream(header, 1, 0, b"", None))
    with pytest.raises(BitstreamError, match="not a photo"):
        codec.decompress(other)


def test_max_pixels(codec: Codec, kodim23: Pixels) -> None:
    data = codec.compress(kodim23[:64, :65])
    assert codec.decompress(data, max_pixels=64 * 65).shape == (64, 65, 3)
    with pytest.raises(BitstreamError, match=r"65x64 = 4160 pixels, the limit is 4159"):
        codec.decompress(data, max_pixels=64 * 65 - 1)


def test_alpha_that_is_no_picture_is_the_files_fault(codec: Codec, kodim23: Pixels) -> None:
    """The section's checksum is right, its PNG is damaged: as much a BitstreamError as any other damage."""
    stream = bitstream.parse_photo(codec.compress(picture(kodim23, (64, 64), 4)))
    assert stream.alpha is not None
    for broken in (stream.alpha[:60], stream.alpha[:50] + b"\0" + stream.alpha[51:], stream.alpha[:-12]):
        with pytest.raises(BitstreamError, match="alpha section"):
            codec.decompress(bitstream.write(replace(stream, alpha=broken)))


def test_alpha_of_another_size_is_refused(codec: Codec, kodim23: Pixels) -> None:
    stream = bitstream.parse_photo(codec.compress(picture(kodim23, (64, 64), 2)))
    with pytest.raises(BitstreamError, match=r"alpha|ALPHA"):
        codec.decompress(
            bitstream.write(replace(stream, alpha=encode_image(np.zeros((64, 63), np.uint8), format="png")))
        )


def test_a_quality_that_was_changed_in_the_header_changes_no_latents(codec: Codec, kodim23: Pixels) -> None:
    stream = bitstream.parse_photo(codec.compress(kodim23[:64, :64], 50))
    brighter = bitstream.write(replace(stream, header=replace(stream.header, quality_u16=25600)))
    latents = codec.decode_latents(stream)
    assert np.array_equal(codec.decode_latents(bitstream.parse_photo(brighter)), latents)
    assert not np.array_equal(codec.decompress(brighter), codec.decompress(bitstream.write(stream)))


@pytest.mark.parametrize("tile", [0, 63, 100, -64])
def test_tiles_that_are_no_multiple(tile: int) -> None:
    with pytest.raises(OptionError, match="tile must be a multiple of 64"):
        Codec("fast", tile=tile)


def test_options_of_the_backend() -> None:
    with pytest.raises(OptionError, match="threads must be at least 1, not 0"):
        Codec("fast", threads=0)
    with pytest.raises(OptionError, match="no backend named 'tpu'; there are auto, cpu"):
        Codec("fast", backend="tpu")
    with pytest.raises(ModelError, match="no model 'no such model'"):
        Codec("no such model")


def test_pictures_that_cannot_be_read_are_named() -> None:
    with pytest.raises(ImageError):
        read_image(b"no picture", name="x", max_pixels=9)
