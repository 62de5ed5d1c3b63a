"""`vaert upscale`: sizes, channels, metadata, streams, folders, bad input."""

import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from upscaler_package import make_package

from vaert.cli import main
from vaert.commands.report import grouped
from vaert.export.verify import made_picture
from vaert.image import encode_image, read_image
from vaert.package import Package
from vaert.runtime.upscaler import Upscaler

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(tmp_path_factory.mktemp("packages"), 2)


@pytest.fixture(scope="module")
def model(package: Package) -> str:
    return str(package.path)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    path.write_bytes(encode_image(made_picture(9, 13), format="png"))
    return path


def pixels_of(path: Path) -> Pixels:
    return read_image(path.read_bytes(), name=str(path)).pixels


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_file_holds_what_the_library_makes(
    package: Package, model: str, tmp_path: Path, channels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 10, channels), np.uint8)
    image = image[..., 0] if channels == 1 else image
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    source.write_bytes(encode_image(image, format="png"))
    options = ["--model", model, "--detail", "0.5", "--seed", "3", "--tile", "5", "--threads", "1"]
    assert main(["upscale", str(source), str(target), *options]) == 0
    assert np.array_equal(pixels_of(target), Upscaler(package, threads=1).upscale(image, detail=0.5, seed=3, tile=5))
    size = target.stat().st_size
    made = "10x7 to 20x14 pixels by upscale-x2, detail 0.5, seed 3"
    assert capsys.readouterr().err == f"{source} -> {target}: {made}, {grouped(size)} bytes\n"


def test_json_report(model: str, package: Package, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = picture.with_name("out.webp")
    assert main(["upscale", str(picture), str(target), "--model", model, "--scale", "2", "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out) == {
        "input": str(picture),
        "output": str(target),
        "format": "webp",
        "bytes": target.stat().st_size,
        "width": 26,
        "height": 18,
        "channels": 3,
        "scale": 2,
        "detail": 0.0,
        "seed": None,
        "warnings": [],
        "model": "upscale-x2",
        "model_id": f"{package.manifest.model_id:016x}",
    }


def test_the_same_command_gives_the_same_bytes(model: str, picture: Path) -> None:
    made = []
    for number in range(2):
        target = picture.with_name(f"{number}.png")
        assert main(["upscale", str(picture), str(target), "--model", model, "--detail", "0"]) == 0
        made.append(target.read_bytes())
    assert made[0] == made[1]


def test_streams_carry_pictures_only(
    model: str, picture: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(picture.read_bytes())))
    assert main(["upscale", "-", "-", "--model", model, "--json", "--format", "bmp"]) == 0
    shown = capsysbinary.readouterr()
    assert shown.out.startswith(b"BM")
    assert json.loads(shown.err)["output"] == "-"


def test_a_folder_goes_through_one_model(model: str, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, target = picture.parent / "in", picture.parent / "out"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (folder / name).write_bytes(picture.read_bytes())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert main(["upscale", str(folder), str(target), "--model", model]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"vaert: error: {folder}/broken.jpg: ")
    assert lines[1] == f"{folder} -> {target}: 2 pictures written, 1 failed"
    assert pixels_of(target / "sub" / "b.png").shape == (18, 26, 3)


def test_profile_exif_and_xmp_are_kept_and_corrected(model: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    cms = pytest.importorskip("PIL.ImageCms")
    profile = cms.ImageCmsProfile(cms.createProfile("sRGB")).tobytes()
    exif = image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6  # turned by a quarter
    exif.get_ifd(0x8769).update({0xA002: 12, 0xA003: 8})  # width and height
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'
    source, target = tmp_path / "in.jpg", tmp_path / "out.jpg"
    image.new("RGB", (12, 8), (9, 99, 199)).save(source, icc_profile=profile, exif=exif, xmp=xmp)
    assert main(["upscale", str(source), str(target), "--model", model]) == 0
    with image.open(target) as made:
        assert made.size == (16, 24)
        assert made.info["icc_profile"] == profile
        assert made.info["xmp"] == xmp
        found = made.getexif()
        assert found[0x010F] == "Maker"
        assert found.get(0x0112, 1) == 1
        assert found.get_ifd(0x8769) == {0xA002: 16, 0xA003: 24}


def test_metadata_that_the_format_cannot_hold_is_a_warning(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[0x010F] = "Maker"
    source = tmp_path / "in.jpg"
    image.new("RGB", (8, 8)).save(source, exif=exif)
    assert main(["upscale", str(source), str(tmp_path / "out.bmp"), "--model", model, "--quiet"]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith(f"vaert: warning: {source}: EXIF")
    assert warning.count("\n") == 1


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def sixteen_bits() -> bytes:
    done, content = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint16))
    assert done
    return content.tobytes()


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        (b"", [], "empty"),
        (b"no picture", [], "not an image"),
        (encode_image(made_picture(9, 13), format="png")[:-20], [], "cut or damaged"),
        (sixteen_bits(), [], "16"),
        (
            encode_image(made_picture(9, 13), format="png"),
            ["--max-pixels", "400"],
            "would become 26x18 = 468 pixels, the limit is 400: raise it with --max-pixels",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    model: str, tmp_path: Path, data: bytes, options: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.png", data)
    assert main(["upscale", str(source), str(tmp_path / "out.png"), "--model", model, *options]) == 1
    error = capsys.readouterr().err
    assert text in error
    assert error.startswith("vaert: error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [source]


def test_an_output_without_alpha_refuses_a_picture_with_it(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.png", encode_image(np.zeros((4, 4, 4), np.uint8), format="png"))
    assert main(["upscale", str(source), str(tmp_path / "out.jpg"), "--model", model]) == 1
    assert "cannot hold the image's alpha channel" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--scale", "3"], "'3' is not one of '2', '4'"),
        (["--detail", "1.1"], "1.1 is not in the range 0<=x<=1"),
        (["--detail", "nan"], "nan is not a finite number"),
        (["--seed", "-1"], "-1 is not in the range"),
        (["--tile", "0"], "0 is not in the range x>=1"),
        (["--scale", "4"], "model upscale-x2 upscales by 2, not by 4"),
    ],
)
def test_wrong_options_exit_with_2(
    model: str, picture: Path, options: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upscale", str(picture), str(picture.with_name("out.png")), "--model", model, *options]) == 2
    assert text in capsys.readouterr().err
    assert list(picture.parent.iterdir()) == [picture]


def test_a_model_of_another_kind_is_refused(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upscale", str(picture), str(picture.with_name("out.png")), "--model", "fast"]) == 1
    assert "model fast is of kind codec, this needs upscaler" in capsys.readouterr().err
