"""The command line: exit codes, one-line errors, streams and outputs, with a stand-in where a codec is needed."""

import io
import json
import os
import pty
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

from vaert import bitstream, errors, package
from vaert.cli import cli, main
from vaert.commands.report import grouped, one_line

MODEL_ID = 0x0123456789ABCDEF


@dataclass
class Call:
    """What the stand-in codec was last asked for."""

    model: str | Path = ""
    backend: str = "auto"
    threads: int | None = None
    quality: float | None = None
    target: tuple[float | None, int | None, float | None] = (None, None, None)


def stream_for(pixels: np.ndarray, quality: float = 60) -> bytes:
    """Return a well-formed .vaert file of a picture's size; its latents decode to nothing."""
    height, width = pixels.shape[:2]
    header = bitstream.Header(
        kind=bitstream.Kind.PHOTO,
        model_id=MODEL_ID,
        width=width,
        height=height,
        channels=1 if pixels.ndim == 2 else pixels.shape[2],
        quality_u16=round(256 * quality),
    )
    groups = bitstream.group_grid(width, height)
    latents = tuple(bitstream.Latents(group=g.index, symbol_crc=0, escapes=b"", words=b"") for g in groups)
    return bitstream.write(bitstream.PhotoStream(header, bitstream.Hyper(symbol_crc=0, words=b""), latents, None))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Replace the codec and the model packages by stand-ins, and return what they record."""
    seen = Call()
    manifest = SimpleNamespace(
        name="fast",
        kind="codec",
        version=1,
        profile="fast",
        precision="fp32",
        model_id=MODEL_ID,
        rates={"kodak": [{"quality": 1, "bpp": 0.1}, {"quality": 100, "bpp": 2.0}]},
    )
    stand_in = SimpleNamespace(manifest=manifest, path=Path("folder of fast"), size=23456)

    class Codec:
        def __init__(self, model: str | Path = "fast", *, backend: str = "auto", upscaler: str | None = None) -> None:
            assert upscaler is None
            assert backend == "stand-in"
            self.package = stand_in
            seen.model = getattr(model, "asked", model)

        def compress(
            self,
            image: np.ndarray,
            quality: float | None = None,
            *,
            bpp: float | None = None,
            size: int | None = None,
            psnr: float | None = None,
            downscale: int = 1,
        ) -> bytes:
            assert downscale == 1
            seen.quality, seen.target = quality, (bpp, size, psnr)
            return stream_for(image, quality or 60)

        def decompress(self, data: bytes, *, max_pixels: int = 2**28) -> np.ndarray:
            header = bitstream.parse_photo(data, max_pixels=max_pixels).header
            return np.full((header.height, header.width, 3), 77, np.uint8)

    def choose(name: str, *, threads: int | None, package: object, progress: object) -> object:
        assert package is not None
        seen.backend, seen.threads = name, threads
        return SimpleNamespace(backend="stand-in", lines=lambda: ["backend stand-in taken: it is a test"])

    monkeypatch.setattr("vaert.runtime.backends.selection.choose", choose)
    module = ModuleType("vaert.runtime.codec")
    vars(module).update(Codec=Codec)
    monkeypatch.setitem(sys.modules, "vaert.runtime.codec", module)
    monkeypatch.setattr(package, "bundled_models", lambda: ("fast",))
    monkeypatch.setattr(package, "find_package", lambda name: SimpleNamespace(**vars(stand_in), asked=name))
    monkeypatch.setattr(package, "find_by_id", {MODEL_ID: stand_in}.__getitem__)
    return seen


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    assert cv2.imwrite(str(path), np.zeros((5, 7, 3), np.uint8))
    return path


def stdin_of(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data))


def run_vaert(*arguments: str, **settings: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", "vaert", *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, **settings)  # type: ignore[call-overload,no-any-return]


def test_help_is_fast() -> None:
    # CPU time, so that a busy machine does not decide; the best of five, so that a cold cache does not.
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_vaert("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.2


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in cli.commands)
    photos = {"compress", "decompress", "generate", "restore", "upscale"}
    models = {"models", "train", "export", "evaluate"}
    assert set(cli.commands) == photos | models | {"info", "verify", "doctor"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["squash"], "No such command 'squash'"),
        (["compress", "a.png"], "Missing argument 'OUT'"),
        (["compress", "a", "b", "--quality", "0.5"], "0.5 is not in the range 1<=x<=100"),
        (["compress", "a", "b", "--quality", "nan"], "nan is not a finite number"),
        (["compress", "a", "b", "--bpp", "0"], "0.0 is not in the range x>0"),
        (["compress", "a", "b", "--psnr", "inf"], "inf is not a finite number"),
        (["compress", "a", "b", "--size", "0"], "0 is not in the range x>=1"),
        (["compress", "a", "b", "--size", "1.5"], "'1.5' is not a valid integer"),
        (["compress", "a", "b", "--threads", "0"], "0 is not in the range x>=1"),
        (["compress", "a", "b", "--bpp", "1", "--psnr", "30"], "--bpp and --psnr exclude each other"),
        (["compress", "a", "b", "--quality", "1", "--size", "9"], "--quality and --size exclude each other"),
        (["decompress", "a", "b", "--format", "docx"], "--format docx"),
        (["train", "codec", "--profile", "huge", "--data", "d", "--out", "o"], "'huge' is not one of"),
        (["train", "codec", "--profile", "fast", "--out", "o"], "Missing option '--data'"),
        (
            ["train", "codec", "--profile", "fast", "--data", "d", "--out", "o", "--steps", "1", "--minutes", "1"],
            "--steps and --minutes exclude each other",
        ),
        (["evaluate", "fast"], "expected --images DIR"),
        (["evaluate", "fast", "--images", ".", "--qualities", "50,101"], "101.0 is not in the range 1<=x<=100"),
    ],
)
def test_wrong_options_exit_with_2(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (errors.ImageError("a\nb"), 1, "a b"),
        (errors.TargetError("too small"), 1, "too small"),
        (errors.OptionError("quality 0"), 2, "quality 0"),
        (PermissionError(13, "Permission denied", "x.png"), 1, "x.png: Permission denied"),
        (MemoryError(), 1, "out of memory: use a smaller picture or a machine with more memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("oops"), 1, "internal error: ZeroDivisionError: oops (VAERT_DEBUG=1 shows where)"),
    ],
)
def test_failures_are_one_line_and_an_exit_code(
    raised: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise raised

    monkeypatch.delenv("VAERT_DEBUG", raising=False)
    monkeypatch.setattr(cli.commands["models"], "callback", fail)
    assert main(["models"]) == code
    captured = capsys.readouterr()
    assert captured.err == f"vaert: error: {line}\n"
    assert captured.out == ""


def test_debug_shows_the_traceback_of_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setenv("VAERT_DEBUG", "1")
    monkeypatch.setattr(cli.commands["models"], "callback", fail)
    with pytest.raises(ZeroDivisionError, match="oops"):
        main(["models"])


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_a_missing_input_is_one_line(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path / "none"), str(tmp_path / "out.png")]) == 1
    assert capsys.readouterr().err == f"vaert: error: cannot read {tmp_path}/none: no such file; check the path\n"


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_a_folder_as_input_has_a_hint(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path), str(tmp_path / "out.png")]) == 1
    assert "is a folder, expected one file: run the command once for each file in it" in capsys.readouterr().err


def test_a_name_with_control_characters_stays_one_line(tmp_path: Path) -> None:
    done = run_vaert("compress", "a\x1b[31m\nb.png", str(tmp_path / "out.vaert"))
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr


def test_an_endless_input_ends_at_the_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "/dev/zero", str(tmp_path / "out.vaert"), "--max-pixels", "1"]) == 1
    assert "/dev/zero has more than 67108872 bytes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_compress_reports_one_line_on_stderr(picture: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    target = picture.with_name("out.vaert")
    assert main(["compress", str(picture), str(target), "--quality", "33.5", "--threads", "2"]) == 0
    size = target.stat().st_size
    captured = capsys.readouterr()
    assert captured.out == ""
    bpp = 8 * size / 35
    assert captured.err == f"{picture} -> {target}: 35 pixels, {size} bytes, {bpp:.3f} bpp, quality 33.5\n"
    assert call == Call(model="fast", threads=2, quality=33.5)


@pytest.mark.parametrize(
    ("option", "target"),
    [
        (["--bpp", "0.5"], (0.5, None, None)),
        (["--size", "900"], (None, 900, None)),
        (["--psnr", "34.5"], (None, None, 34.5)),
    ],
)
def test_targets_reach_the_codec(
    option: list[str], target: tuple[float | None, int | None, float | None], picture: Path, call: Call
) -> None:
    assert main(["compress", str(picture), str(picture.with_name("out.vaert")), "--model", "mine", *option]) == 0
    assert call == Call(model="mine", quality=None, target=target)


def test_quiet_is_quiet(picture: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(picture), str(picture.with_name("out.vaert")), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert call.model == "fast"


@pytest.mark.usefixtures("call")
def test_json_report(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = picture.with_name("out.vaert")
    assert main(["compress", str(picture), str(target), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert report["bytes"] == target.stat().st_size
    assert (report["width"], report["height"], report["channels"]) == (7, 5, 3)
    assert (report["quality"], report["model"], report["model_id"]) == (60, "fast", "0123456789abcdef")
    assert main(["decompress", str(target), str(picture.with_name("back.webp")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "webp"


@pytest.mark.usefixtures("call")
def test_standard_streams_carry_binary_data_only(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin_of(picture.read_bytes()))
    assert main(["compress", "-", "-", "--json"]) == 0
    captured = capsysbinary.readouterr()
    assert bitstream.read_header(captured.out).width == 7
    assert json.loads(captured.err)["output"] == "-"

    monkeypatch.setattr(sys, "stdin", stdin_of(captured.out))
    assert main(["decompress", "-", "-"]) == 0
    decoded = cv2.imdecode(np.frombuffer(capsysbinary.readouterr().out, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert decoded.shape == (5, 7, 3)


@pytest.mark.usefixtures("call")
def test_format_chooses_the_image_format(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin_of(stream_for(np.zeros((5, 7, 3), np.uint8))))
    assert main(["decompress", "-", "-", "--format", "BMP"]) == 0
    assert capsysbinary.readouterr().out.startswith(b"BM")


@pytest.mark.usefixtures("call")
def test_an_existing_output_is_kept_unless_forced(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = picture.with_name("out.vaert")
    target.write_bytes(b"precious")
    assert main(["compress", str(picture), str(target)]) == 1
    assert "--force" in capsys.readouterr().err
    assert target.read_bytes() == b"precious"
    assert main(["compress", str(picture), str(target), "--force"]) == 0
    assert bitstream.read_header(target.read_bytes()).width == 7


@pytest.mark.usefixtures("call")
def test_input_and_output_may_be_the_same_file_with_force(picture: Path) -> None:
    assert main(["compress", str(picture), str(picture)]) == 1
    assert main(["compress", str(picture), str(picture), "--force"]) == 0
    assert bitstream.read_header(picture.read_bytes()).height == 5


@pytest.mark.usefixtures("call")
def test_dropped_metadata_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[0x010F] = "Maker"
    source = tmp_path / "in.jpg"
    image.new("RGB", (8, 8)).save(source, exif=exif)
    assert main(["compress", str(source), str(tmp_path / "out.vaert"), "--quiet"]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith("vaert: warning: ")
    assert warning.count("\n") == 1
    assert "EXIF" in warning


@pytest.mark.usefixtures("call")
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:60] + b"?" + data[61:]]
)
def test_a_damaged_file_is_one_error_and_no_output(
    damage: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.vaert", tmp_path / "out.png"
    source.write_bytes(damage(stream_for(np.zeros((5, 7, 3), np.uint8))))
    assert main(["decompress", str(source), str(target)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vaert: error: ")
    assert error.count("\n") == 1
    assert not target.exists()
    assert main(["info", str(source)]) == 1


@pytest.mark.usefixtures("call")
def test_max_pixels_bounds_both_directions(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = picture.with_name("in.vaert")
    stream.write_bytes(stream_for(np.zeros((5, 7, 3), np.uint8)))
    for command, source in (("compress", picture), ("decompress", stream)):
        assert main([command, str(source), str(picture.with_name("out.png")), "--max-pixels", "34"]) == 1
        assert "--max-pixels" in capsys.readouterr().err


def test_an_unknown_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.vaert"
    source.write_bytes(stream_for(np.zeros((5, 7, 3), np.uint8)))
    assert main(["decompress", str(source), str(tmp_path / "out.png")]) == 1
    error = capsys.readouterr().err
    assert "made by model 0123456789abcdef" in error
    assert "--model" in error
    assert main(["info", str(source)]) == 0
    assert "not bundled (0123456789abcdef)" in capsys.readouterr().out


@pytest.mark.usefixtures("call")
def test_info_shows_header_and_sections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.vaert"
    source.write_bytes(stream_for(np.zeros((5, 7), np.uint8), quality=12.5))
    assert main(["info", str(source)]) == 0
    shown = capsys.readouterr().out
    assert "7 x 5, grey" in shown
    assert "12.5" in shown
    assert main(["info", str(source), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["model"] == "fast"
    assert all(section["checksum_ok"] for section in report["sections"])


@pytest.mark.usefixtures("call")
def test_models_lists_the_bundled_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert capsys.readouterr().out == "fast  codec  fast  fp32  0123456789abcdef  23 456 bytes  0.10-2.00 bpp\n"
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["bytes"] == 23456


def test_a_terminal_is_refused_as_binary_output(picture: Path) -> None:
    leader, follower = pty.openpty()
    try:
        command = [sys.executable, "-P", "-m", "vaert", "compress", str(picture), "-"]
        done = subprocess.run(command, stdout=follower, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 1
    assert done.stderr.startswith(b"vaert: error: standard output is a terminal")


def test_a_closed_pipe_ends_silently() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-P", "-m", "vaert", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_full_device_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-P", "-m", "vaert", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == b"vaert: error: No space left on device\n"


def test_an_interrupt_writes_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "pipe", tmp_path / "out.vaert"
    os.mkfifo(source)
    command = [sys.executable, "-P", "-m", "vaert", "compress", str(source), str(target)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process, open(source, "wb"):
        process.send_signal(signal.SIGINT)  # opening the pipe above waited until the command reads from it
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, b"vaert: error: interrupted\n")
    assert list(tmp_path.iterdir()) == [source]


def test_small_texts() -> None:
    assert one_line("a\n b\tc") == "a b c"
    assert one_line("\x1b[0m") == "\\x1b[0m"
    assert [grouped(number) for number in (7, 23456, 1234567)] == ["7", "23 456", "1 234 567"]
