"""ONNX Runtime's TensorRT backend, on a strict stand-in for onnxruntime-gpu: it was written without a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_suite import CHECK_NAMES, CHECKS, Inputs, Make, compare, sample_inputs
from fake_onnxruntime import CUDA, TENSORRT, Machine

from vaert.errors import BackendError
from vaert.package import Package, find_package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.backends.onnxruntime_tensorrt import OTHER_SHAPES, OnnxRuntimeTensorRt, available, private_folder

FAST, UPSCALER, DIGITS = map(find_package, ("fast", "upscale-x2", "mnist-conv"))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with a GPU and TensorRT 10; no misuse may happen on it, also none that was caught."""
    pretended = Machine(tmp_path / "onnxruntime")
    pretended.folder.mkdir()
    pretended.libraries |= {"libnvinfer.so.10", "libnvonnxparser.so.10"}
    pretended.install(monkeypatch)
    monkeypatch.setenv("VAERT_CACHE", str(tmp_path / "cache"))
    yield pretended
    gc.collect()
    assert pretended.misuses == []


@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
@pytest.mark.parametrize("check", CHECKS, ids=CHECK_NAMES)
def test_the_suite(machine: Machine, check: Callable[[Make], None], graphs: bool) -> None:
    check(lambda: OnnxRuntimeTensorRt(cuda_graphs=graphs))
    assert (machine.events["captures"] == 0) or graphs


def test_options_of_transforms_and_of_exact_graphs(machine: Machine) -> None:
    backend = OnnxRuntimeTensorRt(memory_limit=1 << 30)
    for graph in ("decoder", "prior_context"):
        backend.load(FAST, graph)
    (transform, cuda), (exact, exact_cuda) = (session.options.values() for session in machine.sessions)
    folders = [options.pop("trt_engine_cache_path") for options in (transform, exact)]
    timing = [options.pop("trt_timing_cache_path") for options in (transform, exact)]
    same = {
        "device_id": "0",
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
        "trt_min_subgraph_size": "1",
        "trt_onnx_model_folder_path": str(FAST.path),
        "trt_engine_cache_enable": "1",
        "trt_timing_cache_enable": "1",
        "trt_max_workspace_size": str(1 << 30),
        "trt_cuda_graph_enable": "0",
    }
    assert transform == same | {
        "trt_profile_min_shapes": "latents:1x4x4x320",
        "trt_profile_opt_shapes": "latents:1x32x48x320",
        "trt_profile_max_shapes": "latents:1x128x128x320",
    }
    assert exact == same | {
        "trt_profile_min_shapes": "features:1x4x4x128,anchors:1x2x2x2x320",
        "trt_profile_opt_shapes": "features:1x32x48x128,anchors:1x16x2x24x320",
        "trt_profile_max_shapes": "features:1x128x128x128,anchors:1x64x2x64x320",
    }
    assert exact_cuda["use_tf32"] == "0"
    assert "enable_cuda_graph" not in cuda
    assert timing == folders
    assert folders[0] != folders[1]
    assert all(Path(folder).stat().st_mode & 0o777 == 0o700 for folder in folders)


def test_precisions_allow_types_and_never_for_exact_graphs(machine: Machine) -> None:
    def flags(package: Package, graph: str) -> tuple[str, str]:
        OnnxRuntimeTensorRt().load(package, graph)
        options = machine.sessions[-1].options[TENSORRT]
        return options["trt_fp16_enable"], options["trt_int8_enable"]

    half = Package(FAST.path, replace(FAST.manifest, precision="fp16"))
    graphs = {**FAST.manifest.graphs, "encoder": {**FAST.manifest.graphs["encoder"], "flavours": {}}}
    byte = Package(FAST.path, replace(FAST.manifest, precision="int8", graphs=graphs))
    assert [flags(half, graph) for graph in ("encoder", "prior_anchor")] == [("1", "0"), ("0", "0")]
    assert [flags(byte, graph) for graph in ("encoder", "hyper_encoder", "prior_anchor")] == [
        ("1", "1"),
        ("1", "0"),
        ("0", "0"),
    ]


def test_engines_of_another_driver_gpu_version_or_model_are_elsewhere(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(package: Package = FAST) -> str:
        OnnxRuntimeTensorRt().load(package, "encoder")
        return machine.sessions[-1].options[TENSORRT]["trt_engine_cache_path"]

    first = folder()
    assert folder() == first
    other = replace(FAST.manifest, precision="fp16")
    folders = [first, folder(Package(FAST.path, other))]
    monkeypatch.setattr("fake_onnxruntime.Driver.cuDriverGetVersion", lambda self, version: 0)
    folders.append(folder())
    monkeypatch.setattr("onnxruntime.__version__", "1.99")
    folders.append(folder())
    machine.inference_library = 101700
    folders.append(folder())
    assert len(set(folders)) == 5


def test_sizes_outside_the_usual_have_sessions_of_their_own(machine: Machine) -> None:
    runner = OnnxRuntimeTensorRt().load(UPSCALER, "upscaler")
    cpu = OnnxRuntimeCpu(threads=1).load(UPSCALER, "upscaler")

    def run(width: int) -> None:
        shape = (1, 2, width)
        inputs: Inputs = {"pixels": np.zeros((*shape, 3), np.uint8), "noise": np.zeros((*shape, 8), np.float32)}
        compare(runner.run(inputs), cpu.run(inputs), exact=False)

    for width in (1024, 1025, 2048, 2049, 1030):
        run(width)
    largest = [session.options[TENSORRT]["trt_profile_max_shapes"] for session in machine.sessions]
    assert [text.split(",")[0] for text in largest] == [f"pixels:1x1024x{width}x3" for width in (1024, 2048, 4096)]
    for k in range(OTHER_SHAPES):
        run((1 << (12 + k)) + 1)
    run(1030)  # its session was dropped, and comes back
    assert len(machine.sessions) == 3 + OTHER_SHAPES + 1
    runner.close()
    with pytest.raises(BackendError, match="closed"):
        run(1030)


def test_nodes_that_no_gpu_takes_are_an_error(machine: Machine) -> None:
    machine.on_cpu = frozenset({"Resize"})
    with pytest.raises(BackendError, match=r"would run 2 of \d+ nodes of decoder on the CPU \(Resize .*, Resize .*\)"):
        OnnxRuntimeTensorRt().load(DIGITS, "decoder")
    machine.on_cpu, machine.silent = frozenset(), True
    with pytest.raises(BackendError, match="on CPUExecutionProvider instead of TensorrtExecutionProvider"):
        OnnxRuntimeTensorRt().load(DIGITS, "decoder")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"libraries": set()}, r"^no NVIDIA GPU / driver"),
        ({"providers": (CUDA, "CPUExecutionProvider")}, r"^onnxruntime has no TensorRT provider"),
        (
            {"libraries": {"libcuda.so.1", "libcudnn.so.9", "libnvinfer.so.10"}},
            r"^ONNX Runtime's TensorRT provider needs TensorRT 10 \(libnvonnxparser\.so\.10 is missing\): "
            r"pip install 'tensorrt==10\.\*'$",
        ),
    ],
)
def test_what_is_missing_is_said_with_what_would_help(machine: Machine, change: dict[str, Any], text: str) -> None:
    assert available() == ""
    for name, value in change.items():
        setattr(machine, name, value)
    with pytest.raises(BackendError, match=text) as caught:
        OnnxRuntimeTensorRt()
    assert str(caught.value) == available()
    assert "\n" not in available()


def test_the_version_of_tensorrt_is_the_one_that_the_provider_was_linked_to(machine: Machine) -> None:
    (machine.folder / "capi/libonnxruntime_providers_tensorrt.so").write_bytes(b"\0libnvinfer.so.11\0")
    assert available().startswith("ONNX Runtime's TensorRT provider needs TensorRT 11 (libnvinfer.so.11 is missing)")


def test_folders_that_others_can_write_to_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cache"
    monkeypatch.setenv("VAERT_CACHE", str(root))
    wanted = root / "ort" / "fast-encoder-1"
    assert private_folder(wanted) == wanted
    assert [path.stat().st_mode & 0o777 for path in (root, wanted.parent, wanted)] == [0o700] * 3
    for path in (root, wanted.parent, wanted):
        path.chmod(0o710)
        with pytest.raises(BackendError, match=rf"{path} is open to others \(mode 710\): .*: chmod 700 {path}$"):
            private_folder(wanted)
        path.chmod(0o700)
    wanted.rmdir()
    wanted.symlink_to(tmp_path)
    with pytest.raises(BackendError, match=rf"{wanted} is a link, no folder, or belongs to .* VAERT_CACHE$"):
        private_folder(wanted)
    wanted.unlink()
    wanted.write_bytes(b"")
    with pytest.raises(BackendError, match=rf"{wanted} cannot be made \(File exists\)"):
        private_folder(wanted)
    wanted.unlink()
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    with pytest.raises(BackendError, match=r"belongs to user \d+ instead of 12345"):
        private_folder(wanted)


def test_graphs_run_in_whatever_size_comes(machine: Machine) -> None:
    runner = OnnxRuntimeTensorRt().load(DIGITS, "encoder")
    cpu = OnnxRuntimeCpu(threads=1).load(DIGITS, "encoder")
    inputs = sample_inputs(DIGITS, "encoder")
    for batch in (1, 3, 512, 600):
        many = {name: np.repeat(value, batch, 0) for name, value in inputs.items()}
        compare(runner.run(many), cpu.run(many), exact=False)
    assert len(machine.sessions) == 2
