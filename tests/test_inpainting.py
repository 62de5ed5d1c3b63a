"""Inpainting: what a model can know of the hidden pixels is found, what is known stays, and the rest is refused."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from digit_package import make_package

from vaert.cli import main
from vaert.errors import ImageError, OptionError
from vaert.runtime.digit_vae import DigitVAE
from vaert.runtime.inpainting import inpaint

Pixels = npt.NDArray[np.uint8]
LATENTS = 6
BOTTOM = np.zeros((28, 28), np.bool_)
BOTTOM[14:] = True
RIGHT = BOTTOM.T.copy()


@pytest.fixture(scope="module", params=["bernoulli", "gaussian"])
def vae(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DigitVAE:
    folder = tmp_path_factory.mktemp("packages") / request.param
    return DigitVAE(make_package(folder, latents=LATENTS, likelihood=request.param), threads=1)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages") / "by-hand", latents=LATENTS).path


def drawn(vae: DigitVAE, count: int) -> Pixels:
    return vae.render(np.random.default_rng(3).standard_normal((count, LATENTS)))


def hidden_psnr(original: Pixels, restored: Pixels, hidden: npt.NDArray[np.bool_]) -> float:
    error = original[hidden].astype(float) - restored[hidden]
    return float(10 * np.log10(255**2 / max(np.square(error).mean(), 1e-3)))


@pytest.mark.parametrize("hidden", [BOTTOM, RIGHT], ids=["bottom", "right"])
def test_what_follows_from_the_known_pixels_is_found(vae: DigitVAE, hidden: npt.NDArray[np.bool_]) -> None:
    # The pictures are the model's own and half of one tells its latents nearly, so little can be left to guess.
    for digit in drawn(vae, 4):
        damaged = np.where(hidden, 0, digit).astype(np.uint8)
        filled = np.where(hidden, np.rint(digit[~hidden].mean()), digit).astype(np.uint8)
        restored = inpaint(vae, damaged, hidden)
        np.testing.assert_array_equal(restored[~hidden], digit[~hidden])
        assert hidden_psnr(digit, restored, hidden) > hidden_psnr(digit, filled, hidden) + 6


def test_it_finds_the_maximum_of_the_posterior(vae: DigitVAE) -> None:
    # Linear decoder, Bernoulli or Gaussian likelihood: compare with a plain descent on the same objective.
    digit = drawn(vae, 1)[0]
    found = inpaint(vae, digit, BOTTOM)
    u = vae.decode(np.eye(LATENTS)).reshape(LATENTS, -1)[:, ~BOTTOM.ravel()].astype(np.float64)
    x, z = digit[~BOTTOM] / 255, np.zeros(LATENTS)
    variance = float(vae.package.manifest.config["variance"])
    gaussian = vae.package.manifest.config["likelihood"] == "gaussian"
    for _ in range(200):
        mean = 1 / (1 + np.exp(-z @ u))
        slope = mean * (1 - mean)
        weight, pull = (slope**2 / variance, (x - mean) * slope / variance) if gaussian else (slope, x - mean)
        z = z + 0.3 * np.linalg.solve((u * weight) @ u.T + np.eye(LATENTS), u @ pull - z)
    expected = vae.render(z[None])[0]
    assert np.abs(found[BOTTOM].astype(int) - expected[BOTTOM]).max() <= 2


def test_hidden_values_do_not_matter(vae: DigitVAE) -> None:
    digit = drawn(vae, 1)[0]
    noise = np.random.default_rng(5).integers(0, 256, digit.shape).astype(np.uint8)
    spoiled = np.where(RIGHT, noise, digit)
    np.testing.assert_array_equal(inpaint(vae, spoiled, RIGHT), inpaint(vae, digit, RIGHT))


def test_a_seed_gives_the_same_pixels(vae: DigitVAE) -> None:
    digit = drawn(vae, 1)[0]
    first = inpaint(vae, digit, BOTTOM, seed=3)
    np.testing.assert_array_equal(inpaint(vae, digit, BOTTOM, seed=3), first)


def test_one_known_pixel_is_enough_to_run(vae: DigitVAE) -> None:
    hidden = np.ones((28, 28), np.bool_)
    hidden[5, 5] = False
    digit = drawn(vae, 1)[0]
    assert inpaint(vae, digit, hidden)[5, 5] == digit[5, 5]


def test_an_empty_mask_gives_a_copy(vae: DigitVAE) -> None:
    digit = drawn(vae, 1)[0]
    same = inpaint(vae, digit, np.zeros((28, 28), np.bool_))
    np.testing.assert_array_equal(same, digit)
    assert same is not digit


@pytest.mark.parametrize(
    ("shape", "hidden", "message"),
    [
        ((28, 28), np.ones((28, 28), np.bool_), "hides every pixel"),
        ((28, 28), np.ones((28, 27), np.bool_), r"mask must be of the picture's size \(28, 28\)"),
        ((28, 28), np.ones((28, 28), np.uint8), "found uint8"),
        ((32, 28), BOTTOM, r"grey pictures of 28x28 pixels, found uint8 \(32, 28\)"),
        ((28, 28, 3), BOTTOM, "grey pictures of 28x28 pixels"),
    ],
)
def test_what_does_not_fit_is_refused(
    vae: DigitVAE, shape: tuple[int, ...], hidden: npt.NDArray[Any], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        inpaint(vae, np.zeros(shape, np.uint8), hidden)
    with pytest.raises(OptionError, match="seed must be at least 0"):
        inpaint(vae, np.zeros((28, 28), np.uint8), BOTTOM, seed=-1)


def load(path: str | Path) -> Pixels:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels.astype(np.uint8)


def save(path: Path, pixels: Pixels) -> str:
    assert cv2.imwrite(str(path), pixels)
    return str(path)


@pytest.fixture
def files(tmp_path: Path, package: Path) -> tuple[str, str]:
    """A damaged picture and its mask."""
    digit = drawn(DigitVAE(package, threads=1), 1)[0]
    return save(tmp_path / "in.png", digit), save(tmp_path / "mask.png", 3 * BOTTOM.astype(np.uint8))


def restore(package: Path, *arguments: str) -> int:
    return main(["restore", "--threads", "1", "--model", str(package), *arguments])


def test_the_command_restores_and_reports(
    files: tuple[str, str], tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, mask = files
    out = tmp_path / "out.png"
    assert restore(package, source, str(out), "--mask", mask) == 0
    assert capsys.readouterr().err.endswith("392 of 784 pixels restored by by-hand\n")
    picture, restored = load(source), load(out)
    assert restored.shape == (28, 28)
    np.testing.assert_array_equal(restored[:14], picture[:14])
    first = out.read_bytes()
    assert restore(package, source, str(out), "--mask", mask) == 1
    assert "exists already" in capsys.readouterr().err
    assert restore(package, source, str(out), "--mask", mask, "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["hidden"] == 392
    assert out.read_bytes() == first


def test_a_mask_that_hides_nothing_is_a_warning(
    files: tuple[str, str], tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = save(tmp_path / "empty.png", np.zeros((28, 28), np.uint8))
    assert restore(package, files[0], str(tmp_path / "out.png"), "--mask", mask, "-q") == 0
    assert "hides nothing" in capsys.readouterr().err
    np.testing.assert_array_equal(load(tmp_path / "out.png"), load(files[0]))


def test_colour_of_equal_channels_counts_as_grey(files: tuple[str, str], tmp_path: Path, package: Path) -> None:
    source = save(tmp_path / "colour.png", np.repeat(load(files[0])[..., None], 3, 2))
    assert restore(package, source, str(tmp_path / "a.png"), "--mask", files[1]) == 0
    assert restore(package, files[0], str(tmp_path / "b.png"), "--mask", files[1]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("source", "mask", "message"),
    [
        (np.zeros((28, 28), np.uint8), np.ones((28, 28), np.uint8), "mask.png hides every pixel"),
        (np.zeros((28, 28), np.uint8), np.ones((20, 28), np.uint8), "mask.png has 28x20 pixels, expected those of"),
        (np.zeros((30, 40), np.uint8), np.ones((30, 40), np.uint8), "in.png has 40x30 pixels, by-hand restores"),
        (np.arange(28 * 28 * 3).reshape(28, 28, 3).astype(np.uint8), np.ones((28, 28), np.uint8), "in.png has colours"),
        (np.full((28, 28, 4), 9, np.uint8), np.ones((28, 28), np.uint8), "in.png has alpha"),
    ],
)
def test_files_that_do_not_fit_are_one_line(
    tmp_path: Path, package: Path, source: Pixels, mask: Pixels, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = save(tmp_path / "in.png", source), save(tmp_path / "mask.png", mask)
    assert restore(package, paths[0], str(tmp_path / "out.png"), "--mask", paths[1]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("vaert: error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_wrong_options_are_told(
    files: tuple[str, str], tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out.png")
    assert restore(package, files[0], out) == 2
    assert "expected --mask IMAGE" in capsys.readouterr().err
    assert restore(package, files[0], out, "--mask", files[1], "--strength", "1") == 2
    assert "--strength has no use with by-hand" in capsys.readouterr().err
    assert main(["restore", files[0], out, "--mask", files[1], "--model", "fast"]) == 1
    assert "of kind codec and restores nothing" in capsys.readouterr().err
    assert restore(package, files[0], str(tmp_path / "out.jpg"), "--mask", files[1]) == 1
    assert ".jpg changes pixels" in capsys.readouterr().err
