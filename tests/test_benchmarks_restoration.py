"""What the benchmarks of restoration compute: bars, ways to use a reference, tables of pages, the picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from restorer_package import shared_package

from benchmarks import _restoration_pictures, restoration
from benchmarks.report import filled
from benchmarks.restoration_reference import average, ways
from vaert.export.verify import made_picture
from vaert.holes import made_hole
from vaert.image import encode_image, read_image
from vaert.package import Package
from vaert.runtime.restorer import Restorer
from vaert.super_resolution import luma_psnr


@pytest.fixture(scope="module")
def package() -> Package:
    return shared_package()


def found(gain: float, hole: float, largest: int = 1) -> dict[str, Any]:
    row = {"damaged_db": 28.0, "restored_db": 28 + gain, "gain_db": gain, "least_gain_db": 0.0, "worse": 0}
    holes = {"vaert_db": hole, "telea_3_db": 16.5, "telea_4_db": 17.0, "telea_5_db": 16.9}
    return {
        "model": {"name": "restore", "model_id": "1f", "training": {"steps": 7}},
        "repair": {"two": {"pictures": 2, "JPEG 10": row, "JPEG 40": row}},
        "inpainting": {"known_pixels_changed": 0, "mean_hidden_share": 0.12, "all": holes},
        "tiles": {"largest_difference": largest},
        "times": {"repair 9x9": {"p50_ms": 1.0, "p95_ms": 2.0, "runs": 3}},
        "threads": 2,
        "memory": {"processes": {"repair": {"peak_bytes": 2e9, "seconds": 3.0}}},
    }


def test_bars_are_met_by_their_limits_and_holes_by_the_best_radius() -> None:
    met = [bar.met for bar in restoration.bars(found(0.8, 17.5), "two")]
    assert met == [True, True, True, True, True, False]
    met = [bar.met for bar in restoration.bars(found(0.79, 17.49, 2), "two")]
    assert met == [False, True, False, True, False, False]
    assert [bar.met for bar in restoration.bars(found(-0.01, 18), "two")][1] is False


def test_the_page_is_filled_from_results() -> None:
    record = {"benchmark": "restoration", "results": found(0.8, 17.5)}
    text = filled("<!-- begin restoration -->\nold\n<!-- end restoration -->\nrest\n", [record])
    assert "old" not in text
    assert text.endswith("rest\n")
    assert "| JPEG 10 | 28.00 | 28.80 | +0.80 | +0.00 | 0 |" in text
    assert "| all | 17.50 | 16.50 | 17.00 | 16.90 |" in text


def test_ways_to_use_a_reference(package: Package) -> None:
    clean, restorer = made_picture(40, 50), Restorer(package, threads=1)
    made = ways(restorer, clean, clean, made_picture(40, 50)[::-1].copy())
    assert made["damaged"] == 100  # the picture itself
    assert made["reference"] < made["average"] < 100
    assert made["damaged, restored"] == luma_psnr(clean, restorer.restore(clean), shave=0)
    assert average(np.array([[1, 255]], np.uint8), np.array([[2, 255]], np.uint8)).tolist() == [[2, 255]]


def test_repairs_are_measured_on_files(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encode_image(made_picture(40, 50), format="png"))
    monkeypatch.setattr(restoration, "DAMAGES", {"WebP 10": restoration.DAMAGES["WebP 10"]})
    row = restoration.repairs(package, restoration.clean_pictures(tmp_path))["WebP 10"]
    assert row["gain_db"] == pytest.approx(row["restored_db"] - row["damaged_db"], abs=2e-3)
    assert row["worse"] == int(row["gain_db"] < 0)


def test_holes_are_measured_on_files(package: Package, tmp_path: Path) -> None:
    masks = {}
    for number, name in enumerate("ab"):
        (tmp_path / f"{name}.png").write_bytes(encode_image(made_picture(64, 90), format="png"))
        masks[name] = made_hole(64, 90, seed=number)
    table = restoration.inpainting(package, restoration.clean_pictures(tmp_path), masks)
    assert table["known_pixels_changed"] == 0
    for column, value in table["all"].items():
        assert value == pytest.approx((table["rectangles"][column] + table["strokes"][column]) / 2, abs=2e-3)
    with pytest.raises(SystemExit, match="the stored holes are not those of these pictures"):
        restoration.inpainting(package, restoration.clean_pictures(tmp_path), {"a": masks["a"]})


def test_the_picture_shows_rows_of_equal_width(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(_restoration_pictures, "REPAIRED", {"a": (3, 5)})
    monkeypatch.setattr(_restoration_pictures, "FILLED", ("a",))
    picture = made_picture(210, 320)
    _restoration_pictures.draw(
        Restorer(package, threads=1), {"a": picture}, {"a": made_hole(210, 320, seed=0)}, tmp_path / "a.png"
    )
    drawn = read_image((tmp_path / "a.png").read_bytes(), name="drawn").pixels
    assert drawn.shape[:2] == (2 * (200 + 22), 900)
    assert np.array_equal(drawn[30:222, 604:896, :3], picture[11:203, 5:297])
