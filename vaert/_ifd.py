"""Image file directories: the tag tables of TIFF files and of EXIF blocks (TIFF 6.0, section 2)."""

import struct
from dataclasses import dataclass

ORIENTATION = 0x0112
OVERLAP = 2  # tags may share bytes, but not so that together they ask for many times the memory of the file
# Bytes and struct letter of the integer types; other types have no entry because no caller reads their values.
_TYPES = {1: (1, "B"), 3: (2, "H"), 4: (4, "I")}


@dataclass(frozen=True)
class Directory:
    """The first directory: `values` holds every tag's integers (empty for other types), `next` the offset of page 2.

    `places` holds the offset of each tag's values in the data, `big_endian` the byte order.
    """

    values: dict[int, tuple[int, ...]]
    places: dict[int, int]
    next: int
    big_endian: bool

    def first(self, tag: int, default: int) -> int:
        """First integer of `tag`, or `default` where the tag is absent or empty."""
        found = self.values.get(tag, ())
        return found[0] if found else default


def read_directory(data: bytes) -> Directory:
    """First directory of a classic TIFF structure.

    Raises:
        ValueError: not a TIFF structure, or a part of it lies outside `data`.
    """
    if data[:4] not in (b"II*\0", b"MM\0*"):
        raise ValueError("no TIFF header")
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        (following,) = struct.unpack_from(f"{order}I", data, start + 2 + 12 * count)
        values: dict[int, tuple[int, ...]] = {}
        places: dict[int, int] = {}
        total = 0
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(f"{order}HHI", data, at)
            size, letter = _TYPES.get(kind, (0, "B"))
            place = at + 8 if size * length <= 4 else struct.unpack_from(f"{order}I", data, at + 8)[0]
            if place + size * length > len(data):
                raise ValueError(f"tag {tag} lies outside the file")
            total += size * length
            if total > OVERLAP * len(data):
                raise ValueError("its tags say more bytes than it has")
            places[tag] = place
            values[tag] = struct.unpack_from(f"{order}{length}{letter}", data, place) if size else ()
    except struct.error:
        raise ValueError("the tag directory lies outside the file") from None
    return Directory(values, places, following, order == ">")


def exif_facts(block: bytes) -> tuple[int, bool]:
    """Orientation (1 to 8; 1 where absent or unreadable) of an EXIF block, and whether it holds anything else."""
    try:
        directory = read_directory(block.removeprefix(b"Exif\0\0"))
    except ValueError:
        return 1, True
    return orientation_of(directory), any(tag != ORIENTATION for tag in directory.values)


def orientation_of(directory: Directory) -> int:
    """The orientation tag, 1 where it is absent or outside 1 to 8."""
    found = directory.first(ORIENTATION, 1)
    return found if 1 <= found <= 8 else 1


def with_upright(data: bytes, directory: Directory) -> bytes:
    """The TIFF file `data` with its orientation set to 1, so that no decoder turns the picture on its own."""
    if orientation_of(directory) == 1:
        return data
    copy = bytearray(data)
    struct.pack_into(">H" if directory.big_endian else "<H", copy, directory.places[ORIENTATION], 1)
    return bytes(copy)
