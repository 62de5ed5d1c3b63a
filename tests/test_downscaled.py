"""Photos that are coded at half their size: files, sizes, targets, commands; and photos enlarged once decoded."""

import io
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from upscaler_package import make_package

from vaert import bitstream
from vaert.bitstream import Kind
from vaert.cli import main
from vaert.errors import ModelError, OptionError, TargetError
from vaert.image import encode_image, read_image
from vaert.metrics import psnr
from vaert.package import Package
from vaert.resample import downscale, upscale
from vaert.runtime.codec import Codec
from vaert.runtime.upscaler import Upscaler

Pixels = npt.NDArray[np.uint8]
GOLDEN = Path(__file__).parent / "golden" / "kodim23-downscaled.vaert"
LATENTS_CRC = 0xCE12D81E  # of the int32 little-endian latents, rows, columns, channels
ORIGIN = (slice(160, 301), slice(80, 283))  # of the golden picture in examples/kodim23.png


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """An upscaler that has learned nothing: bicubic."""
    return make_package(tmp_path_factory.mktemp("packages"), 2, noise=0.0)


@pytest.fixture(scope="module")
def codec(package: Package) -> Codec:
    return Codec("fast", threads=1, upscaler=package)


@pytest.fixture(scope="module")
def kodim23(root: Path) -> Pixels:
    return read_image((root / "examples/kodim23.png").read_bytes(), name="kodim23").pixels


@pytest.fixture(scope="module")
def crop(kodim23: Pixels) -> Pixels:
    return kodim23[ORIGIN]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 129), (65, 64), (99, 131)])
def test_round_trip(codec: Codec, kodim23: Pixels, size: tuple[int, int], channels: int) -> None:
    image = kodim23[100 : 100 + size[0], 200 : 200 + size[1], [0, 1, 2, 0][:channels]]
    image = image[..., 0] if channels == 1 else image
    data = codec.compress(image, 90, downscale=2)
    header = bitstream.read_header(data)
    assert (header.kind, header.height, header.width) == (Kind.DOWNSCALED_PHOTO, *size)
    decoded = codec.decompress(data)
    assert decoded.shape == image.shape
    assert decoded.flags.c_contiguous
    if channels in (2, 4):
        assert np.array_equal(decoded[..., -1], image[..., -1])
    assert psnr(decoded, np.ascontiguousarray(image)) > 22


def test_the_latents_are_those_of_the_downscaled_picture(codec: Codec, crop: Pixels) -> None:
    """Of odd sides the last row and column are repeated first; the upscaler enlarges what a plain file decodes to."""
    even = np.pad(crop, ((0, 1), (0, 1), (0, 0)), mode="edge")
    plain = codec.compress(downscale(even, 2), 50)
    data = codec.compress(crop, 50, downscale=2)
    small, whole = (bitstream.parse_photo(d) for d in (plain, data))
    assert (small.hyper, small.latents) == (whole.hyper, whole.latents)
    assert np.array_equal(codec.decode_latents(small), codec.decode_latents(whole))
    enlarged = Upscaler(codec._upscaler, threads=1).upscale(codec.decompress(plain))
    assert np.array_equal(codec.decompress(data), enlarged[:-1, :-1])


def test_it_is_close_to_bicubic_with_an_upscaler_that_knows_nothing(codec: Codec, crop: Pixels) -> None:
    data = codec.compress(crop, 80, downscale=2)
    plain = codec.compress(downscale(np.pad(crop, ((0, 1), (0, 1), (0, 0)), mode="edge"), 2), 80)
    expected = upscale(codec.decompress(plain), 2)[:-1, :-1]
    difference = np.abs(codec.decompress(data).astype(int) - expected)
    assert np.quantile(difference, 0.99) <= 1  # bicubic rounds, and cuts off what is beyond 0..255, after each axis
    assert difference.mean() < 0.3


def test_the_encoder_knows_what_decoders_make(codec: Codec, crop: Pixels) -> None:
    analysed = codec.analyse(crop, downscale=2)
    attempt = codec.attempt(analysed, 40 * 256)
    assert np.array_equal(codec.reconstruct(analysed, attempt), codec.decompress(codec.write(analysed, attempt)))


def test_targets_are_those_of_the_whole_picture(codec: Codec, crop: Pixels) -> None:
    pixels = crop.shape[0] * crop.shape[1]
    data = codec.compress(crop, bpp=0.3, downscale=2)
    assert 8 * len(data) / pixels == pytest.approx(0.3, rel=0.02)
    assert 0.98 * 800 <= len(codec.compress(crop, size=800, downscale=2)) <= 800
    reached = psnr(codec.decompress(codec.compress(crop, psnr=24, downscale=2)), np.ascontiguousarray(crop))
    assert 24 <= reached <= 24.1
    with pytest.raises(TargetError, match=r"--psnr 60 cannot be reached: this picture allows .* dB"):
        codec.compress(crop, psnr=60, downscale=2)


@pytest.mark.parametrize("factor", [0, 3, 4])
def test_other_factors_are_refused(codec: Codec, crop: Pixels, factor: int) -> None:
    with pytest.raises(OptionError, match=f"downscale must be 1 or 2, not {factor}"):
        codec.compress(crop, downscale=factor)


def test_a_golden_file_decodes_to_its_integers(codec: Codec, crop: Pixels) -> None:
    data = GOLDEN.read_bytes()
    stream = bitstream.parse_photo(data)
    assert stream.header.kind is Kind.DOWNSCALED_PHOTO
    assert (stream.header.height, stream.header.width) == crop.shape[:2]
    assert zlib.crc32(codec.decode_latents(stream).astype("<i4").tobytes()) == LATENTS_CRC
    assert psnr(codec.decompress(data), np.ascontiguousarray(crop)) > 24


def test_without_an_upscaler_only_downscaled_files_fail(crop: Pixels) -> None:
    codec = Codec("fast", threads=1, upscaler="nowhere")
    assert codec.decompress(codec.compress(crop, 50)).shape == crop.shape
    data = codec.compress(crop, 50, downscale=2)
    with pytest.raises(ModelError, match="no model 'nowhere'"):
        codec.decompress(data)


@pytest.fixture
def picture(tmp_path: Path, crop: Pixels) -> Path:
    path = tmp_path / "in.png"
    path.write_bytes(encode_image(np.ascontiguousarray(crop), format="png"))
    return path


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_commands_are_a_pipeline(
    package: Package, codec: Codec, crop: Pixels, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coded, decoded = picture.with_name("a.vaert"), picture.with_name("a.png")
    assert run("compress", picture, coded, "--downscale", 2, "--bpp", 0.2, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "downscaled_photo"
    assert (report["width"], report["height"]) == (203, 141)
    assert report["bpp"] == pytest.approx(8 * coded.stat().st_size / crop[..., 0].size)
    assert report["bpp"] == pytest.approx(0.2, rel=0.02)
    assert run("decompress", coded, decoded, "--upscaler", package.path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["upscale"] == 1
    assert np.array_equal(read_image(decoded.read_bytes(), name="a").pixels, codec.decompress(coded.read_bytes()))
    assert run("info", coded) == 0
    assert "203 x 141" in capsys.readouterr().out


@pytest.mark.parametrize("factor", [1, 2])
def test_any_photo_is_enlarged_once_decoded(
    package: Package, codec: Codec, crop: Pixels, picture: Path, factor: int, monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:  # fmt: skip
    data = codec.compress(crop, 30, downscale=factor)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert run("decompress", "-", "-", "--upscale", 2, "--upscaler", package.path, "--quiet") == 0
    found = read_image(capsysbinary.readouterr().out, name="-").pixels
    assert found.shape == (2 * crop.shape[0], 2 * crop.shape[1], 3)
    assert np.array_equal(found, Upscaler(package, threads=1).upscale(codec.decompress(data)))


def test_what_cannot_be_enlarged_is_refused(
    package: Package, codec: Codec, crop: Pixels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coded = tmp_path / "a.vaert"
    coded.write_bytes(codec.compress(crop, 30))
    pixels = crop.shape[0] * crop.shape[1]
    options = ["--upscale", 2, "--upscaler", package.path, "--max-pixels", 4 * pixels - 1]
    assert run("decompress", coded, tmp_path / "a.png", *options) == 1
    error = capsys.readouterr().err
    assert f"--upscale 2 makes 406x282 = {4 * pixels} pixels, the limit is {4 * pixels - 1}" in error
    assert error.count("\n") == 1
    assert run("decompress", coded, tmp_path / "a.png", "--max-pixels", pixels) == 0
    assert run("decompress", coded, tmp_path / "b.png", "--upscale", 3) == 2
    assert run("compress", tmp_path / "a.png", tmp_path / "b.vaert", "--downscale", 4) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.vaert"]


def test_digits_are_neither_shrunk_nor_enlarged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, coded = tmp_path / "in.png", tmp_path / "a.vaert"
    source.write_bytes(encode_image(np.zeros((28, 28), np.uint8), format="png"))
    assert run("compress", source, coded, "--model", "mnist-conv", "--downscale", 2) == 2
    assert "--downscale is for photos, mnist-conv is a model of digits" in capsys.readouterr().err
    assert run("compress", source, coded, "--model", "mnist-conv") == 0
    assert run("decompress", coded, tmp_path / "a.png", "--upscale", 2) == 2
    assert "--upscale is for photos" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.vaert", "in.png"]
