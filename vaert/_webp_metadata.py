"""ICC profile, EXIF and XMP in WebP files (RFC 9649, section 2.7)."""

import struct
from collections.abc import Iterator, Mapping

from vaert._facts import Found, Kind, damaged
from vaert._jpeg import EXIF_MARK
from vaert._sniff import webp_size

_CHUNKS: dict[Kind, bytes] = {"ICC profile": b"ICCP", "EXIF": b"EXIF", "XMP": b"XMP "}
_KINDS = {chunk: kind for kind, chunk in _CHUNKS.items()}
_FLAGS = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04, b"ALPH": 0x10}
_ALPHA, _ANIMATION = 0x10, 0x02


def find(data: bytes) -> Iterator[Found]:
    """Every piece of metadata in a WebP file.

    Raises:
        ImageError: the file is cut or damaged.
    """
    for kind, payload in _chunks(data):
        if kind in _KINDS:
            yield Found(_KINDS[kind], payload.removeprefix(EXIF_MARK))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and payload of every chunk."""
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    at = 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > end:
            raise damaged("WebP", f"a chunk at byte {at} says {length} bytes, {end - at - 8} remain")
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def insert(data: bytes, pieces: Mapping[Kind, bytes]) -> bytes:
    """The WebP file `data` in its extended form, with `pieces` in place of any that it has of these kinds.

    Raises:
        ImageError: the file is cut or damaged.
    """
    new = {_CHUNKS[kind]: content for kind, content in pieces.items()}
    chunks = [(kind, payload) for kind, payload in _chunks(data) if kind not in new]
    body = [(b"VP8X", _header(chunks, new))]
    body += [(b"ICCP", new[b"ICCP"])] if b"ICCP" in new else []
    body += [item for item in chunks if item[0] != b"VP8X"]
    body += [(kind, new[kind]) for kind in (b"EXIF", b"XMP ") if kind in new]
    joined = b"".join(
        struct.pack("<4sI", kind, len(payload)) + payload + bytes(len(payload) % 2) for kind, payload in body
    )
    return struct.pack("<4sI4s", b"RIFF", 4 + len(joined), b"WEBP") + joined


def _header(chunks: list[tuple[bytes, bytes]], new: Mapping[bytes, bytes]) -> bytes:
    """Payload of VP8X: flags for what the file holds, and the size of the picture."""
    sizes = [size for kind, payload in chunks if (size := webp_size(kind, payload))]
    if not sizes or min(sizes[0]) < 1:
        raise damaged("WebP", "it has no picture chunk")
    flags = 0
    for kind, payload in chunks:
        if kind == b"VP8X":
            flags |= int.from_bytes(payload[:1]) & (_ALPHA | _ANIMATION)
        elif kind == b"VP8L":
            flags |= _ALPHA & int.from_bytes(payload[4:5])  # bit 28, "alpha_is_used", lies where the flag does
        flags |= _FLAGS.get(kind, 0)
    for kind in new:
        flags |= _FLAGS[kind]
    width, height = sizes[0]
    return bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
