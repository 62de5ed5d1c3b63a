"""ICC profile, EXIF and XMP in JPEG files (ICC.1, annex B.4; Exif 3.0, section 4.7; XMP specification, part 3)."""

from collections.abc import Iterator, Mapping

from vaert._facts import Found, Kind
from vaert._jpeg import EXIF_MARK, EXTENDED_XMP_MARK, FRAMES, ICC_MARK, SOS, XMP_MARK, segments

_APP0, _APP1, _APP2 = 0xE0, 0xE1, 0xE2
_ICC_CHUNK = 65519  # a segment holds 65533 bytes, of which its mark and two numbers take 14
LARGEST: dict[Kind, int] = {"ICC profile": 255 * _ICC_CHUNK, "EXIF": 65527, "XMP": 65502}
"""Most bytes of each kind that a JPEG file holds."""


def find(data: bytes) -> Iterator[Found]:
    """Every piece of metadata before the scan of a JPEG file.

    Raises:
        ImageError: the file is cut or damaged.
    """
    chunks: list[bytes] = []
    for marker, start, stop in segments(data, "JPEG"):
        if marker == SOS:
            break
        if marker == _APP1 and data.startswith(EXIF_MARK, start):
            yield Found("EXIF", data[start + len(EXIF_MARK) : stop])
        elif marker == _APP1 and data.startswith(XMP_MARK, start):
            yield Found("XMP", data[start + len(XMP_MARK) : stop])
        elif marker == _APP1 and data.startswith(EXTENDED_XMP_MARK, start):
            yield Found("extended XMP", problem="only the first segment of XMP is read")
        elif marker == _APP2 and data.startswith(ICC_MARK, start):
            chunks.append(data[start + len(ICC_MARK) : stop])
    if chunks:
        yield _joined(chunks)


def _joined(chunks: list[bytes]) -> Found:
    """The ICC profile whose `chunks`, each led by its number from 1 and their count, come in any order."""
    if sorted(chunk[0] for chunk in chunks if len(chunk) > 1) != list(range(1, len(chunks) + 1)):
        return Found("ICC profile", problem="its parts are not complete")
    if {chunk[1:2] for chunk in chunks} != {bytes([len(chunks)])}:
        return Found("ICC profile", problem="its parts do not agree on their number")
    return Found("ICC profile", b"".join(chunk[2:] for chunk in sorted(chunks)))


def is_grey(data: bytes) -> bool:
    """Whether the JPEG file has one component.

    Raises:
        ImageError: the file is cut or damaged.
    """
    frames = (data[start:stop] for marker, start, stop in segments(data, "JPEG") if marker in FRAMES)
    return next(frames, b"")[5:6] == b"\x01"


def insert(data: bytes, pieces: Mapping[Kind, bytes]) -> bytes:
    """The JPEG file `data` with `pieces`, within `LARGEST`, behind its JFIF header, in place of any of these kinds.

    Raises:
        ImageError: the file is cut or damaged.
    """
    marks = {"EXIF": (EXIF_MARK,), "XMP": (XMP_MARK, EXTENDED_XMP_MARK), "ICC profile": (ICC_MARK,)}
    replaced = tuple(mark for kind in pieces for mark in marks[kind])
    head, rest = [data[:2]], list[bytes]()
    at = 2
    for marker, start, stop in segments(data, "JPEG"):
        if marker == SOS:
            break
        if marker not in (_APP1, _APP2) or not data.startswith(replaced, start):
            (head if marker == _APP0 and not rest else rest).append(data[at:stop])
        at = stop
    return b"".join([*head, *_new_segments(pieces), *rest, data[at:]])


def _new_segments(pieces: Mapping[Kind, bytes]) -> Iterator[bytes]:
    if "EXIF" in pieces:
        yield _segment(_APP1, EXIF_MARK + pieces["EXIF"])
    if "XMP" in pieces:
        yield _segment(_APP1, XMP_MARK + pieces["XMP"])
    profile = pieces.get("ICC profile", b"")
    count = -(-len(profile) // _ICC_CHUNK)
    for number in range(count):
        part = profile[number * _ICC_CHUNK : (number + 1) * _ICC_CHUNK]
        yield _segment(_APP2, ICC_MARK + bytes([number + 1, count]) + part)


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (2 + len(payload)).to_bytes(2, "big") + payload
