"""Every kind of model goes through the one loop: it learns to run, stops, goes on to the same weights, and is drawn."""

import gzip
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaert import cli
from vaert.errors import OptionError
from vaert.image import encode_image, read_image
from vaert.trainer import loop
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.config import Stage
from vaert.trainer.loop import train
from vaert.trainer.models.mnist_lossless import LosslessConfig
from vaert.trainer.models.restorer import RestorerConfig
from vaert.trainer.models.upscaler import UpscalerConfig
from vaert.trainer.run import Run
from vaert.trainer.tasks import TASKS, find_task

STEPS = 12
UPSCALER = UpscalerConfig(scale=2, channels=6, blocks=1, latents=2, posterior=4)
RESTORER = RestorerConfig(channels=6, widths=(6, 6, 6, 6), blocks=(1, 1, 1, 1), after=1, latents=2, posterior=4)
LOSSLESS = LosslessConfig(latents=3, hidden=12, features=2, context=5, width=8)
SMALL: dict[str, tuple[Any, Stage]] = {
    "upscale-x2": (UPSCALER, Stage(0, 2, 24)),
    "restore": (RESTORER, Stage(0, 2, 64)),
    "mnist-lossless": (LOSSLESS, Stage(0, 5, 28)),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(2):
        noise = np.random.default_rng(number).normal(scale=9, size=(90, 110, 3))
        waves = 120 + 60 * np.sin(np.mgrid[:90, :110].sum(0) / (5 + number))[..., None]
        pixels = np.clip(waves + noise, 0, 255).astype(np.uint8)
        (folder / f"{number}.png").write_bytes(encode_image(pixels, format="png"))
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8) * (np.arange(28) % 3 == 0)
    data = struct.pack(">4I", 0x803, *images.shape) + images.astype(np.uint8).tobytes()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 40) + bytes(40))
    return folder


@pytest.fixture(params=sorted(SMALL))
def asked(request: pytest.FixtureRequest, pictures: Path, digits: Path, tmp_path: Path) -> Run:
    kind = request.param
    model, stage = SMALL[kind]
    config = replace(find_task(kind).config, steps=STEPS, stages=(stage,), log_every=5, warmup=4)
    data = digits if kind.startswith("mnist") else pictures
    return Run(kind, (str(data),), tmp_path / "out", task=find_task(kind), config=config, model_config=model)


def test_a_stopped_run_goes_on_to_the_same_weights(asked: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Checkpoint.load(train(replace(asked, out=tmp_path / "whole"))["checkpoint"])
    monkeypatch.setattr(loop, "_learning_rate", stopping(loop._learning_rate))
    with pytest.raises(KeyboardInterrupt):
        train(asked)
    monkeypatch.undo()
    assert Checkpoint.load(asked.out / "checkpoint.pt").step == 8
    resumed = Checkpoint.load(train(replace(asked, resume=True))["checkpoint"])
    assert resumed.step == STEPS
    assert resumed.model_config == asked.model_config
    assert all(torch.equal(resumed.ema[name], tensor) for name, tensor in whole.ema.items())
    assert any(not torch.equal(resumed.ema[name], tensor) for name, tensor in fresh(asked).items())


def stopping(rate: Callable[..., float]) -> Callable[..., float]:
    def stop(step: int, config: Any) -> float:
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return rate(step, config)

    return stop


def fresh(asked: Run) -> dict[str, torch.Tensor]:
    torch.manual_seed(asked.config.seed)
    state: dict[str, torch.Tensor] = asked.task.model(asked.model_config).state_dict()
    return state


def test_pictures_of_what_was_learned(asked: Run) -> None:
    files = train(asked)
    if asked.task.finish is None:
        assert sorted(files) == ["checkpoint", "log"]
        return
    drawn = read_image(files["plot"].read_bytes(), name="plot").pixels
    assert drawn.shape[1] % 256 == 0
    assert len(np.unique(drawn)) > 100


def test_bfloat16_is_used_where_it_is_asked_for(asked: Run, tmp_path: Path) -> None:
    config = replace(asked.config, amp=True)
    rounded = Checkpoint.load(train(replace(asked, config=config))["checkpoint"])
    exact = Checkpoint.load(train(replace(asked, out=tmp_path / "exact"))["checkpoint"])
    same = all(torch.equal(rounded.ema[name], tensor) for name, tensor in exact.ema.items())
    assert same == (asked.task.exact is not None)  # exact networks never leave float32


@pytest.mark.parametrize(
    ("arguments", "kind", "profile"),
    [
        (["mnist-lossless"], "mnist-lossless", "mnist-lossless"),
        (["mnist-lossless", "--binary"], "mnist-lossless", "mnist-lossless-binary"),
        (["upscale", "--scale", "4"], "upscale-x4", "upscale-x4"),
        (["restore", "--bf16"], "restore", "restore"),
    ],
)
def test_the_commands(
    arguments: list[str], kind: str, profile: str, pictures: Path, digits: Path, tmp_path: Path
) -> None:
    data = digits if kind.startswith("mnist") else pictures
    steps = "9" if TASKS[kind].exact else "1"
    asked = ["train", *arguments, "--data", str(data), "--steps", steps, "--batch", "1", "--out", str(tmp_path / "run")]
    assert cli.main(asked) == 0
    saved = Checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert (saved.kind, saved.profile, saved.step) == (kind, profile, int(steps))
    assert saved.train_config.amp == ("--bf16" in arguments)


def test_a_lossless_run_that_is_too_short_is_refused(digits: Path, tmp_path: Path) -> None:
    task = find_task("mnist-lossless")
    short = Run("mnist-lossless", (str(digits),), tmp_path / "out", task=task, config=task.config, steps=3)
    with pytest.raises(OptionError, match="3 steps are too few for a mnist-lossless: train for 8 or more"):
        train(short)
