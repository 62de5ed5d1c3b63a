"""ICC profile, EXIF and XMP: what a changed picture's file keeps, read back by Pillow, and what damage costs."""

import contextlib
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata_files import (
    GREY_ICC,
    ICC,
    SOURCES,
    TARGETS,
    XMP,
    assert_has,
    assert_same_pixels,
    camera_block,
    camera_exif,
    jpeg,
    noise,
    opened,
    png,
    saved,
    segment,
    source,
    tiff,
)
from PIL import Image, ImageOps

from vaert._png_texts import inflate
from vaert.errors import ImageError
from vaert.image import encode_image, read_image
from vaert.metadata import Metadata, adapted, carry_metadata, read_metadata, with_metadata


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("target", TARGETS)
def test_everything_is_carried_and_corrected(kind: str, target: str) -> None:
    data = source(kind)
    turned = read_image(data, name="x").pixels
    assert turned.shape == (6, 4, 3)
    encoded = encode_image(np.repeat(np.repeat(turned, 2, axis=0), 2, axis=1), format=target)
    content, lines = carry_metadata(data, encoded, name="x", size=(12, 8))
    assert lines == ()
    assert_same_pixels(content, encoded)
    assert_has(content)
    exif = opened(content).getexif()
    assert (exif[0x0112], exif[0x0100], exif[0x0101], exif[0x010F]) == (1, 8, 12, "a camera")
    inner = exif.get_ifd(0x8769)
    assert (inner[0xA002], inner[0xA003], inner[0x927C]) == (8, 12, b"maker's notes")
    assert ImageOps.exif_transpose(opened(content)).size == (8, 12)
    assert read_image(content, name="x").pixels.shape == (12, 8, 3)
    assert set(read_image(content, name="x").dropped) == {"ICC profile", "EXIF", "XMP"}


@pytest.mark.parametrize("target", TARGETS)
def test_grey_pictures_keep_a_grey_profile(target: str) -> None:
    grey = Image.fromarray(noise(4, 6))
    for kind in ("PNG", "JPEG"):
        data = saved(grey, kind, icc_profile=GREY_ICC, exif=camera_exif())
        encoded = encode_image(read_image(data, name="x").pixels, format=target)
        content, lines = carry_metadata(data, encoded, name="a.png", size=(6, 4))
        assert_same_pixels(content, encoded)
        if target == "webp":
            assert lines == ("a.png: ICC profile not kept: it is for grey samples, the output has RGB ones",)
        assert_has(content, icc=None if target == "webp" else GREY_ICC, xmp=None)
        assert opened(content).getexif()[0x010F] == "a camera"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_profiles_fit_the_samples(channels: int) -> None:
    encoded = encode_image(noise(4, 6, channels) if channels > 1 else noise(4, 6), format="png")
    for profile, words in ((ICC, "RGB"), (GREY_ICC, "grey"), (ICC[:16] + b"CMYK" + ICC[20:], "CMYK")):
        content, lost = with_metadata(encoded, Metadata(icc=profile))
        own = "grey" if channels < 3 else "RGB"
        if words == own:
            assert lost == ()
            assert opened(content).info["icc_profile"] == profile
            assert_same_pixels(content, encoded)
        else:
            assert content == encoded
            assert lost == (f"ICC profile not kept: it is for {words} samples, the output has {own} ones",)


WEBP: dict[str, bytes] = {
    "lossy": saved(Image.fromarray(noise(9, 7, 3)), "WEBP", quality=70),
    "lossy alpha": saved(Image.fromarray(noise(9, 7, 4)), "WEBP", quality=70),
    "lossless": saved(Image.fromarray(noise(9, 7, 3)), "WEBP", lossless=True),
    "lossless alpha": saved(Image.fromarray(noise(9, 7, 4)), "WEBP", lossless=True, exact=True),
    "ours": encode_image(noise(9, 7, 3), format="webp"),
    "our alpha": encode_image(noise(9, 7, 4), format="webp"),
}


@pytest.mark.parametrize("data", WEBP.values(), ids=WEBP.keys())
def test_every_webp_takes_metadata(data: bytes) -> None:
    content, lost = with_metadata(data, Metadata(ICC, camera_block(), XMP))
    assert lost == ()
    assert_same_pixels(content, data)
    assert_has(content, xmp=XMP)
    assert opened(content).mode == opened(data).mode
    assert opened(content).getexif()[0x0112] == 6
    assert struct.unpack_from("<I", content, 4)[0] == len(content) - 8
    flags, width, height = content[20], *(1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
    assert (flags, width, height) == (0x2C | (0x10 if opened(data).mode == "RGBA" else 0), 7, 9)


@pytest.mark.parametrize("target", TARGETS)
def test_old_pieces_are_replaced_and_the_others_stay(target: str) -> None:
    encoded = encode_image(noise(4, 6, 3), format=target)
    first, _ = with_metadata(encoded, Metadata(ICC, camera_block(), XMP))
    assert with_metadata(first, Metadata(ICC, camera_block(), XMP))[0] == first
    assert with_metadata(first, Metadata()) == (first, ())
    second, _ = with_metadata(first, Metadata(xmp=b"<new/>"))
    assert_has(second, xmp=b"<new/>")
    assert second.count(b"xmpmeta") == 0
    assert opened(second).getexif()[0x010F] == "a camera"
    assert_same_pixels(second, encoded)


@pytest.mark.parametrize("target", ["bmp", "tif", "ppm"])
def test_other_formats_lose_it_in_one_line(target: str) -> None:
    encoded = encode_image(noise(4, 6, 3), format=target)
    expected = ("a.jpg: ICC profile, EXIF, XMP not kept: only PNG, JPEG and WebP files take metadata",)
    assert carry_metadata(source("JPEG"), encoded, name="a.jpg", size=(4, 6)) == (encoded, expected)
    assert carry_metadata(saved(Image.new("RGB", (2, 2)), "PNG"), encoded, name="x", size=(4, 6)) == (encoded, ())


def test_a_large_profile_fills_several_jpeg_segments() -> None:
    size = 65519 * 3 + 1
    profile = struct.pack(">I", size) + ICC[4:] + noise(size - len(ICC)).tobytes()
    plain = encode_image(noise(8, 8, 3), format="jpg")
    content, lost = with_metadata(plain, Metadata(icc=profile))
    assert lost == ()
    assert opened(content).info["icc_profile"] == profile
    assert content.count(b"ICC_PROFILE\0") == 4
    assert read_metadata(content) == Metadata(icc=profile)
    assert_same_pixels(content, plain)


def test_profile_segments_in_any_order_but_complete() -> None:
    parts = [ICC[:200], ICC[200:300], ICC[300:]]
    chunks = [segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 3]) + part) for number, part in enumerate(parts, start=1)]
    assert read_metadata(jpeg(chunks[2], chunks[0], chunks[1])).icc == ICC
    gone = ("ICC profile not kept: its parts are not complete",)
    short = segment(0xE2, b"ICC_PROFILE\0")
    for wrong in (chunks[1:], [chunks[0], chunks[0], chunks[1]], [*chunks, chunks[0]], [short]):
        assert read_metadata(jpeg(*wrong)) == Metadata(problems=gone)
    differ = ("ICC profile not kept: its parts do not agree on their number",)
    odd = segment(0xE2, b"ICC_PROFILE\0\x01\x02" + ICC)
    for wrong in (chunks[:2], [odd]):
        assert read_metadata(jpeg(*wrong)) == Metadata(problems=differ)


def test_what_a_jpeg_cannot_hold() -> None:
    plain = encode_image(noise(8, 8, 3), format="jpg")
    block = camera_block()
    fits = Metadata(exif=block.ljust(65527, b"\0"), xmp=b"x" * 65502)
    content, lost = with_metadata(plain, fits)
    assert lost == ()
    assert read_metadata(content) == fits
    assert opened(content).getexif()[0x010F] == "a camera"
    assert len(opened(content).info["xmp"]) == 65502
    large = Metadata(ICC, block.ljust(65528, b"\0"), b"x" * 65503)
    content, lost = with_metadata(plain, large)
    assert lost == (
        "EXIF not kept: it has 65528 bytes, a JPEG file holds at most 65527",
        "XMP not kept: it has 65503 bytes, a JPEG file holds at most 65502",
    )
    assert_has(content, xmp=None)
    for target in ("png", "webp"):
        assert with_metadata(encode_image(noise(8, 8, 3), format=target), large)[1] == ()
    huge = Metadata(icc=ICC.ljust(255 * 65519 + 1, b"\0"))
    expected = "ICC profile not kept: it has 16707346 bytes, a JPEG file holds at most 16707345"
    assert with_metadata(plain, huge) == (plain, (expected,))


def test_extended_xmp_is_lost_and_no_longer_announced() -> None:
    guid = b"0123456789ABCDEF0123456789ABCDEF"
    main = b"<rdf:Description xmp:Rating='4' xmpNote:HasExtendedXMP=\"" + guid + b'"/>'
    extension = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + guid + struct.pack(">II", 9, 0) + b"extension")
    data = jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + main), extension)
    plain = encode_image(noise(8, 8, 3), format="png")
    content, lines = carry_metadata(data, plain, name="x", size=(8, 8))
    assert lines == ("x: extended XMP not kept: only the first segment of XMP is read",)
    assert_has(content, icc=None, xmp=b"<rdf:Description xmp:Rating='4' />")


def test_numbers_in_xmp() -> None:
    before = (
        b"<rdf:Description tiff:Orientation = \"8\" exif:PixelXDimension='12' my:PixelXDimension='12'>"
        b"<exif:PixelYDimension> 34</exif:PixelYDimension>\n56<tiff:ImageWidth>12</tiff:ImageWidth>"
        b"<tiff:ImageLength>34</tiff:ImageLength><xmpNote:HasExtendedXMP>" + b"a" * 32 + b"</xmpNote:HasExtendedXMP>"
    )
    after = (
        b"<rdf:Description tiff:Orientation = \"1\" exif:PixelXDimension='700' my:PixelXDimension='12'>"
        b"<exif:PixelYDimension> 900</exif:PixelYDimension>\n56<tiff:ImageWidth>700</tiff:ImageWidth>"
        b"<tiff:ImageLength>900</tiff:ImageLength>"
    )
    assert adapted(Metadata(xmp=before), width=700, height=900).xmp == after


def test_unpacking_stops_at_the_limit() -> None:
    packed = zlib.compress(bytes(1000))
    assert inflate(packed, 1000) == bytes(1000)
    with pytest.raises(ValueError, match="it unpacks to more than 999 bytes"):
        inflate(packed, 999)


def raw_text(title: bytes, content: bytes, *, kind: bytes = b"tEXt") -> tuple[bytes, bytes]:
    """A text chunk as ImageMagick 6 writes it."""
    digits = content.hex().encode()
    lines = b"\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = b"\n%s\n%8d\n%s\n" % (title, len(content), lines)
    return kind, b"Raw profile type " + title + (b"\0" + text if kind == b"tEXt" else b"\0\0" + zlib.compress(text))


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt"])
def test_raw_profiles_of_png(kind: bytes) -> None:
    exif = b"Exif\0\0" + camera_block()
    data = png(
        raw_text(b"exif", exif, kind=kind), raw_text(b"icc", GREY_ICC, kind=kind), raw_text(b"xmp", XMP, kind=kind)
    )
    expected = Metadata(GREY_ICC, camera_block(), XMP)
    assert read_metadata(data) == expected
    adobe = b"http://ns.adobe.com/xap/1.0/\0"
    assert read_metadata(png(raw_text(b"APP1", adobe + XMP, kind=kind))) == Metadata(xmp=XMP)
    assert read_metadata(png(raw_text(b"APP1", exif, kind=kind))) == Metadata(exif=camera_block())
    real = (b"eXIf", tiff("<", [(0x010F, 2, 2, 65)]))
    assert read_metadata(png(raw_text(b"exif", exif, kind=kind), real)).exif == real[1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_raw_profiles_turn_the_picture_as_elsewhere(orientation: int) -> None:
    data = png(raw_text(b"exif", b"Exif\0\0" + tiff(">", [(0x0112, 3, 1, orientation)])))
    upright = ImageOps.exif_transpose(opened(data))
    found = read_image(data, name="x")
    np.testing.assert_array_equal(found.pixels, np.asarray(upright))
    encoded = encode_image(found.pixels, format="png")
    content, lines = carry_metadata(data, encoded, name="x", size=found.pixels.shape[:2])
    assert lines == ()
    np.testing.assert_array_equal(read_image(content, name="x").pixels, found.pixels)
    assert opened(content).getexif()[0x0112] == 1


BAD_PNG: dict[str, tuple[bytes, str]] = {
    "profile method": (
        png((b"iCCP", b"a\0\1" + zlib.compress(ICC))),
        "ICC profile not kept: its compression is unknown",
    ),
    "profile cut": (png((b"iCCP", b"a\0\0" + zlib.compress(ICC)[:-9])), "ICC profile not kept: .* bytes are cut"),
    "profile junk": (png((b"iCCP", b"a\0\0junk")), "ICC profile not kept: its compressed bytes are damaged"),
    "profile bomb": (
        png((b"iCCP", b"a\0\0" + zlib.compress(bytes(2**24 + 1)))),
        "ICC profile not kept: it unpacks to more than 16777216 bytes",
    ),
    "not a profile": (
        png((b"iCCP", b"a\0\0" + zlib.compress(bytes(200)))),
        "ICC profile not kept: it is cut or damaged",
    ),
    "short profile": (png((b"iCCP", b"a\0\0" + zlib.compress(ICC[:-1]))), "ICC profile not kept: it is cut or damaged"),
    "large exif": (
        png((b"eXIf", camera_block().ljust(2**24 + 1, b"\0"))),
        "EXIF not kept: it has 16777217 bytes, more than 16777216",
    ),
    "xmp chunk": (png((b"iTXt", b"XML:com.adobe.xmp\0\0\0en")), "XMP not kept: its text chunk is cut"),
    "xmp text": (png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe")), "XMP not kept: it is not text in UTF-8"),
    "xmp empty": (png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0")), "XMP not kept: it is not text in UTF-8"),
    "xmp method": (png((b"iTXt", b"XML:com.adobe.xmp\0\1\1\0\0x")), "XMP not kept: its compression is unknown"),
    "raw length": (png((b"tEXt", b"Raw profile type exif\0\nexif\nx\n41")), "EXIF not kept: .* has no length"),
    "raw size": (png((b"tEXt", b"Raw profile type exif\0\nexif\n2\n41")), "EXIF not kept: .* says 2 bytes, found 1"),
    "raw digits": (png((b"tEXt", b"Raw profile type xmp\0\nxmp\n1\n4x")), "XMP not kept: .* hexadecimal digits"),
    "raw method": (png((b"zTXt", b"Raw profile type xmp\0\1x")), "XMP not kept: its compression is unknown"),
}


@pytest.mark.parametrize(("data", "message"), BAD_PNG.values(), ids=BAD_PNG.keys())
def test_damaged_metadata_is_named_and_nothing_else_happens(data: bytes, message: str) -> None:
    found = read_metadata(data)
    assert len(found.problems) == 1
    assert (found.icc, found.exif, found.xmp) == (None, None, None)
    assert re.fullmatch(message, found.problems[0])
    encoded = encode_image(noise(4, 6), format="png")
    content, lines = carry_metadata(data, encoded, name="x", size=(4, 6))
    assert content == encoded
    assert lines == (f"x: {found.problems[0]}",)


def test_a_wrong_checksum_costs_only_its_chunk() -> None:
    data = source("PNG")
    at = data.index(b"iCCP") + 30
    wrong = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    found = read_metadata(wrong)
    assert found.problems == ("ICC profile not kept: the checksum of its chunk is wrong",)
    assert found.exif is not None
    assert found.xmp == XMP


def test_the_first_piece_of_a_kind_counts() -> None:
    profiles = [(b"iCCP", b"a\0\0" + zlib.compress(content)) for content in (GREY_ICC, ICC)]
    assert read_metadata(png(*profiles)) == Metadata(icc=GREY_ICC)
    # One that is packed is not unpacked in vain again and again, so a usable one behind a damaged one is not found.
    assert read_metadata(png((b"iCCP", b"a\0\0junk"), profiles[0])).icc is None
    assert read_metadata(png((b"iCCP", b"a\0\0junk"), raw_text(b"icc", GREY_ICC))) == Metadata(icc=GREY_ICC)
    packets = [segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet) for packet in (b"<a/>", b"<b/>")]
    assert read_metadata(jpeg(*packets)) == Metadata(xmp=b"<a/>")


def test_where_new_pieces_go() -> None:
    everything = Metadata(ICC, camera_block(), XMP)
    content = with_metadata(encode_image(noise(8, 8, 3), format="jpg"), everything)[0]
    assert content[2:4] == b"\xff\xe0"  # JFIF stays first
    places = [
        content.index(mark) for mark in (b"JFIF\0", b"Exif\0\0", b"http://ns.adobe", b"ICC_PROFILE\0", b"\xff\xdb")
    ]
    assert places == sorted(places)
    grey = Metadata(GREY_ICC, camera_block(), XMP)
    content = with_metadata(png((b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455))), grey)[0]
    assert b"sRGB\0" not in content  # contradicts a profile
    places = [content.index(mark) for mark in (b"IHDR", b"iCCP", b"eXIf", b"iTXt", b"gAMA", b"IDAT")]
    assert places == sorted(places)


def test_padding_behind_a_profile_and_a_packet_goes() -> None:
    data = png(
        (b"iCCP", b"a\0\0" + zlib.compress(ICC + bytes(3))),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP + b"\0")),
    )
    assert read_metadata(data) == Metadata(ICC, None, XMP)


def test_cut_files_keep_what_lies_before_the_cut() -> None:
    end = ("further metadata not kept: the file is cut or damaged",)
    data = source("PNG")
    assert read_metadata(data[: data.index(b"IDAT")]).icc == ICC
    for kind in SOURCES:
        for length in (0, 3, 13, 30, 400):
            found = read_metadata(source(kind)[:length])
            assert found.problems in ((), end)
    assert read_metadata(data[: data.index(b"IDAT")]).problems == end
    assert read_metadata(b"II*\0\x08\0\0\0").problems == end
    assert read_metadata(b"GIF89a").problems == end
    for other in (b"", b"P5 1 1 255 x", b"BM"):
        assert read_metadata(other) == Metadata()


def test_tiff_gives_profile_and_xmp() -> None:
    data = saved(Image.fromarray(noise(4, 6, 3)), "TIFF", icc_profile=ICC, tiffinfo={700: XMP})
    assert read_metadata(data) == Metadata(ICC, None, XMP)
    data = tiff("<", [(0x8769, 4, 1, 1)], [(0xA002, 4, 1, 10)])
    assert read_metadata(data).problems == ("EXIF not kept: it is not read from TIFF files",)
    outside = tiff(">", [(34675, 7, 500, 8)])
    assert read_metadata(outside).problems == ("ICC profile not kept: it lies outside the file",)


def test_gif_metadata_is_named() -> None:
    data = saved(Image.fromarray(noise(4, 6)), "GIF")
    head = 13 + (3 << (data[10] & 7) + 1)
    profile = b"!\xff\x0bICCRGBG1012\x01x\0"
    wrong = data[:head] + profile + data[head:]
    assert read_image(wrong, name="x").dropped == ("ICC profile",)
    assert read_metadata(wrong).problems == ("ICC profile not kept: it is not read from GIF files",)


@pytest.mark.parametrize("target", TARGETS)
def test_a_damaged_output_stays_as_it_is(target: str) -> None:
    encoded = encode_image(noise(4, 6, 3), format=target)[:30]
    lost = ("ICC profile, XMP not kept: the output is cut or damaged",)
    assert with_metadata(encoded, Metadata(icc=ICC, xmp=XMP)) == (encoded, lost)


def test_webp_without_a_size_stays_as_it_is() -> None:
    for body in (b"", b"VP8X\0\0\0\0", b"VP8 \x0a\0\0\0" + bytes(10)):
        encoded = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
        assert with_metadata(encoded, Metadata(xmp=XMP)) == (
            encoded,
            ("XMP not kept: the output is cut or damaged",),
        )


@given(st.data())
@settings(max_examples=300, deadline=5000)
def test_damage_never_raises(choices: st.DataObject) -> None:
    data = bytearray(FUZZED[choices.draw(st.sampled_from(sorted(FUZZED)))])
    for _ in range(choices.draw(st.integers(1, 6))):
        at = choices.draw(st.integers(0, len(data) - 1))
        if choices.draw(st.booleans()):
            data[at] = choices.draw(st.integers(0, 255))
        else:
            data[at : at + choices.draw(st.integers(1, 9))] = choices.draw(st.binary(max_size=9))
    hurt = bytes(data)
    for target in TARGETS:
        encoded = OUTPUTS[target]
        content, lines = carry_metadata(hurt, encoded, name="x", size=(4, 6))
        with warnings.catch_warnings(action="ignore"):  # Pillow's, of EXIF values that lie outside the block
            assert_same_pixels(content, encoded)
        assert all("\n" not in line for line in lines)
        again = read_metadata(content)
        assert again.problems == ()
        assert carry_metadata(content, encoded, name="x", size=(4, 6)) == (content, ())
    content, lost = with_metadata(hurt, Metadata(ICC, camera_block(), XMP))
    assert content == hurt or len(lost) < 3
    with contextlib.suppress(ImageError):
        read_image(hurt, name="x", max_pixels=10**6)


FUZZED = {
    **{kind: source(kind) for kind in SOURCES},
    "TIFF": saved(Image.fromarray(noise(4, 6, 3)), "TIFF", icc_profile=ICC, tiffinfo={700: XMP}),
    "raw": png(raw_text(b"exif", camera_block()), raw_text(b"xmp", XMP, kind=b"zTXt"), raw_text(b"icc", GREY_ICC)),
    "GIF": saved(Image.fromarray(noise(4, 6)), "GIF"),
}
OUTPUTS = {target: encode_image(noise(4, 6, 3), format=target) for target in TARGETS}


def test_hostile_texts_take_linear_time() -> None:
    spaces = b" " * 2**20
    for text in (
        (b"tiff:Orientation" + b" " * 50) * 2**14,
        b"tiff:Orientation" + spaces + b"=" + spaces,
        b'xmpNote:HasExtendedXMP="' * 2**15,
        spaces,
    ):
        assert adapted(Metadata(xmp=text), width=1, height=1).xmp == text
