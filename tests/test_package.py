"""Model packages: what is missing, changed or made up in one is a ModelError that names it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaert import package as package_module
from vaert.cli import main
from vaert.errors import ModelError
from vaert.package import BUNDLED, MANIFEST, WEIGHTS, Manifest, Package, bundled_models, find_by_id, find_package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.codec import Codec
from vaert.tables import TOTAL, Tables

FILES = ("encoder.onnx", "decoder.onnx", "hyper_encoder.onnx", "prior_anchor.onnx", "prior_context.onnx")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A package to be broken."""
    return Path(shutil.copytree(BUNDLED / "fast", tmp_path / "copy"))


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_packages_are_whole(name: str) -> None:
    package = find_package(name)
    assert {path.name for path in package.path.iterdir()} == {*package.manifest.files, MANIFEST}
    assert sum(len(package.read(file)) for file in package.manifest.files) == package.size
    assert find_by_id(package.manifest.model_id).path == package.path
    assert Manifest.from_json(package.manifest.to_json()) == package.manifest
    assert package.manifest.name == name
    assert {f"{graph}.onnx" for graph in package.manifest.graphs} == {
        file for file in package.manifest.files if file.endswith(".onnx")
    }
    assert {WEIGHTS, "LICENSE"} < set(package.manifest.files)
    backend = OnnxRuntimeCpu(threads=1)
    for graph in package.manifest.graphs:
        backend.load(package, graph)


def test_the_bundled_codec_has_every_graph_and_whole_halos() -> None:
    manifest = find_package("fast").manifest
    assert {f"{graph}.onnx" for graph in manifest.graphs} == set(FILES)
    stride = {"encoder": "latent_stride", "hyper_encoder": "hyper_stride", "decoder": "latent_stride"}
    halos = manifest.geometry["halo"]
    assert all(halos[graph] % manifest.geometry[name] == 0 for graph, name in stride.items())


def test_no_pickle_in_any_package() -> None:
    for name in bundled_models():
        package = find_package(name)
        for file in (name for name in package.manifest.files if name.endswith(".npz")):
            with np.load(package.path / file, allow_pickle=False) as arrays:
                assert all(arrays[key].dtype != object for key in arrays.files)


def use(package: Package) -> None:
    """Everything that a round trip reads."""
    codec = Codec(package, threads=1)
    codec.decompress(codec.compress(np.zeros((64, 64, 3), np.uint8)))


@pytest.mark.parametrize("name", [*FILES, "tables.npz", "known_answers.npz"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=rf"{name} cannot be read \(No such file.*install the package again"):
        use(Package.open(copy))


@pytest.mark.parametrize("name", [*FILES, "tables.npz", "known_answers.npz"])
@pytest.mark.parametrize("at", [0.0, 0.5, 0.999])
def test_a_changed_byte_is_noticed(copy: Path, name: str, at: float) -> None:
    data = bytearray((copy / name).read_bytes())
    data[int(at * len(data))] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ModelError, match=f"{name} is damaged: its SHA-256"):
        use(Package.open(copy))


def test_a_file_replaced_by_a_folder(copy: Path) -> None:
    (copy / "encoder.onnx").unlink()
    (copy / "encoder.onnx").mkdir()
    with pytest.raises(ModelError, match=r"encoder\.onnx cannot be read"):
        use(Package.open(copy))


def test_damage_is_one_line_of_the_command_line(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "decoder.onnx").write_bytes(b"")
    for argument in (copy, copy.parent / "nothing", copy.parent):
        line = ["decompress", str(copy / "LICENSE"), str(copy.parent / "out.png"), "--model", str(argument)]
        assert main(line) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir(copy.parent) == ["copy"]


def changed(copy: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    raw = json.loads((copy / MANIFEST).read_text())
    change(raw)
    (copy / MANIFEST).write_text(json.dumps(raw))
    return copy


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "a\\b", "", "a\n", "C:x"])
def test_names_that_leave_the_folder(copy: Path, name: str) -> None:
    (copy.parent / "secret").write_bytes(b"")
    changed(copy, lambda raw: raw["files"].update({name: "0" * 64}))
    with pytest.raises(ModelError, match="file names that are not allowed"):
        Package.open(copy)


@pytest.mark.parametrize("name", ["..", ".", MANIFEST])
def test_names_that_are_no_files_of_a_package(copy: Path, name: str) -> None:
    changed(copy, lambda raw: raw["files"].update({name: "0" * 64}))
    with pytest.raises(ModelError):
        Package.open(copy).read(name)


def test_a_file_that_the_manifest_does_not_name_is_not_read(copy: Path) -> None:
    (copy / "extra").write_bytes(b"")
    with pytest.raises(ModelError, match="has no extra"):
        Package.open(copy).read("extra")


GARBAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown field": lambda raw: raw.update(more=1),
    "missing field": lambda raw: raw.pop("graphs"),
    "no version": lambda raw: raw.pop("version"),
    "later version": lambda raw: raw.update(version=2),
    "no model id": lambda raw: raw.pop("model_id"),
    "model id of another type": lambda raw: raw.update(model_id=5),
    "model id that is no number": lambda raw: raw.update(model_id="xyz"),
    "no files": lambda raw: raw.pop("files"),
    "files of another type": lambda raw: raw.update(files=5),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_manifests_with_wrong_fields(copy: Path, name: str) -> None:
    changed(copy, GARBAGE[name])
    with pytest.raises(ModelError, match=str(copy)) as caught:
        Package.open(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b'"text"', b"[" * 200, b'{"a": NaN}'])
def test_manifests_that_are_no_manifests(copy: Path, data: bytes) -> None:
    (copy / MANIFEST).write_bytes(data)
    with pytest.raises(ModelError, match=str(copy)):
        Package.open(copy)


@given(st.text(max_size=200))
def test_any_text_is_a_manifest_or_a_model_error(text: str) -> None:
    with pytest.raises(ModelError):
        Manifest.from_json(text)


def test_folders_that_are_no_packages(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is not a model package: manifest\.json cannot be read"):
        Package.open(tmp_path)
    with pytest.raises(ModelError, match=r"no model .* give a package folder or one of .*fast"):
        find_package(tmp_path)
    with pytest.raises(ModelError, match=r"no model 'fats'"):
        find_package("fats")


def test_model_ids_that_nobody_has() -> None:
    with pytest.raises(ModelError, match=r"made by model 00000000000000ab, which is not installed; .*--model"):
        find_by_id(0xAB)


def test_without_bundled_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(package_module, "BUNDLED", tmp_path)
    assert bundled_models() == ()
    with pytest.raises(ModelError, match="one of none"):
        find_package("fast")


def test_a_name_is_a_bundled_model_before_it_is_a_folder(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy.rename(copy.parent / "fast")
    monkeypatch.chdir(copy.parent)
    assert find_package("fast").path == BUNDLED / "fast"
    assert find_package("./fast").path == Path("fast")


BROKEN_TABLES: dict[str, Callable[[Tables], Tables]] = {
    "sum": lambda t: replace(t, hyper=t.hyper + np.uint32(1)),
    "zero": lambda t: replace(t, scale=(np.array([0, TOTAL], np.uint32), *t.scale[1:])),
    "one symbol": lambda t: replace(t, scale=(np.array([TOTAL], np.uint32), *t.scale[1:])),
}


@pytest.mark.parametrize("name", BROKEN_TABLES)
def test_tables_that_are_no_distributions(name: str) -> None:
    tables = find_package("fast").tables()
    assert Tables.from_bytes(tables.to_bytes()).arrays().keys() == tables.arrays().keys()
    with pytest.raises(ModelError, match="does not sum to 2"):
        Tables.from_bytes(BROKEN_TABLES[name](tables).to_bytes())


@pytest.mark.parametrize("data", [b"text", b"PK\x03\x04"])
def test_tables_that_are_no_archive(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"tables\.npz is damaged"):
        Tables.from_bytes(data)


def test_cut_tables() -> None:
    data = find_package("fast").tables().to_bytes()
    for stop in (len(data) // 2, len(data) - 9):
        with pytest.raises(ModelError, match=r"tables\.npz is damaged"):
            Tables.from_bytes(data[:stop])


def test_gains_are_smooth_in_quality() -> None:
    tables = find_package("fast").tables()
    steps = [np.log(tables.gains(q / 256)[0]) for q in range(256, 25601, 64)]
    assert all(step.dtype == np.float32 for step in steps)
    largest = max(float(np.abs(b - a).max()) for a, b in pairwise(steps))
    between = np.abs(np.diff(tables.log_gain, axis=0)).max() / (99 / (len(tables.log_gain) - 1)) / 4
    assert largest < 1.1 * between + 1e-5
    for quality, row in ((1, 0), (100, -1)):
        assert tables.gains(quality)[0] == pytest.approx(np.exp(tables.log_gain[row]), rel=1e-6)
        assert tables.gains(quality)[1] == pytest.approx(np.exp(tables.log_inverse_gain[row]), rel=1e-6)
