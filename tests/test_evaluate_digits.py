"""ELBO and likelihood against numbers known without them, and `vaert evaluate` on models of digits."""

import gzip
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from digit_package import make_package

from vaert import evaluate_digits as evaluation
from vaert.cli import main
from vaert.errors import DataError, OptionError, OutputError
from vaert.evaluate_digits import Likelihood, evaluate_digits
from vaert.package import Package
from vaert.runtime.backends import OnnxRuntimeCpu, Runner
from vaert.runtime.backends.base import Named
from vaert.runtime.digit_vae import DigitVAE

Pixels = npt.NDArray[np.uint8]
COUNT = 30  # digits in the folder, of which the last tenth evaluates


def write_idx(folder: Path, digits: Pixels) -> None:
    for name, values in (("images-idx3", digits), ("labels-idx1", (np.arange(len(digits)) % 10).astype(np.uint8))):
        header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
        (folder / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages") / "six", latents=6).path


@pytest.fixture(scope="module")
def data(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    write_idx(made, DigitVAE(folder, threads=1).sample(COUNT, seed=2))
    return made


def test_the_bernoulli_likelihood_is_that_of_coins() -> None:
    x, mean = np.array([[1.0, 0.0, 1.0]]), np.array([[0.9, 0.3, 0.5]])
    found = Likelihood("bernoulli", None).of(x, np.log(mean / (1 - mean)))
    assert found == pytest.approx([math.log(0.9 * 0.7 * 0.5)])


def test_the_gaussian_likelihood_is_a_density() -> None:
    x, mean = np.array([[0.2, 0.9]]), np.array([[0.25, 0.7]])
    found = Likelihood("gaussian", 0.02).of(x, np.log(mean / (1 - mean)))
    density = [
        math.exp(-((a - b) ** 2) / 0.04) / math.sqrt(2 * math.pi * 0.02) for a, b in zip(x[0], mean[0], strict=True)
    ]
    assert found == pytest.approx([math.log(math.prod(density))])


@dataclass
class Coins:
    """A model that ignores its latents: every pixel is white with probability 1/4, and q(z | x) is N(shift, 1)."""

    shift: float
    name: str = "coins"
    flavour: str = "cpu"

    def load(self, package: Package, graph: str) -> Runner:
        return _Coins(self.shift)

    def close(self) -> None: ...


@dataclass
class _Coins:
    shift: float

    def run(self, inputs: Named) -> dict[str, npt.NDArray[np.generic]]:
        count = len(next(iter(inputs.values())))
        logits = np.full((count, 28, 28, 1), math.log(1 / 3), np.float32)
        mean = np.full((count, 6), self.shift, np.float32)
        pixels = np.full((count, 28, 28, 1), 64, np.uint8)
        return {"logits": logits, "pixels": pixels, "mean": mean, "log_variance": np.zeros_like(mean)}


def test_bounds_of_a_model_without_latents_are_exact(folder: Path) -> None:
    digits = np.where(np.arange(28 * 28).reshape(28, 28) < 100, 255, 0).astype(np.uint8)[None].repeat(3, 0)
    exact = 100 * math.log(1 / 4) + 684 * math.log(3 / 4)
    vae = DigitVAE(folder, backend=Coins(0.0))
    found = evaluation._bounds(vae, digits, Likelihood("bernoulli", None), samples=7, progress=None)
    np.testing.assert_allclose(found, exact, rtol=1e-6)  # q is the posterior: both bounds are tight
    shifted = DigitVAE(folder, backend=Coins(0.5))
    found = evaluation._bounds(shifted, digits, Likelihood("bernoulli", None), samples=4000, progress=None)
    np.testing.assert_allclose(found[:, 0], exact - 6 * 0.5**2 / 2, atol=0.1)  # off by KL(q || prior)
    np.testing.assert_allclose(found[:, 1], exact, atol=0.2)


def test_the_estimate_agrees_with_integration(tmp_path: Path) -> None:
    # Two latents can be summed over a grid; q(z | x) is wider than the posterior, so that its samples cover it.
    vae = DigitVAE(make_package(tmp_path / "two", latents=2, contrast=0.3, log_variance=0.2), threads=1)
    chance = np.random.default_rng(3).random((1, 28, 28)) * 255
    digit = np.where(chance < vae.sample(1, seed=3), 255, 0).astype(np.uint8)
    found = evaluation._bounds(vae, digit, Likelihood("bernoulli", None), samples=20_000, progress=None)[0]
    axis = np.linspace(-6, 6, 241)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    x, logits = digit.reshape(-1) / 255, vae.decode(grid).reshape(len(grid), -1).astype(np.float64)
    joint = Likelihood("bernoulli", None).of(x, logits) - np.square(grid).sum(1) / 2 - math.log(2 * math.pi)
    exact = joint.max() + math.log(np.exp(joint - joint.max()).sum() * (axis[1] - axis[0]) ** 2)
    assert found[1] == pytest.approx(exact, abs=0.05)
    assert found[0] < found[1]


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_report_says_what_was_measured(likelihood: str, data: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path / likelihood, latents=6, likelihood=likelihood, variance=0.05)
    calls: list[tuple[int, int]] = []
    report = evaluate_digits(package.path, data, samples=20, progress=lambda *n: calls.append(n), threads=1)
    again = evaluate_digits(package.path, data, samples=20, threads=1)
    assert report == again
    assert report.digits == 3
    assert "first 27 digits of t10k-images train, its last 3 evaluate" in report.split
    assert calls[-1] == (3, 3)
    assert -report.elbo >= report.nll
    assert report.psnr > 15
    assert ("Gaussian likelihood of variance 0.05" in report.likelihood) == (likelihood == "gaussian")
    assert ("binarised (seed 0)" in report.likelihood) == (likelihood == "bernoulli")
    assert json.loads(json.dumps(report.to_dict()))["samples"] == 20
    assert any("20 samples a digit" in line for line in report.lines())


def test_only_the_evaluation_digits_count(folder: Path, tmp_path: Path) -> None:
    digits = DigitVAE(folder, threads=1).sample(COUNT, seed=2)
    found = []
    for others in (digits[:27], 255 - digits[:27]):
        write_idx(tmp_path, np.concatenate([others, digits[27:]]))
        found.append(evaluate_digits(folder, tmp_path, samples=5, threads=1))
    assert found[0] == found[1]


def test_grey_levels_are_probabilities(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Pixels] = []

    def weights(vae: DigitVAE, digits: Pixels, *_: object, **__: object) -> npt.NDArray[np.float64]:
        seen.append(digits)
        return np.zeros((len(digits), 1))

    monkeypatch.setattr(evaluation, "_log_weights", weights)
    vae = DigitVAE(folder, backend=OnnxRuntimeCpu(threads=1))
    grey = np.full((40, 28, 28), 51, np.uint8)
    evaluation._bounds(vae, grey, Likelihood("bernoulli", None), samples=1, progress=None)
    drawn = np.concatenate(seen)
    assert set(np.unique(drawn)) == {0, 255}
    assert (drawn == 255).mean() == pytest.approx(0.2, abs=0.01)
    seen.clear()
    evaluation._bounds(vae, grey, Likelihood("gaussian", 0.02), samples=1, progress=None)
    assert (np.concatenate(seen) == 51).all()


def test_the_command_reports_and_draws(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "plot.png"
    assert main(["evaluate", str(folder), "--data", str(data), "--plot", str(plot), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["samples"]) == ("by-hand", 500)
    picture = cv2.imread(str(plot))
    assert picture is not None
    assert picture.shape[1] > 5 * picture.shape[0]
    two = make_package(tmp_path / "two", latents=2).path
    assert main(["evaluate", str(two), "--data", str(data), "--plot", str(tmp_path / "two.png")]) == 0
    assert "NLL" in capsys.readouterr().err
    scatter = cv2.imread(str(tmp_path / "two.png"))
    assert scatter is not None
    assert scatter.shape[0] > 4 * picture.shape[0]
    assert main(["evaluate", str(folder), "--data", str(data), "--plot", str(plot)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_an_existing_plot_and_bad_numbers_are_refused_before_any_work(folder: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "plot.png").write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        evaluate_digits(folder, tmp_path / "none", plot=tmp_path / "plot.png")
    with pytest.raises(OptionError, match="samples must be at least 1"):
        evaluate_digits(folder, data, samples=0)
    with pytest.raises(DataError, match="not a folder"):
        evaluate_digits(folder, tmp_path / "none")


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("fast", ["--data", "."], "--data cannot be used with fast, a model of kind codec: give --images"),
        ("fast", [], "model fast is of kind codec, expected --images DIR"),
        (None, ["--images", "."], "--images cannot be used with"),
        (None, ["--images", ".", "--qualities", "10"], "--images and --qualities cannot be used with"),
        (None, [], "expected --data DIR"),
    ],
)
def test_options_of_another_kind_of_model_are_refused(
    model: str | None, arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", model or str(folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
