"""EXIF blocks made true for another picture, and the metadata among a TIFF file's tags (TIFF 6.0; Exif 3.0)."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from vaert._facts import Found, Kind
from vaert._ifd import ORIENTATION, OVERLAP

# Bytes of each type of values; the integer types are those that the reader of orientations knows.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BYTE, _SHORT, _LONG, _UNDEFINED = 1, 3, 4, 7
_IMAGE_WIDTH, _IMAGE_LENGTH, _EXIF = 0x0100, 0x0101, 0x8769
_PIXEL_X, _PIXEL_Y = 0xA002, 0xA003
_KINDS: dict[int, Kind] = {34675: "ICC profile", 700: "XMP", _EXIF: "EXIF"}


@dataclass(frozen=True)
class _Entry:
    """A tag whose 12 bytes lie at `at`; its `count` values of type `kind` lie from `place` to `stop`."""

    tag: int
    kind: int
    count: int
    at: int
    place: int
    stop: int


def corrected_exif(exif: bytes, *, width: int, height: int) -> bytes | None:
    """The EXIF block `exif` (a TIFF structure, without "Exif") made true for an upright picture of `width` x `height`.

    Orientation becomes 1, the sizes that it states become these, and the thumbnail, which shows the old picture, is no
    longer linked. Nothing moves, so offsets inside a maker's notes stay right.

    Returns:
        As many bytes as `exif` has; None if it is damaged.
    """
    try:
        order = _order(exif)
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        first = _directory(exif, start, order)
        end = start + 2 + 12 * len(first)  # where the offset of the thumbnail's directory follows
        tables = [(0, 8), (start, end + 4)]
        changes = [(first, {_IMAGE_WIDTH: width, _IMAGE_LENGTH: height, ORIENTATION: 1})]
        for entry in first:
            if entry.tag == _EXIF and entry.kind == _LONG:
                (inner,) = struct.unpack_from(f"{order}I", exif, entry.at + 8)
                changes.append((_directory(exif, inner, order), {_PIXEL_X: width, _PIXEL_Y: height}))
                tables.append((inner, inner + 2 + 12 * len(changes[-1][0])))
    except ValueError:
        return None
    tables.sort()
    if end + 4 > len(exif) or any(one[1] > two[0] for one, two in pairwise(tables)):
        return None
    fixed = bytearray(exif)
    struct.pack_into("4x", fixed, end)
    for directory, values in changes:
        _set(fixed, directory, values, order)
    return bytes(fixed)


def find_in_tiff(data: bytes) -> Iterator[Found]:
    """Every piece of metadata in the first directory of a TIFF file; its EXIF tags are not read.

    Raises:
        ValueError: the file is cut or damaged.
    """
    order = _order(data)
    for entry in _directory(data, struct.unpack_from(f"{order}I", data, 4)[0], order):
        if entry.tag == _EXIF:
            yield Found("EXIF", problem="it is not read from TIFF files")
        elif entry.tag in _KINDS and entry.kind in (_BYTE, _UNDEFINED):
            outside = entry.stop > len(data)
            content = b"" if outside else data[entry.place : entry.stop]
            yield Found(_KINDS[entry.tag], content, "it lies outside the file" if outside else "")


def _order(block: bytes) -> str:
    """Byte order of a TIFF structure, as struct writes it."""
    if block[:4] not in (b"II*\0", b"MM\0*") or len(block) < 8:
        raise ValueError("no TIFF header")
    return "<" if block[:2] == b"II" else ">"


def _directory(block: bytes, start: int, order: str) -> list[_Entry]:
    """The tags of the directory at `start`. Values that are not integers may lie outside, as after careless editors."""
    if start + 2 > len(block):
        raise ValueError("a tag directory lies outside")
    (count,) = struct.unpack_from(f"{order}H", block, start)
    if start + 2 + 12 * count > len(block):
        raise ValueError("a tag directory lies outside")
    entries, total = [], 0
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length, offset = struct.unpack_from(f"{order}HHII", block, at)
        size = _SIZES.get(kind, 0) * length
        place = at + 8 if size <= 4 else offset
        if place + size > len(block) and kind in (_BYTE, _SHORT, _LONG):
            raise ValueError(f"tag {tag} lies outside")
        total += size if kind in (_BYTE, _SHORT, _LONG) else 0
        if total > OVERLAP * len(block):  # as in `read_directory`
            raise ValueError("its tags say more bytes than it has")
        entries.append(_Entry(tag, kind, length, at, place, place + size))
    return entries


def _set(block: bytearray, directory: list[_Entry], values: Mapping[int, int], order: str) -> None:
    """Write each tag of `values` that the directory has, as one number inside its entry."""
    for entry in directory:
        if (value := values.get(entry.tag)) is None:
            continue
        if value < 2**16 and entry.kind != _LONG:
            struct.pack_into(f"{order}HIHxx", block, entry.at + 2, _SHORT, 1, value)
        else:
            struct.pack_into(f"{order}HII", block, entry.at + 2, _LONG, 1, value)
