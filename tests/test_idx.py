"""IDX files: read as they say, refused in one line where they are not what they say, and split into two parts."""

import gzip
import struct
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaert import idx
from vaert.errors import DataError
from vaert.idx import load_split, read_idx

Bytes = npt.NDArray[np.uint8]
GENERATOR = np.random.default_rng(7)


def encode(values: Bytes) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def digits(count: int) -> tuple[Bytes, Bytes]:
    images = GENERATOR.integers(0, 256, (count, 28, 28)).astype(np.uint8)
    return images, (np.arange(count) % 10).astype(np.uint8)


def write_set(folder: Path, name: str, count: int) -> tuple[Bytes, Bytes]:
    images, labels = digits(count)
    (folder / f"{name}-images-idx3-ubyte").write_bytes(encode(images))
    (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encode(labels)))
    return images, labels


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(3, 28, 28), (5,), (2, 3, 4, 5)])
def test_what_was_written_is_read(tmp_path: Path, shape: tuple[int, ...], packed: bool) -> None:
    values = GENERATOR.integers(0, 256, shape).astype(np.uint8)
    path = tmp_path / "values"
    path.write_bytes(gzip.compress(encode(values)) if packed else encode(values))
    found = read_idx(path)
    assert found.shape == shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values)
    assert found.flags.writeable  # torch warns of arrays that are not


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with nothing"),
        (b"\0\0\x08", "begins with 000008"),
        (b"\x89PNG\r\n\x1a\n", "begins with 89504e47"),
        (struct.pack(">BBBBI", 0, 0, 13, 1, 2) + bytes(8), "begins with 00000d01"),  # floats
        (struct.pack(">BBBB", 0, 0, 8, 0), "begins with 00000800"),
        (struct.pack(">BBBBI", 0, 0, 8, 3, 2), "ends within its header"),
        (encode(np.zeros((2, 3), np.uint8))[:-1], "cut: it holds 5 values, expected 6"),
        (encode(np.zeros((2, 3), np.uint8)) + b"\0", "holds more than the values, expected 6"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 2**31), "expected at most"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path: Path, data: bytes, message: str, packed: bool) -> None:
    path = tmp_path / "values"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [3, 12, 30, -9, -1])
def test_a_cut_gzip_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "values.gz"
    path.write_bytes(gzip.compress(encode(digits(20)[0]))[:kept])
    with pytest.raises(DataError, match="cut or damaged"):
        read_idx(path)


def test_a_gzip_file_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(encode(digits(20)[0])))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "values.gz"
    path.write_bytes(data)
    with pytest.raises(DataError):
        read_idx(path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(encode(np.zeros(4, np.uint8)) + bytes(2**24)))
    taken: list[int] = []

    def read(stream: IO[bytes], count: int) -> bytes:
        taken.append(count)
        return stream.read(count)

    monkeypatch.setattr(idx, "_read", read)
    with pytest.raises(DataError, match="holds more than"):
        read_idx(path)
    assert sum(taken) == 4 + 4 + 5


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_but_data_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("idx") / "values"
    path.write_bytes(data)
    try:
        found = read_idx(path)
    except DataError:
        return
    assert encode(found) == data


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        read_idx(tmp_path / "none")


def test_t10k_alone_gives_its_last_tenth_to_evaluate(tmp_path: Path) -> None:
    images, labels = write_set(tmp_path, "t10k", 50)
    split = load_split(tmp_path)
    np.testing.assert_array_equal(split.train, images[:45])
    np.testing.assert_array_equal(split.train_labels, labels[:45])
    np.testing.assert_array_equal(split.test, images[45:])
    np.testing.assert_array_equal(split.test_labels, labels[45:])
    assert split.description.startswith("the first 45 digits of t10k-images train, its last 5 evaluate")


def test_with_the_training_set_the_split_is_the_standard_one(tmp_path: Path) -> None:
    train, test = write_set(tmp_path, "train", 60), write_set(tmp_path, "t10k", 20)
    split = load_split(tmp_path)
    np.testing.assert_array_equal(split.train, train[0])
    np.testing.assert_array_equal(split.test, test[0])
    assert "standard split" in split.description


def test_names_with_a_dot_are_found_too(tmp_path: Path) -> None:
    images, _ = write_set(tmp_path, "t10k", 10)
    (tmp_path / "t10k-images-idx3-ubyte").rename(tmp_path / "t10k-images.idx3-ubyte")
    np.testing.assert_array_equal(load_split(tmp_path).test, images[9:])


@pytest.mark.parametrize("missing", ["train-labels-idx1-ubyte.gz", "train-images-idx3-ubyte"])
def test_half_a_training_set_is_refused(tmp_path: Path, missing: str) -> None:
    write_set(tmp_path, "train", 60)
    write_set(tmp_path, "t10k", 20)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"holds no {missing.removesuffix('.gz')}"):
        load_split(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.full((20, 27, 28), 9, np.uint8), np.zeros(20, np.uint8), r"shape \(20, 27, 28\)"),
        (np.full((20, 784), 9, np.uint8), np.zeros(20, np.uint8), r"shape \(20, 784\)"),
        (np.empty((0, 28, 28), np.uint8), np.empty(0, np.uint8), r"shape \(0, 28, 28\)"),
        (np.full((20, 28, 28), 9, np.uint8), np.zeros(19, np.uint8), r"expected \(20,\): one per digit"),
        (np.full((20, 28, 28), 9, np.uint8), np.full(20, 10, np.uint8), "the label 10, expected 0 to 9"),
        (np.full((20, 28, 28), 1, np.uint8), np.zeros(20, np.uint8), "no value above 1"),
        (np.full((9, 28, 28), 9, np.uint8), np.zeros(9, np.uint8), "9 digits, expected at least 10"),
    ],
)
def test_files_that_do_not_hold_digits_are_refused(tmp_path: Path, images: Bytes, labels: Bytes, message: str) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(encode(images))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(encode(labels))
    with pytest.raises(DataError, match=message) as caught:
        load_split(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        load_split(tmp_path / "none")
    with pytest.raises(DataError, match="holds no t10k-images-idx3-ubyte"):
        load_split(tmp_path)
