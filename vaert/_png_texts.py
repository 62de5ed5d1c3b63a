"""Metadata in the text chunks of PNG: XMP in iTXt, and the `Raw profile type` texts that ImageMagick 6 writes."""

import zlib

from vaert._ifd import exif_facts

TEXTS = (b"tEXt", b"zTXt", b"iTXt")
XMP_TITLE = b"XML:com.adobe.xmp"
MOST_BYTES = 2**24
"""Bound on one piece of metadata, unpacked: what compressed text or a profile may grow to."""

_MOST_TEXT = MOST_BYTES * 33 // 16  # the hexadecimal digits of a raw profile, and a line end after each 36 bytes


def inflate(data: bytes, limit: int = MOST_BYTES) -> bytes:
    """The zlib stream `data` unpacked, to `limit` bytes and never more.

    Raises:
        ValueError: more than that, cut or damaged.
    """
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(data, limit + 1)
    except zlib.error:
        raise ValueError("its compressed bytes are damaged") from None
    if len(content) > limit:
        raise ValueError(f"it unpacks to more than {limit} bytes")
    if not unpacker.eof:
        raise ValueError("its compressed bytes are cut")
    return content


def text_of(kind: bytes, payload: bytes) -> bytes:
    """The text of one tEXt, zTXt or iTXt chunk, unpacked, without its title.

    Raises:
        ValueError: the chunk is damaged.
    """
    rest = payload.partition(b"\0")[2]
    packed = kind == b"zTXt"
    if kind == b"iTXt":  # flag and method of compression, language, translated title
        if len(rest) < 2 or rest[2:].count(b"\0") < 2:
            raise ValueError("its text chunk is cut")
        packed = rest[0] == 1
        rest = rest[1:2] + rest[2:].split(b"\0", 2)[2]
    elif not packed:
        return rest
    if packed and rest[:1] != b"\0":
        raise ValueError("its compression is unknown")
    return inflate(rest[1:], _MOST_TEXT) if packed else rest[1:]


def raw_profile(kind: bytes, payload: bytes) -> bytes:
    """What a `Raw profile type` text holds: a line with its name, one with its length, then hexadecimal digits.

    Raises:
        ValueError: the text is none.
    """
    parts = text_of(kind, payload).split(None, 2)
    if len(parts) != 3 or not parts[1].isdigit() or len(parts[1]) > 9:
        raise ValueError("its raw profile has no length")
    try:
        content = bytes.fromhex(parts[2].decode("ascii"))
    except ValueError:
        raise ValueError("its raw profile is not made of hexadecimal digits") from None
    if len(content) != int(parts[1]):
        raise ValueError(f"its raw profile says {int(parts[1])} bytes, found {len(content)}")
    return content


def raw_orientation(kind: bytes, payload: bytes) -> int:
    """Orientation (1 to 8) of the EXIF block in a `Raw profile type` text, 1 where there is none."""
    try:
        return exif_facts(raw_profile(kind, payload))[0]
    except ValueError:
        return 1
