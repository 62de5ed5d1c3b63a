"""Pictures and folders of them through one function: names, formats, failures, reports."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from vaert.commands import batch
from vaert.commands.batch import BatchOptions, Item, Made, Work, edit, run_batch
from vaert.errors import ImageError, ModelError, OptionError, OutputError

Pixels = npt.NDArray[np.uint8]


def options(**given: object) -> BatchOptions:
    values = {"force": False, "quiet": False, "as_json": False, "max_pixels": 10_000, **given}
    return BatchOptions(**values)  # type: ignore[arg-type]


def open_inverter(seen: list[Item] | None = None) -> Callable[[], Work]:
    """A work that inverts pixels."""

    def work(data: bytes, item: Item) -> Made:
        if seen is not None:
            seen.append(item)
        made = edit(data, item, lambda pixels: 255 - pixels, max_pixels=10_000)
        return Made(made.data, "inverted", {"width": made.after[0]}, made.warnings)

    return lambda: work


def never() -> Work:
    raise AssertionError("the model is loaded only after everything cheap was checked")


def save(path: Path, level: int = 10, side: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, content = cv2.imencode(path.suffix, np.full((side, side, 3), level, np.uint8))
    assert done
    path.write_bytes(content.tobytes())
    return path


def level(path: Path) -> int:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels.min() == pixels.max()
    return int(pixels.min())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures at two depths, of names that differ in case, among other files and hidden ones."""
    made = tmp_path / "in"
    for name in ("a.png", "B.PNG", "deep/er/c.bmp", ".hidden.png", ".folder/d.png"):
        save(made / name)
    (made / "notes.txt").write_text("text")
    return made


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_picture_becomes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = save(tmp_path / "a.png"), tmp_path / "b.bmp"
    run_batch(str(source), str(target), open_inverter(), options=options())
    assert level(target) == 245
    assert capsys.readouterr().err == f"{source} -> {target}: inverted, {target.stat().st_size} bytes\n"
    run_batch(str(source), str(target), open_inverter(), options=options(force=True, quiet=True))
    assert capsys.readouterr() == ("", "")
    run_batch(str(source), str(target), open_inverter(), options=options(force=True, as_json=True))
    shown = capsys.readouterr()
    assert shown.err == ""
    size = target.stat().st_size
    facts = {"input": str(source), "output": str(target), "format": "bmp", "bytes": size, "width": 6}
    assert json.loads(shown.out) == facts


def test_a_folder_becomes_a_folder_of_the_same_names(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    run_batch(str(folder), str(target), open_inverter(), options=options())
    assert files(target) == ["B.PNG", "a.png", "deep/er/c.bmp"]
    assert {level(target / name) for name in files(target)} == {245}
    assert capsys.readouterr().err == f"{folder} -> {target}: 3 pictures written, 1 other files left out\n"


def test_a_named_format_changes_endings_only_where_needed(folder: Path, tmp_path: Path) -> None:
    seen: list[Item] = []
    run_batch(str(folder), str(tmp_path / "out"), open_inverter(seen), options=options(format=".PNG"))
    assert files(tmp_path / "out") == ["B.PNG", "a.png", "deep/er/c.png"]
    assert {item.format for item in seen} == {"png"}


def test_gif_becomes_png(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    source = tmp_path / "in"
    source.mkdir()
    image.new("L", (4, 4), 10).save(source / "a.gif")
    run_batch(str(source), str(tmp_path / "out"), open_inverter(), options=options())
    assert files(tmp_path / "out") == ["a.png"]


def test_failures_are_told_and_the_rest_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.png").write_bytes(b"no picture")
    save(folder / "large.png", side=101)
    target = tmp_path / "out"
    with pytest.raises(click.exceptions.Exit) as raised:
        run_batch(str(folder), str(target), open_inverter(), options=options(as_json=True))
    assert raised.value.exit_code == 1
    assert files(target) == ["B.PNG", "deep/er/c.bmp"]
    shown = capsys.readouterr()
    first, second = shown.err.splitlines()
    assert first.startswith(f"vaert: error: {folder}/a.png: not an image")
    assert second.startswith(f"vaert: error: {folder}/large.png: the image has 101x101 = 10201 pixels")
    report = json.loads(shown.out)
    assert [p["output"] for p in report["pictures"]] == [str(target / name) for name in ("B.PNG", "deep/er/c.bmp")]
    assert [f["input"] for f in report["failed"]] == [str(folder / name) for name in ("a.png", "large.png")]
    assert report["left_out"] == 1


def test_existing_pictures_are_kept_unless_forced(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = save(tmp_path / "out" / "a.png", level=77)
    with pytest.raises(click.exceptions.Exit):
        run_batch(str(folder), str(tmp_path / "out"), open_inverter(), options=options())
    assert level(kept) == 77
    assert f"{kept}: exists already" in capsys.readouterr().err
    assert files(tmp_path / "out") == ["B.PNG", "a.png", "deep/er/c.bmp"]
    run_batch(str(folder), str(tmp_path / "out"), open_inverter(), options=options(force=True))
    assert level(kept) == 245


def test_a_target_inside_the_source_is_not_read_again(folder: Path) -> None:
    for _ in range(2):
        run_batch(str(folder), str(folder / "deep" / "out"), open_inverter(), options=options(force=True))
    assert files(folder / "deep" / "out") == ["B.PNG", "a.png", "deep/er/c.bmp"]


def test_when_everything_fails_no_folder_is_made(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.png").write_bytes(b"no picture")
    with pytest.raises(click.exceptions.Exit):
        run_batch(str(source), str(tmp_path / "out"), open_inverter(), options=options(quiet=True))
    assert not (tmp_path / "out").exists()


def test_what_failed_before_an_interruption_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(data: bytes, item: Item) -> Made:
        if item.source.endswith("B.PNG"):
            raise ModelError("first")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(str(folder), str(tmp_path / "out"), lambda: work, options=options())
    assert capsys.readouterr().err == f"vaert: error: {folder}/B.PNG: first\n"


def test_memory_that_runs_out_fails_one_picture(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(data: bytes, item: Item) -> Made:
        if item.source.endswith("B.PNG"):
            raise MemoryError
        return Made(b"made", "", {}, warnings=("careful",))

    with pytest.raises(click.exceptions.Exit):
        run_batch(str(folder), str(tmp_path / "out"), lambda: work, options=options(quiet=True))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["vaert: warning: careful"] * 2
    assert lines[2].startswith(f"vaert: error: {folder}/B.PNG: out of memory")
    assert files(tmp_path / "out") == ["a.png", "deep/er/c.bmp"]


def test_what_cannot_be_is_refused_before_a_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    empty, taken = tmp_path / "empty", save(tmp_path / "taken.png")
    empty.mkdir()
    save(folder / "a.bmp")
    before = files(tmp_path)
    cases: list[tuple[Path | str, Path | str, dict[str, object], type[Exception], str]] = [
        (folder, "-", {}, OutputError, "standard output cannot take: name a folder"),
        (folder, taken, {}, OutputError, "is a file, expected a folder"),
        (empty, tmp_path / "out", {}, ImageError, r"holds no pictures \(0 other files\)"),
        (folder, tmp_path / "out", {"format": "png"}, OptionError, "would both become a.png: rename one"),
        (folder, tmp_path / "out", {"format": "docx"}, OptionError, "--format docx"),
        (taken, tmp_path / "a.docx", {}, ImageError, "unknown image ending '.docx'"),
        (taken, taken, {}, OutputError, "exists already"),
        (tmp_path / "none.png", tmp_path / "a.png", {}, ImageError, "no such file"),
    ]
    for source, target, given, error, text in cases:
        with pytest.raises(error, match=text):
            run_batch(str(source), str(target), never, options=options(**given))
    assert files(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_progress_counts_every_picture(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    class Bar:
        def __enter__(self) -> Callable[[int, int], None]:
            return lambda done, total: seen.append((done, total))

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(batch, "progress_bar", lambda what: Bar())
    run_batch(str(folder), str(tmp_path / "out"), open_inverter(), options=options())
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_links_to_folders_are_not_followed(folder: Path, tmp_path: Path) -> None:
    os.symlink(folder, folder / "again")
    os.symlink(folder / "a.png", folder / "link.png")
    run_batch(str(folder), str(tmp_path / "out"), open_inverter(), options=options())
    assert files(tmp_path / "out") == ["B.PNG", "a.png", "deep/er/c.bmp", "link.png"]
