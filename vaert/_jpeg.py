"""JPEG: facts from the markers (ITU-T T.81, annex B)."""

import re
from collections.abc import Iterator

from vaert._facts import Facts, damaged, unsupported
from vaert._ifd import exif_facts

SOS, _EOI = 0xDA, 0xD9
# Start of frame: C0..CF without the table markers DHT (C4), JPG (C8) and DAC (CC).
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
EXIF_MARK = b"Exif\0\0"
ICC_MARK = b"ICC_PROFILE\0"
XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
EXTENDED_XMP_MARK = b"http://ns.adobe.com/xmp/extension/\0"
# In coded data FF 00 is a stuffed byte and D0..D7 are restarts: both go on, any other marker ends the scan.
_END_OF_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


def read_facts(data: bytes, name: str) -> Facts:
    """Facts about the (first) JPEG picture in `data`; `name` is for messages.

    Raises:
        ImageError: cut, damaged, CMYK or of more than 8 bits.
    """
    frame: tuple[int, int] | None = None
    orientation = 1
    dropped: list[str] = []
    for marker, start, stop in segments(data, name):
        payload = data[start:stop]
        if marker in FRAMES:
            frame = _frame(payload, name)
        elif marker == 0xE1 and payload.startswith(EXIF_MARK):
            orientation, more = exif_facts(payload)
            dropped += ["EXIF"] * more
        elif marker == 0xE1 and payload.startswith((XMP_MARK, EXTENDED_XMP_MARK)):
            dropped.append("XMP")
        elif marker == 0xE2 and payload.startswith(ICC_MARK):
            dropped.append("ICC profile")
    if frame is None:
        raise damaged(name, "the JPEG has no frame header")
    return Facts("JPEG", *frame, data, orientation=orientation, dropped=tuple(dict.fromkeys(dropped)))


def _frame(payload: bytes, name: str) -> tuple[int, int]:
    """Width and height in pixels from a start-of-frame segment."""
    if len(payload) < 6:
        raise damaged(name, "the JPEG frame header is too short")
    depth, components = payload[0], payload[5]
    height, width = int.from_bytes(payload[1:3], "big"), int.from_bytes(payload[3:5], "big")
    if depth != 8:
        raise unsupported(name, f"a {depth}-bit JPEG", fix="convert it to 8 bits, e.g. magick in.jpg -depth 8 out.png")
    if components == 4:
        raise unsupported(
            name, "a CMYK JPEG", fix="convert it to RGB with its profile, e.g. magick in.jpg -colorspace sRGB out.png"
        )
    if components not in (1, 3):
        raise unsupported(name, f"a JPEG of {components} components", fix="convert it to PNG")
    return width, height


def segments(data: bytes, name: str) -> Iterator[tuple[int, int, int]]:
    """Marker and payload bounds of every segment of the first picture, up to its end marker.

    Raises:
        ImageError: the file is cut, or has no marker where one must be.
    """
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if at + 2 > len(data):
            raise damaged(name, f"the JPEG ends at byte {len(data)} without its end marker")
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0:
            raise damaged(name, f"no JPEG marker at byte {at}")
        at += 2
        if marker == _EOI:
            return
        if marker in _BARE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            raise damaged(name, f"a JPEG segment at byte {at - 2} says {length} bytes, {len(data) - at} remain")
        yield marker, at + 2, at + length
        at += length
        if marker == SOS:
            found = _END_OF_SCAN.search(data, at)
            if found is None:
                raise damaged(name, f"the JPEG ends at byte {len(data)} without its end marker")
            at = found.end() - 2
