"""`vaert verify` and the comparison behind it, with packages and backends that are wrong in known ways."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from broken_backends import engine

from vaert.cli import main
from vaert.errors import ModelError, OptionError
from vaert.package import MANIFEST, Manifest, Package, bundled_models, find_package
from vaert.runtime.backends import OnnxRuntimeCpu, selection
from vaert.runtime.compare import TOLERANCES, CodecRow, LosslessRow, PictureRow, compare
from vaert.runtime.comparison import Comparison
from vaert.runtime.made import made_digits, made_picture, made_pictures
from vaert.runtime.verify import check_files, reference_of, verify

PICTURES = made_pictures(((96, 130), (70, 64)))


def copied(name: str, folder: Path, **changes: Any) -> Package:
    """A bundled package, copied, with fields of its manifest changed."""
    shutil.copytree(find_package(name).path, folder)
    manifest = replace(Package.open(folder).manifest, **changes)
    (folder / MANIFEST).write_text(manifest.to_json())
    return Package.open(folder)


def test_made_pictures_are_the_same_every_time() -> None:
    assert all(np.array_equal(a, b) for a, b in zip(PICTURES, made_pictures(((96, 130), (70, 64))), strict=True))
    assert set(np.unique(made_digits(10, binary=True))) == {0, 255}
    assert made_digits(3).shape == (3, 28, 28)
    assert len(np.unique(made_picture(64, 64))) > 100


def test_a_codec_beside_itself_is_the_same() -> None:
    package, seen = find_package("fast"), []
    found = compare(package, package, PICTURES, qualities=(5, 95), progress=lambda *n: seen.append(n))
    assert found.faults() == ()
    assert [row.quality for row in found.rows if isinstance(row, CodecRow)] == [5, 95]
    for row in found.rows:
        assert isinstance(row, CodecRow)
        assert (row.rate_change, row.psnr_change, row.levels, row.latents_different) == (0, 0, 0, 0)
        # both files of both pictures: 128 x 192 and 128 x 64 pixels with padding, 320 latents for 16 x 16 of them
        assert row.latents_compared == 2 * 320 * (128 * 192 + 128 * 64) // 256
    assert seen == [(1, 2), (2, 2)]
    assert (found.images, found.pixels, found.precision, found.backend) == (2, 96 * 130 + 70 * 64, "fp32", "cpu")
    assert json.loads(json.dumps(found.to_dict()))["faults"] == []


@pytest.mark.parametrize("name", [name for name in bundled_models() if name != "fast"])
def test_other_models_beside_themselves_are_the_same(name: str) -> None:
    package = find_package(name)
    found = compare(package, package, () if name.startswith("mnist") else PICTURES)
    assert found.faults() == ()
    for row in found.rows:
        assert isinstance(row, PictureRow | LosslessRow)
        assert row.different == 0 if isinstance(row, LosslessRow) else row.levels == 0
    assert len(found.lines()) == 2 + len(found.rows)
    assert json.loads(json.dumps(found.to_dict()))["kind"] == package.manifest.kind


def faults_of(name: str, factory: str) -> str:
    package = find_package(name)
    pictures = made_digits(6) if name.startswith("mnist") else PICTURES
    found = compare(package, package, pictures, backend=engine(factory).make(), qualities=(50,))
    return "; ".join(found.faults())


def test_a_wrong_prior_is_named() -> None:
    assert "the cuda backend does not compute the prior exactly" in faults_of("fast", "WrongByOne")


def test_a_prior_that_is_wrong_where_no_known_answer_looks_is_caught_by_cross_decoding() -> None:
    faults = faults_of("fast", "WrongOnLargeInputs")
    assert "latents differ at quality 50, expected none" in faults
    assert "does not compute the prior exactly" not in faults


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fast", "pixels differ by"),
        ("upscale-x2", "outputs differ by"),
        ("restore", "(hole), expected at most 1"),
        ("mnist-conv", "outputs differ by"),
    ],
)
def test_wrong_pixels_are_named(name: str, text: str) -> None:
    faults = faults_of(name, "WrongPixels")
    assert text in faults
    assert "PSNR changes by -" in faults


ROW = CodecRow(50, 0.5, 0.5, 0, 33, 33, 0, 0, 100, 0)
OTHER = PictureRow("x2", 30, 30, 0, 60, 0)


@pytest.mark.parametrize(
    ("precision", "row", "fault"),
    [
        ("fp32", replace(ROW, levels=1), ""),
        ("fp32", replace(ROW, levels=2), "pixels differ by 2 levels at quality 50, expected at most 1"),
        ("fp16", replace(ROW, levels=9, psnr_change=0.02, rate_change=-0.001), ""),
        ("fp16", replace(ROW, rate_change=-0.0011), "the rate changes by -0.110 % at quality 50, expected at most 0.1"),
        ("fp16", replace(ROW, psnr_change=0.021), "PSNR changes by +0.021 dB at quality 50, expected at most 0.02"),
        ("fp16", replace(ROW, psnr_change=float("nan")), "PSNR changes by +nan dB"),
        ("fp16", replace(ROW, rate_change=float("nan")), "the rate changes by +nan %"),
        ("fp16", replace(ROW, latents_different=1), "1 of 100 latents differ at quality 50, expected none"),
        ("int8", replace(ROW, levels=40, psnr_change=3, rate_change=-0.5), ""),
        ("int8", replace(ROW, psnr_change=-1.6), "PSNR changes by -1.600 dB at quality 50, expected at most 1.5"),
        ("int8", replace(ROW, rate_change=0.16), "the rate changes by +16.000 % at quality 50, expected at most 15"),
        ("int8", replace(ROW, latents_different=1), "1 of 100 latents differ"),
        ("fp32", replace(OTHER, levels=2), "outputs differ by 2 levels (x2), expected at most 1"),
        ("fp16", replace(OTHER, levels=2, psnr_change=-0.03), "PSNR changes by -0.030 dB (x2)"),
        ("int8", LosslessRow(5, 9, 9, 1), "1 of 20 decoded digits differ from what was coded"),
        ("fp32", LosslessRow(5, 8, 9, 0), "the file has 8 bytes, the reference's 9"),
    ],
)
def test_tolerances(precision: str, row: Any, fault: str) -> None:
    found = Comparison("m", "0", "codec", precision, "fp32", "cpu", 1, 1, "", (row,))
    assert found.tolerance == TOLERANCES[precision]
    if fault:
        assert found.faults()[0].startswith(fault)
    else:
        assert found.faults() == ()


def test_what_cannot_be_compared() -> None:
    fast = find_package("fast")
    with pytest.raises(ModelError, match=r"is model fast .*, .* is upscale-x2 .*: compare packages of one model"):
        compare(fast, find_package("upscale-x2"))
    grey: npt.NDArray[np.uint8] = np.zeros((9, 9), np.uint8)
    with pytest.raises(
        OptionError, match=r"expected pictures of uint8 \(H, W, 3\) .* for a codec, found uint8 \(9, 9\)"
    ):
        compare(fast, fast, [grey])
    with pytest.raises(OptionError, match="no qualities"):
        compare(fast, fast, PICTURES, qualities=())
    conv = find_package("mnist-conv")
    with pytest.raises(OptionError, match=r"expected pictures of uint8 \(28, 28\) for a digits"):
        compare(conv, conv, [grey])


def test_the_reference_is_the_bundled_package_of_the_model(tmp_path: Path) -> None:
    half = copied("mnist-mlp", tmp_path / "half", precision="fp16")
    assert reference_of(half).path == find_package("mnist-mlp").path
    own = copied("mnist-mlp", tmp_path / "own", model_id=7)
    assert reference_of(own) == own
    orphan = copied("mnist-mlp", tmp_path / "orphan", model_id=7, precision="fp16")
    with pytest.raises(ModelError, match=r"no bundled package is of model mnist-mlp .* name it with --against"):
        reference_of(orphan)


def test_files_that_are_damaged_missing_or_unknown(tmp_path: Path) -> None:
    package = copied("mnist-mlp", tmp_path / "mlp")
    (package.path / "encoder.onnx").write_bytes(b"nonsense")
    (package.path / "decoder.onnx").unlink()
    (package.path / "notes.txt").touch()
    damaged, unknown = check_files(package)
    assert [name in text for name, text in zip(("decoder.onnx", "encoder.onnx"), damaged, strict=True)] == [True, True]
    assert unknown == ("notes.txt",)
    found = verify(package)
    assert found.comparison is None
    assert found.exact is None
    assert found.faults() == damaged


def test_a_package_that_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), PICTURES[0])
    assert main(["verify", "fast", "--images", str(tmp_path), "--qualities", "30", "--json", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["damaged"], found["exact"], found["faults"]) == ([], True, [])
    assert found["comparison"]["images"] == 1
    assert [row["quality"] for row in found["comparison"]["rows"]] == [30]
    assert main(["verify", "mnist-conv", "-v"]) == 0
    captured = capsys.readouterr()
    count = len(find_package("mnist-conv").manifest.files)
    assert f"{count} of {count} files are what the manifest says" in captured.out
    assert "backend cpu taken" in captured.err


def test_digits_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, digit in enumerate(made_digits(3, binary=True)):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), digit)
    for name in ("mnist-lossless-binary", "mnist-mlp"):
        assert main(["verify", name, "--images", str(tmp_path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["comparison"]["images"] == 3


def test_a_package_that_does_not_pass_is_exit_1_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = copied("fast", tmp_path / "fast")
    (package.path / "tables.npz").write_bytes(b"")
    assert main(["verify", str(package.path)]) == 1
    assert "tables.npz is damaged: its SHA-256 is not the manifest's" in capsys.readouterr().err
    monkeypatch.setattr(selection, "ENGINES", (engine("WrongByOne"), selection.ENGINES[-1]))
    assert cv2.imwrite(str(tmp_path / "a.png"), PICTURES[1])
    arguments = ["verify", "fast", "--images", str(tmp_path), "--qualities", "30", "--backend", "cuda"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "known answers: WRONG" in captured.out
    assert captured.err.startswith("vaert: error: fast does not pass: the cuda backend does not compute the prior")
    assert captured.err.count("\n") == 1


def test_weights_that_are_a_little_off_are_out_of_the_tolerance_of_fp16(tmp_path: Path) -> None:
    package = copied("mnist-mlp", tmp_path / "off", precision="fp16")
    data = bytearray((package.path / "decoder.onnx").read_bytes())
    weights = bytearray((package.path / "weights.safetensors").read_bytes())
    target, name = (data, "decoder.onnx") if len(data) > 100_000 else (weights, "weights.safetensors")
    values = np.frombuffer(bytes(target[-4000:]), np.float32).copy()
    target[-4000:] = (values * np.float32(1.5)).tobytes()
    (package.path / name).write_bytes(bytes(target))
    files = {**package.manifest.files, name: hashlib.sha256(bytes(target)).hexdigest()}
    manifest = replace(package.manifest, files=files)
    (package.path / MANIFEST).write_text(manifest.to_json())
    assert Manifest.from_json(manifest.to_json()) == manifest
    found = verify(Package.open(package.path), backend=OnnxRuntimeCpu(threads=1))
    assert found.damaged == ()
    assert any("PSNR changes by" in fault for fault in found.faults())
