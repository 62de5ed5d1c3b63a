"""`vaert evaluate` on an upscaler: PSNR on Y of pairs of pictures, beside bicubic."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from upscaler_package import make_package

from vaert.cli import main
from vaert.errors import DataError
from vaert.evaluate_upscaler import evaluate_upscaler
from vaert.export.verify import made_picture
from vaert.package import Package
from vaert.resample import downscale, upscale
from vaert.runtime.upscaler import Upscaler
from vaert.super_resolution import luma_psnr


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(tmp_path_factory.mktemp("packages"), 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, one of them grey, with their small ones."""
    made = tmp_path_factory.mktemp("data") / "two"
    for kind in ("HR", "LRx2"):
        (made / kind).mkdir(parents=True)
    for name, large in (("colour", made_picture(30, 46)), ("grey", made_picture(28, 20)[..., 0])):
        for kind, pixels in (("HR", large), ("LRx2", downscale(large, 2))):
            stored = pixels if pixels.ndim == 2 else pixels[..., ::-1]
            assert cv2.imwrite(str(made / kind / f"{name}.png"), stored)
    return made


def test_it_is_the_psnr_of_what_the_model_makes_of_the_small_pictures(package: Package, folder: Path) -> None:
    seen = []
    found = evaluate_upscaler(package.path, folder, progress=lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]
    assert (found.model, found.scale, found.images) == ("upscale-x2", 2, "two")
    upscaler = Upscaler(package, threads=1)
    for result, large in zip(found.pictures, (made_picture(30, 46), made_picture(28, 20)[..., 0]), strict=True):
        small = downscale(large, 2)
        assert (result.width, result.height) == large.shape[1::-1]
        assert result.psnr == pytest.approx(luma_psnr(large, upscaler.upscale(small), shave=2))
        assert result.bicubic == pytest.approx(luma_psnr(large, upscale(small, 2), shave=2))
    assert found.psnr == pytest.approx(np.mean([r.psnr for r in found.pictures]))
    assert found.bicubic == pytest.approx(np.mean([r.bicubic for r in found.pictures]))


def test_large_pictures_alone_are_enough(package: Package, folder: Path) -> None:
    alone, pairs = (evaluate_upscaler(package.path, place) for place in (folder / "HR", folder))
    assert alone.pictures == pairs.pictures


def test_the_command_prints_lines_and_json(package: Package, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(package.path), "--images", str(folder)]
    assert main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(", two, 2 pictures")
    assert lines[1].startswith("colour ")
    assert lines[3].startswith("mean: ")
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert lines[3].startswith(f"mean: {report['psnr']:.2f} dB, bicubic {report['bicubic']:.2f} dB")
    assert [p["name"] for p in report["pictures"]] == ["colour", "grey"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "expected --images DIR to measure it on"),
        (["--images", ".", "--data", "."], "--data cannot be used with"),
        (["--images", ".", "--qualities", "50"], "--qualities cannot be used with"),
        (["--images", ".", "--plot", "a.png"], "--plot cannot be used with"),
    ],
)
def test_options_of_other_kinds_are_refused(
    package: Package, options: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(package.path), *options]) == 2
    assert text in capsys.readouterr().err


def test_a_picture_without_its_small_one_is_named(package: Package, folder: Path, tmp_path: Path) -> None:
    for kind, name in (("HR", "a"), ("HR", "b"), ("LRx2", "a")):
        (tmp_path / kind).mkdir(exist_ok=True)
        (tmp_path / kind / f"{name}.png").write_bytes((folder / kind / "grey.png").read_bytes())
    with pytest.raises(DataError, match="b is only in one of them"):
        evaluate_upscaler(package.path, tmp_path)
