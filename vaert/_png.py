"""PNG: facts from the chunks, and a writer for grey + alpha, which OpenCV does not write (W3C PNG, third edition)."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vaert._facts import Facts, damaged, unsupported
from vaert._ifd import exif_facts
from vaert._png_texts import TEXTS, raw_orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, GREY_ALPHA = 0, 4  # colour types
# A decoder needs no more than these; the rest only makes libpng print warnings.
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def read_facts(data: bytes, name: str) -> Facts:
    """Facts about the PNG file `data`; `name` is for messages.

    Raises:
        ImageError: cut, damaged, animated or of more than 8 bits.
    """
    width = height = depth = colour = 0
    orientation = legacy = key = None
    dropped: list[str] = []
    body = [SIGNATURE]
    for number, (kind, start, stop) in enumerate(chunks(data, name)):
        payload = data[start:stop]
        if (number == 0) != (kind == b"IHDR") or (kind == b"IHDR" and len(payload) != 13):
            raise damaged(name, "the first PNG chunk is not a header, or there are two")
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", payload)
            if depth == 16:
                raise unsupported(name, "a 16-bit PNG", fix="convert it to 8 bits, e.g. magick in.png -depth 8 out.png")
        elif kind == b"acTL" and len(payload) == 8 and struct.unpack(">I", payload[:4])[0] > 1:
            raise unsupported(
                name, "an animated PNG", fix="extract one frame, e.g. ffmpeg -i in.png -frames:v 1 out.png"
            )
        elif kind == b"eXIf":
            orientation, more = exif_facts(payload)
            dropped += ["EXIF"] * more
        elif kind in TEXTS and legacy is None and _metadata(kind, payload) == ["EXIF"]:
            legacy = raw_orientation(kind, payload)
        elif kind == b"tRNS" and colour == GREY and len(payload) == 2:
            # Decoders differ in what they make of a transparent grey level, so it never reaches them.
            key = struct.unpack(">H", payload)[0] * 255 // ((1 << depth) - 1)
        dropped += _metadata(kind, payload)
        if kind in _NEEDED and not (kind == b"tRNS" and colour == GREY):
            body.append(data[start - 8 : stop + 4])
    return Facts(
        "PNG",
        width,
        height,
        b"".join(body),
        orientation=orientation or legacy or 1,
        dropped=tuple(dict.fromkeys(dropped)),
        grey_alpha=colour == GREY_ALPHA,
        grey_key=key,
    )


def _metadata(kind: bytes, payload: bytes) -> list[str]:
    """Names of the metadata in one chunk; ImageMagick hides EXIF, XMP and ICC in `Raw profile type` texts."""
    if kind == b"iCCP":
        return ["ICC profile"]
    if kind not in TEXTS:
        return []
    title = payload.partition(b"\0")[0].lower()
    known = {
        b"xml:com.adobe.xmp": "XMP",
        b"raw profile type xmp": "XMP",
        b"raw profile type exif": "EXIF",
        b"raw profile type app1": "EXIF",
        b"raw profile type icc": "ICC profile",
        b"raw profile type icm": "ICC profile",
    }
    return [known[title]] if title in known else []


def chunks(data: bytes, name: str) -> Iterator[tuple[bytes, int, int]]:
    """Kind and payload bounds of every chunk up to IEND; checksums are verified where pixels depend on them.

    Raises:
        ImageError: cut, or a checksum is wrong.
    """
    at = len(SIGNATURE)
    view = memoryview(data)
    while True:
        if at + 12 > len(data):
            raise damaged(name, f"the PNG ends at byte {len(data)} without its IEND chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        stop = at + 8 + length
        if stop + 4 > len(data):
            raise damaged(name, f"a PNG chunk at byte {at} says {length} bytes, {len(data) - at - 12} remain")
        if kind in _NEEDED and zlib.crc32(view[at + 4 : stop]) != struct.unpack_from(">I", data, stop)[0]:
            raise damaged(name, f"checksum of the PNG chunk at byte {at}")
        yield kind, at + 8, stop
        if kind == b"IEND":
            return
        at = stop + 4


def write_grey_alpha(pixels: NDArray[np.uint8]) -> bytes:
    """PNG bytes of `pixels`, uint8 [height, width, 2] (grey, alpha)."""
    height, width, _ = pixels.shape
    rows = np.empty((height, 1 + 2 * width), np.uint8)
    rows[:, 0] = 2  # filter "up": each byte minus the one above it, modulo 256
    flat = pixels.reshape(height, 2 * width)
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, GREY_ALPHA, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes())) + chunk(b"IEND", b"")


def chunk(kind: bytes, payload: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
