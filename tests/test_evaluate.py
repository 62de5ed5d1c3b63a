"""Distortion metrics, and `vaert evaluate` end to end on small pictures."""

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from vaert import evaluate as evaluation
from vaert.anchors import JPEG_OPTIONS, pillow_rate_psnr
from vaert.bd_rate import Curve
from vaert.cli import main
from vaert.errors import DataError, ImageError, OptionError, OutputError
from vaert.evaluate import compare, evaluate, find_images, read_rgb
from vaert.metrics import MS_SSIM_SIDE, PSNR_MAX, ms_ssim, psnr
from vaert.runtime.codec import Codec

Pixels = npt.NDArray[np.uint8]


def picture(height: int, width: int, *, seed: int = 0) -> Pixels:
    """Smooth shapes with some grain, so that rate and PSNR behave like those of photographs."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    return np.clip(smooth + generator.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def noisy(pixels: Pixels, sigma: float) -> Pixels:
    noise = np.random.default_rng(1).normal(0, sigma, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def write(path: Path, pixels: Pixels) -> None:
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    write(made / "a.png", picture(192, 208, seed=1))
    write(made / "b.png", picture(208, 192, seed=2))
    (made / "notes.txt").write_text("not a picture")
    return made


def test_psnr_follows_its_formula() -> None:
    zeros = np.zeros((8, 8, 3), np.uint8)
    assert psnr(zeros, zeros + 1) == pytest.approx(48.1308, abs=1e-4)  # 20 log10(255)
    assert psnr(zeros, np.full_like(zeros, 255)) == 0
    assert psnr(zeros, zeros) == PSNR_MAX


def test_ms_ssim_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    original = picture(192, 208)
    values = [ms_ssim(original, noisy(original, sigma)) for sigma in (5, 15, 45)]
    assert ms_ssim(original, original) == pytest.approx(1, abs=1e-12)
    assert all(value is not None for value in values)
    assert values == sorted(values, key=float, reverse=True)  # type: ignore[arg-type]


def test_ms_ssim_sees_a_constant_shift_at_the_coarsest_scale_only() -> None:
    # A shift leaves contrast and structure alone: what is left is the luminance term of flat grey, to the power 0.1333.
    original, shifted = np.full((192, 192), 100, np.uint8), np.full((192, 192), 120, np.uint8)
    c1 = (0.01 * 255) ** 2
    luminance = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert ms_ssim(original, shifted) == pytest.approx(luminance**0.1333, abs=1e-9)


def test_ms_ssim_is_symmetric_and_the_mean_over_channels() -> None:
    original = picture(192, 176)
    other = noisy(original, 20)
    together = ms_ssim(original, other)
    apart = [ms_ssim(original[..., c], other[..., c]) for c in range(3)]
    assert together == pytest.approx(np.mean(np.array(apart, np.float64)), abs=1e-12)
    assert ms_ssim(other, original) == pytest.approx(together, abs=1e-12)


def test_ms_ssim_equals_another_implementation() -> None:
    # pytorch-msssim 1.0.0 in float64 on a pattern that needs no random numbers; its window is rounded to float32.
    y, x = np.mgrid[0:192, 0:256]
    original = ((3 * x + 5 * y + x * y // 7) % 256).astype(np.uint8)
    other = (original // 100 * 90 + 5).astype(np.uint8)
    assert ms_ssim(original, other) == pytest.approx(0.955121765, abs=1e-6)


def test_ms_ssim_of_small_pictures_is_not_given() -> None:
    side = MS_SSIM_SIDE
    assert side == 161
    assert ms_ssim(picture(side - 1, 300), picture(side - 1, 300)) is None
    assert ms_ssim(picture(side, side), picture(side, side)) == pytest.approx(1)


@pytest.mark.parametrize("metric", [psnr, ms_ssim])
def test_metrics_refuse_other_pictures(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(OptionError, match="expected two uint8 pictures of one shape"):
        metric(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8))
    with pytest.raises(OptionError, match="float64"):
        metric(np.zeros((4, 4)), np.zeros((4, 4)))


def test_rates_of_pillow_are_those_of_its_files(tmp_path: Path) -> None:
    from PIL import Image

    pixels = picture(96, 112)
    rate, fidelity = pillow_rate_psnr(pixels, "JPEG", quality=50, **JPEG_OPTIONS)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=50, subsampling=2, optimize=True)
    assert rate == 8 * (tmp_path / "a.jpg").stat().st_size / (96 * 112)
    with Image.open(tmp_path / "a.jpg") as decoded:
        assert fidelity == psnr(pixels, np.asarray(decoded))


def test_evaluate_measures_whole_files(folder: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    report = evaluate("fast", folder, qualities=(80, 20), progress=lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]
    assert (report.images, report.pixels) == (2, 2 * 192 * 208)
    assert [point.quality for point in report.points] == [20, 80]
    codec = Codec("fast")
    rates, fidelity = [], []
    for path in find_images(folder):
        pixels = read_rgb(path)
        data = codec.compress(pixels, 80)
        rates.append(8 * len(data) / (192 * 208))
        fidelity.append(psnr(pixels, codec.decompress(data)))
    assert report.points[1].bpp == pytest.approx(np.mean(rates), rel=1e-12)
    assert report.points[1].psnr == pytest.approx(np.mean(fidelity), rel=1e-12)
    assert report.points[1].ms_ssim is not None
    assert report.comparisons[0].measured
    assert not any(comparison.measured for comparison in report.comparisons[1:])
    assert any("24 Kodak images" in note for note in report.notes)


def test_small_pictures_have_no_ms_ssim(tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture(64, 80))
    write(tmp_path / "b.png", picture(192, 192))
    report = evaluate("fast", tmp_path, qualities=(50,))
    assert report.points[0].ms_ssim is None
    assert any("too small" in note for note in report.notes)
    assert report.comparisons[0].percent is None  # one point is no curve
    assert not any("MS-SSIM 0" in line for line in report.lines())


def test_the_command_reports_json_and_draws(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "curve.png"
    command = ["evaluate", "fast", "--images", str(folder), "--qualities", "10,90", "--json", "--plot", str(plot)]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no progress bar, which is for terminals
    found = json.loads(captured.out)
    assert [point["quality"] for point in found["points"]] == [10, 90]
    assert found["model"] == "fast"
    drawn = cv2.imread(str(plot))
    assert drawn is not None
    assert drawn.std() > 1
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err


def test_the_command_speaks_in_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "fast", "--images", str(folder), "--qualities", "30"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "quality 30: " in captured.err
    assert "note: published curves are means over the 24 Kodak images" in captured.err


def test_comparisons_say_what_they_cover() -> None:
    bpp, fidelity = (0.2, 0.5, 1.0, 2.0), (28.0, 31.0, 34.0, 38.0)
    jpeg = Curve("JPEG", bpp, fidelity)
    better = Curve("ours", tuple(0.6 * rate for rate in bpp), fidelity)
    far = Curve("far", (1.0, 2.0), (60.0, 70.0))
    against_jpeg, against_far = compare(better, jpeg, [far])
    assert against_jpeg.percent == pytest.approx(-40)
    assert against_jpeg.complete
    assert against_far.percent is None
    assert "share no PSNR" in against_far.remark
    part = compare(Curve("part", bpp[1:], fidelity[1:]), jpeg, [])[0]
    assert not part.complete
    assert "share only part" in part.remark
    weak = compare(better, Curve("JPEG", bpp[1:], fidelity[1:]), [])[0]
    assert not weak.complete
    assert "JPEG does not reach all of 0.25 to 1.5 bpp" in weak.remark


def test_a_jpeg_outside_the_rates_is_no_comparison() -> None:
    light = Curve("JPEG", (0.05, 0.1), (40.0, 45.0))
    (only,) = compare(light, light, [])
    assert only.percent is None
    assert "JPEG spends 0.050 to 0.100 bpp" in only.remark


def test_grey_counts_as_rgb(tmp_path: Path) -> None:
    write(tmp_path / "grey.png", picture(40, 48)[..., 0])
    pixels = read_rgb(tmp_path / "grey.png")
    assert pixels.shape == (40, 48, 3)
    assert (pixels == pixels[..., :1]).all()


def test_folders_without_pictures_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"holds no pictures \(2 other entries\)"):
        find_images(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        find_images(tmp_path / "missing")
    assert main(["evaluate", "fast", "--images", str(tmp_path)]) == 1
    assert "holds no pictures" in capsys.readouterr().err


def test_pictures_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    write(tmp_path / "alpha.png", np.zeros((20, 20, 4), np.uint8))
    with pytest.raises(DataError, match=r"alpha\.png has an alpha channel"):
        evaluate("fast", tmp_path)
    (tmp_path / "alpha.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"alpha\.png"):
        evaluate("fast", tmp_path)


def test_an_existing_plot_is_refused_before_any_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("measured although the plot cannot be written")

    (tmp_path / "curve.png").write_bytes(b"old")
    monkeypatch.setattr(evaluation, "measure", fail)
    with pytest.raises(OutputError, match="exists already"):
        evaluate("fast", folder, plot=tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes() == b"old"
