"""The VAEs of digits: their formulas against torch's own, training through the one loop, export against torch."""

import csv
import gzip
import os
import signal
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from vaert import cli
from vaert.errors import DataError, ModelError, OptionError
from vaert.export import export_model
from vaert.idx import load_split
from vaert.package import Package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.trainer import loop
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.config import TrainConfig
from vaert.trainer.digits import DigitSet
from vaert.trainer.elbo import Elbo
from vaert.trainer.loop import train
from vaert.trainer.models import digits as formulas
from vaert.trainer.models.digits import DigitVAE, reparameterise
from vaert.trainer.models.mnist_conv import ConvConfig, ConvVAE
from vaert.trainer.models.mnist_mlp import MlpConfig, MlpVAE
from vaert.trainer.run import Run
from vaert.trainer.tasks import MNIST_CONV, MNIST_MLP, Task

SMALL_MLP, SMALL_CONV = MlpConfig(latents=3, hidden=16), ConvConfig(latents=3, hidden=16, channels=4)


def made_digits(count: int) -> npt.NDArray[np.uint8]:
    """Rings and bars, uint8 (count, 28, 28)."""
    rng = np.random.default_rng(count)
    y, x = np.mgrid[:28, :28]
    middle, radius = rng.uniform(11, 16, (2, count, 1, 1)), rng.uniform(4, 9, (count, 1, 1))
    ring = 255 * np.exp(-((np.hypot(y - middle[0], x - middle[1]) - radius) ** 2) / 3)
    bar = 255 * np.exp(-((x - middle[1]) ** 2) / 3) * (abs(y - 14) < 9)
    made: npt.NDArray[np.uint8] = np.where(np.arange(count)[:, None, None] % 2, ring, bar).astype(np.uint8)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    digits = made_digits(200)
    images = struct.pack(">4I", 0x803, *digits.shape) + digits.tobytes()
    labels = struct.pack(">2I", 0x801, len(digits)) + bytes(n % 2 for n in range(len(digits)))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(labels)
    return folder


@pytest.fixture(params=["mlp", "conv"])
def asked(request: pytest.FixtureRequest, data: Path, tmp_path: Path) -> Run:
    task, model = (MNIST_MLP, SMALL_MLP) if request.param == "mlp" else (MNIST_CONV, SMALL_CONV)
    return run_of(task, data, tmp_path / "out", model)


def run_of(task: Task, data: Path, out: Path, model: object) -> Run:
    config = replace(task.config, steps=30, log_every=10, warmup=4)
    return Run(task.kind, (str(data),), out, task=task, config=config, model_config=model)


def test_kl_divergence_is_that_of_torch() -> None:
    mean, log_variance = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1)).double()
    q = Normal(mean, torch.exp(0.5 * log_variance))
    expected = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1)
    torch.testing.assert_close(formulas.kl_divergence(mean, log_variance), expected)


def test_reparameterised_samples_have_the_moments_they_were_made_from() -> None:
    mean, log_variance = torch.tensor([[1.5, -0.5]]).repeat(40_000, 1), torch.tensor([[0.4, -2.0]]).repeat(40_000, 1)
    z = reparameterise(mean, log_variance, torch.Generator().manual_seed(2))
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0).log(), log_variance[0], atol=0.04, rtol=0)


def test_likelihoods_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(4, 1, 28, 28, generator=generator)
    grey = torch.rand(logits.shape, generator=generator)
    binary = torch.bernoulli(grey, generator=generator)
    gaussian = MlpVAE(replace(SMALL_MLP, likelihood="gaussian", variance=0.05))
    expected = Normal(torch.sigmoid(logits), 0.05**0.5).log_prob(grey).sum((1, 2, 3))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(gaussian.log_likelihood(grey, logits), expected, rtol=1e-4, atol=1e-2)
    expected = Bernoulli(logits=logits).log_prob(binary).sum((1, 2, 3))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(MlpVAE(SMALL_MLP).log_likelihood(binary, logits), expected)


@pytest.mark.parametrize("latents", [2, 20, 50])
def test_the_mlp_is_784_400_latents(latents: int) -> None:
    shapes = {name: tuple(p.shape) for name, p in MlpVAE(MlpConfig(latents=latents)).named_parameters()}
    assert [shape for name, shape in shapes.items() if name.endswith("weight")] == [
        (400, 784), (2 * latents, 400), (400, latents), (784, 400),
    ]  # fmt: skip


@pytest.mark.parametrize("model", [MlpVAE(SMALL_MLP), ConvVAE(SMALL_CONV)])
def test_shapes_and_range(model: DigitVAE) -> None:
    mean, log_variance = model.encode(torch.rand(5, 1, 28, 28) * 1e4)
    assert mean.shape == log_variance.shape == (5, 3)
    assert -10 <= float(log_variance.detach().min()) <= float(log_variance.detach().max()) <= 5
    assert model.decode(mean).shape == (5, 1, 28, 28)


def test_the_weight_of_the_divergence_grows_to_one() -> None:
    objective = Elbo(MlpVAE(SMALL_MLP))
    batch = torch.from_numpy(made_digits(20))
    losses = []
    for objective.progress in (0.0, 0.01, 0.02, 1.0):
        loss, metrics = objective(batch, torch.Generator().manual_seed(0))
        losses.append(float(loss.detach()))
    elbo, kl = float(metrics["elbo"]), float(metrics["kl"])
    assert losses == pytest.approx([-elbo - kl, -elbo - kl / 2, -elbo, -elbo], rel=1e-5)


def test_training_learns_and_the_tables_are_fitted(asked: Run) -> None:
    files = train(replace(asked, steps=300))
    with files["log"].open(newline="") as file:
        curve = [float(row["elbo"]) for row in csv.DictReader(file)]
    assert curve[-1] > curve[0] + 100
    assert files["plot"].is_file()
    assert Checkpoint.load(files["checkpoint"]).fitted


def test_a_stopped_run_goes_on_to_the_same_weights(asked: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Checkpoint.load(train(replace(asked, out=tmp_path / "whole"))["checkpoint"])
    rate = loop._learning_rate

    def stop(step: int, config: TrainConfig) -> float:
        if step == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return rate(step, config)

    monkeypatch.setattr(loop, "_learning_rate", stop)
    with pytest.raises(KeyboardInterrupt):
        train(asked)
    monkeypatch.undo()
    stopped = Checkpoint.load(asked.out / "checkpoint.pt")
    assert (stopped.step, stopped.fitted) == (13, {})
    resumed = Checkpoint.load(train(replace(asked, resume=True))["checkpoint"])
    assert resumed.step == 30
    assert all(torch.equal(resumed.ema[name], tensor) for name, tensor in whole.ema.items())
    with pytest.raises(OptionError, match=r"was begun with .*latents=3.*: resume it with the same options"):
        train(replace(asked, resume=True, model_config=replace(asked.model_config, latents=4)))


def test_epochs_choose_the_steps(asked: Run) -> None:
    train(replace(asked, epochs=3, batch=50))
    assert Checkpoint.load(asked.out / "checkpoint.pt").step == 11  # 3 * 180 / 50, rounded up


def test_an_exported_model_is_what_torch_computes(asked: Run, tmp_path: Path, data: Path) -> None:
    checkpoint = train(asked)["checkpoint"]
    package = export_model(checkpoint, tmp_path / "package")
    again = export_model(package.path, tmp_path / "again")
    assert again.manifest.model_id == package.manifest.model_id
    assert package.manifest.kind == "digits"
    assert dict(package.manifest.geometry) == {"height": 28, "width": 28, "latents": 3}
    digits = load_split(data).test
    backend, model = OnnxRuntimeCpu(), Checkpoint.load(checkpoint).ema_model()
    out = backend.load(package, "encoder").run({"pixels": digits[..., None]})
    with torch.no_grad():
        mean, _ = model.encode(torch.from_numpy(digits)[:, None].float() / 255)
    assert np.abs(out["mean"] - mean.numpy()).max() < 0.02  # the package's weights are rounded to float16
    decoded = backend.load(package, "decoder").run({"latents": out["mean"]})
    expected = 255 / (1 + np.exp(-decoded["logits"].astype(np.float64)))
    assert np.abs(decoded["pixels"] - expected).max() < 0.51


def test_an_unfinished_run_cannot_be_exported(asked: Run, tmp_path: Path) -> None:
    checkpoint = train(asked)["checkpoint"]
    replace(Checkpoint.load(checkpoint), fitted={}, step=12).save(checkpoint)
    with pytest.raises(ModelError, match=r"no entropy tables yet \(12 of 30 steps\); let the training finish"):
        export_model(checkpoint, tmp_path / "package")


def test_other_weights_than_the_graphs_are_refused(asked: Run, tmp_path: Path) -> None:
    package = export_model(train(asked)["checkpoint"], tmp_path / "package")
    text = (package.path / "manifest.json").read_text().replace(f"{package.manifest.model_id:016x}", "1" * 16)
    (package.path / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match="not what this package's graphs were made from"):
        export_model(Package.open(package.path).path, tmp_path / "again")


def test_digits_are_distorted_a_little_and_the_same_way_again(data: Path) -> None:
    digits = DigitSet.load([data], quiet=True)
    assert digits.count == 180
    first, again = (digits.batch(np.random.default_rng(4), 60, 28) for _ in range(2))
    assert np.array_equal(first, again)
    known = {digit.tobytes() for digit in digits.digits}
    changed = [digit for digit in first if digit.tobytes() not in known]
    assert 20 < len(changed) < 50
    error = [min(np.abs(digit.astype(float) - other).mean() for other in digits.digits) for digit in changed]
    assert max(error) < 40  # of 255: still a ring or a bar


def test_shards_are_disjoint(data: Path) -> None:
    parts = [DigitSet.load([data], shard=(rank, 2), quiet=True).digits for rank in range(2)]
    whole = DigitSet.load([data], quiet=True).digits
    assert np.array_equal(parts[0], whole[0::2])
    assert np.array_equal(parts[1], whole[1::2])


def test_digits_come_from_one_folder(data: Path) -> None:
    with pytest.raises(DataError, match="one folder of IDX files, found 2"):
        DigitSet.load([data, data], quiet=True)


def test_the_commands(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--data", str(data), "--steps", "2", "--batch", "4"]
    mlp = ["train", "mnist-mlp", "--latent", "20", "--likelihood", "gaussian", *common]
    assert cli.main([*mlp, "--out", str(tmp_path / "mlp")]) == 0
    saved = Checkpoint.load(tmp_path / "mlp" / "checkpoint.pt")
    assert (saved.kind, saved.model_config) == ("mnist-mlp", MlpConfig(latents=20, likelihood="gaussian"))
    assert "180 digits" in capsys.readouterr().err
    assert cli.main(["train", "mnist-conv", *common, "--out", str(tmp_path / "conv")]) == 0
    assert Checkpoint.load(tmp_path / "conv" / "checkpoint.pt").model_config == ConvConfig()
    assert cli.main([*mlp, "--out", str(tmp_path / "none"), "--data", str(tmp_path)]) == 1
    assert not (tmp_path / "none" / "checkpoint.pt").exists()
