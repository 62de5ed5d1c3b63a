"""Export: the same model whichever way it is made, the proof of exactness, and packages that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from vaert import bitstream
from vaert.cli import main
from vaert.errors import ModelError, OptionError, OutputError
from vaert.export import codec as codec_source
from vaert.export import export_model, pipeline
from vaert.export.bounds import INPUT_MAX, LIMIT, prove, row_sums
from vaert.export.codec import CodecSource
from vaert.export.pipeline import write_fp32
from vaert.export.precision import Converted
from vaert.export.registry import from_package
from vaert.export.tables import gaussian_table, integer_table
from vaert.export.verify import made_picture, torch_latents
from vaert.image import encode_image
from vaert.package import MANIFEST, Package, find_package
from vaert.runtime.codec import Codec
from vaert.tables import TOTAL
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.config import TrainConfig
from vaert.trainer.models.codec import CodecConfig, CodecVAE
from vaert.trainer.models.prior import IntegerLayer

TINY = CodecConfig(
    channels=24, latents=32, hyper=8, hidden=16, mix=24, encoder_blocks=1, decoder_blocks=1, expansion=2, anchors=3
)
ALLOWED = {
    "MatMul", "Add", "Mul", "Floor", "Clip", "Cast", "Concat", "Slice", "Pad", "Transpose", "DepthToSpace", "Unsqueeze",
}  # fmt: skip
PRIOR = ("prior_anchor.onnx", "prior_context.onnx")


def save(model: CodecVAE, path: Path) -> Path:
    state = model.state_dict()
    checkpoint = Checkpoint(
        kind="codec", profile="tiny", model_config=TINY, train_config=TrainConfig(), step=7, seconds=1.0, model=state,
        ema=state, optimizer={}, data=("made",), pictures=1,
    )  # fmt: skip
    checkpoint.save(path)
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model as it starts, before and after its prior became integer."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(3)
    model = CodecVAE(TINY).eval()
    with torch.no_grad():  # the output layers start so small that means and indices would hardly vary
        for layer in (model.prior.o0, model.prior.o1):
            layer.weight.mul_(20)
        float_file = save(model, folder / "float.pt")
        model.prior.observe(True)
        model(torch.from_numpy(made_picture(128, 128)).permute(2, 0, 1)[None] / 255 - 0.5, torch.tensor([60.0]), None)
        model.prior.observe(False)
        model.prior.freeze()
    return {"float": float_file, "integer": save(model, folder / "integer.pt")}


@pytest.fixture(scope="module")
def source(checkpoints: dict[str, Path]) -> CodecSource:
    path = checkpoints["integer"]
    return codec_source.from_checkpoint(Checkpoint.load(path), path)


@pytest.fixture(scope="module")
def tiny(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Package:
    return export_model(checkpoints["integer"], tmp_path_factory.mktemp("packages") / "tiny")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tiny: Package) -> None:
    """Take the transforms' graphs, which take longest and are not looked at, from the package that is there."""
    graphs = {name: onnx.load(tiny.path / f"{name}.onnx") for name in tiny.manifest.graphs}
    monkeypatch.setattr(pipeline, "convert", lambda *_: Converted(graphs))


def test_a_tiny_model_works_end_to_end(tiny: Package) -> None:
    codec, pixels = Codec(tiny, threads=1), made_picture(100, 150)
    data = codec.compress(pixels, 70)
    assert codec.decompress(data).shape == pixels.shape
    latents = codec.decode_latents(bitstream.parse_photo(data))
    assert np.array_equal(latents, torch_latents(tiny, data))
    assert len(np.unique(latents)) > 50


def test_the_manifest_tells_what_was_verified(tiny: Package, source: CodecSource) -> None:
    manifest = tiny.manifest
    assert manifest.model_id == source.model_id
    assert manifest.verification["latents_different"] == 0
    assert manifest.verification["latents_compared"] > 0
    assert set(manifest.verification["largest_sums"]) == set(INPUT_MAX)
    assert all(0 < bound < LIMIT for bound in manifest.verification["largest_sums"].values())
    assert manifest.training["steps"] == 7
    assert {path.name for path in tiny.path.iterdir()} == {*manifest.files, MANIFEST}


def test_export_again_from_the_package_gives_the_same_model(tiny: Package, tmp_path: Path) -> None:
    again = export_model(tiny.path, tmp_path / "again")
    assert again.manifest.model_id == tiny.manifest.model_id
    for name in (*PRIOR, "tables.npz", "known_answers.npz", "weights.safetensors"):
        if name.endswith(".npz"):  # an archive carries times
            a, b = (np.load(package.path / name, allow_pickle=False) for package in (tiny, again))
            assert all(np.array_equal(a[key], b[key]) for key in {*a.files, *b.files})
        else:
            assert again.read(name) == tiny.read(name)
    pixels = made_picture(70, 90)
    assert Codec(again, threads=1).compress(pixels) == Codec(tiny, threads=1).compress(pixels)


def test_the_model_id_covers_integers_tables_and_weights(source: CodecSource) -> None:
    layer = source.layers["o1"]
    bias = layer.bias.copy()
    bias[0] += 1
    weights = {name: array.copy() for name, array in source.weights.items()}
    next(iter(weights.values())).flat[0] += 1
    hyper = source.tables.hyper.copy()
    hyper[0, 0], hyper[0, 1] = hyper[0, 0] + 1, hyper[0, 1] - 1
    others = [
        replace(source, layers={**source.layers, "o1": replace(layer, bias=bias)}),
        replace(source, context_shift=source.context_shift + np.uint8(1)),
        replace(source, tables=replace(source.tables, hyper=hyper)),
        replace(source, tables=replace(source.tables, log_gain=source.tables.log_gain + np.float32(0.01))),
        replace(source, weights=weights),
    ]
    ids = {source.model_id, *(other.model_id for other in others)}
    assert len(ids) == 1 + len(others)
    assert replace(source, profile="other", training={}).model_id == source.model_id


def test_a_bundled_model_exports_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundled = find_package("fast")
    assert main(["export", "fast", "--out", str(tmp_path / "mine")]) == 0, capsys.readouterr().err
    mine = Package.open(tmp_path / "mine")
    assert mine.manifest.model_id == bundled.manifest.model_id
    assert all(mine.read(name) == bundled.read(name) for name in PRIOR)
    assert mine.manifest.rates == bundled.manifest.rates
    source = tmp_path / "in.png"
    source.write_bytes(encode_image(made_picture(70, 90), format="png"))
    assert main(["compress", str(source), str(tmp_path / "a.vaert"), "--model", str(tmp_path / "mine"), "-q"]) == 0
    assert main(["decompress", str(tmp_path / "a.vaert"), str(tmp_path / "out.png"), "-q"]) == 0


def test_a_checkpoint_without_an_integer_prior(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no integer prior yet \(7 of 20000 steps\)"):
        export_model(checkpoints["float"], tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04" + bytes(99)])
def test_files_that_are_no_checkpoints(tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.pt").write_bytes(data)
    assert main(["export", str(tmp_path / "x.pt"), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "not a vaert checkpoint" in err
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == ["x.pt"]


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model"):
        export_model(str(tmp_path / "nothing"), tmp_path / "out")
    with pytest.raises(ModelError, match="no model"):
        export_model(tmp_path, tmp_path / "out")


def layer_of(weight: int, inputs: int, bias: int) -> IntegerLayer:
    """Three outputs, of which row 1 is the largest."""
    rows = np.full((3, inputs), weight, np.int8)
    rows[::2] = 0
    return IntegerLayer(rows, np.array([5, bias, -5], np.int32), np.zeros(3, np.uint8))


def test_the_bound_names_layer_and_row() -> None:
    fitting = (LIMIT - 1) // (127 * 255)
    rest = LIMIT - 1 - fitting * 127 * 255
    assert row_sums(layer_of(-127, fitting, -rest), 255).tolist() == [5, LIMIT - 1, 5]
    (bound,) = prove({"a0": layer_of(-127, fitting, -rest)})
    assert (bound.layer, bound.largest) == ("a0", LIMIT - 1)
    for bias in (rest + 1, -rest - 1):
        with pytest.raises(ModelError, match=rf"prior layer a0, row 1: sums can reach {LIMIT} .* train with"):
            prove({"h1": layer_of(1, 9, 0), "a0": layer_of(127, fitting, bias)})


def test_too_large_weights_write_nothing(source: CodecSource, tmp_path: Path) -> None:
    wide = replace(source.layers["near"], bias=np.full_like(source.layers["near"].bias, 2**24))
    wrong = replace(source, layers={**source.layers, "near": wide})
    with pytest.raises(ModelError, match="prior layer near, row"):
        write_fp32(wrong, tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("which", ["tiny", "fast"])
def test_the_prior_is_made_of_exact_operators(which: str, tiny: Package) -> None:
    package = tiny if which == "tiny" else find_package("fast")
    for name in PRIOR:
        graph = onnx.load_from_string(package.read(name)).graph
        assert {node.op_type for node in graph.node} <= ALLOWED
        assert all(node.domain == "" for node in graph.node)
        constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        factors = [constants[i] for node in graph.node if node.op_type == "Mul" for i in node.input if i in constants]
        assert len(factors) == sum(node.op_type == "Mul" for node in graph.node)  # only ever by a constant
        assert all((np.frexp(factor)[0] == 0.5).all() for factor in factors)
        for node in graph.node:
            if node.op_type == "MatMul":
                weight = constants[node.input[1]]
                assert (weight == np.rint(weight)).all()
                assert np.abs(weight).max() <= 127


@pytest.mark.parametrize("which", ["tiny", "fast"])
def test_graphs_carry_the_integers_of_the_weights(which: str, tiny: Package) -> None:
    source = codec_source.from_package(tiny if which == "tiny" else find_package("fast"))
    constants: dict[str, Any] = {}
    for name in PRIOR:
        graph = onnx.load_from_string((tiny if which == "tiny" else find_package("fast")).read(name)).graph
        constants |= {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for name in ("h1", "h2", "a0", "near", "a1"):
        assert np.array_equal(constants[f"{name}_weight"], source.layers[name].weight.T)
        assert np.array_equal(constants[f"{name}_bias"], source.layers[name].bias)
        assert np.array_equal(constants[f"{name}_scale"], 2.0 ** -source.layers[name].shift.astype(float))


@pytest.mark.usefixtures("quick")
def test_force(source: CodecSource, tmp_path: Path) -> None:
    out = tmp_path / "folder" / "model"  # the folder above is made
    write(source, out, force=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputError, match=r"exists; remove it, .*--force"):
        write(source, out, force=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "leftover").write_bytes(b"")
    write(source, out, force=True)
    assert {path.name for path in out.iterdir()} == set(before)
    assert os.listdir(out.parent) == ["model"]


def write(source: CodecSource, out: Path, *, force: bool) -> Package:
    return write_fp32(source, out, force=force)


@pytest.mark.parametrize("force", [False, True])
def test_only_packages_are_ever_replaced(source: CodecSource, tmp_path: Path, force: bool) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(b"dear")
    (tmp_path / "file").write_bytes(b"dear")
    for name in ("photos", "file"):
        with pytest.raises(OutputError, match="exists"):
            write(source, tmp_path / name, force=force)
    assert (tmp_path / "photos" / "one.png").read_bytes() == (tmp_path / "file").read_bytes() == b"dear"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("moment", ["verify", "rename", "disk", "disagreement"])
def test_an_export_that_fails_leaves_what_was_there(
    source: CodecSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, existing: bool
) -> None:
    out, before = tmp_path / "model", {}
    if existing:
        out.mkdir()
        (out / MANIFEST).write_text("old")
        before = {MANIFEST: "old"}
    error = break_at(moment, monkeypatch, out)
    with pytest.raises(error):
        write(source, out, force=True)
    assert os.listdir(tmp_path) == (["model"] if existing else [])
    assert not existing or {path.name: path.read_text() for path in out.iterdir()} == before


def break_at(moment: str, monkeypatch: pytest.MonkeyPatch, out: Path) -> type[BaseException]:
    """Make the export fail at a moment; returns what is then raised."""

    def fail(error: BaseException) -> Callable[..., Any]:
        def raiser(*_: Any, **__: Any) -> Any:
            raise error

        return raiser

    if moment == "verify":
        monkeypatch.setattr(CodecSource, "verify", fail(KeyboardInterrupt()))
        return KeyboardInterrupt
    if moment == "disagreement":
        monkeypatch.setattr("vaert.export.verify.LATENT_TOLERANCE", -1.0)
        return ModelError
    if moment == "disk":
        monkeypatch.setattr(Path, "write_bytes", fail(OSError(28, "No space left on device")))
        return OutputError
    rename = Path.rename

    def refuse_the_last(self: Path, target: Path) -> Path:
        if target == out and self.name != "old":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_last)
    return OutputError


def test_weights_that_are_not_the_graphs_are_refused(tiny: Package, tmp_path: Path) -> None:
    wrong = Package(tiny.path, replace(tiny.manifest, model_id=1))
    with pytest.raises(ModelError, match="not what this package's graphs were made from"):
        from_package(wrong)


def test_unknown_precisions(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="precision 'fp4'"):
        export_model("fast", tmp_path / "out", precision="fp4")


def test_tables_are_distributions() -> None:
    for scale in (0.11, 1.0, 17.3, 200.0):
        table = gaussian_table(scale)
        assert table.sum(dtype=np.int64) == TOTAL
        assert table.min() >= 1
        assert len(table) % 2 == 0  # symbols -L..L and the escape
        assert np.abs(table[:-1].astype(int) - table[:-1][::-1].astype(int)).max() <= 1
    even = integer_table(np.ones(3))
    assert sorted(even.tolist()) == [TOTAL // 3, TOTAL // 3, TOTAL // 3 + 1]
    assert integer_table(np.array([1.0, 0.0, 1e-30])).tolist() == [TOTAL - 2, 1, 1]
