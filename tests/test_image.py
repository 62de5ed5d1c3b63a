"""Images in and out: what is read faithfully, what is refused, and with which words."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from vaert import image as vaert_image
from vaert.errors import BackendError, ImageError, OptionError
from vaert.image import check_pixels, encode_image, format_from_path, read_image

Pixels = NDArray[np.uint8]
SHAPES: list[tuple[int, ...]] = [(1, 1), (1, 7), (5, 1), (4, 6)]


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth() -> Image.Image:
    return Image.fromarray(cv2.GaussianBlur(noise(64, 48, 3), (0, 0), 3).astype(np.uint8))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with these raw rows (each led by its filter byte) and extra chunks before the pixels."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    extra = b"".join(chunk(*item) for item in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def read(data: bytes) -> Pixels:
    return read_image(data, name="x").pixels


def refuses(data: bytes, match: str) -> None:
    with pytest.raises(ImageError, match=match) as caught:
        read_image(data, name="some name")
    assert str(caught.value).startswith("some name: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_by_another_writer(size: tuple[int, int], channels: int) -> None:
    pixels = noise(*size, channels) if channels > 1 else noise(*size)
    found = read_image(saved(Image.fromarray(pixels), "PNG"), name="x")
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.pixels.flags.c_contiguous
    assert found.dropped == ()


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize(
    ("kind", "channels"),
    [
        ("png", (1, 2, 3, 4)),
        ("webp", (3, 4)),
        ("bmp", (1, 3)),
        ("tif", (1, 3)),
        ("ppm", (3,)),
        ("pgm", (1,)),
        ("pnm", (1, 3)),
    ],
)
def test_lossless_round_trip(size: tuple[int, int], kind: str, channels: tuple[int, ...]) -> None:
    for count in channels:
        pixels = noise(*size, count) if count > 1 else noise(*size)
        data = encode_image(pixels, format=kind)
        np.testing.assert_array_equal(read(data), pixels)
        theirs = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(theirs, pixels)


@given(st.integers(1, 20), st.integers(1, 20), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_grey_alpha_writer(height: int, width: int, random: Any) -> None:
    pixels = np.frombuffer(random.randbytes(2 * height * width), np.uint8).reshape(height, width, 2)
    data = encode_image(pixels, format="png")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


def test_colours_under_full_transparency_survive() -> None:
    pixels = noise(8, 8, 4)
    pixels[:4, :, 3] = 0
    for kind in ("png", "webp"):
        np.testing.assert_array_equal(read(encode_image(pixels, format=kind)), pixels)


def test_jpeg() -> None:
    pixels = np.asarray(smooth())
    found = read(encode_image(pixels, format="jpg"))
    assert np.abs(found.astype(int) - pixels).mean() < 1.5
    grey = read(saved(Image.fromarray(pixels[:, :, 0]), "JPEG"))
    assert grey.shape == pixels.shape[:2]


def test_grey_becomes_rgb_where_the_format_has_no_grey() -> None:
    grey = noise(4, 6)
    for kind in ("ppm", "webp"):
        np.testing.assert_array_equal(read(encode_image(grey, format=kind)), np.stack([grey] * 3, axis=2))
    grey_alpha = noise(4, 6, 2)
    np.testing.assert_array_equal(read(encode_image(grey_alpha, format="webp")), grey_alpha[:, :, [0, 0, 0, 1]])


def test_low_depth_grey_png() -> None:
    assert read(png(8, 1, 1, 0, b"\0\xa5")).tolist() == [[255, 0, 255, 0, 0, 255, 0, 255]]
    assert read(png(4, 1, 2, 0, b"\0\x1b")).tolist() == [[0, 85, 170, 255]]
    assert read(png(2, 1, 4, 0, b"\0\x1f")).tolist() == [[17, 255]]


def test_palette_png() -> None:
    picture = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)[np.asarray(picture)]
    np.testing.assert_array_equal(read(saved(picture, "PNG")), expected)
    found = read(saved(picture, "PNG", transparency=bytes([0, 100, 200])))
    np.testing.assert_array_equal(found[:, :, :3], expected)
    assert found[:, :, 3].tolist() == [[0, 100, 200], [200, 100, 0]]


def test_transparent_colour_of_png() -> None:
    grey = png(3, 1, 8, 0, b"\0\x05\x06\x07", (b"tRNS", b"\0\x06"))
    assert read(grey).tolist() == [[[5, 255], [6, 0], [7, 255]]]
    two_bits = png(4, 1, 2, 0, b"\0\x1b", (b"tRNS", b"\0\x02"))
    assert read(two_bits).tolist() == [[[0, 255], [85, 255], [170, 0], [255, 255]]]
    rgb = png(2, 1, 8, 2, b"\0\x01\x02\x03\x04\x05\x06", (b"tRNS", b"\0\x01\0\x02\0\x03"))
    assert read(rgb).tolist() == [[[1, 2, 3, 0], [4, 5, 6, 255]]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = smooth()
    data = saved(picture, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    found = read_image(data, name="x")
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert found.pixels.shape[:2] == ((64, 48) if orientation < 5 else (48, 64))
    assert np.abs(found.pixels.astype(int) - np.asarray(upright.convert("RGB"))).max() <= (2 if kind == "JPEG" else 0)
    assert found.dropped == ()


def test_grey_alpha_is_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = noise(3, 5, 2)
    found = read(saved(Image.fromarray(pixels), "PNG", exif=exif))
    np.testing.assert_array_equal(found, np.rot90(pixels, -1))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_dropped_metadata_is_named(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    options: dict[str, Any] = {"icc_profile": b"profile" * 30, "exif": exif}
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = texts
    elif kind == "TIFF":
        options.pop("exif")  # a TIFF's own tags are no EXIF block
        options["tiffinfo"] = {700: xmp}
    else:
        options["xmp"] = xmp
    found = read_image(saved(smooth(), kind, **options), name="x")
    expected = {"ICC profile", "XMP"} if kind == "TIFF" else {"ICC profile", "EXIF", "XMP"}
    assert set(found.dropped) == expected
    assert len(found.dropped) == len(expected)


def test_other_readable_kinds() -> None:
    picture = smooth()
    pixels = np.asarray(picture)
    np.testing.assert_array_equal(read(saved(picture, "PNG", interlace=1)), pixels)
    np.testing.assert_array_equal(read(saved(picture, "TIFF", compression="tiff_lzw")), pixels)
    assert read(saved(picture.quantize(16), "GIF")).shape == (64, 48, 3)
    assert read(saved(picture.quantize(16), "BMP")).shape == (64, 48, 3)
    assert read(saved(picture, "JPEG", progressive=True)).shape == (64, 48, 3)
    assert read(saved(picture, "JPEG", subsampling=2, restart_marker_blocks=1)).shape == (64, 48, 3)
    assert read(b"P3 # comment\n1 1 255\n1 2 3\n").tolist() == [[[1, 2, 3]]]
    assert read(b"P1\n3 1\n1 0 1\n").tolist() == [[0, 255, 0]]


def test_mpo_gives_its_first_picture() -> None:
    first = smooth()
    data = saved(first, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert np.abs(read(data).astype(int) - np.asarray(first)).mean() < 4


def test_jpeg_with_thumbnail_inside_and_bytes_behind() -> None:
    data = saved(smooth(), "JPEG")
    thumbnail = saved(Image.new("RGB", (8, 8)), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    np.testing.assert_array_equal(read(data[:2] + segment + data[2:] + b"behind"), read(data))


FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (4, 4), "red")]}
DEEP = Image.fromarray(np.zeros((2, 2), np.uint16))
REFUSED = {
    "empty": (b"", "the file is empty, expected an image"),
    "text": (b"Hello, world", "not an image, or of an unknown format: expected PNG, JPEG"),
    "16-bit png": (saved(DEEP, "PNG"), "a 16-bit PNG is not supported, .* -depth 8"),
    "16-bit tiff": (saved(DEEP, "TIFF"), "a TIFF of 16-bit samples"),
    "float tiff": (saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "a TIFF of 32-bit samples"),
    "16-bit pgm": (b"P5 1 1 65535\n\0\0", "a PNM with maximum 65535"),
    "7-bit pgm": (b"P5 1 1 100\n\0", "a PNM with maximum 100"),
    "cmyk jpeg": (saved(Image.new("CMYK", (8, 8)), "JPEG"), "a CMYK JPEG is not supported, .* -colorspace sRGB"),
    "cmyk tiff": (saved(Image.new("CMYK", (8, 8)), "TIFF"), "a CMYK TIFF is not supported"),
    "lab tiff": (saved(Image.new("LAB", (8, 8)), "TIFF"), "a TIFF of colour type 8 is not supported"),
    "rgba tiff": (saved(Image.new("RGBA", (8, 8)), "TIFF"), "a TIFF with alpha is not supported, .* to PNG"),
    "la tiff": (saved(Image.new("LA", (8, 8)), "TIFF"), "a TIFF with alpha is not supported"),
    "animated png": (saved(Image.new("RGB", (4, 4)), "PNG", **FRAMES), "an animated PNG .* extract one frame"),
    "animated gif": (saved(Image.new("RGB", (4, 4)), "GIF", **FRAMES), "an animated GIF .* extract one frame"),
    "animated webp": (saved(Image.new("RGB", (4, 4)), "WEBP", **FRAMES), "an animated WebP .* extract one frame"),
    "pages": (saved(Image.new("RGB", (4, 4)), "TIFF", **FRAMES), "a TIFF of several pages .* extract one page"),
    "avif": (saved(Image.new("RGB", (16, 16)), "AVIF"), "an AVIF, HEIC or video file .* convert it to PNG"),
    "jpeg 2000": (saved(Image.new("RGB", (64, 64)), "JPEG2000"), "a JPEG 2000 file"),
    "12-bit jpeg": (b"\xff\xd8\xff\xc1\x00\x0b\x0c\x00\x01\x00\x01\x01\x01\x11\x00\xff\xd9", "a 12-bit JPEG"),
    "two-part jpeg": (b"\xff\xd8\xff\xc0\x00\x08\x08\x00\x01\x00\x01\x02\xff\xd9", "a JPEG of 2 components"),
    "no frame": (b"\xff\xd8\xff\xd9", "cut or damaged .the JPEG has no frame header"),
    "no size": (b"\xff\xd8\xff\xc0\x00\x08\x08\x00\x00\x00\x01\x01\xff\xd9", "its header says 1x0 pixels"),
    "bad png pixels": (png(9, 9, 8, 0, b"\0\0"), "the PNG cannot be decoded"),
    "short bmp": (b"BM", "the BMP header is cut"),
    "bad pnm": (b"P5 x", "the PNM header is cut"),
    "bad tiff": (b"II*\0\x08\0\0\0\x01\0", "TIFF: the tag directory lies outside the file"),
    "short gif": (b"GIF89a", "the GIF header is cut"),
    "empty webp": (b"RIFF\x04\0\0\0WEBP", "the WebP has no picture chunk"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes, message: str) -> None:
    refuses(data, message)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_cut_files_are_refused(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = saved(smooth(), kind)
    for length in {1, 3, 9, 20, 40, len(data) // 3, len(data) // 2, len(data) - 1}:
        with pytest.raises(ImageError):
            read_image(data[:length], name="x")
    assert capfd.readouterr() == ("", "")


def test_png_damage_is_seen_by_its_checksum() -> None:
    data = bytearray(saved(smooth(), "PNG"))
    data[len(data) // 2] ^= 1
    refuses(bytes(data), "checksum of the PNG chunk at byte")


def test_jpeg_damage_that_only_the_decoder_sees(capfd: pytest.CaptureFixture[str]) -> None:
    data = saved(Image.fromarray(noise(64, 64, 3)), "JPEG")
    refuses(data[: len(data) * 2 // 3] + b"\xff\xd9", "libjpeg: Corrupt JPEG data: premature end")
    assert capfd.readouterr() == ("", "")


def test_native_warnings_stay_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    level = cv2.utils.logging.getLogLevel()
    read(png(1, 1, 8, 0, b"\0\0", (b"sRGB", b"\x09"), (b"iCCP", b"a\0\0junk")))
    assert capfd.readouterr() == ("", "")
    assert cv2.utils.logging.getLogLevel() == level


def test_sizes_are_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vaert_image, "_decode", lambda *_: pytest.fail("decoded"))
    picture = smooth()
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        data = saved(picture, kind)
        with pytest.raises(ImageError, match="48x64 = 3072 pixels, the limit is 3071: raise it with --max-pixels"):
            read_image(data, name="x", max_pixels=3071)
    with pytest.raises(ImageError, match="the limit is 268435456"):
        read_image(png(2**31 - 1, 2**31 - 1, 8, 0, b"\0"), name="x")


def test_max_pixels_is_inclusive() -> None:
    assert read_image(saved(smooth(), "PNG"), name="x", max_pixels=3072).pixels.shape == (64, 48, 3)


@pytest.mark.parametrize("kind", ["jpg", "bmp", "tif", "ppm", "pgm", "pnm"])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_needs_a_format_that_holds_it(kind: str, channels: int) -> None:
    with pytest.raises(ImageError, match=f"{kind} cannot hold the image's alpha channel: use png or webp"):
        encode_image(noise(2, 2, channels), format=kind)


def test_encode_refusals() -> None:
    with pytest.raises(
        ImageError, match=r"unknown image format 'xyz': use one of bmp, jpg, pgm, png, pnm, ppm, tif, webp"
    ):
        encode_image(noise(2, 2), format="xyz")
    with pytest.raises(ImageError, match="pgm cannot hold colour"):
        encode_image(noise(2, 2, 3), format="pgm")
    with pytest.raises(ImageError, match=r"webp holds at most 16383 pixels a side, the image has 16384x1: use png"):
        encode_image(noise(1, 16384), format="webp")


def test_format_from_path() -> None:
    names: list[str | Path] = ["a.png", "b.JPEG", "c.jpg", "d.tiff", "e.b/f.webp", Path("g.Pnm")]
    assert [format_from_path(name) for name in names] == ["png", "jpg", "jpg", "tif", "webp", "pnm"]
    with pytest.raises(ImageError, match=r"a\.xyz: unknown image ending '\.xyz': use one of \.png \.jpg"):
        format_from_path("a.xyz")
    with pytest.raises(ImageError, match="unknown image ending ''"):
        format_from_path("png")


def test_check_pixels() -> None:
    good = noise(3, 4, 3)
    assert check_pixels(good) is good
    turned = check_pixels(good.transpose(1, 0, 2))
    assert turned.flags.c_contiguous
    assert turned.shape == (4, 3, 3)
    bad: list[tuple[Any, str]] = [
        ([[1]], "must be a numpy array, found list"),
        (np.zeros((2, 2)), "must be uint8 .* found float64"),
        (np.zeros((2, 2, 1), np.uint8), r"found \(2, 2, 1\)"),
        (np.zeros((2, 2, 5), np.uint8), r"found \(2, 2, 5\)"),
        (np.zeros(4, np.uint8), r"found \(4,\)"),
        (np.zeros((0, 4), np.uint8), r"at least 1x1 pixels, found shape \(0, 4\)"),
    ]
    for array, message in bad:
        with pytest.raises(OptionError, match=message):
            check_pixels(array)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("libGL.so.1: cannot open shared object file"), "apt-get install libgl1$"),
        (ImportError("libgthread-2.0.so.0: cannot open\nshared object file"), r"apt-get install libglib2\.0-0$"),
        (ImportError("something else"), r"apt-get install libgl1 libglib2\.0-0$"),
        (ModuleNotFoundError("No module named 'cv2'"), "pip install opencv-python$"),
    ],
)
def test_missing_opencv(monkeypatch: pytest.MonkeyPatch, error: ImportError, message: str) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "cv2":
                raise error

    modules: dict[str, ModuleType] = sys.modules
    monkeypatch.delitem(modules, "cv2")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(BackendError, match=message) as caught:
        encode_image(noise(2, 2), format="png")
    assert "\n" not in str(caught.value)


def test_import_is_light() -> None:
    code = (
        "import sys, vaert.image, vaert.atomic, vaert.errors; sys.exit('numpy' in sys.modules or 'cv2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_files_raise_only_image_errors(choices: st.DataObject) -> None:
    kind = choices.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF"]))
    data = bytearray(saved(smooth().resize((9, 7)), kind))
    for _ in range(choices.draw(st.integers(1, 4))):
        data[choices.draw(st.integers(0, min(len(data), 300) - 1))] = choices.draw(st.integers(0, 255))
    try:
        pixels = read_image(bytes(data), name="x", max_pixels=10**6).pixels
    except ImageError:
        return
    assert check_pixels(pixels) is pixels
