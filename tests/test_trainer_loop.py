"""The training loop: reproducible, resumable, and clear about what stops it."""

import csv
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vaert import cli
from vaert.errors import DataError, ModelError, OptionError, OutputError, VaertError
from vaert.image import encode_image
from vaert.trainer import loop, tasks
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.config import Stage, TrainConfig
from vaert.trainer.interrupt import StopRequest
from vaert.trainer.loop import train
from vaert.trainer.models.codec import CodecConfig, CodecVAE
from vaert.trainer.objective import RateDistortion
from vaert.trainer.run import Run

TINY = CodecConfig(
    channels=12, latents=16, hyper=8, hidden=8, mix=12, encoder_blocks=1, decoder_blocks=1, expansion=2, anchors=4
)
STEPS = 12  # ranges are recorded in step 8, the prior is integer from step 9 on
CONFIG = TrainConfig(steps=STEPS, stages=(Stage(0, 2, 64), Stage(0.75, 3, 64)), log_every=5, warmup=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        noise = np.random.default_rng(number).normal(scale=12, size=(96, 128, 3))
        waves = 120 + 60 * np.sin(np.mgrid[:96, :128].sum(0) / (5 + number))[..., None]
        pixels = np.clip(waves + noise, 0, 255).astype(np.uint8)
        (folder / f"{number}.png").write_bytes(encode_image(pixels, format="png"))
    return folder


@pytest.fixture
def asked(data: Path, tmp_path: Path) -> Run:
    return Run("fast", (str(data),), tmp_path / "out", config=CONFIG, model_config=TINY)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an unbroken run."""
    out = tmp_path_factory.mktemp("whole")
    train(Run("fast", (str(data),), out, config=CONFIG, model_config=TINY))
    return out


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch, how: Callable[[], None]) -> None:
    """Call `how` in the middle of a step: after its update, before the average."""
    average, taken = loop._average, 0

    def counting(model: CodecVAE, ema: CodecVAE, decay: float) -> None:
        nonlocal taken
        taken += 1
        if taken == steps:
            how()
        average(model, ema, decay)

    monkeypatch.setattr(loop, "_average", counting)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def curve(out: Path) -> list[dict[str, str]]:
    """Rows of the log without the clock."""
    with (out / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_same_run(a: Path, b: Path) -> None:
    first, second = (Checkpoint.load(out / "checkpoint.pt") for out in (a, b))
    assert first.step == second.step == STEPS
    for name in first.model:
        assert torch.equal(first.model[name], second.model[name]), name
        assert torch.equal(first.ema[name], second.ema[name]), name
    for number, moments in first.optimizer["state"].items():
        assert all(torch.equal(moments[k], second.optimizer["state"][number][k]) for k in moments)
    assert curve(a) == curve(b)


def test_a_run_leaves_checkpoint_log_and_plot(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == ["checkpoint.pt", "log.csv", "rd.png"]
    rows = curve(whole)
    assert [row["step"] for row in rows] == ["5", "10", "12"]
    assert list(rows[0]) == ["step", "loss", "norm", "rate", "psnr", "bpp"]
    saved = Checkpoint.load(whole / "checkpoint.pt")
    assert (saved.profile, saved.step, saved.pictures) == ("fast", STEPS, 3)
    assert saved.ema_model().prior.integer
    assert float(saved.model["prior.h1.peak"]) > 0


def test_weights_move_and_the_average_is_another(whole: Path) -> None:
    saved = Checkpoint.load(whole / "checkpoint.pt")
    torch.manual_seed(CONFIG.seed)
    start = CodecVAE(TINY).state_dict()["analysis.embed.weight"]
    moved, averaged = (state["analysis.embed.weight"] for state in (saved.model, saved.ema))
    assert float((averaged - start).norm()) > 0
    assert 0 < float((averaged - moved).norm()) < float((moved - start).norm())


def test_the_same_seed_gives_the_same_run(asked: Run, whole: Path) -> None:
    train(asked)
    assert_same_run(asked.out, whole)


def test_another_seed_gives_another_run(asked: Run, whole: Path) -> None:
    train(replace(asked, config=replace(CONFIG, seed=1)))
    weights = [Checkpoint.load(out / "checkpoint.pt").model["analysis.embed.weight"] for out in (asked.out, whole)]
    assert not torch.equal(*weights)


# 3: float prior; 9: ranges recorded, not yet frozen; 10: one step after the freeze.
@pytest.mark.parametrize("steps", [3, 9, 10])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    asked: Run, whole: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    with monkeypatch.context() as patch:
        stop_after(steps, patch, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train(asked)
    assert Checkpoint.load(asked.out / "checkpoint.pt").step == steps
    assert not (asked.out / "rd.png").exists()
    train(replace(asked, resume=True))
    assert_same_run(asked.out, whole)


def test_a_killed_run_goes_on_from_its_last_checkpoint_and_repeats_no_row(
    asked: Run, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        stop_after(4, patch, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train(asked)
    with monkeypatch.context() as patch:
        stop_after(7, patch, fail)  # in step 11: the rows of steps 5 and 10 are beyond the checkpoint of step 4
        with pytest.raises(RuntimeError, match="killed"):
            train(replace(asked, resume=True))
    assert [row["step"] for row in curve(asked.out)] == ["5", "10"]
    with (asked.out / "log.csv").open("a") as file:
        file.write("11,3.1,0.2")  # a row that was being written
    train(replace(asked, resume=True))
    assert_same_run(asked.out, whole)


def test_a_log_without_checkpoint_is_begun_anew(asked: Run, whole: Path) -> None:
    asked.out.mkdir()
    (asked.out / "log.csv").write_text("step,seconds\n5,1\n")
    train(asked)
    assert curve(asked.out) == curve(whole)


def test_a_second_ctrl_c_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaert.trainer.interrupt.PATIENCE", -1.0)
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        ctrl_c()
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_and_the_echo_of_one_ctrl_c_are_one_request() -> None:
    with StopRequest() as stop:
        ctrl_c()
        ctrl_c()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked


def test_an_existing_run_is_not_overwritten(asked: Run, whole: Path) -> None:
    with pytest.raises(DataError, match=r"checkpoint\.pt exists already: continue it with --resume or choose another"):
        train(replace(asked, out=whole))


def test_resume_without_a_checkpoint_begins_and_says_so(
    asked: Run, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(replace(asked, resume=True))
    assert "vaert: warning: no checkpoint.pt in" in capsys.readouterr().err
    assert_same_run(asked.out, whole)


@pytest.fixture
def stopped(asked: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that was stopped after step 5, to be resumed."""
    with monkeypatch.context() as patch:
        stop_after(5, patch, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train(asked)
    return replace(asked, resume=True)


@pytest.mark.parametrize("steps", [9, 14])
def test_resume_with_steps_changes_the_length(stopped: Run, steps: int) -> None:
    train(replace(stopped, steps=steps))
    saved = Checkpoint.load(stopped.out / "checkpoint.pt")
    assert (saved.step, saved.train_config.steps) == (steps, steps)
    assert saved.ema_model().prior.integer
    assert [int(row["step"]) for row in curve(stopped.out)] == [s for s in (5, 10, steps) if s <= steps]


def test_a_complete_run_can_be_made_longer(asked: Run) -> None:
    train(asked)
    train(replace(asked, resume=True, steps=STEPS + 3))
    assert Checkpoint.load(asked.out / "checkpoint.pt").step == STEPS + 3
    assert [row["step"] for row in curve(asked.out)] == ["5", "10", "12", "15"]


def test_a_run_cannot_become_too_short_to_freeze(stopped: Run) -> None:
    with pytest.raises(OptionError, match="the run is at step 5, so it cannot end at 8: --steps 9"):
        train(replace(stopped, steps=8))


def test_a_complete_run_cannot_become_shorter(whole: Path, asked: Run) -> None:
    with pytest.raises(OptionError, match="the run is at step 12, so it cannot end at 11: --steps 12"):
        train(replace(asked, out=whole, resume=True, steps=11))


def test_resume_with_batch_changes_the_steps_to_come(stopped: Run) -> None:
    train(replace(stopped, batch=1))
    stages = Checkpoint.load(stopped.out / "checkpoint.pt").train_config.stages
    assert [(stage.batch, stage.crop) for stage in stages] == [(1, 64), (1, 64)]


def test_resume_keeps_the_steps_that_minutes_gave(stopped: Run, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(stopped, minutes=9.0))
    assert "the run keeps its 12 steps" in capsys.readouterr().err
    assert Checkpoint.load(stopped.out / "checkpoint.pt").step == STEPS


def test_resume_with_another_profile_or_seed_is_refused(stopped: Run) -> None:
    with pytest.raises(ModelError, match="has profile fast, not base: resume with its own profile"):
        train(replace(stopped, profile="base"))
    with pytest.raises(OptionError, match="was begun with seed 0: leave --seed out"):
        train(replace(stopped, config=replace(CONFIG, seed=4)))


def test_resume_with_other_pictures_warns(stopped: Run, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(stopped, data=(str(data), str(data))))
    assert "the run had 3 pictures and now has 6" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [1, 7])
def test_a_run_of_a_few_steps_is_refused(asked: Run, steps: int) -> None:
    with pytest.raises(OptionError, match=f"{steps} steps are too few for a codec: train for 8 or more"):
        train(replace(asked, steps=steps))
    assert not asked.out.exists()


def test_an_unknown_profile_is_refused_before_anything_is_read(asked: Run) -> None:
    with pytest.raises(ModelError, match="no profile named 'huge'"):
        train(replace(asked, profile="huge", model_config=None, data=("nowhere",)))


def test_a_folder_that_cannot_be_made_is_an_output_error(asked: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot be made a folder"):
            train(replace(asked, out=out))


def test_a_log_that_cannot_be_written_is_an_output_error(asked: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    log = asked.out / "log.csv"
    asked.out.mkdir()
    stop_after(1, monkeypatch, log.mkdir)
    with pytest.raises(OutputError, match=r"log\.csv: cannot be written: Is a directory"):
        train(asked)


def test_minutes_choose_the_steps_and_the_checkpoint_keeps_them(asked: Run) -> None:
    train(replace(asked, minutes=1e-6))
    saved = Checkpoint.load(asked.out / "checkpoint.pt")
    assert saved.step == saved.train_config.steps == 30


def test_a_loss_that_is_not_a_number_stops_before_it_spoils_the_weights(
    asked: Run,
) -> None:
    class Broken(RateDistortion):
        calls = 0

        def forward(
            self, batch: torch.Tensor, generator: torch.Generator
        ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            loss, metrics = super().forward(batch, generator)
            Broken.calls += 1
            return loss * (float("nan") if Broken.calls == 7 else 1), metrics

    config = replace(CONFIG, checkpoint_seconds=0.0)  # after every step
    asked = replace(asked, task=replace(tasks.CODEC, objective=Broken))
    with pytest.raises(VaertError, match=r"step 6 gave a loss of nan .*checkpoint\.pt holds step 6; ") as caught:
        train(replace(asked, config=config))
    assert "\n" not in str(caught.value)
    saved = Checkpoint.load(asked.out / "checkpoint.pt")
    assert saved.step == 6
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved.model.values())


def test_a_loss_that_is_not_a_number_before_any_checkpoint(asked: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(VaertError, match=r"step 0 gave .* norm inf, expected finite numbers: there is no checkpoint"):
        train(asked)


def test_without_matplotlib_only_the_plot_is_missing(
    asked: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert set(train(asked)) == {"checkpoint", "log"}
    assert "pip install 'vaert[eval]'" in capsys.readouterr().err


def command(data: Path, out: Path, *more: str) -> list[str]:
    return ["train", "codec", "--profile", "fast", "--data", str(data), "--out", str(out), *more]


@pytest.fixture
def tiny_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `fast` small and short in this test."""
    small = replace(tasks.CODEC, profiles={"fast": TINY}, config=CONFIG)
    monkeypatch.setitem(tasks.TASKS, "codec", small)


@pytest.mark.usefixtures("tiny_profile")
def test_the_command_says_where_its_files_are(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(command(data, out)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"checkpoint: {out / 'checkpoint.pt'}",
        f"log:        {out / 'log.csv'}",
        f"plot:       {out / 'rd.png'}",
    ]
    assert Checkpoint.load(out / "checkpoint.pt").train_config.amp is torch.cuda.is_available()


@pytest.mark.usefixtures("tiny_profile")
def test_the_command_stops_cleanly_and_resumes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(2, patch, ctrl_c)
        assert cli.main(command(data, out, "--steps", "9", "--batch", "1", "--seed", "3")) == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"vaert: stopped: {out / 'checkpoint.pt'} is written, the same command with --resume goes on from it",
        "vaert: error: interrupted",
    ]
    assert cli.main(command(data, out, "--resume")) == 0
    saved = Checkpoint.load(out / "checkpoint.pt")
    assert (saved.step, saved.train_config.seed, saved.train_config.stages[0].batch) == (9, 3, 1)


def test_errors_of_the_command_are_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(tmp_path / "none", tmp_path / "out")) == 1
    assert cli.main(command(data, tmp_path / "out", "--steps", "3")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("none is not a folder; --data takes a folder of pictures")
    assert lines[1] == "vaert: error: 3 steps are too few for a codec: train for 8 or more"
