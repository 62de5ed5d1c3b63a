"""`vaert restore` with a model of photos: repair, holes, metadata, streams, folders, bad input."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from digit_package import make_package as make_digits
from restorer_package import shared_package

from vaert import package as packages
from vaert.cli import main
from vaert.commands.report import grouped
from vaert.export.verify import made_picture
from vaert.image import encode_image, read_image
from vaert.package import Package
from vaert.runtime.restorer import Restorer

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def package() -> Package:
    return shared_package()


@pytest.fixture
def hidden() -> npt.NDArray[np.bool_]:
    mask = np.zeros((40, 70), np.bool_)
    mask[10:20, 15:50] = True
    return mask


@pytest.fixture
def files(tmp_path: Path, hidden: npt.NDArray[np.bool_]) -> tuple[str, str]:
    """A picture and its mask."""
    return write(tmp_path / "in.png", made_picture(40, 70)), write(tmp_path / "mask.png", 7 * hidden.astype(np.uint8))


def write(path: Path, pixels: Pixels) -> str:
    path.write_bytes(encode_image(pixels, format=path.suffix[1:]))
    return str(path)


def pixels_of(path: str | Path) -> Pixels:
    return read_image(Path(path).read_bytes(), name=str(path)).pixels


def restore(package: Package, *arguments: object) -> int:
    return main(["restore", "--model", str(package.path), "--threads", "1", *map(str, arguments)])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("masked", "strength", "done"),
    [
        (False, None, "all repaired"),
        (False, 0.25, "all repaired at strength 0.25"),
        (True, None, "350 filled"),
        (True, 0.5, "350 filled and others repaired at strength 0.5"),
    ],
)
def test_the_file_holds_what_the_library_makes(
    package: Package, files: tuple[str, str], hidden: npt.NDArray[np.bool_], capsys: pytest.CaptureFixture[str],
    tmp_path: Path, channels: int, masked: bool, strength: float | None, done: str,
) -> None:  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (40, 70, channels), np.uint8)
    image = image[..., 0] if channels == 1 else image
    source, target = write(tmp_path / "in.png", image), tmp_path / "out.png"
    options = ["--mask", files[1]] * masked + ([] if strength is None else ["--strength", strength])
    assert restore(package, source, target, "--tile", 32, *options) == 0
    expected = Restorer(package, threads=1).restore(image, hidden if masked else None, strength=strength)
    assert np.abs(pixels_of(target).astype(int) - expected).max() <= 1
    size = grouped(target.stat().st_size)
    assert capsys.readouterr().err == f"{source} -> {target}: 70x40 pixels, {done} by restore, {size} bytes\n"


def test_a_mask_alone_keeps_all_other_bytes(
    package: Package, files: tuple[str, str], hidden: npt.NDArray[np.bool_], tmp_path: Path
) -> None:
    assert restore(package, files[0], tmp_path / "out.webp", "--mask", files[1]) == 0
    found, before = pixels_of(tmp_path / "out.webp"), pixels_of(files[0])
    assert np.array_equal(found[~hidden], before[~hidden])
    assert not np.array_equal(found, before)


def test_json_report(
    package: Package, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.bmp"
    assert restore(package, files[0], target, "--mask", files[1], "--json") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out) == {
        "input": files[0],
        "output": str(target),
        "format": "bmp",
        "bytes": target.stat().st_size,
        "width": 70,
        "height": 40,
        "channels": 3,
        "hidden": 350,
        "strength": None,
        "warnings": [],
        "model": "restore",
        "model_id": f"{package.manifest.model_id:016x}",
    }


def test_the_bundled_model_is_the_default(
    package: Package, files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "BUNDLED", package.path.parent)
    assert main(["restore", files[0], str(tmp_path / "out.png"), "--quiet", "--threads", "1"]) == 0
    expected = Restorer(package, threads=1).restore(pixels_of(files[0]))
    assert np.array_equal(pixels_of(tmp_path / "out.png"), expected)


def test_a_jpeg_output_is_a_warning(
    package: Package, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert restore(package, files[0], tmp_path / "a.jpg", "--quiet") == 0
    warning = "vaert: warning: a JPEG file damages the picture again a little: use .png for OUT"
    assert capsys.readouterr().err.startswith(warning)
    assert restore(package, files[0], tmp_path / "b.jpg", "--quiet", "--mask", files[1]) == 0
    assert "a JPEG file changes the known pixels a little" in capsys.readouterr().err
    assert restore(package, files[0], tmp_path / "c.jpg", "--quiet", "--mask", files[1], "--strength", "1") == 0
    assert capsys.readouterr().err.startswith(warning)


def test_a_mask_that_hides_nothing_is_a_warning(
    package: Package, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = write(tmp_path / "empty.png", np.zeros((40, 70), np.uint8))
    assert restore(package, files[0], tmp_path / "out.png", "--mask", mask, "--quiet") == 0
    assert capsys.readouterr().err == f"vaert: warning: {mask} hides nothing\n"
    assert np.array_equal(pixels_of(tmp_path / "out.png"), pixels_of(files[0]))


def test_streams_carry_pictures_only(
    package: Package, files: tuple[str, str], monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(files[0]).read_bytes())))
    assert restore(package, "-", "-", "--json", "--format", "bmp", "--mask", files[1]) == 0
    shown = capsysbinary.readouterr()
    assert shown.out.startswith(b"BM")
    assert json.loads(shown.err)["output"] == "-"


def test_a_folder_goes_through_one_model(
    package: Package, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = tmp_path / "photos", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    data = encode_image(pixels_of(files[0]), format="jpg")
    for name in ("a.jpg", "sub/b.jpg"):
        (folder / name).write_bytes(data)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert restore(package, folder, target) == 1
    lines = capsys.readouterr().err.splitlines()
    assert (
        [line[:30] for line in lines]
        == [
            "vaert: warning: a JPEG file da",  # once
            f"vaert: error: {folder}/broken.jpg"[:30],
            f"{folder} -> {target}"[:30],
        ]
    )
    assert lines[-1].endswith("2 pictures written, 1 failed")
    assert pixels_of(target / "sub" / "b.jpg").shape == (40, 70, 3)
    assert restore(package, folder, tmp_path / "png", "--format", "png", "--quiet") == 1
    assert "JPEG file" not in capsys.readouterr().err
    expected = Restorer(package, threads=1).restore(pixels_of(folder / "a.jpg"))
    assert np.array_equal(pixels_of(tmp_path / "png" / "a.png"), expected)


def test_profile_exif_and_xmp_are_kept(package: Package, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    cms = pytest.importorskip("PIL.ImageCms")
    profile = cms.ImageCmsProfile(cms.createProfile("sRGB")).tobytes()
    exif = image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6  # turned by a quarter
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'
    source, target = tmp_path / "in.jpg", tmp_path / "out.png"
    image.new("RGB", (12, 8), (9, 99, 199)).save(source, icc_profile=profile, exif=exif, xmp=xmp)
    assert restore(package, source, target) == 0
    with image.open(target) as made:
        assert made.size == (8, 12)
        assert made.info["icc_profile"] == profile
        assert made.getexif()[0x010F] == "Maker"
        assert made.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--mask", "whole.png"], 1, "whole.png hides every pixel, expected some known ones"),
        (["--mask", "small.png"], 1, "small.png has 69x40 pixels, expected those of in.png, 70x40"),
        (["--mask", "in.png"], 1, "in.png has colours, expected a mask in grey without alpha"),
        (["--mask", "nowhere.png"], 1, "cannot read nowhere.png: no such file"),
        (["--mask", "text.png"], 1, "text.png: "),
        (["--mask", "."], 1, ". is a folder, expected one file"),
        (["--seed", "3"], 2, "--seed has no use with restore, a model of kind restorer"),
        (["--tile", "33"], 2, "tile must be a multiple of 32, not 33"),
        (["--max-pixels", "2000"], 1, "the limit is 2000: raise it with --max-pixels"),
        (
            ["--mask", "mask.png", "--max-pixels", "2000"],
            1,
            "mask.png: the image has 70x40 = 2800 pixels, the limit is 2000",
        ),
        (["--format", "xyz"], 2, "--format xyz"),
        (["--model", "fast"], 1, "model fast is of kind codec and restores nothing, expected restorer or digits"),
        (["--model", "nothing"], 1, "no model 'nothing'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    package: Package, files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], options: list[str], code: int, text: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "whole.png", np.full((40, 70), 255, np.uint8))
    write(tmp_path / "small.png", np.eye(40, 69, dtype=np.uint8))
    (tmp_path / "text.png").write_text("hello")
    before = {path.name for path in tmp_path.iterdir()}
    for target in ("out.png", "mask.png"):
        assert restore(package, "in.png", target, "--force", *options) == code
        error = capsys.readouterr().err
        assert text in error
        assert error.startswith("vaert: error: ")
        assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == before
    assert len(np.unique(pixels_of("mask.png"))) == 2


def test_unreadable_pictures_and_existing_outputs_are_refused(
    package: Package, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    for source, target, text in (
        (tmp_path / "text.jpg", tmp_path / "out.png", "text.jpg"),
        (tmp_path / "nowhere.jpg", tmp_path / "out.png", "no such file"),
        (files[0], files[1], "exists already"),
        (files[0], tmp_path / "out.xyz", "unknown image ending"),
    ):
        assert restore(package, source, target) == 1
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(("strength", "code"), [("1.1", 2), ("-0.1", 2), ("nan", 2), ("1", 0)])
def test_strength_is_a_share(
    package: Package, files: tuple[str, str], tmp_path: Path, strength: str, code: int
) -> None:
    assert restore(package, files[0], tmp_path / "out.png", "--strength", strength) == code


def test_a_mask_is_for_one_picture(
    package: Package, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert restore(package, tmp_path, tmp_path / "out", "--mask", files[1]) == 2
    assert "is a folder, but a mask is for one picture" in capsys.readouterr().err
    assert restore(package, "-", tmp_path / "out.png", "--mask", "-") == 2
    assert "cannot both come from standard input" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--strength", "0.5"], ["--tile", "32"], ["--format", "png"]])
def test_options_of_photos_are_refused_with_digits(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    digits = make_digits(tmp_path / "digits")
    assert restore(digits, files[0], tmp_path / "out.png", "--mask", files[1], *option) == 2
    assert f"{option[0]} has no use with by-hand, a model of kind digits" in capsys.readouterr().err
