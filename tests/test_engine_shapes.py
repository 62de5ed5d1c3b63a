"""Which shapes the inputs of every bundled graph take, for a size of picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
from backend_suite import sample_inputs

from vaert.errors import BackendError, OptionError
from vaert.package import Manifest, bundled_models, find_package
from vaert.runtime.backends._trt_builder import Phases
from vaert.runtime.backends.shapes import Shapes, default_shapes, input_ranges, picture_size, shapes_around

GRAPHS = [(model, graph) for model in bundled_models() for graph in find_package(model).manifest.graphs]


def manifest(model: str) -> Manifest:
    return find_package(model).manifest


def within(model: str, graph: str, shapes: Shapes, size: tuple[int, int]) -> bool:
    ranges = input_ranges(manifest(model), graph, shapes)
    inputs = sample_inputs(find_package(model), graph, size=size)
    return all(
        all(low <= n <= high for low, n, high in zip(ranges[name][0], array.shape, ranges[name][2], strict=True))
        for name, array in inputs.items()
    )


@pytest.mark.parametrize(("model", "graph"), GRAPHS)
def test_every_bundled_graph(model: str, graph: str) -> None:
    found = input_ranges(manifest(model), graph, default_shapes(manifest(model)))
    for tensor in manifest(model).graphs[graph]["inputs"]:
        low, best, high = found[tensor["name"]]
        assert len(low) == len(tensor["shape"])
        assert all(1 <= a <= b <= c for a, b, c in zip(low, best, high, strict=True))
        for n, values in zip(tensor["shape"], zip(low, best, high, strict=True), strict=True):
            assert values == (n, n, n) if isinstance(n, int) else len(set(values)) > 1 or n == "batch"
    assert within(model, graph, default_shapes(manifest(model)), (1, 1))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 7)])
@pytest.mark.parametrize(("model", "graph"), GRAPHS)
def test_the_size_of_a_picture_is_told_from_the_inputs(model: str, graph: str, size: tuple[int, int]) -> None:
    inputs = sample_inputs(find_package(model), graph, size=size)
    batch, found = picture_size(manifest(model), graph, {name: array.shape for name, array in inputs.items()})
    assert batch == 1
    geometry = manifest(model).geometry
    if "size_multiple" in geometry:
        unit = 4 if geometry["size_multiple"] == 1 else geometry["size_multiple"]  # the samples of an upscaler
        assert found == (unit * size[0], unit * size[1])
        # An engine for exactly that size takes it, and one for sizes just beside it does not.
        assert within(model, graph, Shapes(found, found, found), size)
        if size != (1, 1):
            assert not within(model, graph, Shapes((1, 1), (1, 1), (unit, unit)), size)


def test_sizes_are_rounded_up_to_the_size_rule() -> None:
    found = input_ranges(manifest("fast"), "prior_context", Shapes((1, 1), (65, 128), (1000, 129)))
    assert found["features"] == ((1, 4, 4, 128), (1, 8, 8, 128), (1, 64, 12, 128))
    assert found["anchors"] == ((1, 2, 2, 2, 320), (1, 4, 2, 4, 320), (1, 32, 2, 6, 320))


def test_digits_vary_in_batch_alone() -> None:
    shapes = Shapes((3, 3), (5, 5), (7, 7), (2, 3, 4))
    assert input_ranges(manifest("mnist-conv"), "encoder", shapes)["pixels"] == (
        (2, 28, 28, 1),
        (3, 28, 28, 1),
        (4, 28, 28, 1),
    )
    found = input_ranges(manifest("mnist-lossless"), "lossless_pass1", shapes)
    assert found["seen"] == ((2, 1, 16), (3, 196, 16), (4, 784, 16))


def test_parsing() -> None:
    shapes = Shapes.parse("64x128:512x768:1088x1920")
    assert shapes == Shapes((64, 128), (512, 768), (1088, 1920))
    assert str(shapes) == "64x128:512x768:1088x1920"
    assert str(replace(shapes, batch=(1, 2, 3))) == "64x128:512x768:1088x1920 in batches of 1:2:3"
    for text in ("", "64x64:512x768", "64:64:64", "64x64:32x64:128x128", "axb:1x1:1x1", "9999999x1:1x1:1x1"):
        with pytest.raises(OptionError, match="MIN:OPT:MAX"):
            Shapes.parse(text)


def test_engines_for_other_sizes_are_few() -> None:
    usual = Shapes((64, 64), (512, 768), (1024, 1024))
    assert shapes_around(usual, 1, (64, 4000)) == Shapes((1, 1), (512, 4096), (1024, 4096))
    assert shapes_around(usual, 3, (2048, 100)) == Shapes((1, 1), (2048, 768), (2048, 1024), (1, 4, 4))
    assert shapes_around(usual, 1, (10, 10)) == Shapes((1, 1), (512, 768), (1024, 1024))  # smaller than the usual ones
    every = {shapes_around(usual, 1, (height, width)) for height in range(1, 5000, 37) for width in range(1, 5000, 37)}
    assert len(every) == 16


def test_a_package_may_say_what_its_engines_take() -> None:
    geometry = {**manifest("fast").geometry, "shapes": "64x64:128x128:256x256"}
    assert default_shapes(replace(manifest("fast"), geometry=geometry)) == Shapes((64, 64), (128, 128), (256, 256))
    assert default_shapes(manifest("fast")) == Shapes()


def test_free_sizes_that_are_not_known() -> None:
    graphs = {"encoder": {"inputs": [{"name": "pixels", "shape": ["batch", "tall"], "type": "uint8"}]}}
    with pytest.raises(BackendError, match="free size 'tall', which the tensorrt backend does not know"):
        input_ranges(replace(manifest("fast"), graphs=graphs), "encoder", Shapes())


def test_progress_of_nested_phases() -> None:
    phases = Phases()
    phases.start("all", None, 2)
    phases.step("all", 1)
    half = phases.done
    phases.start("part", "all", 4)
    phases.step("part", 2)
    assert half < phases.done < 0.9
    phases.finish("part")
    phases.finish("part")
    phases.step("unknown", 3)
    phases.finish("all")
    assert phases.done == pytest.approx(0.9)  # another may follow
    phases.start("more", None, 0)
    phases.finish("more")
    assert 0.9 < phases.done < 1
