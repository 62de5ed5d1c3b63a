"""Files of digits, read as docs/format.md says: shares nothing with the runtime but engine and networks' graphs."""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt
import pytest

from vaert import bitstream
from vaert.bitstream import DigitsStream, Header, Kind
from vaert.idx import read_idx
from vaert.package import Package, find_package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.digit_files import open_digit_files
from vaert.runtime.digits import DigitCodec

Array = npt.NDArray[Any]
COUNT = 6  # three batches of the lossless format, 1, 2 and the rest of 3


def tables_of(package: Package) -> dict[str, Array]:
    with np.load(io.BytesIO(package.read("tables.npz"))) as raw:
        return {name: raw[name] for name in raw.files}


class Coder:
    """The stack, with runs of symbols one at a time in the order of the page."""

    def __init__(self, words: bytes) -> None:
        self.stack = constriction.stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))

    def decode(self, tables: list[Array], numbers: list[int]) -> list[int]:
        found = [0] * len(numbers)
        for place in sorted(range(len(numbers)), key=lambda place: (numbers[place], place)):
            found[place] = int(self.stack.decode(model_of(tables[numbers[place]])))
        return found

    def give_back(self, symbols: list[int], tables: list[Array], numbers: list[int]) -> None:
        for place in sorted(range(len(numbers)), key=lambda place: (numbers[place], place), reverse=True):
            self.stack.encode_reverse(symbols[place], model_of(tables[numbers[place]]))


def model_of(table: Array) -> Any:
    return constriction.stream.model.Categorical(table / 2**24, perfect=True)


def lossy(stream: DigitsStream, package: Package) -> list[list[int]]:
    """k of every digit."""
    t, coder = tables_of(package), Coder(stream.words)
    levels, scales, coded = len(t["steps"]), t["tables"].shape[1], len(t["active"])
    level = (stream.header.quality_u16 - 256) * levels // 25345
    clusters = coder.decode([t["clusters"][level]], [0] * stream.count)
    mean = [int(t["mean"][level, c, a]) for c in clusters for a in range(coded)]
    scale = [int(t["scale"][level, c, a]) for c in clusters for a in range(coded)]
    numbers = [m % 4 * scales + i for m, i in zip(mean, scale, strict=True)]
    symbols = coder.decode([t["tables"][n // scales, n % scales] for n in range(4 * scales)], numbers)
    k = [s + m // 4 - 64 for s, m in zip(symbols, mean, strict=True)]
    assert coder.stack.is_empty()
    assert zlib.crc32(bytes(clusters) + np.array(k, np.int8).tobytes()) == stream.symbol_crc
    return [k[i : i + coded] for i in range(0, len(k), coded)]


def lossless(stream: DigitsStream, package: Package) -> Array:
    """Pixels, (N, 784)."""
    t, coder, engine = tables_of(package), Coder(stream.words), OnnxRuntimeCpu(threads=1)
    batches: list[int] = []
    size = 1
    while sum(batches) < stream.count:
        batches.append(min(size, stream.count - sum(batches)))
        size = min(64, 2 * size)
    parts: list[Array] = []
    for number in reversed(range(len(batches))):
        n = batches[number]
        z = np.array(coder.decode([t["prior"]], [0] * n * package.manifest.geometry["latents"]))
        z = z.reshape(n, -1).astype(np.int32) - len(t["prior"]) // 2
        features = engine.load(package, "lossless_decoder").run({"latents": z})["features"]
        pixels = np.zeros((n, 785), np.uint8)  # the last one is what lies outside
        for k in range(sum(name.endswith("_pixels") for name in t)):
            inputs: dict[str, Array] = {"features": features[:, t[f"pass{k}_cells"]]}
            if t[f"pass{k}_neighbours"].shape[1]:
                inputs["seen"] = pixels[:, t[f"pass{k}_neighbours"]]
            index = engine.load(package, f"lossless_pass{k}").run(inputs)["index"]
            values = walk(coder, t, index.reshape(-1, index.shape[-1]))
            pixels[:, t[f"pass{k}_pixels"]] = np.array(values, np.uint8).reshape(n, -1)
        if number > 0:
            q = engine.load(package, "lossless_encoder").run({"pixels": np.ascontiguousarray(pixels[:, :784])})
            symbols = (z - q["mean"] + t["posterior"].shape[1] // 2).ravel().tolist()
            coder.give_back(symbols, list(t["posterior"]), q["spread"].ravel().tolist())
        parts.insert(0, pixels[:, :784])
    assert coder.stack.is_empty()
    found = np.concatenate(parts)
    assert zlib.crc32(found.tobytes()) == stream.symbol_crc
    return found


def walk(coder: Coder, t: dict[str, Array], index: Array) -> list[int]:
    """Values of pixels, in the order of the run, from the index of each decision, (n, decisions)."""
    at = [0] * len(index)
    while walking := [i for i, node in enumerate(at) if node >= 0]:
        answers = coder.decode(list(t["decision"]), [int(index[i, at[i]]) for i in walking])
        for i, answer in zip(walking, answers, strict=True):
            at[i] = int(t["tree_children"][at[i], answer])
    leaves, ends = [-1 - node for node in at], np.cumsum(t["tree_leaves"][:, 1])
    values = [int(t["tree_leaves"][leaf, 0]) for leaf in leaves]
    wide = [i for i, leaf in enumerate(leaves) if t["tree_leaves"][leaf, 1] > 1]
    distances = coder.decode(np.split(t["leaf_tables"], ends[:-1]), [leaves[i] for i in wide])
    for i, distance in zip(wide, distances, strict=True):
        values[i] += distance
    return values


@pytest.fixture(scope="module")
def digits() -> npt.NDArray[np.uint8]:
    root = Path(__file__).parent
    return read_idx(root / "golden" / "digits.idx3-ubyte.gz")[:COUNT]


@pytest.mark.parametrize("quality", [1.0, 60.0, 100.0])
def test_lossy_digits_are_as_documented(digits: npt.NDArray[np.uint8], quality: float) -> None:
    package = find_package("mnist-conv")
    codec = DigitCodec(package, threads=1)
    names = [f"{i}.png" for i in range(len(digits))]
    stream = bitstream.parse_digits(codec.compress(digits, quality, names=names))
    assert lossy(stream, package) == codec.decode_latents(stream).tolist()


def test_lossless_digits_are_as_documented(digits: npt.NDArray[np.uint8]) -> None:
    package = find_package("mnist-lossless")
    names = [f"{i}.png" for i in range(len(digits))]
    stream = bitstream.parse_digits(open_digit_files(package, threads=1).compress(digits, names=names))
    np.testing.assert_array_equal(lossless(stream, package), digits.reshape(len(digits), -1))


def test_example_of_digits_in_the_documentation() -> None:
    text = (Path(__file__).parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
    block = text[text.index("### Example") :].split("```")[1]
    found = bytes.fromhex("".join(re.findall(r"^((?:[0-9a-f]{2} +)+)", block, re.MULTILINE)))
    header = Header(Kind.DIGITS, 0x0123456789ABCDEF, 28, 28, 1, 60 * 256)
    expected = DigitsStream(header, 2, 0x11223344, bytes([1, 2, 3, 4]), ("a.png", "b.png"))
    assert bitstream.parse(found) == expected
    assert len(found) == int(re.findall(r"A file of (\d+) bytes: two lossy digits", text)[0])
