"""The .vaert container: round trips, golden bytes, and one test for every way a file can be wrong."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaert.bitstream import (
    ANCILLARY,
    HEADER_SIZE,
    MAGIC,
    Group,
    Header,
    Hyper,
    Kind,
    Latents,
    PhotoStream,
    SectionType,
    group_grid,
    inspect,
    parse,
    parse_photo,
    read_header,
    write,
    zigzag_decode,
    zigzag_encode,
)
from vaert.errors import BitstreamError, OptionError
from vaert.image import encode_image

TINY = PhotoStream(
    Header(Kind.PHOTO, 0x0123456789ABCDEF, 5, 3, 3, 60 * 256),
    Hyper(0x11223344, b"\x01\x02\x03\x04"),
    (Latents(0, 0x55667788, b"\x05", b"\x0a\x0b\x0c\x0d"),),
    None,
)
GOLDEN = bytes.fromhex(
    "965641450d0a1a0a" "0100" "01" "00" "efcdab8967452301" "05000000" "03000000" "03" "003c" "fb8fd456"
    "0100" "08000000" "44332211" "01020304" "49a378fe"
    "0200" "11000000" "00000000" "88776655" "01000000" "05" "0a0b0c0d" "ae4e9868"
    "ff7f" "00000000" "717d842e"
)  # fmt: skip


def head(
    *, kind: int = 1, flags: int = 0, width: int = 5, height: int = 3, channels: int = 3, quality: int = 15360
) -> bytes:
    body = struct.pack("<8sHBBQIIBH", MAGIC, 1, kind, flags, 7, width, height, channels, quality)
    return body + struct.pack("<I", zlib.crc32(body))


def section(code: int, payload: bytes = b"") -> bytes:
    body = struct.pack("<HI", code, len(payload)) + payload
    return body + struct.pack("<I", zlib.crc32(body))


HYPER = section(1, bytes(8))
LATENTS = section(2, bytes(16))
END = section(0x7FFF)


def grey_png(width: int, height: int) -> bytes:
    return encode_image(np.zeros((height, width), np.uint8), format="png")


def with_alpha(width: int = 5, height: int = 3) -> bytes:
    return head(channels=4) + HYPER + LATENTS + section(3, grey_png(width, height)) + END


def test_golden_bytes() -> None:
    assert write(TINY) == GOLDEN
    assert parse(GOLDEN) == TINY
    assert read_header(GOLDEN[:HEADER_SIZE]) == TINY.header


def test_numbers_of_the_format() -> None:
    assert [(kind.name, kind.value) for kind in Kind] == [
        ("PHOTO", 1),
        ("DIGITS", 2),
        ("LOSSLESS_DIGITS", 3),
        ("DOWNSCALED_PHOTO", 4),
    ]
    assert [(item.name, item.value) for item in SectionType] == [
        ("HYPER", 1),
        ("LATENTS", 2),
        ("ALPHA", 3),
        ("DIGITS", 4),
        ("NAMES", 5),
        ("END", 0x7FFF),
    ]
    assert (ANCILLARY, HEADER_SIZE) == (0x8000, 35)


def test_header_properties() -> None:
    assert TINY.header.quality == 60.0
    assert [Header(Kind.PHOTO, 0, 1, 1, channels, 256).has_alpha for channels in (1, 2, 3, 4)] == [
        False,
        True,
        False,
        True,
    ]


@given(
    kind=st.sampled_from([Kind.PHOTO, Kind.DOWNSCALED_PHOTO]),
    model_id=st.integers(0, 2**64 - 1),
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    channels=st.sampled_from([1, 3]),
    quality=st.integers(256, 25600),
    parts=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_round_trip(
    kind: Kind, model_id: int, size: tuple[int, int], channels: int, quality: int, parts: st.DataObject
) -> None:
    crc = st.integers(0, 2**32 - 1)
    words = st.binary(max_size=8).map(lambda data: data * 4)
    header = Header(kind, model_id, *size, channels, quality)
    latents = tuple(
        Latents(group.index, parts.draw(crc), parts.draw(st.binary(max_size=5)), parts.draw(words))
        for group in group_grid(header.coded_width, header.coded_height)
    )
    hyper = Hyper(parts.draw(crc), parts.draw(words))
    stream = PhotoStream(header, hyper, latents, None)
    assert parse(write(stream)) == stream


def test_round_trip_with_alpha() -> None:
    stream = parse_photo(with_alpha())
    assert stream.alpha == grey_png(5, 3)
    assert write(stream) == with_alpha()


def test_write_refuses_what_parse_refuses() -> None:
    header = Header(Kind.PHOTO, 0, 4096, 1, 3, 256)
    with pytest.raises(BitstreamError, match="2 groups"):
        write(PhotoStream(header, TINY.hyper, (), None))
    with pytest.raises(OptionError, match="does not fit its place"):
        write(PhotoStream(Header(Kind.PHOTO, -1, 5, 3, 3, 256), TINY.hyper, TINY.latents, None))


def test_group_grid() -> None:
    assert group_grid(2049, 4096) == [
        Group(0, 0, 0, 2048, 2048),
        Group(1, 2048, 0, 1, 2048),
        Group(2, 0, 2048, 2048, 2048),
        Group(3, 2048, 2048, 1, 2048),
    ]
    assert group_grid(1, 1) == [Group(0, 0, 0, 1, 1)]
    with pytest.raises(OptionError, match="at least 1x1"):
        group_grid(0, 5)


def test_a_downscaled_photo_has_the_groups_of_half_its_sides() -> None:
    def header(kind: Kind, width: int, height: int) -> Header:
        return Header(kind, 0, width, height, 3, 256)

    half = header(Kind.DOWNSCALED_PHOTO, 4097, 1)
    assert (half.downscale, half.coded_width, half.coded_height) == (2, 2049, 1)
    whole = header(Kind.PHOTO, 4097, 1)
    assert (whole.downscale, whole.coded_width, whole.coded_height) == (1, 4097, 1)
    latents = tuple(Latents(index, 0, b"", b"") for index in range(3))
    for kind, groups in ((Kind.DOWNSCALED_PHOTO, 2), (Kind.PHOTO, 3)):
        stream = PhotoStream(header(kind, 4097, 1), TINY.hyper, latents[:groups], None)
        assert parse_photo(write(stream)) == stream
        with pytest.raises(BitstreamError, match=r"found section|groups"):
            write(PhotoStream(stream.header, TINY.hyper, latents[: groups - 1], None))


def test_a_downscaled_photo_counts_all_its_pixels_and_keeps_all_its_alpha() -> None:
    stream = PhotoStream(Header(Kind.DOWNSCALED_PHOTO, 0, 5, 3, 2, 256), TINY.hyper, TINY.latents, grey_png(5, 3))
    assert parse_photo(write(stream), max_pixels=15) == stream
    with pytest.raises(BitstreamError, match="5x3 = 15 pixels, the limit is 14"):
        parse_photo(write(stream), max_pixels=14)
    with pytest.raises(BitstreamError, match="holds 3x2 pixels, the header says 5x3"):
        write(PhotoStream(stream.header, TINY.hyper, TINY.latents, grey_png(3, 2)))


def test_unknown_ancillary_sections_are_skipped() -> None:
    extra = section(ANCILLARY | 9, b"hello")
    data = head() + extra + HYPER + extra + LATENTS + extra + END
    assert parse(data) == parse(head() + HYPER + LATENTS + END)
    assert inspect(data).sections[0].name == "ancillary 0x8009"


ALPHA_PNG = grey_png(5, 3)
CASES = {
    "empty": (b"", "not a vaert file: it is empty"),
    "text": (b"Hello, world\n", "not a vaert file: it starts with 48 65 6c"),
    "short text": (b"Hi", "not a vaert file: it starts with 48 69"),
    "text mode": (GOLDEN.replace(b"\r\n", b"\n"), "line ends in the file were converted: transfer it in binary mode"),
    "cut magic": (GOLDEN[:5], "the header is cut: found 5 of 35 bytes"),
    "cut header": (GOLDEN[:34], "the header is cut: found 34 of 35 bytes"),
    "version": (GOLDEN[:8] + b"\2" + GOLDEN[9:], "format version 2, this reader knows version 1: update vaert"),
    "header checksum": (GOLDEN[:20] + b"\6" + GOLDEN[21:], "the header's checksum does not match"),
    "kind": (head(kind=9), "unknown kind 9, expected 1 to 4"),
    "flags": (head(flags=2), r"reserved header flags are set \(0x02"),
    "no pixels": (head(width=0), "says 0x3 pixels, expected at least 1x1"),
    "channels": (head(channels=5), "says 5 channels, expected 1 to 4"),
    "low quality": (head(quality=255), "says quality 0.99"),
    "high quality": (head(quality=25601), "says quality 100.00"),
    "too large": (head(width=2**31, height=2**31), "the limit is 268435456: raise it with --max-pixels"),
    "more groups than bytes": (head(width=2**14, height=2**14) + HYPER + LATENTS + END, "has 64 groups and takes at"),
    "cut section head": (head() + HYPER + LATENTS + END[:-1], "cut inside the section at byte 79"),
    "section beyond the end": (
        head() + HYPER + struct.pack("<HI", 2, 99) + bytes(30),
        "says 99 bytes of payload, only",
    ),
    "section checksum": (head() + HYPER[:-1] + b"\0" + LATENTS + END, "checksum of section HYPER at byte 35"),
    "ancillary checksum": (
        head() + section(0x8009)[:-1] + b"\0" + HYPER + LATENTS + END,
        "checksum of section ancillary 0x8009 at byte 35",
    ),
    "unknown critical": (head() + section(9) + HYPER + LATENTS + END, "unknown critical section 0x0009 at byte 35"),
    "no hyper": (head() + LATENTS + HYPER + END, "found section LATENTS at byte 35, expected HYPER"),
    "two hypers": (head() + HYPER + HYPER + LATENTS + END, "found section HYPER at byte 53, expected LATENTS"),
    "early end": (head() + HYPER + END + LATENTS, "found section END at byte 53, expected LATENTS"),
    "too many latents": (head() + HYPER + LATENTS + LATENTS + END, "found section LATENTS at byte 79, expected END"),
    "no alpha": (
        head(channels=4) + HYPER + LATENTS + section(0x8001, bytes(30)) + END,
        "found section END at byte 119, expected ALPHA",
    ),
    "alpha without channel": (head() + HYPER + LATENTS + section(3, ALPHA_PNG) + END, "found section ALPHA at byte 79"),
    "two alphas": (with_alpha()[:-10] + section(3, ALPHA_PNG) + END, "found section ALPHA at byte .*, expected END"),
    "end with payload": (head() + HYPER + LATENTS + section(0x7FFF, b"x"), "the END section has 1 bytes"),
    "no end": (head() + HYPER + LATENTS + section(0x8001), "the file ends without its END section"),
    "appended": (GOLDEN + b"xyz", "3 bytes follow the END section"),
    "short hyper": (head() + section(1, b"abc") + LATENTS + END + bytes(9), "the HYPER section has 3 bytes"),
    "hyper words": (head() + section(1, bytes(7)) + LATENTS + END, "words of a HYPER section take 3 bytes"),
    "short latents": (head() + HYPER + section(2, bytes(11)) + END, "the LATENTS section has 11 bytes"),
    "latents words": (head() + HYPER + section(2, bytes(13)) + END, "words of a LATENTS section take 1 bytes"),
    "group order": (head() + HYPER + section(2, b"\1" + bytes(15)) + END, "latents of group 1, expected group 0"),
    "escapes": (head() + HYPER + section(2, bytes(8) + b"\5" + bytes(7)) + END, "say 5 escape bytes, only 4 remain"),
    "alpha not png": (head(channels=4) + HYPER + LATENTS + section(3, bytes(50)) + END, "does not hold a PNG stream"),
    "alpha size": (with_alpha(3, 5), "holds 3x5 pixels, the header says 5x3"),
    "alpha colour": (
        head(channels=4)
        + HYPER
        + LATENTS
        + section(3, encode_image(np.zeros((3, 5, 3), np.uint8), format="png"))
        + END,
        "bit depth 8 and colour type 2, expected 8 and 0",
    ),
}


@pytest.mark.parametrize(("data", "message"), CASES.values(), ids=CASES.keys())
def test_each_error_has_its_own_message(data: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message) as caught:
        parse(data)
    assert "\n" not in str(caught.value)


def test_max_pixels() -> None:
    assert parse(GOLDEN, max_pixels=15) == TINY
    with pytest.raises(BitstreamError, match="5x3 = 15 pixels, the limit is 14: raise it with --max-pixels"):
        parse(GOLDEN, max_pixels=14)


def test_huge_header_fails_at_once_even_without_a_limit() -> None:
    data = head(width=2**32 - 1, height=2**32 - 1) + HYPER + LATENTS + END
    with pytest.raises(BitstreamError, match="4398046511104 groups"):
        parse(data, max_pixels=2**64)
    assert not inspect(data).ok


@pytest.mark.parametrize("data", [GOLDEN, with_alpha()], ids=["rgb", "rgba"])
def test_every_bit_flip_and_every_cut_is_noticed(data: bytes) -> None:
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            parse(bytes(damaged))
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            parse(data[:length])


@given(st.binary(min_size=1, max_size=40))
def test_appended_bytes_are_noticed(tail: bytes) -> None:
    with pytest.raises(BitstreamError, match="follow the END section"):
        parse(GOLDEN + tail)


@given(tail=st.binary(max_size=200), fields=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)))
@settings(deadline=None)
def test_garbage_after_a_valid_header_is_an_error(tail: bytes, fields: tuple[int, int]) -> None:
    data = head(width=fields[0], height=fields[1]) + tail
    with pytest.raises(BitstreamError):
        parse(data)


def test_inspect_reports_sections() -> None:
    report = inspect(GOLDEN)
    assert (report.ok, report.verdict, report.header) == (True, "ok", TINY.header)
    assert [(item.name, item.offset, item.size, item.checksum_ok) for item in report.sections] == [
        ("HYPER", 35, 18, True),
        ("LATENTS", 53, 27, True),
        ("END", 80, 10, True),
    ]
    assert report.sections[-1].offset + report.sections[-1].size == len(GOLDEN)


def test_inspect_never_raises_for_damage_in_sections() -> None:
    for place in range(HEADER_SIZE, len(GOLDEN)):
        damaged = bytearray(GOLDEN)
        damaged[place] ^= 0xFF
        report = inspect(bytes(damaged))
        assert not report.ok
        assert report.verdict != "ok"
    report = inspect(GOLDEN[:60] + b"\xff" + GOLDEN[61:])
    assert [item.checksum_ok for item in report.sections] == [True, False, True]
    with pytest.raises(BitstreamError, match="not a vaert file"):
        inspect(b"GIF89a")


def test_zigzag_golden_bytes() -> None:
    values = np.array([0, -1, 1, 63, -64, 64, 8191, -8192, 8192, 65536, -65536])
    data = zigzag_encode(values)
    assert data.hex(" ") == "00 01 02 7e 7f 80 01 fe 7f ff 7f 80 80 01 80 80 08 ff ff 07"
    decoded = zigzag_decode(data, values.size)
    assert decoded.dtype == np.int32
    assert decoded.tolist() == values.tolist()


@given(st.lists(st.integers(-65536, 65536), max_size=50))
def test_zigzag_round_trip(values: list[int]) -> None:
    data = zigzag_encode(np.array(values, np.int32))
    assert zigzag_decode(data, len(values)).tolist() == values


@given(st.binary(max_size=20))
def test_zigzag_has_one_encoding_per_value(data: bytes) -> None:
    count = sum(byte < 0x80 for byte in data)
    try:
        values = zigzag_decode(data, count)
    except BitstreamError:
        return
    assert zigzag_encode(values) == data


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (b"\x01\x02", 1, "hold 2 values, expected 1"),
        (b"\x01", 2, "hold 1 values, expected 2"),
        (b"", 1, "hold 0 values, expected 1"),
        (b"\x01", 0, "hold 1 values, expected 0"),
        (b"\x01\x80", 1, "end inside a value"),
        (b"\x80\x00", 1, "longer than it needs to be"),
        (b"\x80\x80\x80\x01", 1, "takes 4 bytes, at most 3"),
        (b"\x81\x80\x08", 1, "outside"),
    ],
)
def test_zigzag_errors(data: bytes, count: int, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        zigzag_decode(data, count)


def test_zigzag_encode_refuses() -> None:
    with pytest.raises(OptionError, match=r"within \+-65536, found 0..65537"):
        zigzag_encode(np.array([0, 65537]))
    with pytest.raises(OptionError, match="must be integers, found dtype float64"):
        zigzag_encode(np.array([0.5]))


def test_example_in_the_documentation() -> None:
    text = (Path(__file__).parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
    block = text.split("```")[1]
    found = re.findall(r"^((?:[0-9a-f]{2} +)+)", block, re.MULTILINE)
    assert bytes.fromhex("".join(found)) == GOLDEN
