"""Which image format a file has, and the facts of those that need few lines: WebP, GIF, BMP, PNM and TIFF."""

import re
import struct

from vaert import _jpeg, _png
from vaert._facts import Facts, damaged, unsupported
from vaert._ifd import exif_facts, orientation_of, read_directory, with_upright
from vaert.errors import ImageError

READABLE = "PNG, JPEG, WebP, BMP, GIF, TIFF or PNM"
_OTHERS = {
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"P7": "PAM",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
}


def sniff(data: bytes, name: str) -> Facts:
    """Facts about the image file `data`, told by its content and never by its `name`, which is for messages.

    Raises:
        ImageError: not an image, cut, damaged or of an unsupported kind.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty, expected an image ({READABLE})")
    if data.startswith(_png.SIGNATURE):
        return _png.read_facts(data, name)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg.read_facts(data, name)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data, name)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(data, name)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(data, name)
    if data[:2] == b"BM":
        return _bmp(data, name)
    if re.match(rb"P[1-6][\s#]", data):
        return _pnm(data, name)
    if data[4:8] == b"ftyp":
        raise unsupported(name, "an AVIF, HEIC or video file", fix="convert it to PNG")
    for start, kind in _OTHERS.items():
        if data.startswith(start):
            raise unsupported(name, f"a {kind} file", fix="convert it to PNG")
    raise ImageError(f"{name}: not an image, or of an unknown format: expected {READABLE}")


def _webp(data: bytes, name: str) -> Facts:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise damaged(name, f"the WebP says {end} bytes, found {len(data)}")
    size: tuple[int, int] | None = None
    orientation = 1
    dropped: list[str] = []
    at = 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        payload = data[at + 8 : at + 8 + length]
        if at + 8 + length > end:
            raise damaged(name, f"a WebP chunk at byte {at} says {length} bytes, {end - at - 8} remain")
        if kind in (b"ANIM", b"ANMF"):
            raise unsupported(
                name, "an animated WebP", fix="extract one frame, e.g. webpmux -get frame 1 in.webp -o out.webp"
            )
        if kind == b"EXIF":
            orientation, more = exif_facts(payload)
            dropped += ["EXIF"] * more
        dropped += {b"ICCP": ["ICC profile"], b"XMP ": ["XMP"]}.get(kind, [])
        size = size or webp_size(kind, payload)
        at += 8 + length + length % 2
    if size is None:
        raise damaged(name, "the WebP has no picture chunk")
    return Facts("WebP", *size, data, orientation=orientation, dropped=tuple(dict.fromkeys(dropped)))


def webp_size(kind: bytes, payload: bytes) -> tuple[int, int] | None:
    """Width and height that one chunk states, None for chunks that state none (RFC 9649, sections 2.5 to 2.7)."""
    if kind == b"VP8X" and len(payload) >= 10:
        return 1 + int.from_bytes(payload[4:7], "little"), 1 + int.from_bytes(payload[7:10], "little")
    if kind == b"VP8L" and len(payload) >= 5:
        bits = int.from_bytes(payload[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(payload) >= 10:
        width, height = struct.unpack_from("<HH", payload, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _gif(data: bytes, name: str) -> Facts:
    if len(data) < 13:
        raise damaged(name, "the GIF header is cut")
    width, height = struct.unpack_from("<HH", data, 6)
    at = 13 + _gif_palette(data[10])
    frames = 0
    dropped: list[str] = []
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x2C:
            frames += 1
            at = at + 11 + _gif_palette(data[at + 9]) if at + 9 < len(data) else len(data)
        elif data[at] == 0x21:
            dropped += {b"XMP DataXMP": ["XMP"], b"ICCRGBG1012": ["ICC profile"]}.get(data[at + 3 : at + 14], [])
            at += 2
        else:
            raise damaged(name, f"no GIF block at byte {at}")
        while at < len(data) and data[at]:  # sub-blocks, each led by its length, up to one of length 0
            at += 1 + data[at]
        at += 1
    if frames > 1:
        raise unsupported(name, "an animated GIF", fix="extract one frame, e.g. magick 'in.gif[0]' out.png")
    if at >= len(data):
        raise damaged(name, f"the GIF ends at byte {len(data)} without its trailer")
    if frames == 0:
        raise damaged(name, "the GIF has no picture")
    return Facts("GIF", width, height, data, dropped=tuple(dict.fromkeys(dropped)))


def _gif_palette(flags: int) -> int:
    """Bytes of the palette that a GIF's flag byte announces."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _bmp(data: bytes, name: str) -> Facts:
    if len(data) < 26:
        raise damaged(name, "the BMP header is cut")
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return Facts("BMP", width, abs(height), data)  # a negative height means top-down rows


def _pnm(data: bytes, name: str) -> Facts:
    bitmap = data[1:2] in b"14"
    gap = rb"(?:\s|#[^\n]*\n)+"
    found = re.match(rb"P[1-6]" + (gap + rb"(\d{1,9})") * (2 if bitmap else 3) + rb"[\s#]", data)
    if found is None:
        raise damaged(name, "the PNM header is cut or not numbers")
    width, height = int(found[1]), int(found[2])
    if not bitmap and int(found[3]) != 255:
        raise unsupported(
            name, f"a PNM with maximum {int(found[3])}", fix="scale it to 255, e.g. pamdepth 255 in.pnm > out.pnm"
        )
    return Facts("PNM", width, height, data)


def _tiff(data: bytes, name: str) -> Facts:
    try:
        directory = read_directory(data)
    except ValueError as error:
        raise damaged(name, f"TIFF: {error}") from None
    if directory.next:
        raise unsupported(name, "a TIFF of several pages", fix="extract one page, e.g. magick 'in.tif[0]' out.png")
    depths = directory.values.get(258, (1,))
    if max(depths, default=1) > 8 or directory.first(339, 1) != 1:
        raise unsupported(
            name,
            f"a TIFF of {max(depths, default=1)}-bit samples (or signed or float ones)",
            fix="convert it to 8 bits, e.g. magick in.tif -depth 8 out.png",
        )
    colour = directory.first(262, 1)
    if colour not in (0, 1, 2, 3, 6):
        raise unsupported(
            name,
            {5: "a CMYK TIFF"}.get(colour, f"a TIFF of colour type {colour}"),
            fix="convert it to RGB, e.g. magick in.tif -colorspace sRGB out.png",
        )
    if directory.first(277, 1) > (1 if colour in (0, 1, 3) else 3):
        # OpenCV drops a grey picture's alpha and multiplies an RGB one's into the colours.
        raise unsupported(name, "a TIFF with alpha", fix="convert it to PNG, e.g. magick in.tif out.png")
    width, height = directory.first(256, 0), directory.first(257, 0)
    tags = {34675: "ICC profile", 34665: "EXIF", 700: "XMP"}
    for place, length in ((273, 279), (324, 325)):  # strips, tiles: where each begins, and its bytes
        ends = map(sum, zip(directory.values.get(place, ()), directory.values.get(length, ()), strict=False))
        if (last := max(ends, default=0)) > len(data):
            raise damaged(name, f"the TIFF's pixels end at byte {last}, the file at {len(data)}")
    return Facts(
        "TIFF",
        width,
        height,
        with_upright(data, directory),
        orientation=orientation_of(directory),
        dropped=tuple(title for tag, title in tags.items() if tag in directory.values),
    )
