"""Two processes under torchrun train one model."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vaert.image import encode_image
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.processes import Processes

WORKER = '''
import copy, os, signal, sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed import barrier

from vaert.errors import DataError
from vaert.trainer import loop
from vaert.trainer.config import Stage, TrainConfig
from vaert.trainer.data import Pictures
from vaert.trainer.draw import draw
from vaert.trainer.models.codec import CodecConfig, CodecVAE
from vaert.trainer.objective import RateDistortion
from vaert.trainer.processes import processes
from vaert.trainer.run import Run

data, out, rank = sys.argv[1], Path(sys.argv[2]), int(os.environ["RANK"])
tiny = CodecConfig(12, 16, 8, 8, 12, 1, 1, 2, 4)
config = TrainConfig(steps=12, stages=(Stage(0, 2, 64),), log_every=5, warmup=4)
run = Run("fast", (data,), out / "whole", config=config, model_config=tiny)


def gradients(objective, call, batch):
    objective.zero_grad()
    call(*batch)[0].backward()
    return [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in objective.parameters()]


def shared_gradients_are_means():
    with processes() as group:
        assert group.world == 2 and group.rank == rank
        assert group.mean(float(rank)) == 0.5 and group.total(rank + 3) == 7 and group.any(rank == 1)
        torch.manual_seed(0)
        objective = RateDistortion(CodecVAE(tiny))
        pictures = Pictures.load([data])
        alone = [
            gradients(objective, objective, draw(pictures, config.stages[0], (0, 0, r), group.device)) for r in (0, 1)
        ]
        assert any(not torch.equal(a, b) for a, b in zip(*alone, strict=True))
        mine = draw(pictures, config.stages[0], (0, 0, rank), group.device)
        together = gradients(objective, group.wrap(objective), mine)
        for a, b, both in zip(*alone, together, strict=True):
            torch.testing.assert_close(both, (a + b) / 2, rtol=1e-4, atol=1e-6)


def trained(asked, name, stop=None):
    """Train, stopping in one process after some steps, and keep what this process ends with."""
    average, taken, last = loop._average, 0, {}

    def spy(model, ema, decay):
        nonlocal taken
        average(model, ema, decay)
        taken += 1
        last.update(model=model.state_dict(), ema=ema.state_dict())
        if taken == stop and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    loop._average = spy
    try:
        files = loop.train(asked)
        assert stop is None and bool(files) == (rank == 0)
    except KeyboardInterrupt:
        assert stop == taken
    finally:
        loop._average = average
    torch.save(last, out / f"{name}-{rank}.pt")


with processes():  # one group for all: a second could not be joined under the same torchrun
    shared_gradients_are_means()
    trained(run, "whole")
    for stop in (7, 9):  # before ranges are recorded, and between recording and freezing
        broken = replace(run, out=out / f"broken{stop}")
        trained(broken, "half", stop)
        barrier()  # the checkpoint is written by one process alone
        trained(replace(broken, resume=True), f"broken{stop}")
    try:
        loop.train(replace(run, resume=True, out=out / ("whole" if rank == 0 else "elsewhere")))
    except DataError as error:
        (out / f"error-{rank}").write_text(str(error))
    trained(replace(run, out=out / "minutes", minutes=1e-6), "minutes")
'''


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the worker left."""
    folder = tmp_path_factory.mktemp("torchrun")
    data, out = folder / "data", folder / "out"
    data.mkdir()
    out.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(60 * number, 60 * number + 50, (80, 100, 3), dtype=np.uint8)
        (data / f"{number}.png").write_bytes(encode_image(pixels, format="png"))
    (folder / "worker.py").write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(folder / "worker.py"), str(data), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def state(path: Path, part: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = torch.load(path, weights_only=True)[part]
    return tensors


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("name", ["whole", "broken7", "broken9", "minutes"])
@pytest.mark.parametrize("part", ["model", "ema"])
def test_both_processes_end_with_the_same_weights_and_scales(results: Path, name: str, part: str) -> None:
    first, second = (state(results / f"{name}-{rank}.pt", part) for rank in (0, 1))
    assert bool(first["prior.frozen"])
    assert_equal(first, second)
    assert_equal(first, getattr(Checkpoint.load(results / name / "checkpoint.pt"), part))


@pytest.mark.parametrize("name", ["broken7", "broken9"])
def test_a_resumed_run_ends_like_an_unbroken_one(results: Path, name: str) -> None:
    assert_equal(state(results / "whole-0.pt", "model"), state(results / f"{name}-0.pt", "model"))
    logs = []
    for run in ("whole", name):
        with (results / run / "log.csv").open(newline="") as file:
            logs.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0]] == ["5", "10", "12"]


def test_the_checkpoint_counts_the_pictures_of_all_processes(results: Path) -> None:
    assert Checkpoint.load(results / "whole" / "checkpoint.pt").pictures == 4


def test_processes_that_see_different_checkpoints_are_refused(results: Path) -> None:
    for rank, folder in enumerate(("whole", "elsewhere")):
        text = (results / f"error-{rank}").read_text()
        assert text.startswith(f"the processes do not see the same checkpoint in {results / folder}")


def test_all_processes_agree_on_the_steps_that_fit_a_time(results: Path) -> None:
    assert Checkpoint.load(results / "minutes" / "checkpoint.pt").step == 30  # a loop that waited would have hung


def test_one_process_needs_no_group() -> None:
    alone = Processes(0, 1, torch.device("cpu"))
    module, tensor = torch.nn.Linear(1, 1), torch.ones(2)
    alone.largest(tensor)
    assert alone.wrap(module) is module
    assert (alone.mean(2.5), alone.total(7), alone.any(True), alone.any(False)) == (2.5, 7, True, False)
    assert tensor.tolist() == [1, 1]
