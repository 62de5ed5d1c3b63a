"""ICC profile, EXIF and XMP in PNG files (W3C PNG, third edition; XMP specification, part 3)."""

import struct
import zlib
from collections.abc import Iterator, Mapping

from vaert import _png
from vaert._facts import Found, Kind
from vaert._jpeg import EXIF_MARK, XMP_MARK
from vaert._png_texts import TEXTS, XMP_TITLE, inflate, raw_profile, text_of

_KINDS: dict[bytes, Kind] = {
    b"iCCP": "ICC profile",
    b"eXIf": "EXIF",
    XMP_TITLE: "XMP",
    b"raw profile type icc": "ICC profile",
    b"raw profile type icm": "ICC profile",
    b"raw profile type exif": "EXIF",
    b"raw profile type app1": "EXIF",  # or XMP, told by its content
    b"raw profile type xmp": "XMP",
}


def find(data: bytes) -> Iterator[Found]:
    """Each kind of metadata in a PNG file, the first chunk of it; those of ImageMagick's texts come last.

    Raises:
        ImageError: the file is cut or damaged.
    """
    raw: list[Found] = []
    seen: set[bytes] = set()  # one chunk of each kind bounds what a hostile file can have unpacked
    for kind, start, stop in _png.chunks(data, "PNG"):
        key = _key(kind, data[start : min(stop, start + 80)])
        if key in seen or key not in _KINDS:
            continue
        seen.add(key)
        found = _read(_KINDS[key], data, start, stop)
        if not key.startswith(b"raw "):
            yield found
        elif found.content.startswith(XMP_MARK):
            raw.append(Found("XMP", found.content.removeprefix(XMP_MARK)))
        else:
            raw.append(found)
    yield from raw


def _key(kind: bytes, start: bytes) -> bytes:
    """The key of a chunk in `_KINDS`, from its kind and the `start` of its payload; any other for no metadata."""
    if kind not in TEXTS:
        return kind
    title = start.partition(b"\0")[0]
    return title if kind == b"iTXt" and title == XMP_TITLE else title.lower()


def _read(kind: Kind, data: bytes, start: int, stop: int) -> Found:
    """What the chunk with these payload bounds holds."""
    chunk, payload = data[start - 4 : start], data[start:stop]
    try:
        if zlib.crc32(data[start - 4 : stop]) != struct.unpack_from(">I", data, stop)[0]:
            raise ValueError("the checksum of its chunk is wrong")
        if chunk == b"eXIf":
            content = payload
        elif chunk == b"iCCP":
            rest = payload.partition(b"\0")[2]
            if rest[:1] != b"\0":
                raise ValueError("its compression is unknown")
            content = inflate(rest[1:])
        elif payload.startswith(XMP_TITLE):
            content = text_of(chunk, payload)
        else:
            content = raw_profile(chunk, payload)
    except ValueError as error:
        return Found(kind, problem=str(error))
    return Found(kind, content.removeprefix(EXIF_MARK))


def is_grey(data: bytes) -> bool:
    """Whether the PNG file has grey samples; a palette counts as colour."""
    return data[25:26] in (bytes([_png.GREY]), bytes([_png.GREY_ALPHA]))


def insert(data: bytes, pieces: Mapping[Kind, bytes]) -> bytes:
    """The PNG file `data` with `pieces` behind its header, in place of any that it has of these kinds.

    Raises:
        ImageError: the file is cut or damaged.
    """
    new: list[bytes] = []
    replaced: set[bytes] = set()
    if "ICC profile" in pieces:
        new.append(_png.chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(pieces["ICC profile"])))
        replaced |= {b"iCCP", b"sRGB"}
    if "EXIF" in pieces:
        new.append(_png.chunk(b"eXIf", pieces["EXIF"]))
        replaced.add(b"eXIf")
    if "XMP" in pieces:
        new.append(_png.chunk(b"iTXt", XMP_TITLE + bytes(5) + pieces["XMP"]))
    parts = [_png.SIGNATURE]
    for kind, start, stop in _png.chunks(data, "PNG"):
        is_xmp = kind == b"iTXt" and data.startswith(XMP_TITLE + b"\0", start)
        if kind not in replaced and not (is_xmp and "XMP" in pieces):
            parts.append(data[start - 8 : stop + 4])
        if kind == b"IHDR":
            parts += new
    return b"".join(parts)
