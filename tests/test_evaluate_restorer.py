"""`vaert evaluate` on a restorer: repair of JPEGs and holes, beside the damaged pictures and OpenCV; the holes."""

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from restorer_package import shared_package

from benchmarks._holes import packed, stored
from vaert.cli import main
from vaert.errors import DataError
from vaert.evaluate_restorer import QUALITIES, compressed, evaluate_restorer, telea
from vaert.export.verify import made_picture
from vaert.holes import LARGEST_HOLE, made_hole
from vaert.image import encode_image
from vaert.metrics import psnr
from vaert.package import Package
from vaert.runtime.restorer import Restorer
from vaert.super_resolution import luma_psnr

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def package() -> Package:
    return shared_package()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, one of them grey."""
    made = tmp_path_factory.mktemp("data") / "two"
    (made / "HR").mkdir(parents=True)
    for name, pixels in (("colour", made_picture(50, 70)), ("grey", made_picture(33, 64)[..., 0])):
        (made / "HR" / f"{name}.png").write_bytes(encode_image(pixels, format="png"))
    return made


def test_it_measures_what_the_model_makes(package: Package, folder: Path) -> None:
    seen = []
    found = evaluate_restorer(package.path, folder, progress=lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]
    assert (found.model, found.images, found.pictures) == ("restore", "two", 2)
    restorer, clean = Restorer(package, threads=1), [made_picture(50, 70), made_picture(33, 64)[..., :1].repeat(3, 2)]
    for measured, quality in zip(found.repairs, QUALITIES, strict=True):
        damaged = [compressed(p, "JPEG", quality=quality, subsampling="4:2:0") for p in clean]
        before = [luma_psnr(p, d, shave=0) for p, d in zip(clean, damaged, strict=True)]
        after = [luma_psnr(p, restorer.restore(d), shave=0) for p, d in zip(clean, damaged, strict=True)]
        assert measured.quality == quality
        assert measured.damaged == pytest.approx(np.mean(before))
        assert measured.restored == pytest.approx(np.mean(after))
        assert measured.gain == pytest.approx(np.mean(after) - np.mean(before))
        assert measured.least_gain == pytest.approx(min(np.subtract(after, before)))
    holes = [made_hole(*p.shape[:2], seed=number) for number, p in enumerate(clean)]
    ours = [psnr(p[h], restorer.restore(p, h)[h]) for p, h in zip(clean, holes, strict=True)]
    theirs = [psnr(p[h], telea(p * ~h[..., None], h)[h]) for p, h in zip(clean, holes, strict=True)]
    assert (found.hole, found.telea) == pytest.approx((np.mean(ours), np.mean(theirs)))
    assert found.hidden == pytest.approx(np.mean([h.mean() for h in holes]))


def test_lower_qualities_are_worse(package: Package, folder: Path) -> None:
    found = evaluate_restorer(package.path, folder / "HR")
    damaged = [r.damaged for r in found.repairs]
    assert damaged == sorted(damaged)
    assert damaged[0] < damaged[-1] - 1


def test_the_command_prints_lines_and_json(package: Package, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(package.path), "--images", str(folder)]
    assert main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("two, 2 pictures")
    assert [line.partition(":")[0] for line in lines[1:4]] == [f"JPEG quality {q}" for q in QUALITIES]
    assert "Telea" in lines[4]
    assert main([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["pictures"] == 2
    assert [r["quality"] for r in record["repairs"]] == list(QUALITIES)


@pytest.mark.parametrize("option", [["--data", "."], ["--qualities", "10"], ["--plot", "a.png"]])
def test_options_of_other_models_are_refused(
    package: Package, folder: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(package.path), "--images", str(folder), *option]) == 2
    assert f"{option[0]} cannot be used with" in capsys.readouterr().err
    assert main(["evaluate", str(package.path)]) == 2
    assert "expected --images DIR" in capsys.readouterr().err


def test_folders_and_pictures_that_do_not_fit_are_refused(package: Package, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures"):
        evaluate_restorer(package.path, tmp_path)
    (tmp_path / "dot.png").write_bytes(encode_image(np.zeros((1, 5), np.uint8), format="png"))
    with pytest.raises(DataError, match=r"dot.png has 5x1 pixels, expected at least 2x2"):
        evaluate_restorer(package.path, tmp_path)


@pytest.mark.parametrize("size", [(2, 2), (2, 9), (40, 30), (321, 481)])
def test_holes_hide_something_and_at_most_a_quarter(size: tuple[int, int]) -> None:
    masks = [made_hole(*size, seed=seed) for seed in range(40)]
    assert all(mask.shape == size and 0 < mask.mean() <= LARGEST_HOLE for mask in masks)
    assert np.array_equal(masks[3], made_hole(*size, seed=3))


def test_even_holes_are_of_rectangles_and_odd_ones_of_strokes() -> None:
    for seed in range(20):
        count, labels = cv2.connectedComponents(made_hole(200, 300, seed=seed).astype(np.uint8))
        full = []
        for label in range(1, count):
            rows, columns = np.nonzero(labels == label)
            full.append(len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1))
        assert all(full) or count == 2 if seed % 2 == 0 else not all(full)  # two rectangles may overlap


def test_the_stored_holes_are_those_that_the_benchmark_was_made_with(tmp_path: Path) -> None:
    masks = stored()
    assert len(masks) == 100
    assert {mask.shape for mask in masks.values()} == {(320, 480), (480, 320)}
    assert all(0 < mask.mean() <= LARGEST_HOLE for mask in masks.values())
    assert 0.1 < np.mean([mask.mean() for mask in masks.values()]) < 0.13
    path = tmp_path / "again.npz"
    path.write_bytes(packed(masks))
    again = stored(path)
    assert list(again) == list(masks)
    assert all(np.array_equal(again[name], mask) for name, mask in masks.items())
