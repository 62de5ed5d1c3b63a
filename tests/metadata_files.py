"""Picture files with metadata, and what is said of them, for the tests of metadata."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

from vaert._png import SIGNATURE, chunk

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_ICC = ICC[:16] + b"GRAY" + ICC[20:]
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description tiff:Orientation='6' xmp:Rating='4'/></x:xmpmeta>"
KEPT_XMP = XMP.replace(b"'6'", b"'1'")
SOURCES = ("PNG", "JPEG", "WEBP")
TARGETS = ("png", "jpg", "webp")


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0100], exif[0x0101] = 6, 4
    exif[0x010F] = "a camera"
    inner = exif.get_ifd(0x8769)
    inner[0xA002], inner[0xA003] = 6, 4
    inner[0x927C] = b"maker's notes"
    return exif


def camera_block() -> bytes:
    return camera_exif().tobytes().removeprefix(b"Exif\0\0")


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The picture as a file; its `xmp` goes where the kind of file has it."""
    if kind == "PNG" and "xmp" in options:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def source(kind: str, **options: Any) -> bytes:
    """A picture file of 6x4 pixels with everything."""
    given: dict[str, Any] = {"icc_profile": ICC, "exif": camera_exif(), "xmp": XMP, **options}
    return saved(Image.fromarray(noise(4, 6, 3)), kind, **given)


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def assert_same_pixels(one: bytes, two: bytes) -> None:
    """Both files decode to the same bits, by OpenCV and by Pillow."""
    first, second = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) for data in (one, two))
    assert first is not None
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(np.asarray(opened(one)), np.asarray(opened(two)))


def assert_has(data: bytes, *, icc: bytes | None = ICC, xmp: bytes | None = KEPT_XMP) -> None:
    picture = opened(data)
    assert picture.info.get("icc_profile") == icc
    found = picture.info.get("xmp")
    assert (found.encode() if isinstance(found, str) else found) == xmp


def png(*chunks: tuple[bytes, bytes], size: tuple[int, int] = (2, 3)) -> bytes:
    """A PNG of grey pixels of `size` (height, width) with these chunks before the pixels."""
    rows = b"".join(b"\0" + bytes(range(row, row + size[1])) for row in range(size[0]))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, 0, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return SIGNATURE + header + b"".join(chunk(*item) for item in chunks) + rest


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(payload)) + payload


def jpeg(*segments: bytes) -> bytes:
    """A JPEG with these segments behind its first two bytes."""
    plain = saved(Image.fromarray(noise(8, 8, 3)), "JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def tiff(order: str, *directories: list[tuple[int, int, int, int]]) -> bytes:
    """A TIFF structure of these directories, one behind the other; a tag has its number, type, count and value.

    The value of tag 0x8769 is the number of the directory that it points to, and the first is linked to the last.
    """
    starts = [8]
    for entries in directories:
        starts.append(starts[-1] + 6 + 12 * len(entries))
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    for number, entries in enumerate(directories):
        block += struct.pack(f"{order}H", len(entries))
        for tag, kind, count, value in entries:
            number_or_place = starts[value] if tag == 0x8769 else value
            block += struct.pack(f"{order}HHI", tag, kind, count)
            block += struct.pack(f"{order}Hxx" if kind == 3 else f"{order}I", number_or_place)
        block += struct.pack(f"{order}I", starts[-2] if number == 0 and len(directories) > 1 else 0)
    return block
