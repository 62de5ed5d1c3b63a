"""IDX files, the format of MNIST, and how its digits are split into those to train on and those to evaluate on.

An IDX file is: two zero bytes, the type of its values (8: uint8), the number of dimensions, each dimension as a
big-endian uint32, and the values in C order; see "File formats for the MNIST database" at
http://yann.lecun.com/exdb/mnist. Here it may be gzip or plain, whatever its name says.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vaert.errors import DataError

if TYPE_CHECKING:  # numpy loads on first use
    import numpy as np
    from numpy.typing import NDArray

SIDE = 28
"""Height and width of a digit in pixels."""

CLASSES = 10
HELD_OUT = 10
"""One in so many digits, the last ones, evaluates where only the t10k files are there."""

_MAX_BYTES = 2**30  # the largest file known, EMNIST by class, has 548 MB; more is no set of digits
_UINT8 = 8
_GZIP = b"\x1f\x8b"
# The original archive writes a hyphen; what several unpackers leave on disk has a dot.
_IMAGES = ("{}-images-idx3-ubyte", "{}-images.idx3-ubyte")
_LABELS = ("{}-labels-idx1-ubyte", "{}-labels.idx1-ubyte")


@dataclass(frozen=True)
class Digits:
    """Digits to train on and others to evaluate on: images uint8 (N, 28, 28), 0 is background; labels uint8 (N,)."""

    train: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]
    description: str  # which digits train and which evaluate, one line without paths


def load_split(folder: Path) -> Digits:
    """Read the MNIST files in `folder` and split them.

    With train-images and t10k-images it is the standard split, 60,000 digits to train on and 10,000 to evaluate. With
    t10k-images alone the first nine tenths (9,000) train and the last tenth (1,000) evaluates.

    Raises:
        DataError: no such folder, a file is missing, damaged or does not hold digits.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one with the IDX files of MNIST")
    if _find(folder, "train", _IMAGES) is None and _find(folder, "train", _LABELS) is None:
        images, labels = _read_set(folder, "t10k")
        kept = len(images) - len(images) // HELD_OUT
        if kept == len(images):
            raise DataError(f"{folder} holds {len(images)} digits, expected at least {HELD_OUT} to split")
        described = (
            f"the first {kept} digits of t10k-images train, its last {len(images) - kept} evaluate "
            "(train-images is not there)"
        )
        return Digits(images[:kept], labels[:kept], images[kept:], labels[kept:], described)
    train, test = _read_set(folder, "train"), _read_set(folder, "t10k")
    described = (
        f"all {len(train[0])} digits of train-images train, all {len(test[0])} of t10k-images evaluate "
        "(the standard split)"
    )
    return Digits(*train, *test, described)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The values of one IDX file of uint8 values, gzip or plain, in the shape that it says.

    Raises:
        DataError: unreadable, not an IDX file of uint8 values, cut, too large, or with bytes after the values.
    """
    import numpy as np

    try:
        with open(path, "rb") as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    shape, data = _parse(unpacked, path)
            else:
                shape, data = _parse(file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is cut or damaged: {error}; download it again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the file") from error
    return np.frombuffer(data, np.uint8).reshape(shape)


def _parse(stream: BinaryIO | gzip.GzipFile, path: Path) -> tuple[tuple[int, ...], bytearray]:
    """Shape and bytes of the values; not a byte more is read than the header says, and one to see that it ends."""
    magic = _read(stream, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UINT8 or magic[3] == 0:
        raise DataError(
            f"{path} is not an IDX file of bytes: it begins with {magic.hex() or 'nothing'}, expected 000008 and the "
            "number of dimensions; download it again"
        )
    header = _read(stream, 4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(f"{path} is cut: it ends within its header; download it again")
    shape = struct.unpack(f">{magic[3]}I", header)
    expected = math.prod(shape)
    if expected > _MAX_BYTES:
        raise DataError(f"{path} says that it holds {expected} values, expected at most {_MAX_BYTES}; check the file")
    data = _read(stream, expected + 1)
    if len(data) != expected:
        found = f"cut: it holds {len(data)}" if len(data) < expected else "damaged: it holds more than the"
        raise DataError(f"{path} is {found} values, expected {expected} as its header says; download it again")
    return shape, data


def _read(stream: BinaryIO | gzip.GzipFile, count: int) -> bytearray:
    """Up to `count` bytes, fewer only at the end of the stream; memory grows with what arrives."""
    data = bytearray()  # not bytes: arrays over it can be written, which torch wants of what it shares
    while len(data) < count and (part := stream.read(min(count - len(data), 2**20))):
        data += part
    return data


def _find(folder: Path, name: str, patterns: tuple[str, ...]) -> Path | None:
    """The file of a set, plain before gzip where both are there."""
    names = (pattern.format(name) + ending for ending in ("", ".gz") for pattern in patterns)
    return next((folder / one for one in names if (folder / one).is_file()), None)


def _read_set(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images and labels of the set `name`, checked against each other."""
    images_path, labels_path = (_required(folder, name, patterns) for patterns in (_IMAGES, _LABELS))
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or len(images) == 0:
        raise DataError(f"{images_path} holds values of shape {images.shape}, expected digits (N, {SIDE}, {SIDE})")
    if images.max() <= 1:
        raise DataError(f"{images_path} holds no value above 1, expected grey levels 0 to 255: take the original file")
    if labels.shape != (len(images),):
        raise DataError(f"{labels_path} holds values of shape {labels.shape}, expected ({len(images)},): one per digit")
    if labels.max() >= CLASSES:
        raise DataError(f"{labels_path} holds the label {labels.max()}, expected 0 to {CLASSES - 1}")
    return images, labels


def _required(folder: Path, name: str, patterns: tuple[str, ...]) -> Path:
    found = _find(folder, name, patterns)
    if found is None:
        raise DataError(f"{folder} holds no {patterns[0].format(name)} (plain or .gz), expected the IDX files of MNIST")
    return found
