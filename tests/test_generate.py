"""Pictures of the latent space: samples that a seed repeats, the plane of two latents, and morphs."""

import hashlib
import json
from pathlib import Path
from statistics import NormalDist

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from digit_package import make_package, rewrite
from hypothesis import given
from hypothesis import strategies as st

from vaert.cli import main
from vaert.errors import ModelError, OptionError
from vaert.package import find_package
from vaert.runtime.digit_vae import BATCH, DigitVAE, great_circle, mosaic

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages") / "six", latents=6).path


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages") / "two", latents=2).path


@pytest.fixture(scope="module")
def vae(folder: Path) -> DigitVAE:
    return DigitVAE(folder, threads=1)


def load(path: Path) -> Pixels:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels.astype(np.uint8)


def generate(*arguments: str | Path) -> int:
    return main(["generate", "--threads", "1", *map(str, arguments)])


def test_batches_change_nothing(vae: DigitVAE) -> None:
    z = np.random.default_rng(0).standard_normal((BATCH + 3, 6)).astype(np.float32)
    digits = vae.render(z)
    assert digits.shape == (BATCH + 3, 28, 28)
    np.testing.assert_array_equal(vae.render(z[-2:]), digits[-2:])
    posterior = vae.encode(digits)
    assert posterior.mean.shape == posterior.log_variance.shape == (BATCH + 3, 6)
    np.testing.assert_allclose(vae.encode(digits[-2:]).mean, posterior.mean[-2:], atol=1e-5)
    np.testing.assert_allclose(posterior.deviation, np.exp(-1.5), rtol=1e-6)


def test_pixels_are_the_sigmoid_of_the_logits(vae: DigitVAE) -> None:
    z = np.random.default_rng(1).standard_normal((3, 6))
    expected = 255 / (1 + np.exp(-vae.decode(z).astype(np.float64)))
    assert np.abs(vae.render(z) - expected).max() <= 0.51


def test_nothing_in_gives_nothing_out(vae: DigitVAE) -> None:
    assert vae.encode(np.empty((0, 28, 28), np.uint8)).mean.shape == (0, 6)
    assert vae.decode(np.empty((0, 6))).shape == (0, 28, 28)
    assert vae.render(np.empty((0, 6))).shape == (0, 28, 28)


def test_what_a_model_cannot_take_is_refused(vae: DigitVAE) -> None:
    with pytest.raises(OptionError, match=r"expected latents of shape \(N, 6\), found \(2, 5\)"):
        vae.decode(np.zeros((2, 5)))
    with pytest.raises(OptionError, match="28x28 pixels, uint8, found float64"):
        vae.encode(np.zeros((2, 28, 28)))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"found uint8 \(27, 28\)"):
        vae.encode(np.zeros((2, 27, 28), np.uint8))
    with pytest.raises(ModelError, match="of kind codec, expected digits"):
        DigitVAE("fast")


def test_samples_follow_the_seed(vae: DigitVAE) -> None:
    first = vae.sample(5, seed=1)
    np.testing.assert_array_equal(vae.sample(5, seed=1), first)
    assert (vae.sample(5, seed=2) != first).any()
    np.testing.assert_array_equal(vae.sample(9, seed=1)[:5], first)  # more samples keep those that were there
    for count, seed in ((0, 0), (1, -1)):
        with pytest.raises(OptionError, match="at least one sample and a seed of at least 0"):
            vae.sample(count, seed=seed)


def test_samples_come_from_the_prior(vae: DigitVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[npt.NDArray[np.float32]] = []
    monkeypatch.setattr(vae, "render", seen.append)
    vae.sample(20_000, seed=0)
    assert np.abs(seen[0].mean(0)).max() < 0.03
    assert np.abs(np.cov(seen[0].T) - np.eye(6)).max() < 0.04


def test_the_manifold_is_a_grid_of_quantiles(plane: Path) -> None:
    vae = DigitVAE(plane, threads=1)
    digits = vae.manifold(3)
    low, middle, high = (NormalDist().inv_cdf(p) for p in (1 / 6, 1 / 2, 5 / 6))
    expected = [(low, high), (middle, high), (high, high), (low, middle)]  # z1 to the right, z2 upwards
    np.testing.assert_array_equal(digits[:4], vae.render(np.array(expected)))
    assert len(digits) == 9
    with pytest.raises(OptionError, match="at least 2 steps"):
        vae.manifold(1)


def test_an_interpolation_starts_and_ends_at_the_digits(vae: DigitVAE) -> None:
    ends = vae.sample(2, seed=4)
    path = vae.interpolate(*ends, steps=7)
    np.testing.assert_array_equal(path[[0, -1]], vae.render(vae.encode(ends).mean))
    steps = np.abs(np.diff(path.astype(int), axis=0)).mean((1, 2))
    assert steps.max() < 0.6 * np.abs(path[-1].astype(int) - path[0]).mean()
    np.testing.assert_array_equal(path[::-1], vae.interpolate(ends[1], ends[0], steps=7))
    with pytest.raises(OptionError, match="at least 2 steps"):
        vae.interpolate(*ends, steps=1)


@given(st.integers(0, 1000), st.integers(2, 40), st.floats(0, 1))
def test_a_great_circle_keeps_the_plane_and_the_lengths_between(seed: int, size: int, position: float) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, size))
    ends = great_circle(a, b, np.array([0.0, 1.0]))
    np.testing.assert_allclose(ends, [a, b], atol=1e-9)
    point = great_circle(a, b, np.array([position]))[0]
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    assert min(lengths) - 1e-9 <= np.linalg.norm(point) <= max(lengths) + 1e-9
    assert np.linalg.lstsq(np.stack([a, b], 1), point, rcond=None)[1].sum() < 1e-9


@pytest.mark.parametrize("b", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
def test_vectors_on_one_line_are_joined_by_it(b: list[float]) -> None:
    a, end = np.array([1.0, 0.0]), np.array(b)
    np.testing.assert_allclose(great_circle(a, end, np.array([0.25]))[0], 0.75 * a + 0.25 * end)


def test_a_mosaic_is_as_square_as_it_gets() -> None:
    digits = np.arange(1, 6, dtype=np.uint8)[:, None, None] * np.ones((5, 4, 3), np.uint8)
    picture = mosaic(digits, gap=1)
    assert picture.shape == (2 * 5 - 1, 3 * 4 - 1)
    np.testing.assert_array_equal(picture[::5, ::4], [[1, 2, 3], [4, 5, 0]])
    assert (picture[4] == 0).all()
    assert mosaic(digits, columns=5, gap=0).shape == (4, 15)


def test_the_command_draws_the_same_bytes_for_a_seed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def digest(name: str, *arguments: str) -> str:
        assert generate(tmp_path / name, "--model", folder, *arguments) == 0
        return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()

    first = digest("a.png")
    assert capsys.readouterr().err.endswith("a.png: 64 digits, samples of the prior, seed 0\n")
    assert load(tmp_path / "a.png").shape == (8 * 30 - 2, 8 * 30 - 2)
    assert digest("b.png", "--seed", "0", "-q") == first
    assert digest("c.png", "--seed", "1", "--json") != first
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert (report["digits"], report["seed"], report["width"]) == (64, 1, 238)


def test_samples_on_the_command_line_are_those_of_the_class(folder: Path, tmp_path: Path, vae: DigitVAE) -> None:
    assert generate(tmp_path / "a.png", "--model", folder, "-n", "3", "--seed", "8") == 0
    np.testing.assert_array_equal(load(tmp_path / "a.png"), mosaic(vae.sample(3, seed=8)))


def test_the_command_draws_a_manifold_and_a_morph(folder: Path, plane: Path, tmp_path: Path, vae: DigitVAE) -> None:
    assert generate(tmp_path / "plane.png", "--model", plane, "--manifold", "--steps", "4") == 0
    assert load(tmp_path / "plane.png").shape == (112, 112)
    ends = vae.sample(2, seed=4)
    for name, digit in zip("ab", ends, strict=True):
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), digit)
    both = tmp_path / "a.png", tmp_path / "b.png"
    assert generate(tmp_path / "morph.png", "--model", folder, "--interpolate", *both) == 0
    np.testing.assert_array_equal(load(tmp_path / "morph.png"), mosaic(vae.interpolate(*ends), columns=10))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--manifold"], 2, "needs a model of 2 latents, by-hand has 6"),
        (["--manifold", "-n", "4"], 2, "-n and --manifold exclude each other"),
        (["--manifold", "--seed", "4"], 2, "--seed has no use with --manifold"),
        (["--steps", "4"], 2, "--steps belongs to --manifold and --interpolate"),
        (["-n", "0"], 2, "-n"),
        (["--interpolate", "none.png", "none.png"], 1, "cannot read none.png: no such file"),
        (["--model", "fast"], 1, "of kind codec, expected digits"),
        (["--model", "nothing"], 1, "no model 'nothing'"),
    ],
)
def test_wrong_options_are_told(
    arguments: list[str], code: int, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = arguments if "--model" in arguments else [*arguments, "--model", str(folder)]
    assert generate(tmp_path / "out.png", *chosen) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_outputs_are_guarded(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(tmp_path / "out.jpg", "--model", folder) == 1
    assert ".jpg changes pixels" in capsys.readouterr().err
    (tmp_path / "out.png").write_bytes(b"old")
    assert generate(tmp_path / "out.png", "--model", folder) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "out.png").read_bytes() == b"old"
    assert generate(tmp_path / "out.png", "--model", folder, "--force") == 0


def test_ends_of_another_size_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 28), np.uint8))
    path = str(tmp_path / "a.png")
    assert generate(tmp_path / "out.png", "--model", folder, "--interpolate", path, path) == 1
    assert "a.png has 28x20 pixels, expected a digit of 28x28" in capsys.readouterr().err


def test_a_photo_model_stays_what_it_is(folder: Path, tmp_path: Path) -> None:
    rewrite(make_package(tmp_path / "odd").path, kind="codec")
    with pytest.raises(ModelError, match="of kind codec"):
        DigitVAE(tmp_path / "odd")
    assert find_package(folder).manifest.kind == "digits"
