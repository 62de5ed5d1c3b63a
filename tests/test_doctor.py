"""`vaert doctor`, with stand-ins for engines that are wrong, raise, crash, hang or are missing."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import fake_cuda
import pytest
from broken_backends import Right, engine
from test_tensorrt_backend import make_machine

from vaert.cli import main
from vaert.package import Package
from vaert.runtime import doctor, doctor_checks, doctor_native, doctor_system
from vaert.runtime.backends import selection
from vaert.runtime.backends.selection import ENGINES, Engine
from vaert.runtime.backends.tensorrt import EngineReport, TensorRt
from vaert.runtime.doctor import Orders, diagnose
from vaert.runtime.doctor_report import ABSENT, FAULT, NOTE, OK, Check, Diagnosis, described

CPU = ENGINES[-1]


def only(monkeypatch: pytest.MonkeyPatch, *engines: Engine, checks: tuple[str, ...] = doctor.CHECKS) -> None:
    """Let these be the engines, with a driver, and leave all but these checks of backends out."""
    monkeypatch.setattr(selection, "ENGINES", engines)
    monkeypatch.setattr(selection, "driver_missing", lambda: "")
    monkeypatch.setattr(doctor, "CHECKS", checks)
    monkeypatch.setattr(doctor, "system_checks", lambda: iter(()))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def status(found: Diagnosis) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


def text_of(found: Diagnosis, name: str) -> str:
    return next(check.text for check in found.checks if check.name == name)


def test_the_list_of_checks_is_the_workers() -> None:
    assert tuple(doctor_checks.CHECKS) == doctor.CHECKS


def test_a_right_backend_passes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, engine("Right"))
    seen: list[Check] = []
    found = diagnose(said=seen.append)
    assert found.faults == (found.checks[-1],)  # the stand-in has nothing to release, and so it still runs
    assert "a graph still ran after its backend was closed" in found.checks[-1].text
    assert list(status(found)) == ["made", *doctor.CHECKS]
    others = {name: what for name, what in status(found).items() if name != "closing"}
    assert {name for name, what in others.items() if what != OK} == {"CUDA graphs", "engine build", "precision"}
    assert (others["CUDA graphs"], others["engine build"], others["precision"]) == (ABSENT, ABSENT, NOTE)
    latency = next(check.facts for check in found.checks if check.name == "latency")
    assert 0 < latency["encoder_ms"] < 60_000
    assert 0 < latency["decoder_ms"] < 60_000
    assert tuple(seen) == found.checks


@pytest.mark.parametrize(
    ("factory", "name", "words"),
    [
        ("WrongByOne", "known answers", "fast: the cuda backend does not compute the prior exactly (known answer"),
        (
            "WrongOnLargeInputs",
            "random integers",
            "prior_anchor of 2x3 hyper-latents: 1 of 15360 values of mean differ",
        ),
        ("WrongOnLargeInputs", "files", "latents differ at quality 20, expected none"),
        ("WrongPixels", "transforms", "the cuda backend computes latents of encoder wrong"),
        ("WrongPixels", "files", "pixels differ by"),
        ("WrongPixels", "models", "upscale-x2: outputs differ by"),
        ("WrongPixels", "sizes in turn", "run 1 at 64x64 (size 1 of 5)"),
        ("WrongPixels", "threads", "a run in another thread is"),
        ("NoNumbers", "transforms", "latents of encoder wrong: inf of its deviation away"),
        ("Stale", "sizes in turn", "run 2 at 64x64 (size 1 of 5)"),
        ("RaisesAtLoad", "latency", "RuntimeError: CUDNN_STATUS_NOT_INITIALIZED in encoder (broken_backends.py:"),
    ],
)
def test_what_is_wrong_is_found_and_named(monkeypatch: pytest.MonkeyPatch, factory: str, name: str, words: str) -> None:
    only(monkeypatch, engine(factory), checks=(name,))
    found = diagnose()
    assert status(found)[name] == FAULT
    assert words in text_of(found, name)
    assert "\n" not in found.checks[-1].line()
    assert found.verdict == f"1 of 2 checks found a fault, first cuda, {name}"


def test_what_is_right_with_a_wrong_backend_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, engine("WrongOnLargeInputs"), checks=("known answers", "transforms"))
    assert diagnose().faults == ()
    only(monkeypatch, engine("WrongPixels"), checks=("random integers",))
    assert diagnose().faults == ()


def test_a_crash_ends_one_check_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, engine("CrashesInDecoder"), checks=("known answers", "latency", "sizes in turn"))
    found = diagnose()
    assert status(found) == {"made": OK, "known answers": OK, "latency": FAULT, "sizes in turn": OK}
    assert "the process ended with signal SIGSEGV instead of an answer" in text_of(found, "latency")
    assert "Fatal Python error: Segmentation fault" in text_of(found, "latency")
    assert "broken_backends.py" in text_of(found, "latency")


def test_a_hang_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, engine("Hangs"), checks=("known answers",))
    found = diagnose(Orders(limit=8))
    assert status(found) == {"made": OK, "known answers": FAULT}
    assert text_of(found, "known answers").startswith("took longer than 8 s and was ended")


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("RaisesWhenMade", "because of OSError: libcudnn.so.9: cannot open shared object file second line"),
        ("NotThere", "module 'broken_backends' has no attribute 'NotThere'"),
    ],
)
def test_a_backend_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, factory: str, words: str) -> None:
    only(monkeypatch, engine(factory))
    found = diagnose()
    assert status(found) == {"made": FAULT}
    assert words in text_of(found, "made")
    assert "selection.py:" in text_of(found, "made")


def test_what_is_missing_is_a_fault_only_where_it_is_half_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, engine("Right", "tensorrt", module="missing_backend"))
    reason = "libnvinfer.so.10 is not found: pip install 'vaert[gpu]'"
    monkeypatch.setattr(doctor, "version_of", lambda _: "")
    found = diagnose()
    assert [(check.status, check.text) for check in found.checks] == [(ABSENT, reason)]
    monkeypatch.setattr(doctor, "version_of", lambda _: "10.16.1")
    found = diagnose()
    text = f"tensorrt is installed but cannot be used: {reason}"
    assert [(check.status, check.text) for check in found.checks] == [(FAULT, text)]
    monkeypatch.setattr(selection, "driver_missing", lambda: "no driver")
    assert diagnose().checks[0].status == ABSENT


def test_the_tensorrt_backend_passes_on_its_stand_in(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world, settings = make_machine(patch, tmp_path, "11.4.0.106")
        patient = doctor_checks.Patient(TensorRt())
        found = {name: check(patient) for name, check in doctor_checks.CHECKS.items()}
        gc.collect()
        fake_cuda.forget()
    assert {name: result.text for name, result in found.items() if result.status not in (OK, NOTE)} == {}
    assert "captured by the encoder" in found["CUDA graphs"].text
    assert "found again in" in found["engine build"].text
    assert found["engine build"].facts["build_seconds"] > 0
    assert found["latency"].facts["encoder_gpu_ms"] >= 0
    assert len(settings.builds) > 10
    assert world.faults == []
    assert world.live() == {}


def test_an_engine_that_cannot_be_kept_is_a_fault() -> None:
    class Forgetful(Right):
        def __init__(self, cache: str = "") -> None:
            super().__init__()

        def engine_report(self, package: Package, graph: str) -> EngineReport:
            return EngineReport(graph, "1x1:1x1:1x1", None, 2048, 0.1, from_cache=False)

    result = doctor_checks.engine_build(doctor_checks.Patient(Forgetful()))
    assert result.status == FAULT
    assert "2 KiB, for 1x1:1x1:1x1, but it could not be kept" in result.text


def test_exit_codes_and_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only(monkeypatch, engine("WrongByOne"), CPU, checks=("known answers",))
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [(c["section"], c["name"], c["status"]) for c in found["checks"]] == [
        ("cpu", "made", OK),
        ("cpu", "known answers", OK),
        ("cuda", "made", OK),
        ("cuda", "known answers", FAULT),
    ]
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("FAULT   cuda          known answers: fast: the cuda backend does not compute")
    assert lines[4] == "1 of 4 checks found a fault, first cuda, known answers"
    only(monkeypatch, CPU, checks=("known answers",))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "every backend that is installed is right"


def test_packages_of_other_precisions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_verify import copied

    half = copied("mnist-mlp", tmp_path / "half", precision="fp16")
    orphan = copied("mnist-mlp", tmp_path / "orphan", precision="fp16", model_id=7)
    only(monkeypatch, CPU, checks=("precision",))
    assert main(["doctor", "--package", str(half.path)]) == 0
    assert f"precision: {half.path} (fp16) within 0.02 dB, 0.1 % of rate" in capsys.readouterr().out
    assert main(["doctor", "--package", str(half.path), "--package", str(orphan.path)]) == 1
    assert "name it with --against" in capsys.readouterr().out
    only(monkeypatch, engine("WrongPixels"), checks=("precision",))
    assert main(["doctor", "--package", str(half.path)]) == 1
    assert "(fp16): PSNR changes by" in capsys.readouterr().out


def test_the_machine_is_described() -> None:
    found = {check.name: check for check in doctor_system.system_checks()}
    assert found["vaert"].status == OK
    assert found["processor"].facts["cores"] == len(os.sched_getaffinity(0))
    assert found["memory"].facts["total_gib"] > 0
    assert "libcuda" in found
    assert "driver" in found
    assert not [check for check in found.values() if check.name == "look"]


def test_onnxruntime_twice_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        return "1.32.0" if name in ("onnxruntime", "onnxruntime-gpu") else ""

    monkeypatch.setattr(doctor_system, "version_of", version)
    found = {check.name: check for check in doctor_system._versions()}
    assert found["side by side"].status == FAULT
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in found["side by side"].text
    assert found["numpy"].status == FAULT
    assert found["torch"].status == ABSENT


def test_a_look_that_fails_is_a_fault_with_its_place() -> None:
    def look() -> object:
        yield Check("GPU", "first", OK, "fine")
        raise KeyError("surprise")

    found = list(doctor_system.isolated("GPU", look))  # type: ignore[arg-type]
    assert [check.status for check in found] == [OK, FAULT]
    assert found[1].text.startswith("KeyError: 'surprise' (test_doctor.py:")


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    monkeypatch.setenv("VAERT_CACHE", str(folder))
    assert [check.status for check in doctor_system._engine_cache()] == [NOTE]
    folder.mkdir(mode=0o700)
    (folder / "a.engine").write_bytes(bytes(2**20))
    (found,) = doctor_system._engine_cache()
    assert (found.facts["files"], found.facts["bytes"]) == (1, 2**20)
    folder.chmod(0o777)
    (found,) = doctor_system._engine_cache()
    assert found.status == FAULT
    assert f"chmod 700 {folder}" in found.text


def test_a_library_that_is_there_but_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = doctor_native.Library(("libnonsense_of_vaert.so.9",), "pip install nonsense")
    assert not doctor_native._look_for(library, needed=True)
    assert json.loads(capsys.readouterr().out)["status"] == ABSENT
    (tmp_path / library.names[0]).write_bytes(b"no library")
    monkeypatch.setattr(doctor_native, "_in_packages", lambda name: [tmp_path / name])
    doctor_native._look_for(library, needed=True)
    said = json.loads(capsys.readouterr().out)
    assert said["status"] == FAULT
    assert "is there but cannot be opened" in said["text"]
    assert said["text"].endswith("pip install nonsense")


def test_words_of_errors_and_what_they_came_from() -> None:
    try:
        try:
            raise OSError("cannot\nopen")
        except OSError as error:
            raise ValueError("no engine") from error
    except ValueError as error:
        text = described(error)
    assert text.startswith("ValueError: no engine, because of OSError: cannot open (test_doctor.py:")


@pytest.mark.parametrize("broken", ["numpy", "onnxruntime", "constriction", "cv2"])
def test_a_broken_library_is_a_fault_and_the_report_goes_on(tmp_path: Path, broken: str) -> None:
    (tmp_path / f"{broken}.py").write_text(f"raise ImportError('{broken} is broken on purpose')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "vaert", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 1, done.stderr
    assert f"{broken} is broken on purpose" in done.stdout
    assert "OK      versions      vaert: " in done.stdout
    assert "checks found a fault" in done.stdout
    assert "Traceback" not in done.stderr
