"""Which backend runs a package: what was named or nothing; `auto` the best that is right, and the reasons."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from broken_backends import Right, engine

from vaert.cli import main
from vaert.commands.options import BACKENDS
from vaert.errors import BackendError, OptionError
from vaert.package import Package, bundled_models, find_package
from vaert.runtime.backends import OnnxRuntimeCpu, open_backend, selection
from vaert.runtime.backends.selection import ENGINES, NAMES, Choice, Engine, choose
from vaert.runtime.codec import Codec
from vaert.runtime.trial import unlike_cpu, wrong_answers

CPU = ENGINES[-1]


@pytest.fixture(scope="module")
def package() -> Package:
    return find_package("fast")


def install(monkeypatch: pytest.MonkeyPatch, *engines: Engine) -> None:
    """Let these be the engines of a machine with a driver, the CPU last."""
    monkeypatch.setattr(selection, "ENGINES", (*engines, CPU))
    monkeypatch.setattr(selection, "driver_missing", lambda: "")


def test_the_list_holds_every_name_best_first() -> None:
    assert [one.name for one in ENGINES] == ["tensorrt", "cuda", "ort-tensorrt", "cpu"]
    assert {one.name for one in ENGINES} | {"auto"} == set(NAMES)
    assert BACKENDS == NAMES


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("WrongByOne", "the cuda backend does not compute the prior exactly (known answer bound, anchor mean)"),
        (
            "RaisesWhenMade",
            "the cuda backend cannot be made: OSError: libcudnn.so.9: cannot open shared object file second line",
        ),
        ("RaisesAtLoad", "RuntimeError: CUDNN_STATUS_NOT_INITIALIZED in prior_anchor"),
        (
            "NotThere",
            "the cuda backend cannot be made: AttributeError: module 'broken_backends' has no attribute 'NotThere'",
        ),
    ],
)
def test_auto_passes_over_what_is_broken_and_says_why(
    package: Package, monkeypatch: pytest.MonkeyPatch, factory: str, reason: str
) -> None:
    install(monkeypatch, engine(factory))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choice = choose("auto", threads=1, package=package)
    assert choice.backend.name == "cpu"
    assert choice.lines() == [f"backend cuda passed over: {reason}", "backend cpu taken: none better can be used"]


@pytest.mark.parametrize("module", ["missing_backend", "no_such_module"])
def test_auto_passes_over_what_is_missing(package: Package, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    install(monkeypatch, engine("Right", "tensorrt", module=module), engine("Right"))
    choice = choose("auto", package=package)
    assert choice.backend.name == "cuda"
    assert [one.name for one in choice.passed_over] == ["tensorrt"]
    expected = {"missing_backend": "pip install 'vaert[gpu]'", "no_such_module": "No module named 'no_such_module'"}
    assert expected[module] in choice.passed_over[0].reason


def test_auto_takes_the_first_that_is_right(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, engine("Right", "cuda"), engine("RaisesWhenMade", "ort-tensorrt"))
    choice = choose("auto", package=package)
    assert choice.lines() == ["backend cuda taken: its known answers are right"]


def test_what_was_tried_is_not_loaded_again(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, engine("Right"))
    loads: list[str] = []
    monkeypatch.setattr(Right, "loads", loads)
    codec = Codec(package, backend="auto")
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    data = codec.compress(picture, 40)
    assert loads == ["prior_anchor", "prior_context", "encoder", "hyper_encoder"]
    assert data == Codec(package, backend="cpu", threads=1).compress(picture, 40)


def test_what_is_passed_over_is_closed(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    from broken_backends import WrongByOne

    install(monkeypatch, engine("WrongByOne"))
    before = WrongByOne.closed
    choose("auto", package=package)
    assert WrongByOne.closed == before + 1


@pytest.mark.parametrize("name", [name for name in bundled_models() if "lossless" not in name])
@pytest.mark.parametrize("factory", ["WrongPixels", "NoNumbers"])
def test_graphs_without_known_answers_are_held_against_the_cpu(name: str, factory: str) -> None:
    package, backend = find_package(name), engine(factory).make()
    outputs = {tensor["type"] for graph in package.manifest.graphs.values() for tensor in graph["outputs"]}
    found = unlike_cpu(package, backend)
    if factory == "WrongPixels" or "float" in outputs:
        assert "the cuda backend computes" in found
        assert "wrong" in found
    else:  # nothing that could be no number
        assert found == ""
    assert unlike_cpu(package, OnnxRuntimeCpu(threads=1, optimisation="none")) == ""


@pytest.mark.parametrize("name", bundled_models())
def test_the_cpu_is_right(name: str) -> None:
    assert wrong_answers(find_package(name), OnnxRuntimeCpu(threads=1)) == ""


def test_a_name_is_never_changed(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, engine("Right", "tensorrt", module="missing_backend"), engine("RaisesWhenMade"))
    with pytest.raises(BackendError, match=r"the tensorrt backend cannot be used here: libnvinfer.*vaert\[gpu\]"):
        open_backend("tensorrt", package=package)
    with pytest.raises(BackendError, match="the cuda backend cannot be made: OSError: libcudnn"):
        open_backend("cuda", package=package)
    with pytest.raises(OptionError, match="no backend named 'ort-tensorrt'; there are auto, cpu, cuda"):
        open_backend("ort-tensorrt", package=package)


def test_a_named_backend_with_a_wrong_prior_warns_and_stays_exact(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, engine("WrongByOne"))
    with pytest.warns(RuntimeWarning, match="the cuda backend does not compute the prior exactly"):
        codec = Codec(package, backend="cuda")
    picture = np.full((64, 64, 3), 90, np.uint8)
    assert codec.compress(picture) == Codec(package, backend="cpu").compress(picture)


def test_a_backend_is_returned_as_it_is() -> None:
    backend = OnnxRuntimeCpu(threads=1)
    assert choose(backend) == Choice(backend, "it was given")


@pytest.mark.skipif(not selection.driver_missing(), reason="this machine has a GPU driver")
def test_without_a_driver_auto_costs_nothing(package: Package) -> None:
    choose("auto", package=package)  # imports the engine
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        choice = choose("auto", package=package)
        spent.append(time.perf_counter() - start)
    assert min(spent) < 0.005
    assert choice.backend.name == "cpu"
    assert [one.name for one in choice.passed_over] == ["tensorrt", "cuda", "ort-tensorrt"]
    assert all("no NVIDIA driver" in one.reason for one in choice.passed_over)


@pytest.mark.skipif(not selection.driver_missing(), reason="this machine has a GPU driver")
@pytest.mark.parametrize("name", ["cuda", "tensorrt", "ort-tensorrt"])
def test_naming_what_is_not_there_is_exit_1_and_one_line(name: str, tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    assert cv2.imwrite(str(source), np.zeros((9, 9, 3), np.uint8))
    command = [sys.executable, "-m", "vaert", "compress", str(source), str(tmp_path / "out.vaert"), "--backend", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"vaert: error: the {name} backend cannot be used here: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.vaert").exists()


def test_commands_say_what_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, engine("RaisesAtLoad"))
    source, coded = tmp_path / "in.png", tmp_path / "in.vaert"
    assert cv2.imwrite(str(source), np.zeros((40, 40, 3), np.uint8))
    runs = [
        ["compress", str(source), str(coded)],
        ["decompress", str(coded), str(tmp_path / "out.png")],
        ["upscale", str(source), str(tmp_path / "large.png"), "--scale", "2"],
        ["restore", str(source), str(tmp_path / "clean.png")],
        ["generate", str(tmp_path / "digits.png"), "-n", "2"],
    ]
    for arguments in runs:
        assert main([*arguments, "-v"]) == 0
        said = capsys.readouterr().err.splitlines()
        assert said[0].startswith("backend cuda passed over: RuntimeError: CUDNN_STATUS_NOT_INITIALIZED")
        assert said[1] == "backend cpu taken: none better can be used"
        assert main([*arguments, "--force", "--quiet", "--backend", "cpu"]) == 0
        assert capsys.readouterr().err == ""
        assert main([*arguments, "--force", "--backend", "cuda"]) == 1
        assert "CUDNN_STATUS_NOT_INITIALIZED" in capsys.readouterr().err


def test_the_warning_of_a_wrong_prior_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, engine("WrongByOne"))
    source = tmp_path / "in.png"
    assert cv2.imwrite(str(source), np.zeros((9, 9, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["compress", str(source), str(tmp_path / "out"), "--backend", "cuda", "-q"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("vaert: warning: the cuda backend does not compute the prior exactly")
    assert said.count("\n") == 1
